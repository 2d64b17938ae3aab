//! Watches a directory, with all below it if wished, for changes.

use super::{absolute, join, Asker};
use crate::failure::{shown, Doing, Failure, Outcome};
use crate::sys::fd::{self, Moved};
use crate::sys::files::{self, At};
use crate::sys::{poll, Errno};
use crate::table::record;
use crate::wire::generated::{watch_kind, Message, Opened, Watch, WatchEvent};
use crate::workers::{Input, Next, Output, Task};
use std::collections::HashMap;
use std::os::fd::OwnedFd;

/// Of one request; the kernel's own limit is for all of a user's.
const WATCHES_MAX: usize = 8192;
const DEPTH_MAX: usize = 64;
/// Entries of new directories that are told one by one.
const FOUND_MAX: usize = 4096;
const EVENT_BYTES: usize = 16 * 1024;
/// watch, mask, cookie, length of the name
const EVENT_HEADER_BYTES: usize = 16;

pub struct WatchTask {
    asker: Asker,
    request: Watch,
    inotify: Option<OwnedFd>,
    /// The path of each watch.
    paths: HashMap<i32, Vec<u8>>,
    /// Events that are lost already, before any overflow of the kernel's.
    overflow: bool,
    root_depth: usize,
    opened: bool,
}

fn depth(path: &[u8]) -> usize {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty()).count()
}

fn mask() -> u32 {
    libc::IN_CREATE
        | libc::IN_MODIFY
        | libc::IN_CLOSE_WRITE
        | libc::IN_DELETE
        | libc::IN_DELETE_SELF
        | libc::IN_MOVED_FROM
        | libc::IN_MOVED_TO
        | libc::IN_ATTRIB
        | libc::IN_EXCL_UNLINK
        | libc::IN_DONT_FOLLOW
}

impl WatchTask {
    pub fn new(asker: Asker, request: Watch) -> Self {
        Self { asker, request, inotify: None, paths: HashMap::new(), overflow: false, root_depth: 0, opened: false }
    }

    fn begin(&mut self) -> Outcome<Output> {
        let (user, _acting) = self.asker.act()?;
        let path = absolute(&self.request.path, user)?;
        let doing = || format!("cannot watch {}", shown(&path));
        // gVisor's kernel lets everyone watch what they may not read.
        if let Err(refused @ Errno(libc::EACCES)) = files::open(At::HERE, &path, libc::O_RDONLY | libc::O_DIRECTORY, 0)
        {
            return Err(Failure::of(refused, doing()));
        }
        let inotify = poll::inotify().doing(doing)?;
        let watch = poll::inotify_add(&inotify, &path, mask() & !libc::IN_DONT_FOLLOW).doing(doing)?;
        self.paths.insert(watch, path.clone());
        self.inotify = Some(inotify);
        self.root_depth = depth(&path);
        if self.request.recursive {
            self.below(&path, 0, &mut Vec::new())?;
        }
        let copy = self.inotify.as_ref().and_then(|fd| fd.try_clone().ok());
        let Some(copy) = copy else { return Err(Failure::of(Errno(libc::EMFILE), "cannot watch")) };
        Ok(Output::message(Message::Opened(Opened {}), Next::Readable(copy)))
    }

    /// Watches every directory in `path`. What was made before its watch is told as an event of `found`.
    fn below(&mut self, path: &[u8], depth: usize, found: &mut Vec<WatchEvent>) -> Outcome<()> {
        let follow = if depth == 0 { 0 } else { libc::O_NOFOLLOW };
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | follow;
        let Ok(fd) = files::open(At::HERE, path, flags, 0) else { return Ok(()) };
        let mut names = files::Names::new(fd);
        while let Ok(Some(name)) = names.next() {
            let is_directory = files::stat(names.directory(), &name, false).is_ok_and(|status| status.is_directory());
            let child = join(path, &name);
            if found.len() < FOUND_MAX {
                found.push(WatchEvent { kind: watch_kind::CREATE, path: child.clone(), is_directory });
            } else if self.opened {
                self.overflow = true;
            }
            if is_directory && self.add(&child, depth + 1)? {
                self.below(&child, depth + 1, found)?;
            }
        }
        Ok(())
    }

    /// False: there is no watch, and what happens there is lost.
    fn add(&mut self, path: &[u8], depth: usize) -> Outcome<bool> {
        let Some(inotify) = &self.inotify else { return Ok(false) };
        if self.paths.len() >= WATCHES_MAX || depth > DEPTH_MAX {
            self.overflow = true;
            return Ok(false);
        }
        match poll::inotify_add(inotify, path, mask() | libc::IN_ONLYDIR) {
            Ok(watch) => {
                self.paths.insert(watch, path.to_vec());
                Ok(true)
            }
            Err(Errno(libc::ENOSPC | libc::ENOMEM)) => {
                self.overflow = true;
                Ok(false)
            }
            // Gone again, or not this user's to see.
            Err(_) => Ok(false),
        }
    }

