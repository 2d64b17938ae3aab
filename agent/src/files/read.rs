//! Reads a regular file as a stream.

use super::{absolute, entry, Asker};
use crate::failure::{shown, Doing, Failure, Outcome};
use crate::sys::fd::{self, Moved};
use crate::sys::files::{self, At};
use crate::wire::generated::{error_kind as kind, Message, ReadFile, StatResult};
use crate::workers::{Input, Next, Output, Task};
use std::os::fd::OwnedFd;

pub struct ReadTask {
    asker: Asker,
    request: ReadFile,
    file: Option<OwnedFd>,
    left: u64,
}

impl ReadTask {
    pub fn new(asker: Asker, request: ReadFile) -> Self {
        Self { asker, left: request.length, request, file: None }
    }

    fn open(&mut self) -> Outcome<Message> {
        let mut names = self.asker.names();
        let (user, _acting) = self.asker.act()?;
        let path = absolute(&self.request.path, user)?;
        let doing = || format!("cannot read {}", shown(&path));
        let file = files::open(At::HERE, &path, libc::O_RDONLY, 0).doing(doing)?;
        let status = files::stat_open(&file).doing(doing)?;
        if status.is_directory() {
            return Err(Failure::new(kind::IS_DIRECTORY, format!("cannot read {}: it is a directory", shown(&path))));
        }
        if !status.is_regular() {
            return Err(Failure::new(kind::INVALID, format!("cannot read {}: it is not a regular file", shown(&path))));
        }
        if self.request.offset > 0 {
            files::seek(&file, self.request.offset).doing(doing)?;
        }
        let entry = entry(path, &status, At::HERE, b"", &mut names);
        self.file = Some(file);
        Ok(Message::StatResult(StatResult { entry }))
    }
}

impl Task for ReadTask {
    fn step(&mut self, input: Input) -> Result<Output, Failure> {
        let mut output = Output::done();
        if self.file.is_none() {
            output.messages.push(self.open()?);
        }
        let Some(file) = &self.file else { return Ok(output) };
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.room);
        let mut ended = most == 0;
        while !ended && output.data.len() < most {
            let room = most - output.data.len();
            let moved = fd::read_append(file, &mut output.data, room);
            match moved.doing(|| format!("cannot read {}", shown(&self.request.path)))? {
                Moved::Bytes(count) if count > 0 => {}
                _ => ended = true,
            }
        }
        self.left -= output.data.len() as u64;
        if !ended && self.left > 0 {
            output.next = Next::Room;
        }
        Ok(output)
    }
}
