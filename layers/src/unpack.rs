//! One layer's archive to a directory tree of its own.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{self as calls, AtFlags, FileType};
use rustix::io::Errno;
use serde_json::{json, Value};

use crate::failure::{Failure, Kind, Result};
use crate::limits::{Limits, PATH_MAX};
use crate::names::{self, Role};
use crate::progress::Progress;
use crate::record::Record;
use crate::stream::TarStream;
use crate::tar::{Archive, Kind as Type, Member};
use crate::tree::{self, Attributes, Tree, CAPABILITY, XATTR_VALUE_BYTES_MAX};

const CHUNK_BYTES: usize = 128 * 1024;

/// What the blob is said to be.
#[derive(Default)]
pub struct Expected {
    /// Of the blob: `sha256:` and 64 digits.
    pub digest: Option<String>,
    /// Of the archive in it.
    pub diff_id: Option<String>,
}

struct Unpacker<R: Read> {
    archive: Archive<TarStream<R>>,
    tree: Tree,
    record: Record,
    /// Paths at which the archive had what is left out.
    left_out: BTreeSet<Vec<u8>>,
    limits: Limits,
    progress: Progress,
    chunk: Vec<u8>,
}

/// Reads the blob to its end, puts the files into `directory`/tree, which is there and empty, and writes what else there is
/// to know into `directory`/layer.json.
///
/// @returns the line that says so
pub fn unpack(source: impl Read, directory: OwnedFd, limits: Limits, expected: &Expected) -> Result<Value> {
    let root = tree::open_directory(directory.as_fd(), b"tree")?;
    tree::describe(root.as_fd(), tree::PLAIN_DIRECTORY, &[])?;
    let mut unpacker = Unpacker {
        archive: Archive::new(TarStream::new(source, limits)?),
        tree: Tree::new(root),
        record: Record::default(),
        left_out: BTreeSet::new(),
        limits,
        progress: Progress::new(),
        chunk: vec![0; CHUNK_BYTES],
    };
    unpacker.record.implied.insert(Vec::new());
    while let Some(member) = unpacker.archive.next()? {
        unpacker.member(member)?;
    }
    unpacker.tree.leave()?;
    let (digest, diff_id) = unpacker.archive.source().digests();
    check(Kind::WrongDigest, "the blob", &digest, expected.digest.as_deref())?;
    check(Kind::WrongDiffId, "the archive in the blob", &diff_id, expected.diff_id.as_deref())?;
    let mut record = unpacker.record;
    record.diff_id = diff_id;
    record.write(tree::make_file(directory.as_fd(), b"layer.json")?)?;
    Ok(json!({ "done": {
        "diffId": record.diff_id,
        "digest": digest,
        "entries": record.entries,
        "bytes": record.bytes,
        "whiteouts": record.whiteouts.len() + record.opaque.len(),
        "leftOut": record.left_out,
    } }))
}

fn check(kind: Kind, thing: &str, is: &str, said: Option<&str>) -> Result<()> {
    match said {
        Some(said) if said != is => Err(Failure::new(kind, format!("{thing} is {is} and was said to be {said}"))),
        _ => Ok(()),
    }
}

impl<R: Read> Unpacker<R> {
    fn member(&mut self, member: Member) -> Result<()> {
        let path = names::parse(&member.name, &self.limits)?;
        self.count(&path)?;
        let (entries, bytes) = (self.record.entries, self.record.bytes);
        let read = self.archive.source().blob_bytes();
        self.progress.tell(|| json!({ "read": read, "entries": entries, "bytes": bytes }))?;
        match names::role(&path)? {
            Role::LeftOut => Ok(()),
            Role::Whiteout(hidden) => {
                self.record.remember(&hidden)?;
                self.record.whiteouts.insert(hidden);
                Ok(())
            }
            Role::Opaque(directory) => {
                self.record.remember(&directory)?;
                self.record.opaque.insert(directory);
                Ok(())
            }
            Role::Entry => self.entry(&path, member).map_err(|failure| failure.at(&path)),
        }
    }

    fn count(&mut self, path: &[u8]) -> Result<()> {
        self.record.entries += 1;
        if self.record.entries <= self.limits.max_entries {
            return Ok(());
        }
        let failure = Failure::new(Kind::TooManyEntries, "the layer has too many entries");
        Err(failure.at(path).limit(self.limits.max_entries))
    }

