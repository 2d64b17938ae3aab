//! A program's TCP connection as a stream of the host's.

use super::stack::{Read, Standing};
use crate::agent::Agent;
use crate::failure::Failure;
use crate::streams::{Kind, Stream};
use crate::sys::poll;
use crate::wire::generated::{
    error_kind as kind, End, Message, Opened, TakeConnection, INITIAL_CREDIT_BYTES, LANE_OUT,
};
use std::collections::VecDeque;

/// Smaller ones cost more messages than they carry data.
const WINDOW_BYTES_MIN: usize = 4096;

#[derive(Default)]
pub struct ConnectionStream {
    pub connection: u32,
    opened: bool,
    /// For the program, while its kernel takes no more; bounded by the lane's credit.
    waiting: VecDeque<u8>,
    end_wanted: bool,
    /// The end is behind everything else on its way.
    finished: bool,
    out_ended: bool,
    queued: bool,
}

impl Agent {
    pub(crate) fn take_connection(&mut self, id: u32, request: &TakeConnection) {
        let window = request.window_bytes as usize;
        if !(WINDOW_BYTES_MIN..=INITIAL_CREDIT_BYTES).contains(&window) {
            let text = format!("a window of {window} bytes; {WINDOW_BYTES_MIN} to {INITIAL_CREDIT_BYTES} are possible");
            return self.fail(id, &Failure::new(kind::INVALID, text));
        }
        let connection = request.id;
        let taken = self.egress.as_mut().is_some_and(|egress| {
            let taken = egress.stack.take(connection, window, poll::now_ms());
            if taken {
                egress.streams.insert(connection, id);
            }
            taken
        });
        if !taken {
            let text = format!("no program waits for connection {connection}");
            return self.fail(id, &Failure::new(kind::NOT_FOUND, text));
        }
        let stream = Kind::Connection(ConnectionStream { connection, ..ConnectionStream::default() });
        self.streams.insert(id, Stream::with_window(stream, window));
    }

    /// From the host, for the program.
    pub(crate) fn connection_data(&mut self, id: u32, bytes: &[u8]) {
        let Some(Stream { kind: Kind::Connection(stream), .. }) = self.streams.get_mut(&id) else { return };
        if stream.end_wanted {
            return self.consumed(id, bytes.len());
        }
        stream.waiting.extend(bytes);
        self.push_connection(id);
    }

    pub(crate) fn connection_end(&mut self, id: u32) {
        let Some(Stream { kind: Kind::Connection(stream), .. }) = self.streams.get_mut(&id) else { return };
        stream.end_wanted = true;
        self.push_connection(id);
    }

    fn push_connection(&mut self, id: u32) {
        let Some(Stream { kind: Kind::Connection(stream), .. }) = self.streams.get_mut(&id) else { return };
        let Some(egress) = self.egress.as_mut().filter(|_| stream.opened) else { return };
        let (first, second) = stream.waiting.as_slices();
        let mut count = egress.stack.write(stream.connection, first);
        if count == first.len() {
            count += egress.stack.write(stream.connection, second);
        }
        stream.waiting.drain(..count);
        if stream.waiting.is_empty() {
            stream.waiting = VecDeque::new();
            if stream.end_wanted && !stream.finished {
                stream.finished = true;
                egress.stack.finish(stream.connection);
            }
        }
        self.consumed(id, count);
    }

    /// Looks at a connection after packets went or came.
    pub(crate) fn progress_connection(&mut self, id: u32, now: u64) {
        let Some(Stream { kind: Kind::Connection(stream), .. }) = self.streams.get_mut(&id) else { return };
        let Some(egress) = &mut self.egress else { return };
        match egress.stack.standing(stream.connection, now) {
            Standing::Opening => return,
            Standing::Broken => return self.break_connection(id),
            Standing::Sent if stream.finished && stream.out_ended => return self.finish_connection(id),
            Standing::Sent if !stream.finished => return self.break_connection(id),
            Standing::Open | Standing::Sent => {}
        }
        if !stream.opened {
            stream.opened = true;
            self.output.push(id, 0, &Message::Opened(Opened {}));
        }
        self.push_connection(id);
        self.wake_connection(id);
    }

    pub(crate) fn wake_connection(&mut self, id: u32) {
        let Some(Stream { kind: Kind::Connection(stream), credit, .. }) = self.streams.get_mut(&id) else { return };
        let Some(egress) = &mut self.egress else { return };
        let may = stream.opened && !stream.queued && !stream.out_ended && credit[0] > 0;
        if may && egress.stack.is_readable(stream.connection) {
            stream.queued = true;
            self.ready.push_back((id, LANE_OUT));
        }
    }

    /// One data frame, or the end, of what the program sent.
    pub(crate) fn send_connection(&mut self, id: u32) {
        let Some(Stream { kind: Kind::Connection(stream), credit, .. }) = self.streams.get_mut(&id) else { return };
        let Some(egress) = &mut self.egress else { return };
        stream.queued = false;
        let connection = stream.connection;
        let most = usize::try_from(credit[0]).unwrap_or(usize::MAX);
        let mut result = Read::Nothing;
        let sent =
            self.output.data(id, LANE_OUT, most, |buffer, most| result = egress.stack.read(connection, buffer, most));
        credit[0] -= sent as u64;
        match result {
            Read::Bytes => self.wake_connection(id),
            Read::Nothing => {}
            Read::Broken => self.break_connection(id),
            Read::End => {
                stream.out_ended = true;
                self.output.push(id, LANE_OUT, &Message::End(End {}));
                self.progress_connection(id, poll::now_ms());
            }
        }
    }

    fn finish_connection(&mut self, id: u32) {
        let Some(Stream { kind: Kind::Connection(stream), .. }) = self.streams.remove(&id) else { return };
        if let Some(egress) = &mut self.egress {
            egress.stack.forget(stream.connection);
            egress.streams.remove(&stream.connection);
        }
        self.done(id);
    }

    fn break_connection(&mut self, id: u32) {
        let Some(Stream { kind: Kind::Connection(stream), .. }) = self.streams.remove(&id) else { return };
        self.abort_connection(stream.connection);
        self.fail(id, &Failure::new(kind::REFUSED, "the program broke the connection off"));
    }

    /// The program's kernel is told, when it does not know yet.
    pub(crate) fn abort_connection(&mut self, connection: u32) {
        if let Some(egress) = &mut self.egress {
            egress.stack.abort(connection, poll::now_ms());
            egress.streams.remove(&connection);
        }
    }
}
