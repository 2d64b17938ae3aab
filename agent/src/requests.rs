//! What the host asks for.

use crate::agent::Agent;
use crate::failure::Failure;
use crate::streams::{Kind, Stream, TaskStream, Waiting, BEFORE_START_MAX};
use crate::sys::filter::Filter;
use crate::sys::{process, start, tty};
use crate::wire::generated::{error_kind as kind, host_gone, Credit, Done, Message, MAX_STREAMS};
use crate::workers::{Input, Task};

/// Ids above this are never used by a host.
const STREAM_ID_MAX: u32 = 0x7fff_ffff;
const SIGNAL_MAX: u8 = 64;

impl Agent {
    pub(crate) fn request(&mut self, stream: u32, lane: u8, message: Message) {
        if matches!(message, Message::Signal(_) | Message::Resize(_)) && self.waits_for_start(stream, &message) {
            return;
        }
        match message {
            Message::Ping(ping) => {
                let pong = crate::wire::generated::Pong { token: ping.token };
                self.output.push(0, 0, &Message::Pong(pong));
            }
            Message::Configure(configure) => {
                let Some(filter) = Filter::read(&configure.filter) else { return self.lose_session() };
                self.surroundings.filter = filter;
                self.keep = configure.host_gone == host_gone::KEEP;
                self.surroundings.default_user = configure.default_user;
                self.surroundings.allow_setuid = configure.allow_setuid;
                self.surroundings.env = configure.env;
                self.configure_elevation(configure.elevate);
                if configure.open_files > 0 {
                    self.surroundings.descriptor_limit = (configure.open_files, configure.open_files);
                }
                if !configure.hostname.is_empty() && process::own_pid() == 1 {
                    // A sandbox that may not name itself keeps the name its runtime gave it.
                    let _ = start::set_hostname(&configure.hostname);
                }
            }
            Message::Shutdown(shutdown) => self.begin_shutdown(u64::from(shutdown.grace_ms)),
            Message::Credit(credit) => self.credit(stream, lane, credit.bytes),
            Message::End(_) => self.end_of_input(stream),
            Message::Cancel(_) => self.cancel(stream),
            Message::Signal(signal) => self.signal_stream(stream, signal.signal, signal.group),
            Message::Resize(resize) => self.resize(stream, resize.rows, resize.cols),
            other => self.open(stream, other),
        }
    }

    fn open(&mut self, id: u32, message: Message) {
        if id == 0 || id > STREAM_ID_MAX || self.streams.contains_key(&id) {
            // The host does not know its own streams any more.
            return self.lose_session();
        }
        if self.streams.len() >= MAX_STREAMS {
            let text = format!("{MAX_STREAMS} streams are open already; end one first");
            return self.fail(id, &Failure::new(kind::LIMIT, text));
        }
        match message {
            Message::Connect(connect) => self.connect(id, connect.pid),
            Message::PrepareGuest(request) => match crate::guest::prepare(&request) {
                Ok(()) => {
                    // A template that is saved now has its buffers: every clone would need them at once.
                    self.put_off_idleness();
                    self.limits.watch_group(&self.epoll);
                    self.done(id);
                }
                Err(failure) => self.fail(id, &failure),
            },
            Message::MountShared(request) => match crate::guest::mount_shared(&request) {
                Ok(()) => self.done(id),
                Err(failure) => self.fail(id, &failure),
            },
            Message::RefreshGuest(request) => match crate::guest::refresh(&request) {
                Ok(()) => {
                    self.boot_id = None;
                    self.done(id);
                }
                Err(failure) => self.fail(id, &failure),
            },
            Message::SignalProcess(m) => match signal_process(m.pid, m.signal, m.group) {
                Ok(()) => self.done(id),
                Err(failure) => self.fail(id, &failure),
            },
            Message::OpenEgress(request) => self.open_egress(id, &request),
            Message::TakeConnection(request) => self.take_connection(id, &request),
            Message::DialTcp(dial) => self.dial_tcp(id, &dial.address, dial.port),
            Message::Exec(_) if crate::guest::is_template() => {
                let text = "this guest does not differ from its clones yet: nothing may run in it";
                self.fail(id, &Failure::new(kind::UNSUPPORTED, text));
            }
            Message::Exec(request) => {
                if let Err(failure) = self.room_for_process() {
                    return self.fail(id, &failure);
                }
                let surroundings = self.surroundings.clone();
                self.start_task(id, Box::new(crate::exec::Start { request, surroundings }), false, true);
            }
            Message::ListProcesses(_) => {
                let managed = self.running_pids();
                self.start_task(id, Box::new(crate::table::ListTask::new(managed)), true, false);
            }
            Message::GetUsage(_) => {
                self.start_task(id, Box::new(crate::usage::UsageTask { started_ms: self.started_ms }), false, false);
            }
            other => match crate::files::task(other, &self.surroundings) {
                Some((task, has_out)) => self.start_task(id, task, has_out, false),
                // A message that only the agent sends.
                None => self.lose_session(),
            },
        }
    }

    fn start_task(&mut self, id: u32, task: Box<dyn Task>, has_out: bool, starts_process: bool) {
        let mut stream = TaskStream::new(has_out, starts_process);
        stream.waiting = Waiting::Running;
        let input = Input { room: crate::tasks::CHUNK_BYTES, ..Input::default() };
        if self.workers.run(id, self.session, task, input).is_err() {
            let text = "too many operations wait in the sandbox; try again later";
            return self.fail(id, &Failure::new(kind::LIMIT, text));
        }
        self.starting += usize::from(starts_process);
        self.streams.insert(id, Stream::new(Kind::Task(stream)));
    }

