//! Every raw system call of the keeper. Each wrapper takes and returns owned or borrowed descriptors, so that the rest
//! of the program is safe code.

mod block;
mod files;
mod mount;
mod process;

pub use block::*;
pub use files::*;
pub use mount::*;
pub use process::*;

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub fn cstr(text: impl AsRef<[u8]>) -> io::Result<CString> {
    CString::new(text.as_ref()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

pub fn cpath(path: &Path) -> io::Result<CString> {
    cstr(path.as_os_str().as_bytes())
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(result)? as RawFd;
    // SAFETY: the kernel has just handed out this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes over a descriptor inherited from the parent and keeps it from the keeper's children.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain fcntl on a number; fails with EBADF when it is not open.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: the caller names a descriptor that was passed for it alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens `path` below `dir`, following no symbolic link and leaving `dir` in no way.
pub fn open_beneath(dir: BorrowedFd<'_>, path: &Path, flags: i32, mode: u32, extra: u64) -> io::Result<OwnedFd> {
    open_without_links(dir.as_raw_fd(), path, flags, mode, libc::RESOLVE_BENEATH | extra)
}

/// A handle on what is at an absolute `path`. Fails with ELOOP when any part of it is a symbolic link.
pub fn open_real(path: &Path) -> io::Result<OwnedFd> {
    open_without_links(libc::AT_FDCWD, path, libc::O_PATH, 0, 0)
}

fn open_without_links(dir: RawFd, path: &Path, flags: i32, mode: u32, resolve: u64) -> io::Result<OwnedFd> {
    let path = cpath(path)?;
    // SAFETY: open_how is plain data, all zero is valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS | resolve;
    // SAFETY: pointers live across the call and the size is that of the structure.
    owned(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            dir,
            path.as_ptr(),
            &how as *const libc::open_how,
            std::mem::size_of::<libc::open_how>(),
        )
    })
}

pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let path = cpath(path)?;
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: the path lives across the call.
    owned(unsafe { libc::open(path.as_ptr(), flags) }.into())
}

pub fn mkdirat(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: the name lives across the call.
    check(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) }.into()).map(drop)
}

pub fn mkfifoat(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: the name lives across the call.
    check(unsafe { libc::mkfifoat(dir.as_raw_fd(), name.as_ptr(), mode) }.into()).map(drop)
}

pub fn mknodat(dir: BorrowedFd<'_>, name: &CStr, mode: u32, device: libc::dev_t) -> io::Result<()> {
    // SAFETY: the name lives across the call.
    check(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, device) }.into()).map(drop)
}

pub fn unlinkat(dir: BorrowedFd<'_>, name: &CStr, flags: i32) -> io::Result<()> {
    // SAFETY: the name lives across the call.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), flags) }.into()).map(drop)
}

pub fn chownat(dir: BorrowedFd<'_>, name: &CStr, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: the name lives across the call.
    check(unsafe { libc::fchownat(dir.as_raw_fd(), name.as_ptr(), uid, gid, libc::AT_SYMLINK_NOFOLLOW) }.into())
        .map(drop)
}

pub fn fstat(fd: BorrowedFd<'_>) -> io::Result<libc::stat> {
    // SAFETY: stat is plain data, all zero is valid, and is filled by the kernel.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        check(libc::fstat(fd.as_raw_fd(), &mut stat).into())?;
        Ok(stat)
    }
}

/// Locks a file for whoever holds this opening of it or a copy. EWOULDBLOCK unless `wait`.
pub fn lock(file: &File, exclusive: bool, wait: bool) -> io::Result<()> {
    let how = if exclusive { libc::LOCK_EX } else { libc::LOCK_SH };
    // SAFETY: plain call on an open descriptor.
    check(unsafe { libc::flock(file.as_raw_fd(), if wait { how } else { how | libc::LOCK_NB }) }.into()).map(drop)
}

/// Locks a file for this opening alone. EWOULDBLOCK while another has it.
pub fn flock(file: &File) -> io::Result<()> {
    lock(file, true, false)
}

/// Locks (or unlocks) one byte for this open file description; the lock dies with the process.
pub fn lock_byte(file: &File, at: i64, lock: bool) -> io::Result<()> {
    // SAFETY: flock is plain data; OFD locks want l_pid to be zero.
    unsafe {
        let mut region: libc::flock = std::mem::zeroed();
        region.l_type = if lock { libc::F_WRLCK } else { libc::F_UNLCK } as libc::c_short;
        region.l_whence = libc::SEEK_SET as libc::c_short;
        region.l_start = at;
        region.l_len = 1;
        check(libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &region).into()).map(drop)
    }
}

pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: plain calls; setsid fails with EPERM when already a leader, which is as good.
    unsafe {
        libc::setsid();
        check(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0).into()).map(drop)
    }
}

/// Modes given in steps are exact.
pub fn clear_umask() {
    // SAFETY: cannot fail.
    unsafe { libc::umask(0) };
}

/// @returns whether each descriptor became readable (or hung up) within the time.
pub fn poll_in(fds: &[Option<BorrowedFd<'_>>], timeout_ms: i32) -> io::Result<Vec<bool>> {
    let readable: Vec<_> = fds.iter().map(|fd| (*fd, libc::POLLIN)).collect();
    poll_any(&readable, timeout_ms)
}

/// Descriptors with what is waited for on each. @returns what came, as `poll_in`.
pub fn poll_any(fds: &[(Option<BorrowedFd<'_>>, i16)], timeout_ms: i32) -> io::Result<Vec<bool>> {
    let entry = |(fd, events): &(Option<BorrowedFd<'_>>, i16)| libc::pollfd {
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: *events,
        revents: 0,
    };
    let mut set: Vec<libc::pollfd> = fds.iter().map(entry).collect();
    // SAFETY: the array lives across the call and its length is given.
    let got = unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, timeout_ms) };
    match check(got.into()) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(set.iter().map(|entry| entry.revents != 0).collect()),
    }
}

/// Counts what the kernel tells of; readable when that is not nothing.
pub fn event_counter() -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }.into())
}

/// Takes what an event counter has counted.
pub fn drain(counter: BorrowedFd<'_>) {
    let mut value = [0u8; 8];
    // SAFETY: the buffer lives across the call. Nothing counted is EAGAIN.
    unsafe { libc::read(counter.as_raw_fd(), value.as_mut_ptr().cast(), value.len()) };
}

/// A descriptor's number, for kernel interfaces that take it as text.
pub fn number(fd: impl AsFd) -> RawFd {
    fd.as_fd().as_raw_fd()
}

pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: two descriptors are written to the array on success.
    unsafe {
        check(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC).into())?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    add_flag(fd, libc::O_NONBLOCK)
}

/// What is read and written through it passes the page cache by.
pub fn set_direct(fd: BorrowedFd<'_>) -> io::Result<()> {
    add_flag(fd, libc::O_DIRECT)
}

fn add_flag(fd: BorrowedFd<'_>, flag: i32) -> io::Result<()> {
    // SAFETY: plain fcntl on an open descriptor.
    unsafe {
        let flags = check(libc::fcntl(fd.as_raw_fd(), libc::F_GETFL).into())? as i32;
        check(libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | flag).into()).map(drop)
    }
}

/// Ends reading from the control socket, as if the engine had gone.
pub fn shut_reading(fd: BorrowedFd<'_>) {
    // SAFETY: plain call on an open descriptor.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RD) };
}

/// A path that names an open descriptor, for calls that take only paths.
pub fn fd_path(fd: impl AsFd) -> String {
    format!("/proc/thread-self/fd/{}", fd.as_fd().as_raw_fd())
}
