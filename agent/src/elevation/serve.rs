//! The agent's end: connections from inside, each for one command.

use super::{hang_up, socket_name, Closing, Reply, Request, Start, REQUEST_BYTES_MAX};
use crate::agent::Agent;
use crate::failure::Failure;
use crate::sys::process::{self, Exit};
use crate::sys::{local, poll};
use crate::token::Token;
use crate::users::resolve;
use crate::wire::generated::error_kind as kind;
use crate::workers::{Input, Next, Output};
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;

/// Commands at once; each holds a connection for as long as it runs.
const CALLERS_MAX: usize = 64;
/// Connections taken before the other work gets its turn.
const ACCEPTS_PER_TURN: usize = 16;
const READ_BYTES: usize = 64 * 1024;
/// Signals kept while the command is being started; more are dropped.
const SIGNALS_KEPT: usize = 16;
const SIGNAL_MAX: u8 = 64;
/// An honest caller says what it wants at once, however busy the machine.
const SILENT_MS: u64 = 1000;
/// From the word to the end of a command whose caller is gone.
const GRACE_MS: u64 = 2000;

enum Stage {
    /// Up to its length, then all of it.
    Reading(Vec<u8>),
    Starting {
        background: bool,
        signals: Vec<u8>,
    },
    Running(u32),
}

struct Caller {
    fd: OwnedFd,
    stage: Stage,
    /// The sender of the first byte, once it is known to be allowed.
    uid: Option<u32>,
    streams: Vec<OwnedFd>,
    since_ms: u64,
}

#[derive(Default)]
pub struct Elevation {
    listener: Option<OwnedFd>,
    /// Whose requests are taken besides root's.
    default_uid: u32,
    callers: HashMap<u32, Caller>,
    by_pid: HashMap<u32, u32>,
    next: u32,
    /// Commands whose callers are gone, by the time of their end; a pid stays here until it has been reaped.
    hung_up: VecDeque<(u64, u32)>,
}

impl Elevation {
    pub fn due_at(&self) -> Option<u64> {
        self.hung_up.front().map(|(at, _)| *at)
    }

    pub fn end_due(&mut self, now: u64) {
        while let Some((_, pid)) = self.hung_up.front().copied().filter(|(at, _)| *at <= now) {
            self.hung_up.pop_front();
            let _ = process::kill(-(pid as i32), libc::SIGKILL);
        }
    }

    fn hang_up(&mut self, pid: u32) {
        hang_up(pid);
        self.hung_up.push_back((poll::now_ms() + GRACE_MS, pid));
    }
}

impl Agent {
    pub(crate) fn configure_elevation(&mut self, wanted: bool) {
        if !wanted {
            self.elevation.listener = None;
            return;
        }
        // Nothing of the sandbox's runs yet when an agent is configured first, so its files cannot hold us up.
        let default = resolve("", &self.surroundings.default_user, &self.surroundings.databases);
        self.elevation.default_uid = default.map_or(0, |user| user.uid);
        if self.elevation.listener.is_some() {
            return;
        }
        let listening = local::listen(&socket_name())
            .and_then(|fd| self.epoll.add_level(&fd, Token::Elevation(0).pack()).map(|()| fd));
        match listening {
            Ok(fd) => self.elevation.listener = Some(fd),
            Err(errno) => eprintln!("bulkhead-agent: sudo will not work: cannot listen for it: {errno}"),
        }
    }

