//! The processes the host started, and the orphans that become ours.

use crate::agent::Agent;
use crate::failure::{Failure, Outcome};
use crate::process::Process;
use crate::streams::{Kind, Stream};
use crate::sys::fd::{self, Moved};
use crate::sys::poll;
use crate::sys::process::{self, Exit, Reaped};
use crate::token::Token;
use crate::wire::generated::{error_kind as kind, End, Exited, Message, Recorded, Started};

/// Running or remembered.
const PROCESSES_MAX: usize = 4096;
/// Ended processes that `Connect` still finds.
const ENDED_KEPT: usize = 64;
/// Ends that came before their starts were reported.
const EARLY_MAX: usize = 4096;
const DRAIN_BYTES: usize = 64 * 1024;
/// Input kept for a process that takes none, over all who connected to it.
const INPUT_KEPT_MAX: usize = 1024 * 1024;

impl Agent {
    pub(crate) fn room_for_process(&self) -> Outcome<()> {
        if self.processes.len() + self.starting < PROCESSES_MAX {
            return Ok(());
        }
        Err(Failure::new(kind::LIMIT, format!("{PROCESSES_MAX} processes of the host run already; end one first")))
    }

    pub(crate) fn running_pids(&self) -> Vec<u32> {
        self.processes.values().filter(|process| process.exit.is_none()).map(|process| process.pid).collect()
    }

    pub(crate) fn add_process(&mut self, mut process: Process) -> u32 {
        let serial = self.next_serial;
        self.next_serial = self.next_serial.wrapping_add(1).max(1);
        if let Some(exit) = self.early.remove(&process.pid) {
            process.end(exit);
        }
        let bits = if process.pty { poll::READABLE | poll::WRITABLE } else { poll::READABLE };
        for (index, source) in process.sources.iter_mut().enumerate() {
            let Some(fd) = &source.fd else { continue };
            let token = Token::Process(serial, index as u8 + 1).pack();
            if fd::set_nonblocking(fd, true).and_then(|()| self.epoll.add(fd, token, bits)).is_err() {
                source.fd = None;
            }
        }
        if let Some(input) = process.input.descriptor().filter(|_| !process.pty) {
            let token = Token::Process(serial, 0).pack();
            if fd::set_nonblocking(input, true).and_then(|()| self.epoll.add(input, token, poll::WRITABLE)).is_err() {
                process.input.close();
            }
        }
        self.by_pid.insert(process.pid, serial);
        let ended = process.exit.is_some();
        self.processes.insert(serial, process);
        if ended {
            self.remember_end(serial);
        }
        serial
    }

