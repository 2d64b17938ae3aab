//! Calls that concern this thread alone, which is the only one.

use rustix::io::Result;
use rustix::process::{Gid, Uid};
use rustix::thread::{self, UnshareFlags};

pub fn unshare(flags: UnshareFlags) -> Result<()> {
    // SAFETY: the descriptor table stays shared with nobody, because there is no other thread.
    unsafe { thread::unshare_unsafe(flags) }
}

pub fn set_groups_to_none() -> Result<()> {
    thread::set_thread_groups(&[])
}

pub fn set_gid(gid: Gid) -> Result<()> {
    thread::set_thread_res_gid(gid, gid, gid)
}

pub fn set_uid(uid: Uid) -> Result<()> {
    thread::set_thread_res_uid(uid, uid, uid)
}
