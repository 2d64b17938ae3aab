//! The writable layer of an overlay to one layer's archive: what it took away as whiteouts, owners as they were inside.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self as calls, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde_json::{json, Value};

use crate::failure::{Failure, Kind, Result};
use crate::limits::{DEPTH_MAX, PATH_COST_BYTES, PATH_MAX, REMEMBERED_BYTES_MAX};
use crate::names::{self, join, Role};
use crate::tar::write::{map, Head, Writer};
use crate::tar::Time;
use crate::tree::{self, CAPABILITY};

const BUFFER_BYTES: usize = 256 * 1024;
const OVERLAY: &[u8] = b"trusted.overlay.";

/// Owners that a layer may have, and which of them is root inside.
#[derive(Clone, Copy)]
pub struct Ids {
    base: u32,
    count: u32,
}

impl Ids {
    /// Where nothing is shifted: the last number is no owner's.
    pub const ALL: Ids = Ids { base: 0, count: u32::MAX };

    pub fn of_sandbox(base: u32) -> Ids {
        Ids { base, count: 65_536 }
    }
}

struct Packer {
    out: Writer<BufWriter<File>>,
    ids: Ids,
    /// By its number, the first name of each file that has several.
    seen: HashMap<u64, Vec<u8>>,
    remembered: usize,
    chunk: Vec<u8>,
    entries: u64,
    bytes: u64,
    left_out: u64,
}

/// Packs all that is below `upper`, whose owners are `ids`, in byte order of names. The directory itself is left
/// out: what it is like is whoever's who made it.
///
/// @returns the line that says so
pub fn pack(upper: OwnedFd, ids: Ids, out: File) -> Result<Value> {
    let out = Writer::new(BufWriter::with_capacity(BUFFER_BYTES, out));
    let (seen, chunk) = (HashMap::new(), vec![0; BUFFER_BYTES]);
    let mut packer = Packer { out, ids, seen, remembered: 0, chunk, entries: 0, bytes: 0, left_out: 0 };
    packer.directory(upper.as_fd(), b"", 1)?;
    let Packer { out, entries, bytes, left_out, .. } = packer;
    let diff_id = out.finish()?;
    Ok(json!({ "done": { "entries": entries, "bytes": bytes, "diffId": diff_id, "leftOut": left_out } }))
}

