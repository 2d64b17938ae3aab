//! Tasks of the workers, as streams.

use crate::agent::Agent;
use crate::failure::Failure;
use crate::process::Process;
use crate::streams::{Kind, SocketStream, Stream, TaskStream, Waiting};
use crate::sys::{poll, process};
use crate::token::Token;
use crate::wire::generated::{error_kind as kind, End, Message, Opened, Started as StartedMessage, LANE_OUT};
use crate::workers::{Finished, Input, Next, Output};

/// What one step of a task reads or lists at most: two frames, so that one can be read while the other is sent.
pub const CHUNK_BYTES: usize = 2 * crate::output::DATA_BYTES_MAX;

impl Agent {
    fn task_stream(&mut self, id: u32) -> Option<(&mut TaskStream, u64)> {
        let stream = self.streams.get_mut(&id)?;
        match &mut stream.kind {
            Kind::Task(task) => Some((task, stream.credit[0])),
            _ => None,
        }
    }

    pub(crate) fn handle_finished(&mut self) {
        for finished in self.workers.finished() {
            self.finished(finished);
        }
    }

    fn finished(&mut self, finished: Finished) {
        let Finished { stream: id, session, task, result } = finished;
        let current = session == self.session && self.attached;
        self.starting -= usize::from(task.starts_process());
        match result {
            result if task.caller().is_some() => self.elevated(task.caller().unwrap_or_default(), result),
            _ if !current || !self.streams.contains_key(&id) => self.orphaned(id, current, task, result),
            Err(failure) => {
                self.streams.remove(&id);
                self.fail(id, &failure);
            }
            Ok(output) => self.progress(id, task, output),
        }
        if self.starting == 0 {
            self.early.clear();
        }
    }

    fn progress(&mut self, id: u32, task: Box<dyn crate::workers::Task>, output: Output) {
        for message in &output.messages {
            self.output.push(id, 0, message);
        }
        let Some((stream, _)) = self.task_stream(id) else { return };
        stream.task = Some(task);
        let fed = std::mem::take(&mut stream.feeding);
        if !output.data.is_empty() {
            stream.pending_bytes += output.data.len();
            stream.pending.push_back(output.data);
        }
        let fed = if matches!(output.next, Next::Done) { 0 } else { fed };
        match output.next {
            Next::Done => stream.waiting = Waiting::Finishing,
            Next::Room => stream.waiting = Waiting::Room,
            Next::Data => stream.waiting = Waiting::Data,
            Next::ReadableAgain => stream.waiting = Waiting::Readable,
            Next::Readable(fd) => {
                stream.waiting = Waiting::Readable;
                // What came before the descriptor was registered raises no edge.
                stream.readable = true;
                let added = self.epoll.add(&fd, Token::Watch(id).pack(), poll::READABLE);
                if let Some((stream, _)) = self.task_stream(id) {
                    stream.watched = Some(fd);
                }
                if let Err(errno) = added {
                    self.streams.remove(&id);
                    return self.fail(id, &Failure::of(errno, "cannot wait for changes"));
                }
            }
            Next::Socket(fd) => {
                self.output.push(id, 0, &Message::Opened(Opened {}));
                return self.become_socket(id, SocketStream::new(fd, false, String::new()));
            }
            Next::Process(started) => return self.become_process(id, *started),
            Next::Elevated(_) => {}
        }
        self.consumed(id, fed);
        self.queue_task(id);
        self.advance(id);
    }

    /// The stream that asked is no more: what was begun for it is undone, but a process without killOnCancel stays.
    fn orphaned(
        &mut self,
        id: u32,
        current: bool,
        task: Box<dyn crate::workers::Task>,
        result: Result<Output, Failure>,
    ) {
        let cancelled = current && self.cancelled_starts.remove(&id);
        match result {
            Ok(Output { next: Next::Process(started), .. }) => {
                let pid = started.pid as i32;
                if cancelled && started.kill_on_cancel {
                    let _ = process::kill(-pid, libc::SIGKILL);
                }
                let serial = self.add_process(Process::new(*started, None));
                self.wake_source(serial, 0);
                self.wake_source(serial, 1);
            }
            Ok(Output { next: Next::Done, .. }) | Err(_) => {}
            Ok(_) => self.workers.cancel(task),
        }
    }

