//! Mounts by descriptor: nothing swapped for a link between the look and the mount is followed.

use super::{c_string, check, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

// From linux/mount.h; the libc crate does not carry all of them for every target.
const OPEN_TREE_CLONE: libc::c_uint = 1;
const ATTR_RDONLY: u64 = 0x1;
const ATTR_NOSUID: u64 = 0x2;
const ATTR_NODEV: u64 = 0x4;
const MOVE_FROM_DESCRIPTOR: libc::c_uint = 0x4;
const MOVE_TO_DESCRIPTOR: libc::c_uint = 0x40;

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A mount of its own of what is at `path`, attached nowhere yet, without set-user-id programs and devices.
pub fn detached_copy(path: &str, read_only: bool) -> Result<OwnedFd> {
    let path = c_string(path.as_bytes())?;
    let flags = OPEN_TREE_CLONE | (libc::O_CLOEXEC | libc::AT_SYMLINK_NOFOLLOW) as libc::c_uint;
    let attr = MountAttr {
        attr_set: ATTR_NOSUID | ATTR_NODEV | if read_only { ATTR_RDONLY } else { 0 },
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: a live string and a live structure with its size; the call gives a new descriptor that nobody else owns.
    unsafe {
        let tree = check(libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags))?;
        let tree = OwnedFd::from_raw_fd(tree as i32);
        let (size, empty) = (std::mem::size_of::<MountAttr>(), c"".as_ptr());
        check(libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), empty, libc::AT_EMPTY_PATH, &attr, size))?;
        Ok(tree)
    }
}

pub fn attach(tree: &OwnedFd, target: &OwnedFd) -> Result<()> {
    let (tree, target, empty) = (tree.as_raw_fd(), target.as_raw_fd(), c"".as_ptr());
    let flags = MOVE_FROM_DESCRIPTOR | MOVE_TO_DESCRIPTOR;
    // SAFETY: empty paths, both descriptors are borrowed for the call.
    check(unsafe { libc::syscall(libc::SYS_move_mount, tree, empty, target, empty, flags) }).map(drop)
}
