//! Calls that concern this thread alone, which is the only one, and those that mount a disk.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::io::{Errno, Result};
use rustix::mount::{
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, FsMountFlags, FsOpenFlags, MountAttrFlags,
};
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

/// Standard output for an archive. What is said from here on goes to standard error.
pub fn take_stdout() -> Result<File> {
    let archive = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3)?;
    rustix::stdio::dup2_stdout(std::io::stderr())?;
    Ok(archive.into())
}

/// The ext4 on `device`, for reading, on no directory. Its journal is written back first, as at any mount.
pub fn mount_device(device: &Path) -> Result<OwnedFd> {
    forget_cached_blocks(device)?;
    let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", device)?;
    fsconfig_set_flag(context.as_fd(), "ro")?;
    // Over what the disk itself asks for: one that wants a panic is an error here.
    fsconfig_set_string(context.as_fd(), "errors", "remount-ro")?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A clone's kernel may remember what was on its template's disk.
fn forget_cached_blocks(device: &Path) -> Result<()> {
    const BLKFLSBUF: libc::Ioctl = 0x1261;
    let file = File::open(device).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    // SAFETY: the request takes no argument.
    match unsafe { libc::ioctl(file.as_raw_fd(), BLKFLSBUF, 0) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