    /// Runs the task's next step when what it waits for is there.
    pub(crate) fn advance(&mut self, id: u32) {
        let Some((stream, credit)) = self.task_stream(id) else { return };
        let room = (credit as usize).saturating_sub(stream.pending_bytes).min(CHUNK_BYTES);
        let has_room = stream.pending_bytes < CHUNK_BYTES && room > 0;
        let due = match stream.waiting {
            Waiting::Running => false,
            Waiting::Room => has_room,
            Waiting::Data => !stream.input.is_empty() || stream.input_ended,
            Waiting::Readable => stream.readable && has_room,
            Waiting::Finishing => return self.finish_task(id),
        };
        if !due {
            return;
        }
        let Some(task) = stream.task.take() else { return };
        let data = std::mem::take(&mut stream.input);
        stream.feeding = data.len();
        stream.readable = false;
        let input = Input { data, ended: stream.input_ended, room };
        stream.waiting = Waiting::Running;
        if self.workers.run(id, self.session, task, input).is_err() {
            self.streams.remove(&id);
            self.fail(id, &Failure::new(kind::LIMIT, "too many operations wait in the sandbox; try again later"));
        }
    }

    fn finish_task(&mut self, id: u32) {
        let Some((stream, _)) = self.task_stream(id) else { return };
        if !stream.pending.is_empty() {
            return;
        }
        if stream.has_out {
            self.output.push(id, LANE_OUT, &Message::End(End {}));
        }
        self.streams.remove(&id);
        self.done(id);
    }

    /// Puts the stream among those with something to send, when it has it and may.
    pub(crate) fn queue_task(&mut self, id: u32) {
        let Some((stream, credit)) = self.task_stream(id) else { return };
        if !stream.pending.is_empty() && credit > 0 && !stream.queued {
            stream.queued = true;
            self.ready.push_back((id, LANE_OUT));
        }
    }

    pub(crate) fn watch_event(&mut self, id: u32) {
        if let Some((stream, _)) = self.task_stream(id) {
            stream.readable = true;
            self.advance(id);
        }
    }

    fn become_process(&mut self, id: u32, started: crate::process::Started) {
        let Some(before) = self.streams.remove(&id) else { return };
        let message = StartedMessage { pid: started.pid, stdout_offset: 0, stderr_offset: 0 };
        self.output.push(id, 0, &Message::Started(message));
        let serial = self.add_process(Process::new(started, Some(id)));
        let Kind::Task(task) = before.kind else { return };
        let stream = Stream { kind: Kind::Process(serial), ..before };
        self.streams.insert(id, stream);
        let Some(process) = self.processes.get_mut(&serial) else { return };
        process.input.push(&task.input);
        if task.input_ended {
            process.input.end();
        }
        let consumed = process.input.take_consumed();
        self.consumed(id, consumed);
        for message in task.before_start {
            self.request(id, 0, message);
        }
        // One that has ended already may have left something to read.
        self.wake_source(serial, 0);
        self.wake_source(serial, 1);
        self.report_exit(serial);
        self.finish_process(serial);
    }

    fn become_socket(&mut self, id: u32, mut socket: SocketStream) {
        let Some(before) = self.streams.remove(&id) else { return };
        let Kind::Task(task) = before.kind else { return };
        if let Err(errno) = self.epoll.add(&socket.fd, Token::Socket(id).pack(), poll::READABLE | poll::WRITABLE) {
            return self.fail(id, &Failure::of(errno, "cannot wait for a connection"));
        }
        socket.sink.push(&task.input);
        if task.input_ended {
            socket.sink.end();
        }
        let consumed = socket.sink.take_consumed();
        self.streams.insert(id, Stream { kind: Kind::Socket(socket), ..before });
        self.consumed(id, consumed);
    }
}