    fn entry(&mut self, path: &[u8], member: Member) -> Result<()> {
        let xattrs = kept_xattrs(&member, &self.limits)?;
        let Member { mode, uid, gid, mtime, .. } = member;
        let attributes = Attributes { uid, gid, mode, mtime };
        if path.is_empty() {
            if member.kind != Type::Directory {
                return Err(Failure::new(Kind::Traversal, "the root is no directory"));
            }
            self.tree.leave()?;
            self.record.implied.remove(path);
            return tree::describe(self.tree.root(), attributes, &xattrs);
        }
        match member.kind {
            Type::Directory => self.directory(path, attributes, &xattrs),
            Type::File => self.file(path, &member, attributes, &xattrs),
            Type::Symlink => {
                check_target(&member.link)?;
                self.put(path, |parent, name| tree::make_link(parent, name, &member.link, attributes))
            }
            Type::Fifo => self.put(path, |parent, name| tree::make_fifo(parent, name, attributes)),
            Type::HardLink => self.hard_link(path, &member.link),
            // The overlay file system's own whiteout: who wrote it wants the layer to mean something else than it says.
            Type::Character(0, 0) => Err(Failure::new(Kind::Device, "a device that stands for a whiteout")),
            Type::Character(..) | Type::Block(..) => self.leave_out(path),
        }
    }

