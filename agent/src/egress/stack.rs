//! The other end of the programs' TCP connections, and the packets of everything else. No connection is answered before
//! `take`: until then its first segment is kept and nothing else, so that what a program's kernel hears is what happened
//! outside.

use super::device::{Link, Wire};
use super::packet::{self, Flow, Kind, Packet, Refusal};
use super::ROUTER_4;
use crate::wire::generated::MAX_CONNECTIONS;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{RecvError, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::HardwareAddress;
use std::collections::HashMap;

pub const DNS_PORT: u16 = 53;
/// A first segment has options of at most 40 bytes; one with data besides is none that any kernel here sends.
const SYN_BYTES_MAX: usize = 128;
/// A kernel repeats its first segment after a second, then after twice as long each time: one that has not, with room for
/// a busy machine, waits no more.
const SILENCE_MS: u64 = 3000;
const SILENCE_AFTER_GAP_MS: u64 = 2000;
/// Between our answer and the program's kernel's there is no network.
const HANDSHAKE_MS: u64 = 10_000;
/// Each sends one segment of every connection that has some.
const PASSES_PER_POLL: usize = 64;

enum Phase {
    /// The host has not said yet what becomes of it.
    Asked {
        syn: Vec<u8>,
        at: u64,
        silent_at: u64,
    },
    Taken {
        socket: SocketHandle,
        since: u64,
        established: bool,
    },
}

struct Connection {
    flow: Flow,
    phase: Phase,
}

/// What a packet asks of the host.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    Connection {
        id: u32,
        flow: Flow,
    },
    /// A connection that was asked for is no longer wanted.
    Gone(u32),
    /// A message to the resolver.
    Query(Flow, &'a [u8]),
    Datagram(Flow, &'a [u8]),
}

/// How a connection stands when it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The program's kernel has not confirmed it yet.
    Opening,
    Open,
    /// Both directions have ended, or ours has and nothing waits for an acknowledgement.
    Sent,
    /// It broke, or was never confirmed.
    Broken,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Bytes,
    Nothing,
    End,
    Broken,
}

pub struct Stack<L: Link> {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire<L>,
    connections: HashMap<u32, Connection>,
    by_flow: HashMap<Flow, u32>,
    last_id: u32,
    /// Something is to be sent, or was received.
    stirred: bool,
    due_at: Option<u64>,
}

fn instant(now: u64) -> Instant {
    Instant::from_millis(now.min(i64::MAX as u64) as i64)
}

