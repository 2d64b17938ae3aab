//! A sandbox's diagnostics: read as they come, of which only the end is kept.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

/// What a kernel says when it dies is longer than what a runtime says when it fails.
const KEPT_BYTES: usize = 16 * 1024;
/// A pipe's size; one reading of a log never takes more.
const AT_ONCE_BYTES: u64 = 64 * 1024;

pub struct Log {
    fifo: File,
    kept: Vec<u8>,
}

impl Log {
    /// `fifo` is open for reading and does not block.
    pub fn new(fifo: File) -> Log {
        Log { fifo, kept: Vec::new() }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fifo.as_fd()
    }

    /// Takes in what is there, so that a writer is not held up and the newest is what is kept.
    ///
    /// False when nobody has it open for writing any more
    pub fn drain(&mut self) -> bool {
        let mut new = Vec::new();
        // Reading stops at EAGAIN; what was read until then stays in `new`.
        let read = Read::read_to_end(&mut Read::take(&mut self.fifo, AT_ONCE_BYTES), &mut new);
        let open = read.is_err() || !new.is_empty();
        self.kept.extend_from_slice(&new);
        let extra = self.kept.len().saturating_sub(KEPT_BYTES);
        self.kept.drain(..extra);
        open
    }

    pub fn tail(&mut self) -> String {
        self.drain();
        String::from_utf8_lossy(&self.kept).into_owned()
    }
}