    /// Enters the directory of `path`, counting the directories that have to be made, and puts something there.
    fn put(&mut self, path: &[u8], make: impl FnOnce(BorrowedFd<'_>, &[u8]) -> Result<()>) -> Result<()> {
        self.enter(path)?;
        make(self.tree.entered(), names::split(path).1)?;
        self.replaced(path);
        Ok(())
    }

    fn replaced(&mut self, path: &[u8]) {
        self.left_out.remove(path);
        self.record.replaced(path);
    }

    fn enter(&mut self, path: &[u8]) -> Result<()> {
        let mut made = Vec::new();
        let (above, _) = names::split(path);
        self.tree.enter(above, &mut made)?;
        for directory in made {
            self.count(&directory)?;
            self.record.remember(&directory)?;
            self.record.implied.insert(directory);
        }
        Ok(())
    }

    fn directory(&mut self, path: &[u8], attributes: Attributes, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        self.enter(path)?;
        let (fd, is_new) = tree::make_directory(self.tree.entered(), names::split(path).1)?;
        tree::describe(fd.as_fd(), attributes, xattrs)?;
        if is_new {
            self.replaced(path);
        }
        self.record.implied.remove(path);
        Ok(())
    }

    fn file(
        &mut self,
        path: &[u8],
        member: &Member,
        attributes: Attributes,
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<()> {
        let total = self.record.bytes.saturating_add(member.size());
        if total > self.limits.max_bytes {
            return Err(Failure::new(Kind::TooLarge, "the layer is too large").limit(self.limits.max_bytes));
        }
        let mut file = None;
        self.put(path, |parent, name| {
            file = Some(tree::make_file(parent, name)?);
            Ok(())
        })?;
        let file = file.ok_or_else(|| Failure::new(Kind::Io, "no file was made"))?;
        match &member.sparse {
            None => self.contents(&file, 0, member.stored)?,
            Some(sparse) => {
                file.set_len(sparse.real_size)?;
                for (offset, length) in &sparse.pieces {
                    self.contents(&file, *offset, *length)?;
                }
            }
        }
        self.record.bytes = total;
        // What was read has been judged on the way; this is for the holes.
        self.archive.source().check_bytes(total)?;
        tree::describe(file.as_fd(), attributes, xattrs)
    }

    fn contents(&mut self, file: &File, offset: u64, length: u64) -> Result<()> {
        let mut done = 0;
        while done < length {
            let want = (length - done).min(CHUNK_BYTES as u64) as usize;
            let got = self.archive.read(&mut self.chunk[..want])?;
            if got == 0 {
                return Err(Failure::new(Kind::BadTar, "an entry has less contents than it says"));
            }
            file.write_all_at(&self.chunk[..got], offset + done)?;
            done += got as u64;
            let (read, entries) = (self.archive.source().blob_bytes(), self.record.entries);
            let bytes = self.record.bytes + done;
            self.progress.tell(|| json!({ "read": read, "entries": entries, "bytes": bytes }))?;
        }
        Ok(())
    }

    fn hard_link(&mut self, path: &[u8], link: &[u8]) -> Result<()> {
        let target = names::parse(link, &self.limits).map_err(|failure| failure.at(path))?;
        let bad = |what: &str| Failure::new(Kind::BadLink, format!("{what}: {}", crate::failure::shown(&target)));
        if target == path || target.is_empty() {
            return Err(bad("a hard link to itself or to the root"));
        }
        if self.left_out.contains(&target) {
            return self.leave_out(path);
        }
        self.enter(path)?;
        match self.link_within(path, &target) {
            Ok(()) => {
                self.replaced(path);
                Ok(())
            }
            Err(Errno::NOENT) => self.link_below(path, target),
            Err(Errno::LOOP) => Err(Failure::new(Kind::Traversal, "a hard link leads through a link")),
            Err(Errno::NOTDIR) => Err(bad("a hard link through what is no directory")),
            Err(Errno::PERM) => Err(bad("a hard link to a directory")),
            Err(Errno::MLINK) => Err(bad("more hard links than a file can have")),
            Err(error) => Err(error.into()),
        }
    }

    /// To what this layer has put there.
    fn link_within(&mut self, path: &[u8], target: &[u8]) -> std::result::Result<(), Errno> {
        let (target_above, target_name) = names::split(target);
        let from = self.tree.open(target_above)?;
        // Before anything is removed: a link to nothing must not cost what is there.
        let stat = calls::statat(&from, target_name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(Errno::PERM);
        }
        let (_, name) = names::split(path);
        let parent = self.tree.entered();
        match calls::linkat(&from, target_name, parent, name, AtFlags::empty()) {
            Err(Errno::EXIST) => {
                tree::remove(parent, name).map_err(|_| Errno::IO)?;
                calls::linkat(&from, target_name, parent, name, AtFlags::empty())
            }
            other => other,
        }
    }

    /// To what a lower layer has there: nobody knows before the layers are put together.
    fn link_below(&mut self, path: &[u8], target: Vec<u8>) -> Result<()> {
        let target = self.record.links.get(&target).cloned().unwrap_or(target);
        self.clear(path)?;
        self.record.remember(path)?;
        self.record.remember(&target)?;
        self.record.links.insert(path.to_vec(), target);
        Ok(())
    }

    /// Nothing is made; what an earlier entry put there is gone all the same.
    fn leave_out(&mut self, path: &[u8]) -> Result<()> {
        self.record.left_out += 1;
        self.enter(path)?;
        self.clear(path)?;
        self.record.remember(path)?;
        self.left_out.insert(path.to_vec());
        Ok(())
    }

    fn clear(&mut self, path: &[u8]) -> Result<()> {
        tree::remove_if_there(self.tree.entered(), names::split(path).1)?;
        self.replaced(path);
        Ok(())
    }
}

/// Where a symbolic link leads is the sandbox's business, wherever it is; only the text has to be one.
fn check_target(target: &[u8]) -> Result<()> {
    if target.is_empty() || target.contains(&0) {
        return Err(Failure::new(Kind::BadTar, "a symbolic link leads to no path"));
    }
    if target.len() as u64 >= PATH_MAX {
        return Err(Failure::new(Kind::PathTooLong, "a symbolic link's target is too long").limit(PATH_MAX - 1));
    }
    Ok(())
}

/// Capabilities of files and what belongs to users. Labels and lists of the builder's system, and what an overlay wrote for
/// itself without rights, mean nothing here and are left out; what it writes with rights would change what a directory is.
fn kept_xattrs(member: &Member, limits: &Limits) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let fail = |what: String| Failure::new(Kind::Xattr, what);
    let total: usize = member.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if total as u64 > limits.max_xattr_bytes {
        return Err(fail("too many extended attributes".into()).limit(limits.max_xattr_bytes));
    }
    let mut kept = Vec::new();
    for (name, value) in &member.xattrs {
        if name.starts_with(b"trusted.") {
            return Err(fail(format!("the attribute {} is for the host alone", crate::failure::shown(name))));
        }
        let users = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        let kept_here = match member.kind {
            Type::File => users || name == CAPABILITY,
            Type::Directory => users,
            _ => false,
        };
        if !kept_here {
            continue;
        }
        if value.len() > XATTR_VALUE_BYTES_MAX {
            return Err(fail("an extended attribute is too long".into()).limit(XATTR_VALUE_BYTES_MAX as u64));
        }
        kept.push((name.clone(), value.clone()));
    }
    Ok(kept)
}
