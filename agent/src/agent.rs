//! The loop: one thread that waits for the host, the processes, the sockets and the workers, and never blocks on one.

use crate::decoder::{Attach, Decoder, Item, FRAME_BYTES_MAX};
use crate::egress::Egress;
use crate::elevation::Elevation;
use crate::exec::Surroundings;
use crate::failure::Outcome;
use crate::limits::Limits;
use crate::output::{Flush, Output};
use crate::process::Process;
use crate::streams::Stream;
use crate::sys::fd::{self, Moved};
use crate::sys::poll::{self, Epoll, Event};
use crate::sys::process::Exit;
use crate::sys::{start, Result};
use crate::token::Token;
use crate::wire::generated::{Hello, Message, GENERATION};
use crate::workers::Workers;
use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How often a host that went away is looked for.
const RETRY_MS: u64 = 100;
/// Bytes read from the host before the other work gets its turn.
const INPUT_BYTES_PER_TURN: usize = 512 * 1024;
const INPUT_BYTES_SMALL: usize = 4096;
/// After this long without anything to do, buffers shrink.
const IDLE_MS: u64 = 1000;
/// For SIGTERM; the host's Shutdown says its own.
const DEFAULT_GRACE_MS: u64 = 2000;

pub struct Agent {
    pub(crate) epoll: Epoll,
    input: OwnedFd,
    input_readable: bool,
    buffer: Vec<u8>,
    comfort: usize,
    decoder: Decoder,
    pub(crate) output: Output,
    signals: OwnedFd,
    pub(crate) workers: Workers,
    /// Counts attaches, so that what an earlier session asked for is known as its own.
    pub(crate) session: u32,
    pub(crate) attached: bool,
    pub(crate) keep: bool,
    pub(crate) streams: HashMap<u32, Stream>,
    /// Lanes with something to send, in turn.
    pub(crate) ready: VecDeque<(u32, u8)>,
    /// Sources nobody listens to, in turn.
    pub(crate) drains: VecDeque<(u32, u8)>,
    pub(crate) processes: HashMap<u32, Process>,
    pub(crate) by_pid: HashMap<u32, u32>,
    pub(crate) ended: VecDeque<u32>,
    pub(crate) next_serial: u32,
    /// Starts that a worker has not reported yet.
    pub(crate) starting: usize,
    /// Streams cancelled while their process was being started.
    pub(crate) cancelled_starts: HashSet<u32>,
    /// Ends of processes that no start has reported yet.
    pub(crate) early: HashMap<u32, Exit>,
    pub(crate) surroundings: Surroundings,
    pub(crate) elevation: Elevation,
    pub(crate) limits: Limits,
    /// The interface, once it is made, or why it could not be.
    pub(crate) device: Option<Outcome<Arc<OwnedFd>>>,
    pub(crate) egress: Option<Box<Egress>>,
    pub(crate) started_ms: u64,
    /// None until a host is told of it.
    pub(crate) boot_id: Option<String>,
    retry_at: Option<u64>,
    pub(crate) shutdown_at: Option<u64>,
    idle_at: Option<u64>,
    pub(crate) over: bool,
}

