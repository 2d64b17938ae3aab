//! Files, as the user who asks.

mod change;
mod dial;
mod list;
mod read;
mod watch;
mod write;

use crate::exec::Surroundings;
use crate::failure::{shown, Failure, Outcome};
use crate::sys::files::{self, At, Status};
use crate::sys::identity::Acting;
use crate::users::{resolve, Database, Databases, User};
use crate::wire::generated::{entry_kind, error_kind as kind, Entry, Message};
use crate::workers::Task;
use std::sync::Arc;

/// Of directories that are made on the way.
const PARENT_MODE: u32 = 0o755;
const PATH_BYTES_MAX: usize = libc::PATH_MAX as usize - 1;

/// The user of a task: resolved at its first step, acted as in every step.
pub struct Asker {
    wanted: String,
    default: String,
    user: Option<User>,
    databases: Arc<Databases>,
}

impl Asker {
    fn new(wanted: String, surroundings: &Surroundings) -> Self {
        let databases = Arc::clone(&surroundings.databases);
        Self { wanted, default: surroundings.default_user.clone(), user: None, databases }
    }

    fn names(&self) -> Names {
        Names { users: self.databases.passwd(), groups: self.databases.group(), last_user: None, last_group: None }
    }

    /// The thread's rights are the user's while the second value lives.
    fn act(&mut self) -> Outcome<(&User, Option<Acting>)> {
        if self.user.is_none() {
            self.user = Some(resolve(&self.wanted, &self.default, &self.databases)?);
        }
        let Some(user) = &self.user else { return Err(Failure::new(kind::USER_NOT_FOUND, "no user")) };
        let acting = user.act()?;
        Ok((user, acting))
    }
}

/// A path as the user means it: relative to their home.
fn absolute(path: &[u8], user: &User) -> Outcome<Vec<u8>> {
    if path.contains(&0) {
        return Err(Failure::new(kind::INVALID, format!("path \"{}\" holds a NUL byte", shown(path))));
    }
    let whole = match path {
        [] => return Err(Failure::new(kind::INVALID, "the path is empty")),
        [b'/', ..] => path.to_vec(),
        _ => join(&user.home, path),
    };
    if whole.len() > PATH_BYTES_MAX {
        return Err(Failure::new(
            kind::INVALID,
            format!("a path of {} bytes is longer than {PATH_BYTES_MAX}", whole.len()),
        ));
    }
    Ok(whole)
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if directory.ends_with(b"/") { b"" } else { b"/" };
    [directory, slash, name].concat()
}

/// The directory a path is in.
fn parent(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|b| *b != b'/').map_or(0, |last| last + 1);
    match path[..end].iter().rposition(|b| *b == b'/') {
        None => b".",
        Some(0) => b"/",
        Some(slash) => &path[..slash],
    }
}

/// Makes the directories on the way to `path`, and `path` too; those that exist are fine.
fn make_parents(path: &[u8], mode: u32) -> crate::sys::Result<()> {
    let mut missing = vec![path];
    while let Some(first) = missing.last().copied() {
        let mode = if missing.len() == 1 { mode } else { PARENT_MODE };
        match files::make_directory(At::HERE, first, mode).or_else(|errno| existing(first, errno)) {
            Ok(()) => {
                missing.pop();
            }
            Err(crate::sys::Errno(libc::ENOENT)) if parent(first).len() < first.len() => missing.push(parent(first)),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn existing(path: &[u8], errno: crate::sys::Errno) -> crate::sys::Result<()> {
    match files::stat(At::HERE, path, true) {
        Ok(status) if status.is_directory() => Ok(()),
        _ => Err(errno),
    }
}

/// Names of owners and groups.
struct Names {
    users: Arc<Database>,
    groups: Arc<Database>,
    last_user: Option<(u32, String)>,
    last_group: Option<(u32, String)>,
}

impl Names {
    fn user(&mut self, id: u32) -> String {
        named(&mut self.last_user, &self.users, id)
    }
    fn group(&mut self, id: u32) -> String {
        named(&mut self.last_group, &self.groups, id)
    }
}

fn named(last: &mut Option<(u32, String)>, database: &Database, id: u32) -> String {
    match last {
        Some((known, name)) if *known == id => name.clone(),
        _ => {
            let name = database.name_of(id);
            *last = Some((id, name.clone()));
            name
        }
    }
}

/// The record of one file; `at` and `name` say where to read a link's target.
fn entry(path: Vec<u8>, status: &Status, at: At, name: &[u8], names: &mut Names) -> Entry {
    let kind = match status.mode & libc::S_IFMT {
        libc::S_IFDIR => entry_kind::DIRECTORY,
        libc::S_IFLNK => entry_kind::SYMLINK,
        libc::S_IFIFO => entry_kind::FIFO,
        libc::S_IFSOCK => entry_kind::SOCKET,
        libc::S_IFBLK => entry_kind::BLOCK,
        libc::S_IFCHR => entry_kind::CHARACTER,
        _ => entry_kind::FILE,
    };
    let target = if status.is_symlink() { files::read_link(at, name).unwrap_or_default() } else { Vec::new() };
    Entry {
        path,
        kind,
        mode: status.mode,
        uid: status.uid,
        gid: status.gid,
        owner: names.user(status.uid),
        group: names.group(status.gid),
        size: status.size,
        mtime_ns: status.mtime_ns,
        target,
    }
}

/// The task of a file message, and whether its lane out carries data. None: no message of the host's.
pub fn task(message: Message, surroundings: &Surroundings) -> Option<(Box<dyn Task>, bool)> {
    let asker = |user: &str| Asker::new(user.to_string(), surroundings);
    Some(match message {
        Message::ReadFile(m) => (Box::new(read::ReadTask::new(asker(&m.user), m)), true),
        Message::WriteFile(m) => (Box::new(write::WriteTask::new(asker(&m.user), m)), false),
        Message::ListDirectory(m) => (Box::new(list::ListTask::new(asker(&m.user), m)), true),
        Message::Watch(m) => (Box::new(watch::WatchTask::new(asker(&m.user), m)), true),
        Message::DialUnix(m) => (Box::new(dial::DialTask::new(asker(&m.user), m)), false),
        Message::Stat(m) => (change::ChangeTask::boxed(asker(&m.user), Message::Stat(m)), false),
        Message::MakeDirectory(m) => (change::ChangeTask::boxed(asker(&m.user), Message::MakeDirectory(m)), false),
        Message::Move(m) => (change::ChangeTask::boxed(asker(&m.user), Message::Move(m)), false),
        Message::Remove(m) => (change::ChangeTask::boxed(asker(&m.user), Message::Remove(m)), false),
        Message::ChangeMode(m) => (change::ChangeTask::boxed(asker(&m.user), Message::ChangeMode(m)), false),
        Message::ChangeTime(m) => (change::ChangeTask::boxed(asker(&m.user), Message::ChangeTime(m)), false),
        Message::ChangeOwner(m) => (change::ChangeTask::boxed(asker(&m.user), Message::ChangeOwner(m)), false),
        Message::MakeSymlink(m) => (change::ChangeTask::boxed(asker(&m.user), Message::MakeSymlink(m)), false),
        _ => return None,
    })
}
