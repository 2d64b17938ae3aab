//! Loop devices, locks, and file systems that are mounted before they have a place.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::{check, owned};

// From linux/loop.h.
const LOOP_CTL_GET_FREE: u32 = 0x4C82;
const LOOP_CONFIGURE: u32 = 0x4C0A;
const LOOP_GET_STATUS64: u32 = 0x4C05;
/// The device lets go of its file when its last user, a mount for one, is gone.
const LO_FLAGS_AUTOCLEAR: u32 = 4;
// From linux/mount.h.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;

/// `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// Opens the device with that number.
pub fn open_loop(number: u32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(format!("/dev/loop{number}"))
}

/// Device and inode of the file behind a loop device, as stat tells them; fails where there is none.
pub fn behind_loop(device: &File) -> io::Result<(u64, u64)> {
    // SAFETY: plain data, all zero is valid; it lives across the call, which fills it.
    unsafe {
        let mut info: LoopInfo = std::mem::zeroed();
        check(libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64 as _, &mut info as *mut LoopInfo).into())?;
        Ok((info.device, info.inode))
    }
}

/// Number of a loop device that nobody uses at the moment, made where all are in use.
pub fn free_loop() -> io::Result<u32> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    // SAFETY: plain call on an open descriptor.
    let number = check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) }.into())?;
    Ok(number as u32)
}

/// Puts a file behind a loop device until the device's last user is gone. EBUSY: somebody else was faster.
pub fn put_behind_loop(device: &File, file: &File) -> io::Result<()> {
    // SAFETY: plain data, all zero is valid; it lives across the call, and both descriptors are open.
    unsafe {
        let mut config: LoopConfig = std::mem::zeroed();
        config.fd = file.as_raw_fd() as u32;
        config.info.flags = LO_FLAGS_AUTOCLEAR;
        check(libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &config as *const LoopConfig).into()).map(drop)
    }
}

/// Locks a file for as long as this opening of it lives. EWOULDBLOCK unless `wait`.
pub fn lock(file: &File, exclusive: bool, wait: bool) -> io::Result<()> {
    let how = if exclusive { libc::LOCK_EX } else { libc::LOCK_SH };
    // SAFETY: plain call on an open descriptor.
    check(unsafe { libc::flock(file.as_raw_fd(), if wait { how } else { how | libc::LOCK_NB }) }.into()).map(drop)
}

/// A file system on a device, mounted for reading and writing and not attached anywhere. A device that is mounted already
/// has its one file system mounted once more.
pub fn mount_detached(kind: &CStr, device: &CStr, flags: &[&CStr], attributes: u64) -> io::Result<OwnedFd> {
    // SAFETY: all strings live across the calls, and the descriptor is open.
    unsafe {
        let context = owned(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC))?;
        let fd = context.as_raw_fd();
        let none = std::ptr::null::<libc::c_char>();
        let set = |command: libc::c_uint, key: *const libc::c_char, value: *const libc::c_char| {
            check(libc::syscall(libc::SYS_fsconfig, fd, command, key, value, 0))
        };
        set(FSCONFIG_SET_STRING, c"source".as_ptr(), device.as_ptr())?;
        for flag in flags {
            set(FSCONFIG_SET_FLAG, flag.as_ptr(), none)?;
        }
        set(FSCONFIG_CMD_CREATE, none, none)?;
        owned(libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes as libc::c_uint))
    }
}
