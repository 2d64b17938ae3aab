//! Descriptors and files in memory.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::{check, owned};

/// The same open file on a number above `number`, kept from other children.
pub fn duplicate_above(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain fcntl on an open descriptor.
    owned(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, number + 1) }.into())
}

/// An empty file that exists only while it is open, and can be sealed.
pub fn memory_file(name: &CStr) -> io::Result<File> {
    // SAFETY: the name lives across the call.
    let fd = owned(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) }.into())?;
    Ok(fd.into())
}

/// From now on nobody writes to the file, changes its size or takes this back.
pub fn seal(fd: BorrowedFd<'_>) -> io::Result<()> {
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
    // SAFETY: plain fcntl on an open descriptor.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) }.into()).map(drop)
}

/// Makes `to` the same as `from` by sharing its blocks; fails where a file system cannot.
pub fn share_blocks(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain call on two open descriptors.
    check(unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) }.into()).map(drop)
}

/// Start and end of the next part at or after `from` that is no hole.
pub fn next_data(fd: BorrowedFd<'_>, from: u64) -> io::Result<Option<(u64, u64)>> {
    let seek = |from: u64, whence: i32| {
        let from = i64::try_from(from).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        // SAFETY: plain call on an open descriptor.
        check(unsafe { libc::lseek(fd.as_raw_fd(), from, whence) }).map(|at| at as u64)
    };
    match seek(from, libc::SEEK_DATA) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
        Ok(start) => Ok(Some((start, seek(start, libc::SEEK_HOLE)?))),
    }
}

/// Whether the file system there has no room left for another file or another byte of one; the agent's own rule.
pub fn is_full(fd: BorrowedFd<'_>) -> bool {
    /// ext4 takes room for a write in pieces as large as the write, up to this: what is left when one of them did not fit.
    const PIECE_BYTES: u64 = 2 * 1024 * 1024;
    /// Of a small disk that would be all of it.
    const SHARE: u64 = 16;
    // SAFETY: plain data for the kernel to fill, of an open descriptor.
    unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        if libc::fstatfs(fd.as_raw_fd(), &mut stat) != 0 {
            return false;
        }
        let piece = PIECE_BYTES / (stat.f_bsize as u64).max(1);
        stat.f_bavail < piece.min(stat.f_blocks / SHARE).max(1) || stat.f_ffree == 0
    }
}

#[cfg(test)]
pub fn punch_hole(fd: BorrowedFd<'_>, at: i64, length: i64) -> io::Result<()> {
    let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: plain call on an open descriptor.
    check(unsafe { libc::fallocate(fd.as_raw_fd(), how, at, length) }.into()).map(drop)
}

/// Rate of the processor's time stamp counter, None where there is none that could be read. Takes `COUNTED`.
#[cfg(target_arch = "x86_64")]
pub fn counter_khz() -> Option<u64> {
    /// An error of a microsecond in it is 10 in a million.
    const COUNTED: std::time::Duration = std::time::Duration::from_millis(100);
    let begin = std::time::Instant::now();
    // SAFETY: every x86-64 processor has the instruction, and Linux lets user space use it.
    let from = unsafe { core::arch::x86_64::_rdtsc() };
    std::thread::sleep(COUNTED);
    let nanos = begin.elapsed().as_nanos();
    // SAFETY: as above.
    let to = unsafe { core::arch::x86_64::_rdtsc() };
    u64::try_from(u128::from(to.wrapping_sub(from)) * 1_000_000 / nanos).ok()
}

#[cfg(not(target_arch = "x86_64"))]
pub fn counter_khz() -> Option<u64> {
    None
}
