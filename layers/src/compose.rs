//! Layers, bottom first, to one root file system. Files are links to the layers' own, so that what images share is there
//! once; directories are made anew.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self as calls, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde_json::{json, Value};

use crate::failure::{Failure, Kind, Result};
use crate::names::{self, join};
use crate::progress::Progress;
use crate::record::Record;
use crate::tar::Time;
use crate::tree::{self, Attributes, Tree};

/// Links to files of lower layers wait here until their place is made. No image can have it: it is beside its root.
const WAITING: &[u8] = b"links";

pub struct Layer {
    pub directory: OwnedFd,
    /// For messages.
    pub path: String,
}

#[derive(Default)]
struct Counts {
    entries: u64,
    linked: u64,
    bytes: u64,
}

struct Composer {
    directory: OwnedFd,
    tree: Tree,
    counts: Counts,
    progress: Progress,
}

/// Makes `directory`/rootfs, which is not there yet.
///
/// @returns the line that says so; what several layers have is counted in each
pub fn compose(directory: OwnedFd, layers: &[Layer]) -> Result<Value> {
    let made = calls::mkdirat(&directory, "rootfs", Mode::RWXU);
    made.map_err(|error| Failure::new(Kind::Io, format!("rootfs cannot be made: {error}")))?;
    let root = tree::open_directory(directory.as_fd(), b"rootfs")?;
    tree::describe(root.as_fd(), tree::PLAIN_DIRECTORY, &[])?;
    let mut composer =
        Composer { directory, tree: Tree::new(root), counts: Counts::default(), progress: Progress::new() };
    for layer in layers {
        composer.layer(layer).map_err(|failure| failure.of(&layer.path))?;
    }
    let Counts { entries, linked, bytes } = composer.counts;
    Ok(json!({ "done": { "entries": entries, "linked": linked, "bytes": bytes } }))
}

