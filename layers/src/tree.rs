//! A directory tree that is written to beneath one open directory, through no link and to no other file system.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::fs::{Dir, Gid, Uid};
use rustix::io::Errno;

use crate::failure::{Failure, Kind, Result};
use crate::limits::{LISTED_BYTES_MAX, PATH_COST_BYTES};
use crate::names::split;
use crate::tar::Time;

const OPEN_DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Of the kernel, for one attribute's value.
pub const XATTR_VALUE_BYTES_MAX: usize = 65_536;
/// A file's capabilities.
pub const CAPABILITY: &[u8] = b"security.capability";
/// Until it has its own.
const NEW_MODE: Mode = Mode::RWXU;

/// Owner, mode and time of something in the tree.
#[derive(Clone, Copy)]
pub struct Attributes {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits with set-user-id, set-group-id and sticky.
    pub mode: u32,
    pub mtime: Time,
}

/// Of a directory that nobody has described.
pub const PLAIN_DIRECTORY: Attributes =
    Attributes { uid: 0, gid: 0, mode: 0o755, mtime: Time { seconds: 0, nanos: 0 } };

/// The directory that entries are being put into. What is put there changes its time, which is put back afterwards.
struct Place {
    path: Vec<u8>,
    fd: OwnedFd,
    times: Timestamps,
}

pub struct Tree {
    root: OwnedFd,
    place: Option<Place>,
}

impl Tree {
    pub fn new(root: OwnedFd) -> Tree {
        Tree { root, place: None }
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Makes `path` the directory that entries are put into. Directories that are missing on the way are made, and added to
    /// `made`.
    pub fn enter(&mut self, path: &[u8], made: &mut Vec<Vec<u8>>) -> Result<()> {
        if self.place.as_ref().is_some_and(|place| place.path == path) {
            return Ok(());
        }
        let fd = match open_beneath(self.root.as_fd(), path) {
            Err(Errno::NOENT) => {
                let (above, name) = split(path);
                self.enter(above, made)?;
                let (fd, _) = make_directory(self.entered(), name)?;
                describe(fd.as_fd(), PLAIN_DIRECTORY, &[])?;
                made.push(path.to_vec());
                fd
            }
            other => other.map_err(|error| way(error, path))?,
        };
        self.leave()?;
        let times = times_of(fd.as_fd())?;
        self.place = Some(Place { path: path.to_vec(), fd, times });
        Ok(())
    }

    /// The directory that was entered last.
    pub fn entered(&self) -> BorrowedFd<'_> {
        self.place.as_ref().map_or(self.root.as_fd(), |place| place.fd.as_fd())
    }

    /// A directory to look at what is in it.
    pub fn open(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        open_beneath(self.root.as_fd(), path)
    }

    /// Gives the directory that was entered last the time that it had.
    pub fn leave(&mut self) -> Result<()> {
        match self.place.take() {
            Some(place) => Ok(fs::futimens(place.fd, &place.times)?),
            None => Ok(()),
        }
    }
}

fn open_beneath(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let path = if path.is_empty() { b"." } else { path };
    // A link as the last part is a loop like any other, and not just no directory.
    fs::openat2(root, path, OPEN_DIRECTORY - OFlags::NOFOLLOW, Mode::empty(), resolve)
}

/// Why the way to a directory ends.
pub fn way(error: Errno, path: &[u8]) -> Failure {
    match error {
        Errno::LOOP => Failure::new(Kind::Traversal, "a path leads through a link"),
        Errno::NOTDIR => Failure::new(Kind::BadTar, "a path leads through what is no directory"),
        other => other.into(),
    }
    .at(path)
}

pub fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    fs::openat(parent, name, OPEN_DIRECTORY, Mode::empty())
}

/// The directory `name`: the one that is there, or a new one in place of whatever else is.
///
/// @returns it, and whether it is new
pub fn make_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(OwnedFd, bool)> {
    match fs::mkdirat(parent, name, NEW_MODE) {
        Ok(()) => {}
        Err(Errno::EXIST) => match open_directory(parent, name) {
            Ok(fd) => return Ok((fd, false)),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                fs::unlinkat(parent, name, AtFlags::empty())?;
                fs::mkdirat(parent, name, NEW_MODE)?;
            }
            Err(error) => return Err(error.into()),
        },
        Err(error) => return Err(error.into()),
    }
    Ok((open_directory(parent, name)?, true))
}

