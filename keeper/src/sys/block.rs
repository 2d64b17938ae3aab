//! Loop devices, and file systems that are mounted before they are anywhere.

use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{check, cstr, owned};

// From linux/loop.h.
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

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

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// ext4's own, so that no request is for a part of one.
const BLOCK_BYTES: u32 = 4096;

/// A block device whose contents are a file's. It comes apart with its last user, a mount for one: nobody has to undo it.
pub struct LoopDevice {
    pub path: CString,
    open: File,
}

impl LoopDevice {
    /// # Errors
    /// `NotFound` where the kernel has no loop devices; `Other` when every free one went to somebody else first.
    pub fn attach(file: BorrowedFd<'_>) -> io::Result<LoopDevice> {
        /// Between asking for a free one and taking it others may come first, as many as start at once.
        const TRIES: u32 = 128;
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
        for _ in 0..TRIES {
            // SAFETY: plain call on an open descriptor.
            let number = check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) }.into())?;
            let device = Self::open(&format!("loop{number}"))?;
            match configure(&device.open, file) {
                Ok(()) => return Ok(device),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("others took every loop device that was free"))
    }

    fn open(name: &str) -> io::Result<LoopDevice> {
        let path = format!("/dev/{name}");
        let open = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(LoopDevice { path: cstr(path)?, open })
    }

    /// The device that has that file behind it, by device and inode. One on its way out says so by failing: what it had is in
    /// its file by then.
    pub fn of(wanted: (u64, u64)) -> io::Result<Option<LoopDevice>> {
        for entry in fs::read_dir("/sys/block")?.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| name.starts_with("loop")) else { continue };
            if !entry.path().join("loop/backing_file").exists() {
                continue;
            }
            let Ok(device) = Self::open(name) else { continue };
            if device.behind().is_ok_and(|behind| behind == wanted) {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    /// Device and inode of its file, as stat tells them; fails where there is none.
    fn behind(&self) -> io::Result<(u64, u64)> {
        // SAFETY: plain data, all zero is valid; it lives across the call, which fills it.
        unsafe {
            let mut info: LoopInfo = std::mem::zeroed();
            check(libc::ioctl(self.open.as_raw_fd(), LOOP_GET_STATUS64, &mut info as *mut LoopInfo).into())?;
            Ok((info.device, info.inode))
        }
    }
}

/// Past the page cache where the file's file system can: what is written is cached and counted once, as the sandbox's.
fn configure(device: &File, file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain data, all zero is valid.
    let mut config: LoopConfig = unsafe { std::mem::zeroed() };
    config.fd = file.as_raw_fd() as u32;
    config.block_size = BLOCK_BYTES;
    config.info.flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
    // SAFETY: the structure lives across the call and is of the size the kernel reads.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &config) }.into()).map(drop)
}

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

/// A mount that is in no namespace yet, of the file system on `source`; gone with the descriptor unless it is attached. What is
/// mounted already is mounted once more.
pub fn mount_detached(kind: &CStr, source: &CStr, flags: &[&CStr], attributes: u64) -> io::Result<OwnedFd> {
    // SAFETY: all strings live across the calls; an absent value is a null pointer, as the kernel wants it.
    unsafe {
        let context = owned(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC))?;
        let set = |command: libc::c_uint, key: *const libc::c_char, value: *const libc::c_char| {
            check(libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0)).map(drop)
        };
        set(FSCONFIG_SET_STRING, c"source".as_ptr(), source.as_ptr())?;
        for flag in flags {
            set(FSCONFIG_SET_FLAG, flag.as_ptr(), std::ptr::null())?;
        }
        set(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
        owned(libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes as libc::c_uint))
    }
}

/// From linux/securebits.h.
const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;

/// From now on the calling thread makes files in the name of that user and group, with all its capabilities.
pub fn make_files_as(id: u32) -> io::Result<()> {
    // SAFETY: plain numbers; these calls affect the calling thread alone.
    unsafe {
        // Or leaving user 0 would cost it the capabilities that are about files.
        check(libc::prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0).into())?;
        libc::setfsgid(id);
        libc::setfsuid(id);
        // They answer with who it was before, and to no id with who it is.
        if libc::setfsgid(u32::MAX) as u32 != id || libc::setfsuid(u32::MAX) as u32 != id {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
    }
    Ok(())
}