    pub(crate) fn process_event(&mut self, serial: u32, which: u8, bits: u32) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let listener = process.listener;
        if bits & (poll::WRITABLE | poll::CLOSED) != 0 && (which == 0 || process.pty) {
            process.input.flush();
            if which == 0 && bits & poll::CLOSED != 0 {
                process.input.close();
            }
            let consumed = process.input.take_consumed();
            if let Some(id) = listener {
                self.consumed(id, consumed);
            }
        }
        if which > 0 && bits & (poll::READABLE | poll::CLOSED) != 0 {
            let index = usize::from(which) - 1;
            if let Some(source) = self.processes.get_mut(&serial).and_then(|process| process.sources.get_mut(index)) {
                source.readable = true;
            }
            self.wake_source(serial, index);
        }
    }

    /// Puts a source where its output goes: to its listener, or away.
    pub(crate) fn wake_source(&mut self, serial: u32, index: usize) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let source = &mut process.sources[index];
        if source.queued || !source.readable || source.fd.is_none() {
            return;
        }
        match process.listener {
            None => {
                source.queued = true;
                self.drains.push_back((serial, index as u8));
            }
            Some(id) => {
                if self.streams.get(&id).is_some_and(|stream| stream.credit[index] > 0) {
                    source.queued = true;
                    self.ready.push_back((id, index as u8 + 1));
                }
            }
        }
    }

    /// Reads away a little of what nobody listens to.
    pub(crate) fn drain(&mut self) {
        const SOURCES_PER_TURN: usize = 16;
        let mut scratch = Vec::new();
        for _ in 0..SOURCES_PER_TURN.min(self.drains.len()) {
            let Some((serial, index)) = self.drains.pop_front() else { return };
            let Some(process) = self.processes.get_mut(&serial) else { continue };
            let source = &mut process.sources[usize::from(index)];
            source.queued = false;
            let (Some(fd), None) = (&source.fd, process.listener) else {
                self.wake_source(serial, usize::from(index));
                continue;
            };
            scratch.clear();
            match fd::read_append(fd, &mut scratch, DRAIN_BYTES) {
                Ok(Moved::WouldBlock) => source.readable = false,
                Ok(Moved::Bytes(0)) | Err(_) => source.fd = None,
                Ok(Moved::Bytes(count)) => source.offset += count as u64,
            }
            self.wake_source(serial, usize::from(index));
            self.finish_process(serial);
        }
    }

    /// One data frame, or the end, of a process's source. Says whether anything was done.
    pub(crate) fn send_source(&mut self, id: u32, lane: u8, serial: u32) {
        let index = usize::from(lane) - 1;
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let source = &mut process.sources[index];
        source.queued = false;
        let (Some(fd), Some(stream)) = (&source.fd, self.streams.get_mut(&id)) else { return };
        if process.listener != Some(id) || stream.credit[index] == 0 || !source.readable {
            return self.wake_source(serial, index);
        }
        let mut result = Ok(Moved::WouldBlock);
        let most = usize::try_from(stream.credit[index]).unwrap_or(usize::MAX);
        let sent = self.output.data(id, lane, most, |buffer, most| result = fd::read_append(fd, buffer, most));
        stream.credit[index] -= sent as u64;
        source.offset += sent as u64;
        match result {
            Ok(Moved::WouldBlock) => source.readable = false,
            Ok(Moved::Bytes(count)) if count > 0 => {}
            _ => {
                source.fd = None;
                self.output.push(id, lane, &Message::End(End {}));
                self.report_exit(serial);
                return self.finish_process(serial);
            }
        }
        self.report_exit(serial);
        self.wake_source(serial, index);
    }

    pub(crate) fn reap(&mut self) {
        loop {
            match process::reap() {
                Reaped::Ended(pid, exit) => self.process_ended(pid, exit),
                Reaped::NoneYet => return,
                Reaped::NoChildren => {
                    if self.shutdown_at.is_some() && self.starting == 0 {
                        self.over = true;
                    }
                    return;
                }
            }
        }
    }

    fn process_ended(&mut self, pid: u32, exit: Exit) {
        let serial = self.by_pid.get(&pid).copied();
        let running =
            serial.and_then(|serial| self.processes.get_mut(&serial)).filter(|process| process.exit.is_none());
        match (serial, running) {
            (Some(serial), Some(process)) => {
                process.end(exit);
                self.remember_end(serial);
                self.wake_source(serial, 0);
                self.wake_source(serial, 1);
                self.report_exit(serial);
                self.finish_process(serial);
            }
            _ => {
                if !self.elevated_ended(pid, exit) && self.starting > 0 && self.early.len() < EARLY_MAX {
                    self.early.insert(pid, exit);
                }
            }
        }
    }

    fn remember_end(&mut self, serial: u32) {
        self.ended.push_back(serial);
        let mut looked_at = self.ended.len();
        while self.ended.len() > ENDED_KEPT && looked_at > 0 {
            looked_at -= 1;
            let Some(oldest) = self.ended.pop_front() else { return };
            match self.processes.get(&oldest) {
                // Somebody listens, or there is output to come: later.
                Some(process) if process.listener.is_some() || !process.is_over() => self.ended.push_back(oldest),
                Some(process) => {
                    let pid = process.pid;
                    self.processes.remove(&oldest);
                    if self.by_pid.get(&pid) == Some(&oldest) {
                        self.by_pid.remove(&pid);
                    }
                }
                None => {}
            }
        }
    }

    /// Once for a listener, after what the process itself wrote: whoever hears of the exit has all of it, however slow the
    /// machine is.
    pub(crate) fn report_exit(&mut self, serial: u32) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let (Some(exit), Some(id)) = (process.exit, process.listener) else { return };
        if process.exit_told || !process.is_told_out() {
            return;
        }
        process.exit_told = true;
        if let Some(recording) = process.recording.take() {
            self.output.push(id, 0, &Message::Recorded(Recorded { calls: recording.calls() }));
        }
        if exit.code != 0 || exit.signal != 0 {
            // Why it failed is told before that it did.
            self.look_at_limits();
        }
        let message = Exited {
            code: exit.code,
            signal: exit.signal,
            core_dumped: exit.core_dumped,
            user_ms: exit.user_ms,
            system_ms: exit.system_ms,
            max_rss_bytes: exit.max_rss_bytes,
        };
        self.output.push(id, 0, &Message::Exited(message));
    }

    /// Ends the listener's stream when nothing more will come of the process.
    pub(crate) fn finish_process(&mut self, serial: u32) {
        let Some(process) = self.processes.get_mut(&serial).filter(|process| process.is_over()) else { return };
        process.input.close();
        if let Some(id) = process.listener.take() {
            self.streams.remove(&id);
            self.done(id);
        }
    }

    pub(crate) fn connect(&mut self, id: u32, pid: u32) {
        let found =
            self.by_pid.get(&pid).and_then(|serial| self.processes.get_mut(serial).map(|process| (*serial, process)));
        let Some((serial, process)) = found else {
            let text = format!("no process {pid} was started by the host, or it ended long ago");
            return self.fail(id, &Failure::new(kind::PROCESS_NOT_FOUND, text));
        };
        if process.listener.is_some() {
            let text = format!("another stream listens to process {pid}; cancel that one first");
            return self.fail(id, &Failure::new(kind::EXISTS, text));
        }
        if process.input.waiting() > INPUT_KEPT_MAX {
            let text = format!("process {pid} does not read its input and {INPUT_KEPT_MAX} bytes wait for it");
            return self.fail(id, &Failure::new(kind::LIMIT, text));
        }
        process.listener = Some(id);
        process.exit_told = false;
        let [out, err] = &process.sources;
        let started = Started { pid, stdout_offset: out.offset, stderr_offset: err.offset };
        let lanes = if process.pty { 1 } else { 2 };
        let ended: Vec<u8> = (0..lanes).filter(|index| process.sources[usize::from(*index)].fd.is_none()).collect();
        self.streams.insert(id, Stream::new(Kind::Process(serial)));
        self.output.push(id, 0, &Message::Started(started));
        for index in ended {
            self.output.push(id, index + 1, &Message::End(End {}));
        }
        self.report_exit(serial);
        self.finish_process(serial);
        self.wake_source(serial, 0);
        self.wake_source(serial, 1);
    }

    /// The listener is gone; the process goes on, unless its end was wished for.
    pub(crate) fn detach(&mut self, serial: u32, id: u32, cancelled: bool) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        if process.listener != Some(id) {
            return;
        }
        process.listener = None;
        process.recording = None;
        process.input.take_consumed();
        if cancelled && process.kill_on_cancel {
            let _ = process::kill(-(process.pid as i32), libc::SIGKILL);
        }
        for source in &mut process.sources {
            source.queued = false;
        }
        self.wake_source(serial, 0);
        self.wake_source(serial, 1);
    }

    pub(crate) fn begin_shutdown(&mut self, grace_ms: u64) {
        let at = poll::now_ms() + grace_ms;
        self.shutdown_at = Some(self.shutdown_at.map_or(at, |before| before.min(at)));
        crate::table::signal_everyone(libc::SIGTERM);
        // A stopped process would never hear of it.
        crate::table::signal_everyone(libc::SIGCONT);
        self.reap();
    }

    /// Nothing of the sandbox outlives the agent, also where the kernel does not see to it as for process 1.
    pub(crate) fn end_everything(&mut self) {
        const ROUNDS_MAX: usize = 200;
        if process::own_pid() == 1 {
            return;
        }
        for _ in 0..ROUNDS_MAX {
            crate::table::signal_everyone(libc::SIGKILL);
            loop {
                match process::reap() {
                    Reaped::Ended(..) => {}
                    Reaped::NoChildren => return,
                    Reaped::NoneYet => break,
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
