//! Writes a regular file from a stream.

use super::{absolute, make_parents, parent, Asker};
use crate::failure::{shown, Doing, Failure, Outcome};
use crate::sys::fd::{self, Moved};
use crate::sys::files::{self, At};
use crate::sys::process::own_pid;
use crate::wire::generated::{error_kind as kind, write_mode, Message, Opened, WriteFile, Written};
use crate::workers::{Input, Next, Output, Task};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

const MODE_BITS: u32 = 0o7777;

pub struct WriteTask {
    asker: Asker,
    request: WriteFile,
    file: Option<OwnedFd>,
    path: Vec<u8>,
    /// What is renamed to `path` at the end.
    beside: Option<Vec<u8>>,
    written: u64,
}

impl WriteTask {
    pub fn new(asker: Asker, request: WriteFile) -> Self {
        Self { asker, request, file: None, path: Vec::new(), beside: None, written: 0 }
    }

    fn doing(&self) -> String {
        format!("cannot write {}", shown(&self.path))
    }

    fn open(&mut self) -> Outcome<()> {
        let (user, _acting) = self.asker.act()?;
        self.path = absolute(&self.request.path, user)?;
        let mode = self.request.mode & MODE_BITS;
        if self.request.make_parents {
            make_parents(parent(&self.path), super::PARENT_MODE)
                .doing(|| format!("cannot make the directories of {}", shown(&self.path)))?;
        }
        let how = match self.request.how {
            write_mode::TRUNCATE => libc::O_CREAT,
            write_mode::APPEND => libc::O_CREAT | libc::O_APPEND,
            write_mode::EXCLUSIVE => libc::O_CREAT | libc::O_EXCL,
            write_mode::ATOMIC => return self.open_beside(mode),
            other => return Err(Failure::new(kind::INVALID, format!("write mode {other} is not known"))),
        };
        // A FIFO nobody reads: ENXIO. A FIFO somebody reads, or a device: refused below, before anything is written.
        let file = files::open(At::HERE, &self.path, libc::O_WRONLY | how, mode).map_err(|errno| match errno.0 {
            libc::ENXIO => self.irregular(),
            _ => Failure::of(errno, self.doing()),
        })?;
        let status = files::stat_open(&file).doing(|| self.doing())?;
        if !status.is_regular() {
            return Err(self.irregular());
        }
        if self.request.how == write_mode::TRUNCATE && status.size > 0 {
            files::truncate(&file).doing(|| self.doing())?;
        }
        self.file = Some(file);
        Ok(())
    }

    fn irregular(&self) -> Failure {
        Failure::new(kind::INVALID, format!("cannot write {}: it is not a regular file", shown(&self.path)))
    }

    fn open_beside(&mut self, mode: u32) -> Outcome<()> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        if let Ok(status) = files::stat(At::HERE, &self.path, true) {
            if status.is_directory() {
                return Err(Failure::new(
                    kind::IS_DIRECTORY,
                    format!("cannot write {}: it is a directory", shown(&self.path)),
                ));
            }
        }
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!(".bulkhead-{}-{number}-{}.part", own_pid(), crate::sys::poll::now_ms());
        let beside = super::join(parent(&self.path), name.as_bytes());
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let file = files::open(At::HERE, &beside, flags, mode).doing(|| self.doing())?;
        self.beside = Some(beside);
        files::change_mode_open(&file, mode).doing(|| self.doing())?;
        self.file = Some(file);
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8]) -> Outcome<()> {
        let Some(file) = &self.file else { return Ok(()) };
        while !bytes.is_empty() {
            match fd::write(file, bytes).doing(|| self.doing())? {
                Moved::Bytes(count) => {
                    self.written += count as u64;
                    bytes = &bytes[count..];
                }
                Moved::WouldBlock => return Err(Failure::new(kind::IO, self.doing())),
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Outcome<()> {
        self.file = None;
        let Some(beside) = self.beside.clone() else { return Ok(()) };
        {
            let (_, _acting) = self.asker.act()?;
            files::rename(&beside, &self.path, true).doing(|| format!("cannot write {}", shown(&self.path)))?;
        }
        self.beside = None;
        Ok(())
    }

    fn advance(&mut self, input: Input) -> Outcome<Output> {
        let mut output = Output { messages: Vec::new(), data: Vec::new(), next: Next::Data };
        if self.file.is_none() {
            self.open()?;
            output.messages.push(Message::Opened(Opened {}));
        }
        self.write(&input.data)?;
        if input.ended {
            self.finish()?;
            output.messages.push(Message::Written(Written { bytes: self.written }));
            output.next = Next::Done;
        }
        Ok(output)
    }
}

impl Task for WriteTask {
    fn step(&mut self, input: Input) -> Result<Output, Failure> {
        let result = self.advance(input);
        if result.is_err() {
            self.cancel();
        }
        result
    }

    fn cancel(&mut self) {
        self.file = None;
        let Some(beside) = self.beside.take() else { return };
        if let Ok((_, _acting)) = self.asker.act() {
            let _ = files::unlink(At::HERE, &beside, false);
        }
    }
}
