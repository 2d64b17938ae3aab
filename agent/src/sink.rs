//! The receiving end of a stream's lane in: a process's input or a socket.

use crate::sys::fd::{self, Moved};
use crate::sys::{socket, tty};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What the end of the lane does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    Close,
    /// A terminal is told by its end-of-transmission character.
    Transmission,
    /// A socket is shut down for writing.
    Shutdown,
}

pub struct Sink {
    fd: Option<Arc<OwnedFd>>,
    at_end: AtEnd,
    /// False until the peer of a connection is there; what comes first is kept, within the lane's credit.
    started: bool,
    waiting: Vec<u8>,
    at: usize,
    end_wanted: bool,
    last_byte: u8,
    /// Bytes taken since the last `take_consumed`.
    consumed: usize,
}

impl Sink {
    pub fn new(fd: Option<Arc<OwnedFd>>, at_end: AtEnd) -> Self {
        Self { fd, at_end, started: true, waiting: Vec::new(), at: 0, end_wanted: false, last_byte: b'\n', consumed: 0 }
    }

    pub fn wait(&mut self) {
        self.started = false;
    }

    pub fn start(&mut self) {
        self.started = true;
        self.flush();
        self.finish_if_empty();
    }

    /// Goes on with what another sink, which has not started, has kept.
    pub fn take_over(&mut self, other: &mut Self) {
        self.waiting = std::mem::take(&mut other.waiting);
        self.end_wanted = other.end_wanted;
    }

    pub fn descriptor(&self) -> Option<&Arc<OwnedFd>> {
        self.fd.as_ref()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len() - self.at
    }

    /// Nothing can be written any more, or will be.
    pub fn is_over(&self) -> bool {
        self.fd.is_none() || (self.end_wanted && self.waiting() == 0)
    }

    pub fn push(&mut self, bytes: &[u8]) {
        if self.end_wanted || self.fd.is_none() {
            self.consumed += bytes.len();
            return;
        }
        if self.waiting() > 0 || !self.started {
            self.waiting.extend_from_slice(bytes);
            return;
        }
        let written = self.write(bytes);
        if self.fd.is_some() && written < bytes.len() {
            self.waiting.extend_from_slice(&bytes[written..]);
        }
    }

    pub fn end(&mut self) {
        if !self.end_wanted {
            self.end_wanted = true;
            self.finish_if_empty();
        }
    }

    /// Called when the descriptor can be written again.
    pub fn flush(&mut self) {
        if self.waiting() == 0 || !self.started {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let written = self.write(&waiting[self.at..]);
        if self.fd.is_none() {
            self.at = 0;
            return;
        }
        self.at += written;
        if self.at == waiting.len() {
            self.at = 0;
        } else {
            self.waiting = waiting;
        }
        self.finish_if_empty();
    }

    pub fn take_consumed(&mut self) -> usize {
        std::mem::take(&mut self.consumed)
    }

    pub fn close(&mut self) {
        self.consumed += self.waiting();
        self.fd = None;
        self.waiting = Vec::new();
        self.at = 0;
    }

    /// How many bytes went; a receiver that is gone takes all there ever are.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let Some(target) = &self.fd else { break };
            match fd::write(target, &bytes[done..]) {
                Ok(Moved::Bytes(count)) => done += count,
                Ok(Moved::WouldBlock) => break,
                Err(_) => {
                    self.fd = None;
                    self.consumed += bytes.len();
                    return bytes.len();
                }
            }
        }
        if done > 0 {
            self.last_byte = bytes[done - 1];
        }
        self.consumed += done;
        done
    }

    fn finish_if_empty(&mut self) {
        if !self.end_wanted || self.waiting() > 0 || !self.started {
            return;
        }
        let Some(target) = &self.fd else { return };
        match self.at_end {
            AtEnd::Close => self.fd = None,
            AtEnd::Shutdown => socket::shutdown_write(target),
            AtEnd::Transmission => {
                let (byte, lines) = tty::end_of_input(target);
                let twice = lines && self.last_byte != b'\n';
                let bytes = [byte, byte];
                let _ = fd::write(target, if twice { &bytes } else { &bytes[..1] });
            }
        }
    }
}
