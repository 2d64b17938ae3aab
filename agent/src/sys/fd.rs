//! Descriptors: reading, writing, flags, pipes.

use super::{check, retry, Errno, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What a read or write on a non-blocking descriptor came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    Bytes(usize),
    WouldBlock,
}

fn moved(result: Result<i64>) -> Result<Moved> {
    match result {
        Ok(count) => Ok(Moved::Bytes(count as usize)),
        Err(Errno(libc::EAGAIN)) => Ok(Moved::WouldBlock),
        Err(error) => Err(error),
    }
}

/// 0 bytes is the end of the file.
pub fn read(fd: &impl AsRawFd, buffer: &mut [u8]) -> Result<Moved> {
    moved(retry(|| {
        // SAFETY: the pointer and length are those of a live exclusive slice.
        unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) as i64 }
    }))
}

/// Appends up to `most` bytes to `buffer` without clearing the room first.
pub fn read_append(fd: &impl AsRawFd, buffer: &mut Vec<u8>, most: usize) -> Result<Moved> {
    buffer.reserve(most);
    let room = most.min(buffer.capacity() - buffer.len());
    let result = moved(retry(|| {
        // SAFETY: `room` bytes of spare capacity follow the vector's length.
        unsafe {
            let at = buffer.as_mut_ptr().add(buffer.len());
            libc::read(fd.as_raw_fd(), at.cast(), room) as i64
        }
    }))?;
    if let Moved::Bytes(count) = result {
        // SAFETY: the kernel has written `count` bytes, at most `room`, behind the length.
        unsafe { buffer.set_len(buffer.len() + count) };
    }
    Ok(result)
}

pub fn write(fd: &impl AsRawFd, bytes: &[u8]) -> Result<Moved> {
    moved(retry(|| {
        // SAFETY: the pointer and length are those of a live slice.
        unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) as i64 }
    }))
}

pub fn set_nonblocking(fd: &impl AsRawFd, on: bool) -> Result<()> {
    // SAFETY: fcntl with integer arguments.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) } as i64)? as i32;
    let wanted = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    if wanted != flags {
        // SAFETY: as above.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, wanted) } as i64)?;
    }
    Ok(())
}

/// Both ends close on exec. The read end is first.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0i32; 2];
    // SAFETY: the kernel writes two descriptors that nobody else owns.
    unsafe {
        check(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) as i64)?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// A copy of descriptor `number` at 3 or above that closes on exec.
pub fn duplicate(number: i32) -> Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC gives a new descriptor that nobody else owns.
    unsafe {
        let copy = check(libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) as i64)?;
        Ok(OwnedFd::from_raw_fd(copy as i32))
    }
}

/// Makes `number` (0 or 1) the same as `fd`.
pub fn replace(fd: &impl AsRawFd, number: i32) -> Result<()> {
    // SAFETY: dup2 on numbers; `number` is a standard stream, owned by nobody in this program.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) } as i64).map(drop)
}

pub fn chown(fd: &impl AsRawFd, uid: u32, gid: u32) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::fchown(fd.as_raw_fd(), uid, gid) } as i64).map(drop)
}
