//! Egress as a stream of the host's: records of what programs ask go out, its answers come in.

use super::device::Link;
use super::outbox::{Inbox, Outbox};
use super::packet::{self, Flow, Refusal};
use super::stack::{Asked, Stack};
use super::{interface, INTERFACE, MTU, ROUTER_4};
use crate::agent::Agent;
use crate::failure::Failure;
use crate::streams::{Kind, Stream};
use crate::sys::fd::{self, Moved};
use crate::sys::{poll, process};
use crate::token::Token;
use crate::wire::codec::Malformed;
use crate::wire::generated::{
    egress_reply_kind, egress_request_kind, error_kind as kind, refusal, EgressReply, EgressRequest, Message,
    OpenEgress, Opened, LANE_OUT, MAX_DATAGRAM_BYTES, MAX_QUERIES, MAX_QUERY_BYTES,
};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Packets that are read before the other work gets its turn: a flood of them slows nobody else.
const PACKETS_PER_TURN: usize = 64;
/// A DNS message has a header of this length.
const QUERY_BYTES_MIN: usize = 12;

pub struct Egress {
    pub stream: u32,
    device: Arc<OwnedFd>,
    pub stack: Stack<Device>,
    /// The host's streams by the connections they are.
    pub streams: HashMap<u32, u32>,
    queries: HashMap<u32, Flow>,
    last_query: u32,
    outbox: Outbox,
    queued: bool,
    inbox: Inbox,
    readable: bool,
    buffer: Vec<u8>,
}

pub struct Device(Arc<OwnedFd>);

impl Link for Device {
    fn send(&mut self, packet: &[u8]) {
        let _ = fd::write(&self.0, packet);
    }
}

impl Egress {
    /// Something is to be done now.
    pub fn is_busy(&self) -> bool {
        self.readable || self.stack.is_stirred()
    }

    /// Reads what programs sent. Err: there is no interface any more.
    fn read(&mut self, now: u64) -> Result<(), crate::sys::Errno> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(MTU, 0);
        let mut result = Ok(());
        for _ in 0..PACKETS_PER_TURN {
            match fd::read(&self.device, &mut buffer) {
                Ok(Moved::Bytes(count)) => {
                    if let Some(asked) = self.stack.receive(&buffer[..count], now) {
                        self.asked(asked, now);
                    }
                }
                Ok(Moved::WouldBlock) => {
                    self.readable = false;
                    break;
                }
                Err(errno) => {
                    result = Err(errno);
                    break;
                }
            }
        }
        self.buffer = buffer;
        result
    }

    fn asked(&mut self, asked: Asked, now: u64) {
        let request = match asked {
            Asked::Gone(id) => gone(id),
            // The program's kernel repeats it.
            Asked::Connection { id, .. } if self.outbox.is_full() => {
                self.stack.forget(id);
                return;
            }
            Asked::Connection { id, flow } => {
                let (address, port) = (packet::octets(flow.outside.ip()), flow.outside.port());
                EgressRequest { kind: egress_request_kind::CONNECT, id, address, port, ..EgressRequest::default() }
            }
            Asked::Query(flow, payload) => match self.query(flow, payload) {
                Some(request) => request,
                None => return,
            },
            Asked::Datagram(flow, payload) => {
                if self.outbox.is_full() || payload.len() > MAX_DATAGRAM_BYTES {
                    return;
                }
                EgressRequest {
                    kind: egress_request_kind::DATAGRAM,
                    address: packet::octets(flow.outside.ip()),
                    port: flow.outside.port(),
                    source_port: flow.inside.port(),
                    payload: payload.to_vec(),
                    ..EgressRequest::default()
                }
            }
        };
        let _ = now;
        self.outbox.push(&request);
    }

    fn query(&mut self, flow: Flow, payload: &[u8]) -> Option<EgressRequest> {
        let fits = (QUERY_BYTES_MIN..=MAX_QUERY_BYTES).contains(&payload.len());
        if !fits || self.outbox.is_full() || self.queries.len() >= MAX_QUERIES {
            return None;
        }
        self.last_query = self.last_query.wrapping_add(1);
        let id = self.last_query;
        // A number comes round only after four thousand million others; one still open then loses its answer.
        self.queries.insert(id, flow);
        let payload = payload.to_vec();
        Some(EgressRequest { kind: egress_request_kind::QUERY, id, payload, ..EgressRequest::default() })
    }

    fn reply(&mut self, reply: EgressReply, now: u64) -> Result<(), Malformed> {
        match reply.kind {
            egress_reply_kind::REFUSE => self.stack.refuse(reply.id, refusal_of(reply.refusal)?, now),
            egress_reply_kind::ANSWER => {
                if let Some(flow) = self.queries.remove(&reply.id).filter(|_| !reply.payload.is_empty()) {
                    self.stack.datagram(&flow, within_packet(&reply.payload)?);
                }
            }
            egress_reply_kind::DATAGRAM => self.stack.datagram(&flow_of(&reply)?, within_packet(&reply.payload)?),
            egress_reply_kind::REFUSE_DATAGRAM => {
                self.stack.refuse_datagram(&flow_of(&reply)?, refusal_of(reply.refusal)?);
            }
            _ => return Err(Malformed("a reply of an unknown kind")),
        }
        Ok(())
    }
}

fn gone(id: u32) -> EgressRequest {
    EgressRequest { kind: egress_request_kind::GONE, id, ..EgressRequest::default() }
}

