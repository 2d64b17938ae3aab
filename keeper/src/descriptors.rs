//! What a program of a sandbox's start is given as open descriptors.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use crate::proto::Failure;
use crate::requests::{Access, Source};
use crate::steps::Scope;
use crate::{disk, sealed, sys};

impl Scope<'_> {
    pub fn fifo(&self, path: &str, flags: i32) -> Result<OwnedFd, Failure> {
        let fd = self.open(path, flags)?;
        if sys::fstat(fd.as_fd())?.st_mode & libc::S_IFMT != libc::S_IFIFO {
            return Err(Failure::new(format!("{path} is not a FIFO")));
        }
        Ok(fd)
    }

    pub fn inherited(&mut self, from: &Source) -> Result<OwnedFd, Failure> {
        match from {
            Source::Fifo { path, access, content } => {
                let flags = match access {
                    Access::Write => libc::O_WRONLY,
                    Access::Both => libc::O_RDWR,
                };
                let fd = self.fifo(path, flags | libc::O_NONBLOCK)?;
                if let Some(text) = content {
                    File::from(fd.try_clone()?).write_all(text.as_bytes())?;
                }
                Ok(fd)
            }
            Source::File(path) => Ok(File::open(path).map_err(|error| Failure::from(error).at(path))?.into()),
            Source::Sealed { path, keep } => {
                let memory = self.sealed.open(path, *keep).map_err(|error| Failure::from(error).at(path))?;
                let fd = memory.try_clone()?.into();
                self.got.memory = Some(memory);
                Ok(fd)
            }
            Source::Kept { path, max_bytes } => Ok(direct(disk::open_kept(path, *max_bytes)?, path)?.into()),
            Source::Copy { path, max_bytes } => {
                let copy = sealed::nameless_copy(path, *max_bytes).map_err(|error| Failure::from(error).at(path))?;
                let copy = direct(copy, path)?;
                let fd = copy.try_clone()?.into();
                self.got.disk = Some(copy);
                Ok(fd)
            }
        }
    }

    /// Opens a real one-way end for the child. A helper open both ways keeps that from blocking, and keeps the child
    /// from seeing the end of its input before the engine has opened its side.
    pub fn channel_end(&mut self, path: &str, flags: i32) -> Result<OwnedFd, Failure> {
        let helper = self.fifo(path, libc::O_RDWR | libc::O_NONBLOCK)?;
        self.got.helpers.push(helper);
        self.fifo(path, flags)
    }
}

/// A disk that whoever gets it uses without the host's page cache; QEMU takes none that it would have to set that for.
fn direct(disk: File, path: &str) -> Result<File, Failure> {
    let what = "reading and writing past the page cache, which a file system such as tmpfs may not have";
    sys::set_direct(disk.as_fd()).map_err(|error| Failure::from(error).at(&format!("{path}: {what}")))?;
    Ok(disk)
}
