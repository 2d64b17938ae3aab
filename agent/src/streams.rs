//! The streams of a session.

use crate::egress::ConnectionStream;
use crate::sink::{AtEnd, Sink};
use crate::wire::generated::{Message, INITIAL_CREDIT_BYTES};
use crate::workers::Task;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub struct Stream {
    pub kind: Kind,
    /// Bytes we may send on lanes out and err.
    pub credit: [u64; 2],
    /// Bytes the host may still send on lane in.
    pub granted: u64,
    /// Bytes consumed whose credit has not gone back yet.
    pub owed: u64,
    /// Credit goes back in portions of this, so that small writes do not each cost a message.
    pub portion: u64,
}

pub enum Kind {
    /// A process, by its serial number.
    Process(u32),
    Task(TaskStream),
    Socket(SocketStream),
    Egress,
    /// A connection that a program made to the outside.
    Connection(ConnectionStream),
}

/// What an idle task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    Running,
    Room,
    Data,
    Readable,
    /// The last bytes have not gone yet.
    Finishing,
}

pub struct TaskStream {
    pub task: Option<Box<dyn Task>>,
    pub waiting: Waiting,
    /// Output that has not gone yet.
    pub pending: VecDeque<Vec<u8>>,
    pub pending_at: usize,
    pub pending_bytes: usize,
    pub queued: bool,
    pub input: Vec<u8>,
    pub input_ended: bool,
    /// Bytes of input the running step works on.
    pub feeding: usize,
    /// What a watch waits for.
    pub watched: Option<OwnedFd>,
    pub readable: bool,
    /// Lane out carries data and so must be ended.
    pub has_out: bool,
    pub starts_process: bool,
    /// Signals and sizes that came before the process.
    pub before_start: Vec<Message>,
}

/// More of them are dropped: nobody types that fast.
pub const BEFORE_START_MAX: usize = 16;

impl TaskStream {
    pub fn new(has_out: bool, starts_process: bool) -> Self {
        Self {
            task: None,
            waiting: Waiting::Running,
            pending: VecDeque::new(),
            pending_at: 0,
            pending_bytes: 0,
            queued: false,
            input: Vec::new(),
            input_ended: false,
            feeding: 0,
            watched: None,
            readable: false,
            has_out,
            starts_process,
            before_start: Vec::new(),
        }
    }

    /// Moves up to `most` pending bytes to the end of `to`.
    pub fn take_pending(&mut self, to: &mut Vec<u8>, most: usize) {
        let Some(first) = self.pending.front() else { return };
        let count = most.min(first.len() - self.pending_at);
        to.extend_from_slice(&first[self.pending_at..self.pending_at + count]);
        self.pending_at += count;
        self.pending_bytes -= count;
        if self.pending_at == first.len() {
            self.pending.pop_front();
            self.pending_at = 0;
        }
    }
}

pub struct SocketStream {
    pub fd: Arc<OwnedFd>,
    pub connecting: bool,
    /// Another address to try when the first refuses.
    pub fallback: Option<std::net::SocketAddr>,
    pub name: String,
    pub readable: bool,
    pub queued: bool,
    pub out_ended: bool,
    pub sink: Sink,
}

impl SocketStream {
    pub fn new(fd: OwnedFd, connecting: bool, name: String) -> Self {
        let fd = Arc::new(fd);
        let mut sink = Sink::new(Some(Arc::clone(&fd)), AtEnd::Shutdown);
        if connecting {
            sink.wait();
        }
        Self { fd, connecting, fallback: None, name, readable: false, queued: false, out_ended: false, sink }
    }
}

impl Stream {
    pub fn new(kind: Kind) -> Self {
        Self::with_window(kind, INITIAL_CREDIT_BYTES)
    }

    /// As `new`, with `window` bytes as the first credit of both directions.
    pub fn with_window(kind: Kind, window: usize) -> Self {
        let window = window as u64;
        Self { kind, credit: [window; 2], granted: window, owed: 0, portion: window / 4 }
    }
}