    pub(crate) fn accept_callers(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = &self.elevation.listener else { return };
            let fd = match local::accept(listener) {
                Ok(Some(fd)) => fd,
                // Without a free descriptor they wait until there is one.
                Ok(None) | Err(_) => return,
            };
            if !self.room_for_caller() {
                let text = format!("{CALLERS_MAX} commands run by sudo already; end one first");
                let _ = local::send_plain(&fd, &Reply::Failed(Failure::new(kind::LIMIT, text)).write());
                continue;
            }
            self.elevation.next = self.elevation.next.wrapping_add(1).max(1);
            let serial = self.elevation.next;
            let token = Token::Elevation(serial).pack();
            if self.elevation.callers.contains_key(&serial) || self.epoll.add_level(&fd, token).is_err() {
                continue;
            }
            let caller = Caller {
                fd,
                stage: Stage::Reading(Vec::new()),
                uid: None,
                streams: Vec::new(),
                since_ms: poll::now_ms(),
            };
            self.elevation.callers.insert(serial, caller);
            self.reply(serial, &Reply::Ready);
        }
    }

    /// Whoever has said nothing for long, and so may be anybody, makes room for the next.
    fn room_for_caller(&mut self) -> bool {
        let callers = &mut self.elevation.callers;
        if callers.len() < CALLERS_MAX {
            return true;
        }
        let long_ago = poll::now_ms().saturating_sub(SILENT_MS);
        let silent = callers.iter().filter(|(_, caller)| caller.uid.is_none() && caller.since_ms < long_ago);
        let oldest = silent.min_by_key(|(_, caller)| caller.since_ms).map(|(serial, _)| *serial);
        oldest.is_some_and(|serial| callers.remove(&serial).is_some())
    }

    /// A caller that does not take its few replies is gone for us.
    fn reply(&mut self, serial: u32, reply: &Reply) {
        let Some(caller) = self.elevation.callers.get(&serial) else { return };
        let bytes = reply.write();
        if local::send_plain(&caller.fd, &bytes).ok() != Some(bytes.len()) {
            self.caller_gone(serial);
        }
    }

    /// The last reply; the connection ends with it.
    fn finish_caller(&mut self, serial: u32, reply: &Reply) {
        self.reply(serial, reply);
        if let Some(caller) = self.elevation.callers.remove(&serial) {
            self.close_streams(caller.streams);
        }
    }

    fn refuse(&mut self, serial: u32, which: u16, text: impl Into<String>) {
        self.finish_caller(serial, &Reply::Failed(Failure::new(which, text)));
    }

    fn close_streams(&self, streams: Vec<OwnedFd>) {
        if !streams.is_empty() {
            self.workers.cancel(Box::new(Closing(streams)));
        }
    }

    fn caller_gone(&mut self, serial: u32) {
        let Some(caller) = self.elevation.callers.remove(&serial) else { return };
        if let Stage::Running(pid) = caller.stage {
            self.elevation.by_pid.remove(&pid);
            self.elevation.hang_up(pid);
        }
        self.close_streams(caller.streams);
    }

    pub(crate) fn caller_event(&mut self, serial: u32) {
        let Some(caller) = self.elevation.callers.get_mut(&serial) else { return };
        let mut buffer = vec![0u8; READ_BYTES];
        let received = match local::receive(&caller.fd, &mut buffer) {
            Err(errno) if errno.0 == libc::EAGAIN => return,
            Ok(received) if received.bytes > 0 => received,
            _ => return self.caller_gone(serial),
        };
        let bytes = &buffer[..received.bytes];
        if caller.uid.is_some() {
            self.close_streams(received.descriptors);
        } else {
            caller.streams = received.descriptors;
            match received.uid {
                Some(uid) if uid == 0 || uid == self.elevation.default_uid => caller.uid = Some(uid),
                Some(uid) => {
                    let text = format!("user {uid} may not run commands as another; only the sandbox's own user may");
                    return self.refuse(serial, kind::PERMISSION, text);
                }
                None => return self.refuse(serial, kind::PERMISSION, "the kernel does not say who asks"),
            }
            if caller.streams.len() != local::DESCRIPTORS {
                return self.refuse(serial, kind::INVALID, "the caller's standard streams are missing");
            }
        }
        self.caller_bytes(serial, bytes);
    }

    fn caller_bytes(&mut self, serial: u32, bytes: &[u8]) {
        let Some(caller) = self.elevation.callers.get_mut(&serial) else { return };
        match &mut caller.stage {
            Stage::Running(pid) => {
                for signal in bytes.iter().filter(|signal| (1..=SIGNAL_MAX).contains(*signal)) {
                    let _ = process::kill(-(*pid as i32), i32::from(*signal));
                }
            }
            Stage::Starting { signals, .. } => {
                let room = SIGNALS_KEPT - signals.len();
                signals.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Stage::Reading(buffer) => {
                buffer.extend_from_slice(bytes);
                let Some(length) = buffer.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize) else {
                    return;
                };
                if length > REQUEST_BYTES_MAX {
                    let text = format!("the command line and environment have more than {REQUEST_BYTES_MAX} bytes");
                    return self.refuse(serial, kind::LIMIT, text);
                }
                if buffer.len() < 4 + length {
                    return;
                }
                let signals = buffer.split_off(4 + length);
                match Request::read(&buffer[4..]) {
                    Ok(request) => self.start_for(serial, request, &signals),
                    Err(malformed) => self.refuse(serial, kind::INVALID, malformed.0),
                }
            }
        }
    }

    fn start_for(&mut self, serial: u32, request: Request, signals: &[u8]) {
        if request.only_ask {
            return self.finish_caller(serial, &Reply::Exited { code: 0, signal: 0 });
        }
        let Some(caller) = self.elevation.callers.get_mut(&serial) else { return };
        caller.stage = Stage::Starting { background: request.background, signals: Vec::new() };
        let streams = std::mem::take(&mut caller.streams);
        let surroundings = self.surroundings.clone();
        let task = Box::new(Start { caller: serial, request, streams, surroundings });
        let input = Input { room: crate::tasks::CHUNK_BYTES, ..Input::default() };
        if self.workers.run(0, self.session, task, input).is_err() {
            return self.refuse(serial, kind::LIMIT, "too many operations wait in the sandbox; try again later");
        }
        self.starting += 1;
        self.caller_bytes(serial, signals);
    }

    /// What a worker made of a caller's request.
    pub(crate) fn elevated(&mut self, serial: u32, result: Result<Output, Failure>) {
        let pid = match result {
            Ok(Output { next: Next::Elevated(pid), .. }) => pid,
            Ok(_) => return,
            Err(failure) => return self.finish_caller(serial, &Reply::Failed(failure)),
        };
        let ended = self.early.remove(&pid);
        let Some(caller) = self.elevation.callers.get_mut(&serial) else {
            if ended.is_none() {
                self.elevation.hang_up(pid);
            }
            return;
        };
        let stage = std::mem::replace(&mut caller.stage, Stage::Running(pid));
        let Stage::Starting { background, signals } = stage else { return };
        if background {
            return self.finish_caller(serial, &Reply::Started);
        }
        self.elevation.by_pid.insert(pid, serial);
        match ended {
            Some(exit) => {
                self.elevated_ended(pid, exit);
            }
            None => {
                self.reply(serial, &Reply::Started);
                self.caller_bytes(serial, &signals);
            }
        }
    }

    /// False: the process was none of these.
    pub(crate) fn elevated_ended(&mut self, pid: u32, exit: Exit) -> bool {
        let before = self.elevation.hung_up.len();
        self.elevation.hung_up.retain(|(_, hung_up)| *hung_up != pid);
        let Some(serial) = self.elevation.by_pid.remove(&pid) else {
            return self.elevation.hung_up.len() < before;
        };
        if let Some(caller) = self.elevation.callers.get_mut(&serial) {
            // Nobody is left to hang up on when the last reply is not taken.
            caller.stage = Stage::Reading(Vec::new());
        }
        self.finish_caller(serial, &Reply::Exited { code: exit.code, signal: exit.signal });
        true
    }
}