impl Composer {
    fn layer(&mut self, layer: &Layer) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let record = calls::openat(&layer.directory, "layer.json", flags, Mode::empty())?;
        let record = Record::read(File::from(record))?;
        let from = tree::open_directory(layer.directory.as_fd(), b"tree")?;
        // Of the layer's own count: a file with many names is there once.
        self.counts.bytes += record.bytes;
        // What is linked to is what the layers below have, before this one changes anything.
        let waiting = self.take_links(&record)?;
        for path in &record.whiteouts {
            self.hide(path).map_err(|failure| failure.at(path))?;
        }
        for path in &record.opaque {
            self.clear(path).map_err(|failure| failure.at(path))?;
        }
        let root = self.tree.open(b"")?;
        self.merge(from.as_fd(), root.as_fd(), b"", &record)?;
        match waiting {
            Some(waiting) => self.put_links(&record, waiting.as_fd()),
            None => Ok(()),
        }
    }

    fn take_links(&mut self, record: &Record) -> Result<Option<OwnedFd>> {
        if record.links.is_empty() {
            return Ok(None);
        }
        let (waiting, _) = tree::make_directory(self.directory.as_fd(), WAITING)?;
        for (number, (path, target)) in record.links.iter().enumerate() {
            let (above, name) = names::split(target);
            let linked = self.tree.open(above).and_then(|above| {
                let stat = calls::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW)?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => Err(Errno::ISDIR),
                    _ => calls::linkat(&above, name, &waiting, number.to_string(), AtFlags::empty()),
                }
            });
            linked.map_err(|error| {
                let what = format!("a hard link to {}, which cannot be linked: {error}", crate::failure::shown(target));
                Failure::new(Kind::BadLink, what).at(path)
            })?;
        }
        Ok(Some(waiting))
    }

    fn put_links(&mut self, record: &Record, waiting: BorrowedFd<'_>) -> Result<()> {
        for (number, path) in record.links.keys().enumerate() {
            let (above, name) = names::split(path);
            let put = |above: OwnedFd| {
                let times = tree::times_of(above.as_fd())?;
                tree::remove_if_there(above.as_fd(), name)?;
                calls::renameat(waiting, number.to_string(), &above, name)?;
                Ok(calls::futimens(&above, &times)?)
            };
            let above = self.tree.open(above).map_err(|error| tree::way(error, path))?;
            put(above).map_err(|failure: Failure| failure.at(path))?;
            self.counts.linked += 1;
        }
        Ok(calls::unlinkat(&self.directory, WAITING, AtFlags::REMOVEDIR)?)
    }

    /// Takes away what is at `path`; nothing being there is as good.
    fn hide(&mut self, path: &[u8]) -> Result<()> {
        let (above, name) = names::split(path);
        let Some(above) = self.find(above)? else { return Ok(()) };
        let times = tree::times_of(above.as_fd())?;
        tree::remove_if_there(above.as_fd(), name)?;
        Ok(calls::futimens(&above, &times)?)
    }

    fn clear(&mut self, path: &[u8]) -> Result<()> {
        let Some(directory) = self.find(path)? else { return Ok(()) };
        let times = tree::times_of(directory.as_fd())?;
        tree::empty(directory.as_fd())?;
        Ok(calls::futimens(&directory, &times)?)
    }

    /// A directory of the layers below, not through a link: below one there is nothing that a layer could mean.
    fn find(&self, path: &[u8]) -> Result<Option<OwnedFd>> {
        match self.tree.open(path) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    /// Puts all that is in `from` into `into`, which are both the directory `path`, and describes `into` as `from` is.
    fn merge(&mut self, from: BorrowedFd<'_>, into: BorrowedFd<'_>, path: &[u8], record: &Record) -> Result<()> {
        let times = tree::times_of(into)?;
        for name in tree::list(from)? {
            let path = join(path, &name);
            self.merge_entry(from, into, &name, &path, record).map_err(|failure| failure.at(&path))?;
        }
        if record.implied.contains(path) {
            return Ok(calls::futimens(into, &times)?);
        }
        let stat = calls::fstat(from)?;
        for name in tree::xattr_names(into)? {
            calls::fremovexattr(into, name.as_slice())?;
        }
        let mut xattrs = Vec::new();
        for name in tree::xattr_names(from)? {
            let value = tree::xattr(from, &name)?;
            xattrs.push((name, value));
        }
        tree::describe(into, attributes(&stat), &xattrs)
    }

    fn merge_entry(
        &mut self,
        from: BorrowedFd<'_>,
        into: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        record: &Record,
    ) -> Result<()> {
        let stat = calls::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.counts.entries += 1;
        let (entries, linked) = (self.counts.entries, self.counts.linked);
        self.progress.tell(|| json!({ "entries": entries, "linked": linked }))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let below = tree::open_directory(from, name)?;
            let (directory, is_new) = tree::make_directory(into, name)?;
            if is_new {
                tree::describe(directory.as_fd(), tree::PLAIN_DIRECTORY, &[])?;
            }
            return self.merge(below.as_fd(), directory.as_fd(), path, record);
        }
        self.counts.linked += 1;
        match link(from, into, name) {
            Err(Errno::EXIST) => {
                tree::remove(into, name)?;
                Ok(link(from, into, name)?)
            }
            // So many images have it already.
            Err(Errno::MLINK) => {
                tree::remove_if_there(into, name)?;
                copy(from, into, name, &stat)
            }
            other => Ok(other?),
        }
    }
}

fn link(from: BorrowedFd<'_>, into: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    calls::linkat(from, name, into, name, AtFlags::empty())
}

fn copy(from: BorrowedFd<'_>, into: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<()> {
    let attributes = attributes(stat);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            let target = calls::readlinkat(from, name, Vec::new())?;
            tree::make_link(into, name, target.as_bytes(), attributes)
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut source = File::from(calls::openat(from, name, flags, Mode::empty())?);
            let mut target = tree::make_file(into, name)?;
            io::copy(&mut source, &mut target)?;
            let mut xattrs = Vec::new();
            for name in tree::xattr_names(source.as_fd())? {
                let value = tree::xattr(source.as_fd(), &name)?;
                xattrs.push((name, value));
            }
            tree::describe(target.as_fd(), attributes, &xattrs)
        }
        _ => tree::make_fifo(into, name, attributes),
    }
}

fn attributes(stat: &Stat) -> Attributes {
    Attributes {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        mtime: Time { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
    }
}