fn refusal_of(number: u8) -> Result<Refusal, Malformed> {
    match number {
        refusal::RESET => Ok(Refusal::Reset),
        refusal::UNREACHABLE => Ok(Refusal::Unreachable),
        refusal::PROHIBITED => Ok(Refusal::Prohibited),
        _ => Err(Malformed("a refusal of an unknown kind")),
    }
}

fn within_packet(payload: &[u8]) -> Result<&[u8], Malformed> {
    if payload.len() <= MAX_DATAGRAM_BYTES {
        Ok(payload)
    } else {
        Err(Malformed("a datagram larger than the interface's packets"))
    }
}

fn flow_of(reply: &EgressReply) -> Result<Flow, Malformed> {
    let outside = packet::address_of(&reply.address).ok_or(Malformed("an address of no known length"))?;
    let inside = SocketAddr::new(packet::inside_for(outside), reply.source_port);
    Ok(Flow { inside, outside: SocketAddr::new(outside, reply.port) })
}

impl Agent {
    pub(crate) fn open_egress(&mut self, id: u32, request: &OpenEgress) {
        if self.egress.is_some() {
            return self.fail(id, &Failure::new(kind::EXISTS, "egress is open already"));
        }
        if request.resolver.parse() != Ok(ROUTER_4) {
            let text = format!("the resolver inside is {ROUTER_4}, not {:?}", request.resolver);
            return self.fail(id, &Failure::new(kind::INVALID, text));
        }
        // Made at the start where the right to make it was given up since; else now.
        let device = match self.device.take().unwrap_or_else(|| interface::make().map(Arc::new)) {
            Ok(device) => device,
            Err(failure) => return self.fail(id, &failure),
        };
        self.device = Some(Ok(Arc::clone(&device)));
        if let Err(errno) = self.epoll.add_level(&device, Token::Egress.pack()) {
            return self.fail(id, &Failure::of(errno, format!("cannot wait for packets of {INTERFACE}")));
        }
        let seed = u64::from_le_bytes(process::random()[..8].try_into().unwrap_or_default());
        let stack = Stack::new(Device(Arc::clone(&device)), seed, poll::now_ms());
        self.egress = Some(Box::new(Egress {
            stream: id,
            device,
            stack,
            streams: HashMap::new(),
            queries: HashMap::new(),
            last_query: 0,
            outbox: Outbox::default(),
            queued: false,
            inbox: Inbox::default(),
            readable: false,
            buffer: Vec::new(),
        }));
        self.streams.insert(id, Stream::new(Kind::Egress));
        self.output.push(id, 0, &Message::Opened(Opened {}));
    }

    pub(crate) fn egress_event(&mut self) {
        if let Some(egress) = &mut self.egress {
            egress.readable = true;
        }
    }

    /// Packets from the programs, to the programs, and what follows from both.
    pub(crate) fn egress_turn(&mut self) {
        let Some(egress) = &mut self.egress else { return };
        let now = poll::now_ms();
        if !egress.is_busy() && egress.stack.due_at().is_none_or(|at| at > now) {
            return;
        }
        let read = if egress.readable { egress.read(now) } else { Ok(()) };
        for id in egress.stack.poll(now) {
            egress.outbox.push(&gone(id));
        }
        let (id, streams) = (egress.stream, egress.streams.values().copied().collect::<Vec<u32>>());
        for stream in streams {
            self.progress_connection(stream, now);
        }
        self.wake_egress();
        if let Err(errno) = read {
            if let Some(stream) = self.streams.remove(&id) {
                self.release(id, stream, true);
                self.fail(id, &Failure::of(errno, format!("the interface {INTERFACE} is gone")));
            }
        }
    }

    pub(crate) fn egress_replies(&mut self, bytes: &[u8]) {
        let Some(egress) = &mut self.egress else { return };
        let now = poll::now_ms();
        let replies = egress.inbox.push(bytes);
        let done = replies.and_then(|list| list.into_iter().try_for_each(|reply| egress.reply(reply, now)));
        match done {
            Ok(()) => {
                let id = egress.stream;
                self.consumed(id, bytes.len());
            }
            Err(_) => self.lose_session(),
        }
    }

    /// Puts the records among what is to be sent, when there are some and they may go.
    pub(crate) fn wake_egress(&mut self) {
        let Some(egress) = &mut self.egress else { return };
        let credit = self.streams.get(&egress.stream).map_or(0, |stream| stream.credit[0]);
        if !egress.queued && credit > 0 && !egress.outbox.is_empty() {
            egress.queued = true;
            self.ready.push_back((egress.stream, LANE_OUT));
        }
    }

    pub(crate) fn send_egress(&mut self, id: u32) {
        let (Some(egress), Some(stream)) = (&mut self.egress, self.streams.get_mut(&id)) else { return };
        egress.queued = false;
        let most = usize::try_from(stream.credit[0]).unwrap_or(usize::MAX);
        let sent = self.output.data(id, LANE_OUT, most, |buffer, most| egress.outbox.take(buffer, most));
        stream.credit[0] -= sent as u64;
        self.wake_egress();
    }

    /// The host no longer listens: every connection is broken off, and the interface leads nowhere.
    pub(crate) fn close_egress(&mut self) {
        let Some(mut egress) = self.egress.take() else { return };
        self.epoll.remove(&egress.device);
        egress.stack.abort_all(poll::now_ms());
        for id in egress.streams.values() {
            if self.streams.remove(id).is_some() {
                self.fail(*id, &Failure::new(kind::IO, "egress was closed"));
            }
        }
    }
}