/// The kernel's, or where it tells none (gVisor), one of this agent's life, which is as long there.
pub(crate) fn boot_id() -> String {
    let told = crate::table::first_line("/proc/sys/kernel/random/boot_id");
    if !told.is_empty() {
        return told;
    }
    let number = u128::from_be_bytes(crate::sys::process::random());
    let hex = format!("{number:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

impl Agent {
    pub fn new(
        input: OwnedFd,
        output: OwnedFd,
        surroundings: Surroundings,
        device: Option<Outcome<OwnedFd>>,
    ) -> Result<Self> {
        let signals = poll::signal_descriptor(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT])?;
        let epoll = Epoll::new()?;
        let input = crate::input::pollable(&epoll, input)?;
        fd::set_nonblocking(&output, true)?;
        let always = epoll.add(&output, Token::Output.pack(), poll::WRITABLE).is_err();
        let workers = Workers::new(poll::event_counter()?);
        epoll.add(&signals, Token::Signals.pack(), poll::READABLE)?;
        epoll.add(workers.wake_descriptor(), Token::Workers.pack(), poll::READABLE)?;
        if always {
            // A file never says that it can be written; it always can.
            fd::set_nonblocking(&output, false)?;
        }
        Ok(Self {
            epoll,
            input,
            input_readable: true,
            buffer: Vec::new(),
            comfort: INPUT_BYTES_SMALL,
            decoder: Decoder::default(),
            output: Output::new(output),
            signals,
            workers,
            session: 0,
            attached: false,
            keep: false,
            streams: HashMap::new(),
            ready: VecDeque::new(),
            drains: VecDeque::new(),
            processes: HashMap::new(),
            by_pid: HashMap::new(),
            ended: VecDeque::new(),
            next_serial: 1,
            starting: 0,
            cancelled_starts: HashSet::new(),
            early: HashMap::new(),
            surroundings,
            elevation: Elevation::default(),
            limits: Limits::default(),
            device: device.map(|made| made.map(Arc::new)),
            egress: None,
            started_ms: poll::clock_ms(libc::CLOCK_BOOTTIME),
            boot_id: if crate::guest::is_guest() { None } else { Some(boot_id()) },
            retry_at: None,
            shutdown_at: None,
            idle_at: None,
            over: false,
        })
    }

    /// Serves until the sandbox is to end.
    pub fn run(&mut self) {
        let mut events = Vec::with_capacity(poll::EVENTS_PER_WAIT);
        while !self.over {
            self.epoll.wait(self.timeout(), &mut events);
            if !events.is_empty() {
                self.put_off_idleness();
            }
            for event in &events {
                self.handle(*event);
            }
            self.timers();
            self.read_host();
            self.drain();
            self.egress_turn();
            self.pump();
        }
        let _ = self.output.flush();
        self.end_everything();
    }

    fn has_work(&self) -> bool {
        !self.drains.is_empty()
            || self.egress.as_ref().is_some_and(|egress| egress.is_busy())
            || (self.output.writable && !self.ready.is_empty())
            || (self.input_readable && !self.output.is_crowded())
    }

    fn timeout(&self) -> i32 {
        if self.has_work() {
            return 0;
        }
        let egress = self.egress.as_ref().and_then(|egress| egress.stack.due_at());
        let waits = [self.retry_at, self.shutdown_at, self.idle_at, self.elevation.due_at(), egress];
        let soonest = waits.into_iter().flatten().min();
        soonest.map_or(-1, |at| at.saturating_sub(poll::now_ms()).min(60_000) as i32)
    }

    fn timers(&mut self) {
        let waits = [self.retry_at, self.shutdown_at, self.idle_at, self.elevation.due_at()];
        if waits.iter().all(Option::is_none) {
            return;
        }
        let now = poll::now_ms();
        self.elevation.end_due(now);
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now);
        if due(self.retry_at) {
            self.retry_at = None;
            self.input_readable = true;
        }
        if due(self.shutdown_at) {
            self.over = true;
        }
        if due(self.idle_at) && !self.has_work() {
            self.idle_at = None;
            self.output.shrink();
            self.comfort = INPUT_BYTES_SMALL;
            if self.buffer.is_empty() {
                self.buffer = Vec::new();
            }
            self.streams.shrink_to_fit();
            start::trim_memory();
        }
    }

    fn handle(&mut self, event: Event) {
        match Token::unpack(event.token) {
            Token::Input => self.input_readable = self.retry_at.is_none(),
            Token::Output => self.output.writable = true,
            Token::Signals => self.handle_signals(),
            Token::Workers => self.handle_finished(),
            Token::Process(serial, which) => self.process_event(serial, which, event.bits),
            Token::Socket(stream) => self.socket_event(stream, event.bits),
            Token::Watch(stream) => self.watch_event(stream),
            Token::Elevation(0) => self.accept_callers(),
            Token::Elevation(caller) => self.caller_event(caller),
            Token::Limits(_) => self.look_at_limits(),
            Token::Egress => self.egress_event(),
        }
    }

    /// What has just taken long was no idleness.
    pub(crate) fn put_off_idleness(&mut self) {
        self.idle_at = Some(poll::now_ms() + IDLE_MS);
    }

    fn handle_signals(&mut self) {
        loop {
            let signals = poll::pending_signals(&self.signals);
            if signals.is_empty() {
                break;
            }
            if signals.iter().any(|s| *s == libc::SIGTERM || *s == libc::SIGINT) {
                self.begin_shutdown(DEFAULT_GRACE_MS);
            }
        }
        self.reap();
    }

    fn read_host(&mut self) {
        let mut budget = INPUT_BYTES_PER_TURN;
        while self.input_readable && budget > 0 && !self.output.is_crowded() && !self.over {
            let most = self.comfort.min(FRAME_BYTES_MAX);
            match fd::read_append(&self.input, &mut self.buffer, most) {
                Ok(Moved::Bytes(0)) => {
                    self.input_readable = false;
                    self.host_gone();
                }
                Ok(Moved::Bytes(count)) => {
                    if count == most {
                        self.comfort = FRAME_BYTES_MAX;
                    }
                    budget = budget.saturating_sub(count);
                    self.decode();
                }
                Ok(Moved::WouldBlock) => self.input_readable = false,
                Err(_) => {
                    self.input_readable = false;
                    self.host_gone();
                }
            }
        }
    }

    fn decode(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut at = 0;
        loop {
            let rest = &buffer[at..];
            let step = self.decoder.decode(rest);
            let idle = step.used == 0 && step.item.is_none();
            match step.item {
                None => {}
                Some(Item::Attach(attach)) => self.attach(attach),
                Some(Item::Message { stream, lane, message }) => self.request(stream, lane, message),
                Some(Item::Data { stream, lane, start, length }) => {
                    self.data(stream, lane, &rest[start..start + length])
                }
                Some(Item::Lost) => self.forget_session(),
            }
            at += step.used;
            if idle || at == buffer.len() {
                break;
            }
        }
        self.buffer = buffer;
        self.buffer.drain(..at);
    }

    fn attach(&mut self, attach: Attach) {
        let reattached = self.session > 0;
        self.forget_session();
        if attach.lowest > GENERATION || attach.highest < GENERATION {
            self.decoder.reset();
            self.output.attached(0, attach.tag, &attach.nonce);
            return;
        }
        self.session += 1;
        self.attached = true;
        self.output.attached(GENERATION, attach.tag, &attach.nonce);
        let hello = Hello {
            agent_version: env!("CARGO_PKG_VERSION").to_string(),
            kernel_release: crate::sys::process::kernel_release(),
            boot_id: self.told_boot_id(),
            pid: crate::sys::process::own_pid(),
            reattached,
        };
        self.output.push(0, 0, &Message::Hello(hello));
    }

    /// A template's kernel has none yet: what it made of it would be all clones'.
    fn told_boot_id(&mut self) -> String {
        if crate::guest::is_template() {
            return String::new();
        }
        self.boot_id.get_or_insert_with(boot_id).clone()
    }

    /// Streams end without a word; processes go on.
    pub(crate) fn forget_session(&mut self) {
        self.attached = false;
        self.output.forget();
        self.ready.clear();
        self.cancelled_starts.clear();
        let streams = std::mem::take(&mut self.streams);
        for (id, stream) in streams {
            self.release(id, stream, false);
        }
    }

    /// The host no longer follows the wire: nothing more of it is believed until it attaches anew.
    pub(crate) fn lose_session(&mut self) {
        self.forget_session();
        self.decoder.reset();
    }

    pub(crate) fn host_gone(&mut self) {
        if !self.keep {
            self.over = true;
            return;
        }
        self.forget_session();
        self.decoder.reset();
        self.buffer.clear();
        self.output.clear();
        self.retry_at = Some(poll::now_ms() + RETRY_MS);
    }

    fn pump(&mut self) {
        /// Data frames before the host's own messages get their turn.
        const FRAMES_PER_TURN: usize = 32;
        for _ in 0..FRAMES_PER_TURN {
            match self.output.flush() {
                Flush::Gone => {
                    self.output.clear();
                    if self.attached || !self.keep {
                        self.host_gone();
                    }
                    return;
                }
                Flush::Blocked => return,
                Flush::Clear => {}
            }
            if !self.attached || !self.next_frame() {
                break;
            }
        }
        let _ = self.output.flush();
    }
}