    fn events(&mut self, to: &mut Vec<u8>) -> Outcome<bool> {
        let Some(inotify) = &self.inotify else { return Ok(false) };
        let mut bytes = Vec::new();
        match fd::read_append(inotify, &mut bytes, EVENT_BYTES).doing(|| "cannot read what changed")? {
            Moved::WouldBlock | Moved::Bytes(0) => return Ok(false),
            Moved::Bytes(_) => {}
        }
        let mut rest = &bytes[..];
        while rest.len() >= EVENT_HEADER_BYTES {
            let word = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
            let (watch, mask, length) = (word(0) as i32, word(4), word(12) as usize);
            let end = (EVENT_HEADER_BYTES + length).min(rest.len());
            let name = rest[EVENT_HEADER_BYTES..end].split(|b| *b == 0).next().unwrap_or_default().to_vec();
            rest = &rest[end..];
            self.event(watch, mask, &name, to)?;
        }
        Ok(true)
    }

    fn event(&mut self, watch: i32, mask: u32, name: &[u8], to: &mut Vec<u8>) -> Outcome<()> {
        if mask & libc::IN_Q_OVERFLOW != 0 {
            self.overflow = true;
            return Ok(());
        }
        if mask & libc::IN_IGNORED != 0 {
            self.paths.remove(&watch);
            return Ok(());
        }
        let Some(directory) = self.paths.get(&watch) else { return Ok(()) };
        let is_directory = mask & libc::IN_ISDIR != 0;
        let path = if name.is_empty() { directory.clone() } else { join(directory, name) };
        let kind = match mask {
            m if m & libc::IN_CREATE != 0 => watch_kind::CREATE,
            m if m & (libc::IN_MODIFY | libc::IN_CLOSE_WRITE) != 0 => watch_kind::WRITE,
            m if m & (libc::IN_DELETE | libc::IN_DELETE_SELF) != 0 => watch_kind::REMOVE,
            m if m & libc::IN_MOVED_FROM != 0 => watch_kind::RENAME,
            m if m & libc::IN_MOVED_TO != 0 => watch_kind::CREATE,
            _ => watch_kind::CHMOD,
        };
        // The directory above tells of a removed one below; only the root of all has nobody above it.
        if mask & libc::IN_DELETE_SELF != 0 && self.paths.values().any(|known| known.as_slice() == super::parent(&path))
        {
            return Ok(());
        }
        if mask & libc::IN_MOVED_FROM != 0 && is_directory {
            self.forget(&path);
        }
        let told = WatchEvent { kind, path: path.clone(), is_directory };
        record(to, |writer| told.write(writer));
        if self.request.recursive && is_directory && mask & (libc::IN_CREATE | libc::IN_MOVED_TO) != 0 {
            let depth = depth(&path).saturating_sub(self.root_depth).max(1);
            let mut found = Vec::new();
            if self.add(&path, depth)? {
                self.below(&path, depth, &mut found)?;
            }
            for event in found {
                record(to, |writer| event.write(writer));
            }
        }
        Ok(())
    }

    /// A directory that moved away is watched no longer: its path would be told wrong.
    fn forget(&mut self, path: &[u8]) {
        let below = join(path, b"");
        let moved: Vec<i32> = self
            .paths
            .iter()
            .filter(|(_, known)| known.as_slice() == path || known.starts_with(&below))
            .map(|(watch, _)| *watch)
            .collect();
        for watch in moved {
            self.paths.remove(&watch);
            if let Some(inotify) = &self.inotify {
                let _ = poll::inotify_remove(inotify, watch);
            }
        }
    }
}

impl Task for WatchTask {
    fn step(&mut self, input: Input) -> Result<Output, Failure> {
        if !self.opened {
            let mut output = self.begin()?;
            self.opened = true;
            self.tell_overflow(&mut output.data);
            return Ok(output);
        }
        // New directories are looked into with the user's rights, not the agent's.
        let (_, _acting) = self.asker.act()?;
        let mut output = Output { messages: Vec::new(), data: Vec::new(), next: Next::ReadableAgain };
        while output.data.len() < input.room {
            if !self.events(&mut output.data)? {
                break;
            }
        }
        self.tell_overflow(&mut output.data);
        Ok(output)
    }
}

impl WatchTask {
    fn tell_overflow(&mut self, to: &mut Vec<u8>) {
        if std::mem::take(&mut self.overflow) {
            let event = WatchEvent { kind: watch_kind::OVERFLOW, path: self.request.path.clone(), is_directory: false };
            record(to, |writer| event.write(writer));
        }
    }
}
