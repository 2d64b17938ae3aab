//! Requests on files that one step answers.

use super::{absolute, entry, make_parents, Asker, Names};
use crate::failure::{shown, Doing, Failure, Outcome};
use crate::sys::files::{self, At};
use crate::sys::Errno;
use crate::users::{Database, Databases, User};
use crate::wire::generated::*;
use crate::workers::{Input, Next, Output, Task};
use std::sync::Arc;

const MODE_BITS: u32 = 0o7777;
/// The id that chown leaves as it is.
const UNCHANGED: u32 = u32::MAX;
/// Directories open at once while a tree is removed: one for each level.
const DEPTH_MAX: usize = 256;

pub struct ChangeTask {
    asker: Asker,
    request: Message,
}

impl ChangeTask {
    pub fn boxed(asker: Asker, request: Message) -> Box<dyn Task> {
        Box::new(Self { asker, request })
    }
}

impl Task for ChangeTask {
    fn step(&mut self, _input: Input) -> Result<Output, Failure> {
        let databases = Arc::clone(&self.asker.databases);
        let names = matches!(self.request, Message::Stat(_)).then(|| self.asker.names());
        let (user, _acting) = self.asker.act()?;
        match &self.request {
            Message::Stat(m) => return stat(m, user, names),
            Message::MakeDirectory(m) => make_directory(m, user)?,
            Message::Move(m) => rename(m, user)?,
            Message::Remove(m) => remove(m, user)?,
            Message::ChangeMode(m) => {
                let path = absolute(&m.path, user)?;
                files::change_mode(&path, m.mode & MODE_BITS)
                    .doing(|| format!("cannot change the mode of {}", shown(&path)))?;
            }
            Message::ChangeTime(m) => {
                let path = absolute(&m.path, user)?;
                files::change_time(&path, m.mtime_ns)
                    .doing(|| format!("cannot change the time of {}", shown(&path)))?;
            }
            Message::ChangeOwner(m) => change_owner(m, user, &databases)?,
            Message::MakeSymlink(m) => {
                let path = absolute(&m.path, user)?;
                files::symlink(&m.target, &path).doing(|| format!("cannot make the link {}", shown(&path)))?;
            }
            _ => {}
        }
        Ok(Output::done())
    }
}

fn stat(request: &Stat, user: &User, names: Option<Names>) -> Outcome<Output> {
    let path = absolute(&request.path, user)?;
    let status = files::stat(At::HERE, &path, request.follow).doing(|| format!("cannot look at {}", shown(&path)))?;
    let Some(mut names) = names else { return Ok(Output::done()) };
    let found = entry(path.clone(), &status, At::HERE, &path, &mut names);
    Ok(Output::message(Message::StatResult(StatResult { entry: found }), Next::Done))
}

fn make_directory(request: &MakeDirectory, user: &User) -> Outcome<()> {
    let path = absolute(&request.path, user)?;
    let mode = request.mode & MODE_BITS;
    let made = if request.parents { make_parents(&path, mode) } else { files::make_directory(At::HERE, &path, mode) };
    made.doing(|| format!("cannot make the directory {}", shown(&path)))
}

fn rename(request: &Move, user: &User) -> Outcome<()> {
    let from = absolute(&request.from, user)?;
    let to = absolute(&request.to, user)?;
    let doing = || format!("cannot move {} to {}", shown(&from), shown(&to));
    match files::rename(&from, &to, request.overwrite) {
        // A file system without RENAME_NOREPLACE: looking first is the most that can be done.
        Err(Errno(libc::EINVAL | libc::ENOSYS)) if !request.overwrite => {
            if files::stat(At::HERE, &to, false).is_ok() {
                return Err(Failure::of(Errno(libc::EEXIST), doing()));
            }
            files::rename(&from, &to, true).doing(doing)
        }
        Err(Errno(libc::EXDEV)) => {
            let text = format!("{}: they are on different file systems; copy and remove instead", doing());
            Err(Failure { errno: libc::EXDEV as u32, ..Failure::new(error_kind::UNSUPPORTED, text) })
        }
        other => other.doing(doing),
    }
}

fn change_owner(request: &ChangeOwner, user: &User, databases: &Databases) -> Outcome<()> {
    let path = absolute(&request.path, user)?;
    let id = |name: &str, database: &Database, what: &str| {
        if name.is_empty() {
            return Ok(UNCHANGED);
        }
        let text = || format!("{what} \"{name}\" is not known in the sandbox");
        database.id_of(name).ok_or_else(|| Failure::new(error_kind::USER_NOT_FOUND, text()))
    };
    let uid = id(&request.owner, &databases.passwd(), "user")?;
    let gid = id(&request.group, &databases.group(), "group")?;
    files::change_owner(&path, uid, gid).doing(|| format!("cannot change the owner of {}", shown(&path)))
}

fn remove(request: &Remove, user: &User) -> Outcome<()> {
    let path = absolute(&request.path, user)?;
    let doing = || format!("cannot remove {}", shown(&path));
    let status = files::stat(At::HERE, &path, false).doing(doing)?;
    if !status.is_directory() {
        return files::unlink(At::HERE, &path, false).doing(doing);
    }
    if !request.recursive {
        return files::unlink(At::HERE, &path, true).doing(doing);
    }
    empty(&path)?;
    files::unlink(At::HERE, &path, true).doing(doing)
}

/// Removes all that is in a directory, without following a link.
fn empty(path: &[u8]) -> Outcome<()> {
    let doing = || format!("cannot remove what is in {}", shown(path));
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let top = files::open(At::HERE, path, flags, 0).doing(doing)?;
    let mut levels = vec![(Vec::new(), files::Names::new(top))];
    while let Some((_, names)) = levels.last_mut() {
        let Some(name) = names.next().doing(doing)? else {
            let Some((name, _)) = levels.pop() else { break };
            if let Some((_, above)) = levels.last() {
                files::unlink(above.directory(), &name, true).or_else(gone).doing(doing)?;
            }
            continue;
        };
        let at = names.directory();
        match files::unlink(at, &name, false) {
            Ok(()) | Err(Errno(libc::ENOENT)) => continue,
            Err(Errno(libc::EISDIR | libc::EPERM)) => {}
            Err(errno) => return Err(Failure::of(errno, doing())),
        }
        match files::open(at, &name, flags, 0) {
            Ok(_) if levels.len() >= DEPTH_MAX => {
                let text = format!("{}: it is nested deeper than {DEPTH_MAX} directories", doing());
                return Err(Failure::new(error_kind::LIMIT, text));
            }
            Ok(fd) => levels.push((name, files::Names::new(fd))),
            Err(Errno(libc::ENOENT)) => {}
            Err(Errno(libc::ENOTDIR | libc::ELOOP)) => return Err(Failure::of(Errno(libc::EPERM), doing())),
            // An empty directory that may not be read may still be removed.
            Err(errno) => files::unlink(at, &name, true).map_err(|_| errno).doing(doing)?,
        }
    }
    Ok(())
}

fn gone(errno: Errno) -> crate::sys::Result<()> {
    if errno.0 == libc::ENOENT {
        Ok(())
    } else {
        Err(errno)
    }
}
