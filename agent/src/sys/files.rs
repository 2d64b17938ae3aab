//! Files relative to open directories, so that nothing swapped for a symbolic link on the way is followed.

use super::{c_string, check, retry, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The directory that relative names start at.
#[derive(Clone, Copy)]
pub struct At(RawFd);

impl At {
    pub const HERE: Self = Self(libc::AT_FDCWD);
    /// Valid for as long as `fd` is open.
    pub fn directory(fd: &OwnedFd) -> Self {
        Self(fd.as_raw_fd())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub inode: u64,
}

impl Status {
    pub fn is(&self, kind: u32) -> bool {
        self.mode & libc::S_IFMT == kind
    }
    pub fn is_directory(&self) -> bool {
        self.is(libc::S_IFDIR)
    }
    pub fn is_regular(&self) -> bool {
        self.is(libc::S_IFREG)
    }
    pub fn is_symlink(&self) -> bool {
        self.is(libc::S_IFLNK)
    }
}

fn status(raw: &libc::stat) -> Status {
    Status {
        mode: raw.st_mode,
        uid: raw.st_uid,
        gid: raw.st_gid,
        size: raw.st_size as u64,
        mtime_ns: raw.st_mtime.saturating_mul(1_000_000_000).saturating_add(raw.st_mtime_nsec),
        ctime_ns: raw.st_ctime.saturating_mul(1_000_000_000).saturating_add(raw.st_ctime_nsec),
        inode: raw.st_ino,
    }
}

/// Always closes on exec, never becomes a controlling terminal and never waits for a FIFO's other end.
pub fn open(at: At, path: &[u8], flags: i32, mode: u32) -> Result<OwnedFd> {
    let path = c_string(path)?;
    let flags = flags | libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK;
    // SAFETY: a live string; gives a new descriptor that nobody else owns.
    unsafe {
        let fd = retry(|| libc::openat(at.0, path.as_ptr(), flags, mode) as i64)?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

pub fn stat(at: At, path: &[u8], follow: bool) -> Result<Status> {
    let path = c_string(path)?;
    // SAFETY: the kernel fills plain data.
    unsafe {
        let mut raw: libc::stat = std::mem::zeroed();
        let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
        check(libc::fstatat(at.0, path.as_ptr(), &mut raw, flags) as i64)?;
        Ok(status(&raw))
    }
}

pub fn stat_open(fd: &OwnedFd) -> Result<Status> {
    // SAFETY: the kernel fills plain data.
    unsafe {
        let mut raw: libc::stat = std::mem::zeroed();
        check(libc::fstat(fd.as_raw_fd(), &mut raw) as i64)?;
        Ok(status(&raw))
    }
}

pub fn read_link(at: At, path: &[u8]) -> Result<Vec<u8>> {
    let path = c_string(path)?;
    let mut target = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: pointer and length of a live buffer.
    let length =
        check(unsafe { libc::readlinkat(at.0, path.as_ptr(), target.as_mut_ptr().cast(), target.len()) as i64 })?;
    target.truncate(length as usize);
    Ok(target)
}

/// Where an open file is, as this process sees it.
pub fn path_of(fd: &OwnedFd) -> Result<Vec<u8>> {
    read_link(At::HERE, format!("/proc/self/fd/{}", fd.as_raw_fd()).as_bytes())
}

pub fn make_directory(at: At, path: &[u8], mode: u32) -> Result<()> {
    let path = c_string(path)?;
    // SAFETY: a live string.
    check(unsafe { libc::mkdirat(at.0, path.as_ptr(), mode) } as i64).map(drop)
}

pub fn unlink(at: At, path: &[u8], directory: bool) -> Result<()> {
    let path = c_string(path)?;
    let flags = if directory { libc::AT_REMOVEDIR } else { 0 };
    // SAFETY: a live string.
    check(unsafe { libc::unlinkat(at.0, path.as_ptr(), flags) } as i64).map(drop)
}

/// Where `replace` is false and the target exists: EEXIST.
pub fn rename(from: &[u8], to: &[u8], replace: bool) -> Result<()> {
    let (from, to) = (c_string(from)?, c_string(to)?);
    let here = libc::AT_FDCWD;
    // SAFETY: live strings.
    unsafe {
        if replace {
            return check(libc::renameat(here, from.as_ptr(), here, to.as_ptr()) as i64).map(drop);
        }
        check(libc::syscall(libc::SYS_renameat2, here, from.as_ptr(), here, to.as_ptr(), libc::RENAME_NOREPLACE))
            .map(drop)
    }
}

pub fn symlink(target: &[u8], path: &[u8]) -> Result<()> {
    let (target, path) = (c_string(target)?, c_string(path)?);
    // SAFETY: live strings.
    check(unsafe { libc::symlinkat(target.as_ptr(), libc::AT_FDCWD, path.as_ptr()) } as i64).map(drop)
}

pub fn change_mode(path: &[u8], mode: u32) -> Result<()> {
    let path = c_string(path)?;
    // SAFETY: a live string.
    check(unsafe { libc::fchmodat(libc::AT_FDCWD, path.as_ptr(), mode, 0) } as i64).map(drop)
}

/// When it was changed last; when it was read last stays. Of a link its own.
pub fn change_time(path: &[u8], mtime_ns: i64) -> Result<()> {
    const NS_PER_S: i64 = 1_000_000_000;
    let path = c_string(path)?;
    let unchanged = libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT };
    let modified = libc::timespec { tv_sec: mtime_ns.div_euclid(NS_PER_S), tv_nsec: mtime_ns.rem_euclid(NS_PER_S) };
    let times = [unchanged, modified];
    // SAFETY: a live string, and two times for the kernel to read.
    check(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) } as i64)
        .map(drop)
}

pub fn change_mode_open(fd: &OwnedFd, mode: u32) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) } as i64).map(drop)
}

