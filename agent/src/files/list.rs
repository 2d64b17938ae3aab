//! Lists a directory, to a depth, as a stream of records.

use super::{absolute, entry, join, Asker, Names};
use crate::failure::{shown, Doing, Failure, Outcome};
use crate::sys::files::{self, At};
use crate::sys::Errno;
use crate::table::record;
use crate::wire::generated::{error_kind as kind, ListDirectory, MAX_RECORD_BYTES};
use crate::workers::{Input, Next, Output, Task};

/// Directories open at once: one for each level.
const DEPTH_MAX: usize = 128;

struct Level {
    path: Vec<u8>,
    names: files::Names,
}

pub struct ListTask {
    asker: Asker,
    request: ListDirectory,
    begun: bool,
    levels: Vec<Level>,
    names: Names,
}

impl ListTask {
    pub fn new(asker: Asker, request: ListDirectory) -> Self {
        Self { names: asker.names(), asker, request, begun: false, levels: Vec::new() }
    }

    fn begin(&mut self) -> Outcome<()> {
        self.begun = true;
        let (user, _acting) = self.asker.act()?;
        let path = absolute(&self.request.path, user)?;
        let fd = files::open(At::HERE, &path, libc::O_RDONLY | libc::O_DIRECTORY, 0)
            .doing(|| format!("cannot list {}", shown(&path)))?;
        self.levels.push(Level { path, names: files::Names::new(fd) });
        Ok(())
    }

    /// Appends the next entry. False: there is none.
    fn next(&mut self, to: &mut Vec<u8>) -> Outcome<bool> {
        let depth = self.levels.len();
        let Some(level) = self.levels.last_mut() else { return Ok(false) };
        let name = level.names.next().doing(|| format!("cannot list {}", shown(&level.path)))?;
        let Some(name) = name else {
            self.levels.pop();
            return Ok(true);
        };
        let at = level.names.directory();
        let status = match files::stat(at, &name, false) {
            Ok(status) => status,
            // Gone since its name was read.
            Err(Errno(libc::ENOENT)) => return Ok(true),
            Err(errno) => {
                return Err(Failure::of(errno, format!("cannot look at {}", shown(&join(&level.path, &name)))))
            }
        };
        let path = join(&level.path, &name);
        if path.len() > MAX_RECORD_BYTES / 2 {
            return Err(Failure::new(kind::LIMIT, format!("a path below {} is too long", shown(&self.request.path))));
        }
        let found = entry(path.clone(), &status, at, &name, &mut self.names);
        record(to, |writer| found.write(writer));
        if status.is_directory() && depth < usize::from(self.request.depth.max(1)) {
            self.descend(at, &name, path)?;
        }
        Ok(true)
    }

    fn descend(&mut self, at: At, name: &[u8], path: Vec<u8>) -> Outcome<()> {
        if self.levels.len() >= DEPTH_MAX {
            return Err(Failure::new(
                kind::LIMIT,
                format!("{} is nested deeper than {DEPTH_MAX} directories", shown(&path)),
            ));
        }
        match files::open(at, name, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0) {
            Ok(fd) => self.levels.push(Level { path, names: files::Names::new(fd) }),
            // Listed as an entry; what is in it is not this user's to see, or it was replaced meanwhile.
            Err(Errno(libc::EACCES | libc::EPERM | libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => {}
            Err(errno) => return Err(Failure::of(errno, format!("cannot list {}", shown(&path)))),
        }
        Ok(())
    }
}

impl Task for ListTask {
    fn step(&mut self, input: Input) -> Result<Output, Failure> {
        if !self.begun {
            self.begin()?;
        }
        let (_, _acting) = self.asker.act()?;
        let mut output = Output::done();
        while self.next(&mut output.data)? {
            if output.data.len() >= input.room {
                output.next = Next::Room;
                break;
            }
        }
        Ok(output)
    }
}