impl<L: Link> Stack<L> {
    /// `seed` makes the numbers of segments unguessable.
    pub fn new(link: L, seed: u64, now: u64) -> Self {
        let mut wire = Wire { link, received: Vec::new(), scratch: Vec::new() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, instant(now));
        // It stands for every address outside.
        interface.set_any_ip(true);
        Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            connections: HashMap::new(),
            by_flow: HashMap::new(),
            last_id: 0,
            stirred: false,
            due_at: None,
        }
    }

    /// One packet from the programs' kernel, and what is to be asked of the host for it.
    pub fn receive<'a>(&mut self, bytes: &'a [u8], now: u64) -> Option<Asked<'a>> {
        let packet = packet::parse(bytes)?;
        let to_router = packet.flow.outside.ip() == ROUTER_4;
        match packet.kind {
            Kind::Echo(request) => self.answer(packet::echo_reply(&packet.flow, request)),
            // Connections to it are the host's to refuse, which may serve more there than DNS.
            Kind::Datagram(_) if to_router && packet.flow.outside.port() != DNS_PORT => {
                self.refuse_packet(packet.whole, Refusal::Reset, now);
            }
            Kind::Datagram(payload) if to_router => return Some(Asked::Query(packet.flow, payload)),
            Kind::Datagram(payload) => return Some(Asked::Datagram(packet.flow, payload)),
            Kind::Syn | Kind::Reset | Kind::Segment => return self.segment(&packet, now),
        }
        None
    }

    fn segment(&mut self, packet: &Packet, now: u64) -> Option<Asked<'static>> {
        let known = self.by_flow.get(&packet.flow).copied();
        match known.and_then(|id| self.connections.get_mut(&id).map(|connection| (id, &mut connection.phase))) {
            Some((_, Phase::Taken { .. })) => self.feed(packet.whole, now),
            Some((id, Phase::Asked { syn, at, silent_at })) => match packet.kind {
                Kind::Syn if packet.whole.len() <= SYN_BYTES_MAX => {
                    let gap = now.saturating_sub(*at);
                    (*at, *silent_at) = (now, now + SILENCE_MS.max(2 * gap + SILENCE_AFTER_GAP_MS));
                    packet.whole.clone_into(syn);
                }
                Kind::Reset => {
                    self.forget(id);
                    return Some(Asked::Gone(id));
                }
                _ => {}
            },
            None if packet.kind == Kind::Syn => return self.ask(packet, now),
            // Unknown to us: the stack answers with a reset.
            None => self.feed(packet.whole, now),
        }
        None
    }

    fn ask(&mut self, packet: &Packet, now: u64) -> Option<Asked<'static>> {
        // With no room it is dropped: the program's kernel will ask again.
        if self.connections.len() >= MAX_CONNECTIONS || packet.whole.len() > SYN_BYTES_MAX {
            return None;
        }
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if !self.connections.contains_key(&self.last_id) {
                break;
            }
        }
        let (id, flow) = (self.last_id, packet.flow);
        let phase = Phase::Asked { syn: packet.whole.to_vec(), at: now, silent_at: now + SILENCE_MS };
        self.connections.insert(id, Connection { flow, phase });
        self.by_flow.insert(flow, id);
        self.due_at = Some(self.due_at.unwrap_or(u64::MAX).min(now + SILENCE_MS));
        Some(Asked::Connection { id, flow })
    }

    /// Gives a packet to the connections.
    fn feed(&mut self, bytes: &[u8], now: u64) {
        self.wire.received.clear();
        self.wire.received.extend_from_slice(bytes);
        self.interface.poll_ingress_single(instant(now), &mut self.wire, &mut self.sockets);
        self.stirred = true;
    }

    fn answer(&mut self, packet: Option<Vec<u8>>) {
        if let Some(bytes) = packet {
            self.wire.link.send(&bytes);
        }
    }

    fn refuse_packet(&mut self, bytes: &[u8], how: Refusal, now: u64) {
        let is_tcp = packet::parse(bytes).is_some_and(|packet| packet.kind == Kind::Syn);
        if is_tcp && how == Refusal::Reset {
            // A first segment that nobody listens for is answered with a reset.
            return self.feed(bytes, now);
        }
        self.answer(packet::unreachable(bytes, how));
        if how == Refusal::Prohibited {
            // gVisor passes over this word in IPv6; any other kernel has heard it by now.
            self.answer(packet::unreachable(bytes, Refusal::Unreachable));
        }
    }

    /// A connection that was asked for is not made. One that is gone meanwhile needs no answer.
    pub fn refuse(&mut self, id: u32, how: Refusal, now: u64) {
        if let Some(Connection { phase: Phase::Asked { .. }, .. }) = self.connections.get(&id) {
            if let Some(Connection { phase: Phase::Asked { syn, .. }, .. }) = self.remove(id) {
                self.refuse_packet(&syn, how, now);
            }
        }
    }

    pub fn datagram(&mut self, flow: &Flow, payload: &[u8]) {
        self.answer(packet::datagram(flow, payload));
    }

    pub fn refuse_datagram(&mut self, flow: &Flow, how: Refusal) {
        self.answer(packet::datagram_unreachable(flow, how));
    }

    /// Answers a connection that was asked for, with buffers of `window` bytes. False: it is not there any more.
    pub fn take(&mut self, id: u32, window: usize, now: u64) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        let Phase::Asked { syn, .. } = &mut connection.phase else { return false };
        let syn = std::mem::take(syn);
        let mut socket = Socket::new(SocketBuffer::new(vec![0; window]), SocketBuffer::new(vec![0; window]));
        // No network lies between: waiting for more to send with it only costs time.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        if socket.listen(packet::endpoint(connection.flow.outside)).is_err() {
            return false;
        }
        let socket = self.sockets.add(socket);
        connection.phase = Phase::Taken { socket, since: now, established: false };
        self.feed(&syn, now);
        true
    }

    fn socket(&mut self, id: u32) -> Option<&mut Socket<'static>> {
        match self.connections.get(&id)?.phase {
            Phase::Taken { socket, .. } => Some(self.sockets.get_mut(socket)),
            Phase::Asked { .. } => None,
        }
    }

    /// Moves up to `most` bytes that came from the program to the end of `to`.
    pub fn read(&mut self, id: u32, to: &mut Vec<u8>, most: usize) -> Read {
        let Some(socket) = self.socket(id) else { return Read::Broken };
        let before = to.len();
        let result = loop {
            let left = most - (to.len() - before);
            // The buffer is a ring: what wraps around comes in two pieces.
            let piece = socket.recv(|bytes| {
                let count = bytes.len().min(left);
                to.extend_from_slice(&bytes[..count]);
                (count, count)
            });
            match piece {
                Ok(count) if count > 0 => {}
                Ok(_) => break Read::Nothing,
                Err(RecvError::Finished) => break Read::End,
                Err(RecvError::InvalidState) => break Read::Broken,
            }
        };
        if to.len() == before {
            return result;
        }
        self.stirred = true;
        Read::Bytes
    }

    /// Whether `read` has something else to say than `Nothing`.
    pub fn is_readable(&mut self, id: u32) -> bool {
        self.socket(id).is_some_and(|socket| socket.can_recv() || !socket.may_recv())
    }

    /// How many of `bytes` are on their way to the program now.
    pub fn write(&mut self, id: u32, bytes: &[u8]) -> usize {
        let Some(socket) = self.socket(id) else { return 0 };
        let count = socket.send_slice(bytes).unwrap_or(0);
        self.stirred |= count > 0;
        count
    }

    /// Nothing more goes to the program.
    pub fn finish(&mut self, id: u32) {
        if let Some(socket) = self.socket(id) {
            socket.close();
            self.stirred = true;
        }
    }

    /// How a taken connection stands.
    pub fn standing(&mut self, id: u32, now: u64) -> Standing {
        let Some(Connection { phase: Phase::Taken { socket, since, established }, .. }) = self.connections.get_mut(&id)
        else {
            return Standing::Broken;
        };
        match self.sockets.get::<Socket>(*socket).state() {
            State::SynReceived if now < *since + HANDSHAKE_MS => Standing::Opening,
            // A reset of what was not established yet puts it back to where it began.
            State::SynReceived | State::Listen | State::SynSent => Standing::Broken,
            State::Closed if !*established => Standing::Broken,
            State::Established | State::CloseWait | State::FinWait1 | State::Closing | State::LastAck => {
                *established = true;
                Standing::Open
            }
            State::FinWait2 | State::TimeWait | State::Closed => Standing::Sent,
        }
    }

    /// Breaks a connection off; nothing of it is left.
    pub fn abort(&mut self, id: u32, now: u64) {
        if let Some(socket) = self.socket(id) {
            socket.abort();
            self.send_all(now);
        }
        self.forget(id);
    }

    /// A connection that is over, or is to be answered otherwise.
    pub fn forget(&mut self, id: u32) {
        self.remove(id);
    }

    fn remove(&mut self, id: u32) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        self.by_flow.remove(&connection.flow);
        if let Phase::Taken { socket, .. } = connection.phase {
            self.sockets.remove(socket);
        }
        Some(connection)
    }

    /// Breaks everything off.
    pub fn abort_all(&mut self, now: u64) {
        let ids: Vec<u32> = self.connections.keys().copied().collect();
        for id in ids {
            self.refuse(id, Refusal::Reset, now);
            self.abort(id, now);
        }
    }

    pub fn is_stirred(&self) -> bool {
        self.stirred
    }

    /// When something is to be done although nothing happens.
    pub fn due_at(&self) -> Option<u64> {
        self.due_at
    }

    /// Sends what is to be sent, and gives the connections that programs have given up meanwhile.
    pub fn poll(&mut self, now: u64) -> Vec<u32> {
        self.send_all(now);
        let silent = |one: &Connection| matches!(one.phase, Phase::Asked { silent_at, .. } if silent_at <= now);
        let gone: Vec<u32> = self.connections.iter().filter(|(_, one)| silent(one)).map(|(id, _)| *id).collect();
        for id in &gone {
            self.forget(*id);
        }
        let waits = self.connections.values().filter_map(|connection| match connection.phase {
            Phase::Asked { silent_at, .. } => Some(silent_at),
            Phase::Taken { since, established: false, .. } => Some(since + HANDSHAKE_MS),
            Phase::Taken { .. } => None,
        });
        let segments = self.interface.poll_at(instant(now), &self.sockets);
        let segments = segments.map(|at| u64::try_from(at.total_millis()).unwrap_or(0));
        self.due_at = waits.chain(segments).min();
        gone
    }

    fn send_all(&mut self, now: u64) {
        self.stirred = false;
        for _ in 0..PASSES_PER_POLL {
            if self.interface.poll_egress(instant(now), &mut self.wire, &mut self.sockets) == PollResult::None {
                return;
            }
        }
        self.stirred = true;
    }

    #[cfg(test)]
    pub fn link(&mut self) -> &mut L {
        &mut self.wire.link
    }
}