impl Packer {
    fn directory(&mut self, fd: BorrowedFd<'_>, path: &[u8], depth: u64) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(Failure::new(Kind::TooDeep, "too many directories in each other").at(path).limit(DEPTH_MAX));
        }
        for name in tree::list(fd)? {
            let path = join(path, &name);
            self.entry(fd, &name, &path, depth).map_err(|failure| failure.at(&path))?;
        }
        Ok(())
    }

    fn entry(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: &[u8], depth: u64) -> Result<()> {
        if path.len() as u64 >= PATH_MAX {
            return Err(Failure::new(Kind::PathTooLong, "a path is too long").limit(PATH_MAX - 1));
        }
        let stat = calls::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice if stat.st_rdev == 0 => return self.whiteout(path, &[b".wh.", name].concat()),
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Socket => {
                self.left_out += 1;
                return Ok(());
            }
            _ => {}
        }
        if names::role(path)? != Role::Entry {
            return Err(Failure::new(Kind::BadName, "in a layer this name would take something away"));
        }
        let fd = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory | FileType::RegularFile => Some(open(parent, name)?),
            _ => None,
        };
        let xattrs = fd.as_ref().map_or(Ok(Vec::new()), |fd| self.xattrs(fd.as_fd()))?;
        match (FileType::from_raw_mode(stat.st_mode), fd) {
            (FileType::Directory, Some(fd)) => {
                self.head(b'5', path, b"", &stat, &xattrs)?;
                if is_opaque(fd.as_fd())? {
                    self.whiteout(&join(path, b"x"), b".wh..wh..opq")?;
                }
                self.directory(fd.as_fd(), path, depth + 1)
            }
            _ if stat.st_nlink > 1 && self.seen.contains_key(&stat.st_ino) => {
                let first = self.seen[&stat.st_ino].clone();
                self.head(b'1', path, &first, &stat, &[])
            }
            (FileType::RegularFile, Some(fd)) => {
                self.remember(&stat, path)?;
                self.file(File::from(fd), path, &stat, &xattrs)
            }
            (FileType::Symlink, _) => {
                self.remember(&stat, path)?;
                let target = calls::readlinkat(parent, name, Vec::new())?;
                self.head(b'2', path, target.as_bytes(), &stat, &[])
            }
            _ => {
                self.remember(&stat, path)?;
                self.head(b'6', path, b"", &stat, &[])
            }
        }
    }

    /// In the directory of `path`.
    fn whiteout(&mut self, path: &[u8], name: &[u8]) -> Result<()> {
        let path = join(names::split(path).0, name);
        let (mtime, stored) = (Time::default(), 0);
        let head = Head {
            kind: b'0',
            path: &path,
            link: b"",
            mode: 0,
            uid: 0,
            gid: 0,
            mtime,
            stored,
            xattrs: &[],
            sparse_size: None,
        };
        self.entries += 1;
        self.out.entry(&head)
    }

    fn head(&mut self, kind: u8, path: &[u8], link: &[u8], stat: &Stat, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        self.begin(&Head { kind, path, link, xattrs, ..self.described(stat)? })
    }

    fn begin(&mut self, head: &Head<'_>) -> Result<()> {
        self.entries += 1;
        self.out.entry(head)
    }

    fn described(&self, stat: &Stat) -> Result<Head<'static>> {
        let inside = |id: u32| {
            let Ids { base, count } = self.ids;
            id.checked_sub(base).filter(|id| *id < count).ok_or_else(|| {
                let what = format!("owner {id} is none of the {count} from {base} on");
                Failure::new(Kind::BadId, what)
            })
        };
        Ok(Head {
            kind: b'0',
            path: b"",
            link: b"",
            mode: stat.st_mode & 0o7777,
            uid: inside(stat.st_uid)?,
            gid: inside(stat.st_gid)?,
            mtime: Time { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
            stored: 0,
            xattrs: &[],
            sparse_size: None,
        })
    }

    fn file(&mut self, mut file: File, path: &[u8], stat: &Stat, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let size = stat.st_size as u64;
        let head = Head { path, xattrs, ..self.described(stat)? };
        // A file without holes has its blocks; the map of one with holes is bounded by what is really there.
        let pieces = if (stat.st_blocks as u64) * 512 < size { Some(pieces(&file, size)?) } else { None };
        let all = [(0, size)];
        match &pieces {
            None => self.begin(&Head { stored: size, ..head })?,
            Some(pieces) => {
                let map = map(pieces);
                let stored = map.len() as u64 + pieces.iter().map(|(_, length)| length).sum::<u64>();
                self.begin(&Head { stored, sparse_size: Some(size), ..head })?;
                self.out.contents(&map)?;
            }
        }
        for (offset, length) in pieces.as_deref().unwrap_or(&all) {
            file.seek(SeekFrom::Start(*offset))?;
            self.contents(&mut file, *length)?;
        }
        self.bytes += size;
        Ok(())
    }

    fn contents(&mut self, file: &mut File, mut length: u64) -> Result<()> {
        while length > 0 {
            let want = length.min(BUFFER_BYTES as u64) as usize;
            let got = file.read(&mut self.chunk[..want])?;
            if got == 0 {
                return Err(Failure::new(Kind::Io, "the file became shorter while it was read"));
            }
            self.out.contents(&self.chunk[..got])?;
            length -= got as u64;
        }
        Ok(())
    }

    fn remember(&mut self, stat: &Stat, path: &[u8]) -> Result<()> {
        if stat.st_nlink <= 1 {
            return Ok(());
        }
        self.remembered += path.len() + PATH_COST_BYTES;
        if self.remembered > REMEMBERED_BYTES_MAX {
            let failure = Failure::new(Kind::TooManyEntries, "hard links have names too long together");
            return Err(failure.limit(REMEMBERED_BYTES_MAX as u64));
        }
        self.seen.insert(stat.st_ino, path.to_vec());
        Ok(())
    }

    /// Those that layers keep. A file or directory that is only a reference to one of a lower layer cannot be packed.
    fn xattrs(&self, fd: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut kept = Vec::new();
        for name in tree::all_xattr_names(fd)? {
            if let Some(b"redirect" | b"metacopy") = name.strip_prefix(OVERLAY) {
                return Err(Failure::new(Kind::Redirect, "this is a reference to what a lower layer has elsewhere"));
            }
            if name == CAPABILITY {
                kept.extend(self.capability(&tree::xattr(fd, &name)?).map(|value| (name, value)));
            } else if name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") {
                let value = tree::xattr(fd, &name)?;
                kept.push((name, value));
            }
        }
        Ok(kept)
    }

    /// As it was given inside: without the user namespace that it holds in, whose root is the first of `ids`.
    fn capability(&self, value: &[u8]) -> Option<Vec<u8>> {
        const REVISION_2: &[u8] = &[0, 0, 2];
        const BYTES: usize = 20;
        let flags = *value.first()?;
        match (value.get(1..4)?, value.len()) {
            ([0, 0, 2], BYTES) => Some(value.to_vec()),
            ([0, 0, 3], length) if length == BYTES + 4 && value[BYTES..] == self.ids.base.to_le_bytes() => {
                Some([&[flags], REVISION_2, &value[4..BYTES]].concat())
            }
            _ => None,
        }
    }
}

fn open(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(calls::openat(parent, name, flags, Mode::empty())?)
}

fn is_opaque(directory: BorrowedFd<'_>) -> Result<bool> {
    let mut value = [0; 8];
    match calls::fgetxattr(directory, [OVERLAY, b"opaque"].concat(), &mut value) {
        Err(Errno::NODATA) => Ok(false),
        other => Ok(value[..other?] == *b"y"),
    }
}

/// Offset and length of what is no hole; the last piece is empty and ends the file, as is usual.
fn pieces(file: &File, size: u64) -> Result<Vec<(u64, u64)>> {
    let mut pieces = Vec::new();
    let mut at = 0;
    loop {
        let start = match calls::seek(file, calls::SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            other => other?.min(size),
        };
        let end = calls::seek(file, calls::SeekFrom::Hole(start))?.min(size);
        if start >= end {
            break;
        }
        crate::tar::Sparse::check_count(pieces.len() + 2)?;
        pieces.push((start, end - start));
        at = end;
    }
    pieces.push((size, 0));
    Ok(pieces)
}