    pub(crate) fn data(&mut self, id: u32, lane: u8, bytes: &[u8]) {
        // A stream that ended meanwhile is fine: the host had not heard of it yet.
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if lane != 0 || bytes.len() as u64 > stream.granted {
            return self.lose_session();
        }
        stream.granted -= bytes.len() as u64;
        match &mut stream.kind {
            Kind::Process(serial) => {
                let serial = *serial;
                if let Some(process) = self.processes.get_mut(&serial) {
                    process.input.push(bytes);
                    let consumed = process.input.take_consumed();
                    self.consumed(id, consumed);
                }
            }
            Kind::Socket(socket) => {
                socket.sink.push(bytes);
                let consumed = socket.sink.take_consumed();
                self.consumed(id, consumed);
            }
            Kind::Egress => self.egress_replies(bytes),
            Kind::Connection(_) => self.connection_data(id, bytes),
            Kind::Task(task) => {
                if !task.input_ended {
                    task.input.extend_from_slice(bytes);
                }
                self.advance(id);
            }
        }
    }

    /// Gives credit on lane in back once a portion has been consumed.
    pub(crate) fn consumed(&mut self, id: u32, bytes: usize) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.owed += bytes as u64;
        if stream.owed >= stream.portion {
            let bytes = stream.owed as u32;
            stream.granted += stream.owed;
            stream.owed = 0;
            self.output.push(id, 0, &Message::Credit(Credit { bytes }));
        }
    }

    fn credit(&mut self, id: u32, lane: u8, bytes: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some(credit) = lane.checked_sub(1).and_then(|index| stream.credit.get_mut(usize::from(index))) else {
            return self.lose_session();
        };
        *credit = credit.saturating_add(u64::from(bytes));
        match &stream.kind {
            Kind::Process(serial) => {
                let serial = *serial;
                self.wake_source(serial, usize::from(lane) - 1);
            }
            Kind::Socket(_) => self.wake_socket(id),
            Kind::Egress => self.wake_egress(),
            Kind::Connection(_) => self.wake_connection(id),
            Kind::Task(_) => {
                self.queue_task(id);
                self.advance(id);
            }
        }
    }

    fn end_of_input(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match &mut stream.kind {
            Kind::Process(serial) => {
                if let Some(process) = self.processes.get_mut(serial) {
                    process.input.end();
                }
            }
            Kind::Socket(socket) => {
                socket.sink.end();
                self.finish_socket(id);
            }
            Kind::Egress => {}
            Kind::Connection(_) => self.connection_end(id),
            Kind::Task(task) => {
                task.input_ended = true;
                self.advance(id);
            }
        }
    }

    fn cancel(&mut self, id: u32) {
        if let Some(stream) = self.streams.remove(&id) {
            self.release(id, stream, true);
            self.output.push(id, 0, &Message::Done(Done {}));
        }
    }

    /// A stream is no more, by the host's wish or because its session is over.
    pub(crate) fn release(&mut self, id: u32, stream: Stream, cancelled: bool) {
        match stream.kind {
            Kind::Process(serial) => self.detach(serial, id, cancelled),
            Kind::Socket(_) => {}
            Kind::Egress => self.close_egress(),
            Kind::Connection(stream) => self.abort_connection(stream.connection),
            Kind::Task(task) => {
                if let Some(task) = task.task {
                    self.workers.cancel(task);
                } else if task.starts_process && cancelled {
                    self.cancelled_starts.insert(id);
                }
            }
        }
    }

    /// True when the stream's process is still being started: the message waits for it.
    fn waits_for_start(&mut self, id: u32, message: &Message) -> bool {
        let Some(Stream { kind: Kind::Task(task), .. }) = self.streams.get_mut(&id) else { return false };
        if task.starts_process && task.before_start.len() < BEFORE_START_MAX {
            task.before_start.push(message.clone());
        }
        true
    }

    fn signal_stream(&mut self, id: u32, signal: u8, group: bool) {
        let Some(Stream { kind: Kind::Process(serial), .. }) = self.streams.get(&id) else { return };
        let Some(process) = self.processes.get(serial) else { return };
        if signal > SIGNAL_MAX || (process.exit.is_some() && !group) {
            return;
        }
        let pid = process.pid as i32;
        let _ = process::kill(if group { -pid } else { pid }, i32::from(signal));
    }

    fn resize(&mut self, id: u32, rows: u16, cols: u16) {
        let Some(Stream { kind: Kind::Process(serial), .. }) = self.streams.get(&id) else { return };
        let Some(process) = self.processes.get(serial).filter(|process| process.pty) else { return };
        if let Some(master) = &process.sources[0].fd {
            if tty::resize(master, rows, cols).is_ok() && process.exit.is_none() {
                tty::tell_resized(master, process.pid as i32);
            }
        }
    }

    pub(crate) fn fail(&mut self, id: u32, failure: &Failure) {
        self.output.push(id, 0, &Message::Failed(failure.to_message()));
    }

    pub(crate) fn done(&mut self, id: u32) {
        self.output.push(id, 0, &Message::Done(Done {}));
    }
}

fn signal_process(pid: u32, signal: u8, group: bool) -> Result<(), Failure> {
    if pid == process::own_pid() || pid == 0 || pid > i32::MAX as u32 || signal > SIGNAL_MAX {
        let text = format!("signal {signal} cannot be sent to process {pid}");
        return Err(Failure::new(kind::INVALID, text));
    }
    let target = if group { -(pid as i32) } else { pid as i32 };
    process::kill(target, i32::from(signal))
        .map_err(|errno| Failure::of(errno, format!("cannot send signal {signal} to process {pid}")))
}
