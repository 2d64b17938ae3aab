//! A process the host started, from its start until it is forgotten.

use crate::recording::Recording;
use crate::sink::{AtEnd, Sink};
use crate::sys::process::Exit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What a worker hands over when a process runs.
pub struct Started {
    pub pid: u32,
    pub pty: bool,
    pub kill_on_cancel: bool,
    pub input: Option<OwnedFd>,
    pub out: OwnedFd,
    pub err: Option<OwnedFd>,
    pub recording: Option<Recording>,
}

/// A source of output; without a descriptor it has ended.
#[derive(Default)]
pub struct Source {
    pub fd: Option<Arc<OwnedFd>>,
    pub readable: bool,
    /// Waits in one of the loop's queues.
    pub queued: bool,
    /// Bytes read so far, whether or not anybody listened.
    pub offset: u64,
}

pub struct Process {
    pub pid: u32,
    pub pty: bool,
    pub kill_on_cancel: bool,
    pub input: Sink,
    /// out, err
    pub sources: [Source; 2],
    pub exit: Option<Exit>,
    /// The present listener knows of the exit.
    pub exit_told: bool,
    pub listener: Option<u32>,
    /// For the stream that started it, and no later one.
    pub recording: Option<Recording>,
}

impl Process {
    pub fn new(started: Started, listener: Option<u32>) -> Self {
        let Started { pid, pty, kill_on_cancel, input, out, err, recording } = started;
        let out = Arc::new(out);
        let input = if pty {
            drop(input);
            Sink::new(Some(Arc::clone(&out)), AtEnd::Transmission)
        } else {
            Sink::new(input.map(Arc::new), AtEnd::Close)
        };
        let source = |fd: Option<Arc<OwnedFd>>| Source { fd, ..Source::default() };
        Self {
            pid,
            pty,
            kill_on_cancel,
            input,
            sources: [source(Some(out)), source(err.map(Arc::new))],
            exit: None,
            exit_told: false,
            listener,
            recording,
        }
    }

    /// What it had written when it ended may still lie in its pipes: the next look says.
    pub fn end(&mut self, exit: Exit) {
        self.exit = Some(exit);
        for source in &mut self.sources {
            source.readable = source.fd.is_some();
        }
    }

    /// It has ended, and all it wrote itself is on its way; only others that hold its pipes can add to that.
    pub fn is_told_out(&self) -> bool {
        self.exit.is_some() && self.sources.iter().all(|source| source.fd.is_none() || !source.readable)
    }

    /// Nothing more will come of it.
    pub fn is_over(&self) -> bool {
        self.exit.is_some() && self.sources.iter().all(|source| source.fd.is_none())
    }
}