/// An id of u32::MAX stays as it is.
pub fn change_owner(path: &[u8], uid: u32, gid: u32) -> Result<()> {
    let path = c_string(path)?;
    // SAFETY: a live string.
    check(unsafe { libc::fchownat(libc::AT_FDCWD, path.as_ptr(), uid, gid, 0) } as i64).map(drop)
}

pub fn seek(fd: &OwnedFd, offset: u64) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::lseek(fd.as_raw_fd(), offset as i64, libc::SEEK_SET) }).map(drop)
}

pub fn truncate(fd: &OwnedFd) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), 0) } as i64).map(drop)
}

const DIRECTORY_BYTES: usize = 8 * 1024;
/// inode, offset, record length, kind
const NAME_AT: usize = 8 + 8 + 2 + 1;

/// The names in an open directory, read as they are asked for.
pub struct Names {
    fd: OwnedFd,
    buffer: Vec<u8>,
    at: usize,
}

impl Names {
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, buffer: Vec::new(), at: 0 }
    }

    pub fn directory(&self) -> At {
        At::directory(&self.fd)
    }

    pub fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if self.at == self.buffer.len() && !self.fill()? {
                return Ok(None);
            }
            let rest = &self.buffer[self.at..];
            let length = u16::from_ne_bytes([rest[16], rest[17]]) as usize;
            let name = rest[NAME_AT..length].split(|b| *b == 0).next().unwrap_or_default().to_vec();
            self.at += length;
            if name != b"." && name != b".." {
                return Ok(Some(name));
            }
        }
    }

    fn fill(&mut self) -> Result<bool> {
        self.buffer.resize(DIRECTORY_BYTES, 0);
        self.at = 0;
        // SAFETY: pointer and length of a live buffer.
        let count = check(unsafe {
            libc::syscall(libc::SYS_getdents64, self.fd.as_raw_fd(), self.buffer.as_mut_ptr(), self.buffer.len())
        });
        self.buffer.truncate(*count.as_ref().unwrap_or(&0) as usize);
        count.map(|count| count > 0)
    }
}