/// Does what makes something at `name`, again once what is there already has been removed.
pub fn replace<T>(parent: BorrowedFd<'_>, name: &[u8], mut make: impl FnMut() -> rustix::io::Result<T>) -> Result<T> {
    match make() {
        Err(Errno::EXIST) => {
            remove(parent, name)?;
            Ok(make()?)
        }
        other => Ok(other?),
    }
}

pub fn make_file(parent: BorrowedFd<'_>, name: &[u8]) -> Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = replace(parent, name, || fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR))?;
    Ok(fd.into())
}

pub fn make_link(parent: BorrowedFd<'_>, name: &[u8], target: &[u8], attributes: Attributes) -> Result<()> {
    replace(parent, name, || fs::symlinkat(target, parent, name))?;
    let (uid, gid) = owner(attributes);
    fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(fs::utimensat(parent, name, &times(attributes.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

pub fn make_fifo(parent: BorrowedFd<'_>, name: &[u8], attributes: Attributes) -> Result<()> {
    replace(parent, name, || fs::mknodat(parent, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0))?;
    let (uid, gid) = owner(attributes);
    fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    // Nobody else is in the tree who could have put a link here meanwhile.
    fs::chmodat(parent, name, Mode::from_raw_mode(attributes.mode), AtFlags::empty())?;
    Ok(fs::utimensat(parent, name, &times(attributes.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Owner, mode, attributes and time of an open file or directory.
pub fn describe(fd: BorrowedFd<'_>, attributes: Attributes, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
    let (uid, gid) = owner(attributes);
    // In this order: a new owner takes set-user-id bits and capabilities away, and everything changes the time.
    fs::fchown(fd, uid, gid)?;
    fs::fchmod(fd, Mode::from_raw_mode(attributes.mode))?;
    for (name, value) in xattrs {
        fs::fsetxattr(fd, name.as_slice(), value, fs::XattrFlags::empty())
            .map_err(|error| Failure::new(Kind::Xattr, format!("{:?}: {error}", String::from_utf8_lossy(name))))?;
    }
    Ok(fs::futimens(fd, &times(attributes.mtime))?)
}

/// Takes away whatever is at `name`, with all that is in it. Nothing being there is an error.
pub fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return Ok(other?),
    }
    empty(open_directory(parent, name)?.as_fd())?;
    Ok(fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

pub fn remove_if_there(parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        other => other.map_err(Failure::from).and_then(|_| remove(parent, name)),
    }
}

/// Takes away all that is in a directory.
pub fn empty(directory: BorrowedFd<'_>) -> Result<()> {
    for name in list(directory)? {
        remove(directory, &name)?;
    }
    Ok(())
}

/// Names in a directory, in byte order: the same tree is always gone through in the same way.
pub fn list(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    let (mut names, mut bytes) = (Vec::new(), 0);
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name == b"." || name == b".." {
            continue;
        }
        bytes += name.len() + PATH_COST_BYTES;
        if bytes > LISTED_BYTES_MAX {
            let failure = Failure::new(Kind::TooManyEntries, "a directory has names too long together");
            return Err(failure.limit(LISTED_BYTES_MAX as u64));
        }
        names.push(name);
    }
    names.sort_unstable();
    Ok(names)
}

/// Names of the attributes that layers keep.
pub fn xattr_names(fd: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    let mut names = all_xattr_names(fd)?;
    names.retain(|name| name.starts_with(b"user.") || name == CAPABILITY);
    Ok(names)
}

/// In byte order; those that may not be seen are not among them.
pub fn all_xattr_names(fd: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    // As much as the kernel ever lists.
    let mut buffer = vec![0; 65_536];
    let length = fs::flistxattr(fd, &mut buffer)?;
    let names = buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut names: Vec<_> = names.map(<[u8]>::to_vec).collect();
    names.sort_unstable();
    Ok(names)
}

pub fn xattr(fd: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>> {
    let mut value = vec![0; XATTR_VALUE_BYTES_MAX];
    let length = fs::fgetxattr(fd, name, &mut value)?;
    value.truncate(length);
    Ok(value)
}

pub fn times_of(fd: BorrowedFd<'_>) -> Result<Timestamps> {
    let stat = fs::fstat(fd)?;
    Ok(times(Time { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 }))
}

/// The time of the last change alone; nobody keeps when something was read.
pub fn times(mtime: Time) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn owner(attributes: Attributes) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))
}
