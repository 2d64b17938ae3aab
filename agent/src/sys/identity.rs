//! Acting as another user in one thread. The raw calls act on the calling thread alone, where libc's wrappers would
//! change every thread.

use super::{check, Errno, Result};

/// Supplementary ones, of this process.
pub fn groups() -> Result<Vec<u32>> {
    // SAFETY: the buffer has the room that is told.
    unsafe {
        let count = check(libc::getgroups(0, std::ptr::null_mut()) as i64)? as usize;
        let mut list = vec![0u32; count];
        let got = check(libc::getgroups(count as i32, list.as_mut_ptr()) as i64)? as usize;
        list.truncate(got);
        Ok(list)
    }
}

fn set_groups(list: &[u32]) -> Result<()> {
    // SAFETY: pointer and length of a live slice.
    check(unsafe { libc::syscall(libc::SYS_setgroups, list.len(), list.as_ptr()) }).map(drop)
}

fn set_effective(call: libc::c_long, id: u32) -> Result<()> {
    // SAFETY: integers only; -1 leaves the real and the saved id alone.
    check(unsafe { libc::syscall(call, -1i32, id, -1i32) }).map(drop)
}

pub fn own_uid() -> u32 {
    // SAFETY: no arguments.
    unsafe { libc::getuid() }
}

pub fn own_gid() -> u32 {
    // SAFETY: no arguments.
    unsafe { libc::getgid() }
}

/// While it lives, the thread's effective ids are another user's; its end puts the old ones back.
pub struct Acting {
    groups: Vec<u32>,
}

impl Acting {
    /// None when the ids are the thread's own: nothing to change.
    pub fn start(uid: u32, gid: u32, supplementary: &[u32]) -> Result<Option<Self>> {
        let before = groups()?;
        let own = uid == own_uid() && gid == own_gid();
        if own && before == supplementary {
            return Ok(None);
        }
        let acting = Self { groups: before };
        match set_groups(supplementary) {
            // Without the right to change groups the agent's own user still has the agent's own groups.
            Err(Errno(libc::EPERM)) if own => return Ok(None),
            other => other?,
        }
        set_effective(libc::SYS_setresgid, gid)?;
        set_effective(libc::SYS_setresuid, uid)?;
        Ok(Some(acting))
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        let _ = set_effective(libc::SYS_setresuid, own_uid());
        let _ = set_effective(libc::SYS_setresgid, own_gid());
        let _ = set_groups(&self.groups);
        // SAFETY: no arguments.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        if uid != own_uid() || gid != own_gid() || groups().ok().as_ref() != Some(&self.groups) {
            // A thread stuck as another user would serve the next request with the wrong rights.
            std::process::abort();
        }
    }
}
