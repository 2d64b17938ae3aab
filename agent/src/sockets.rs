//! Connections to what listens inside, and the queue of lanes with something to send.

use crate::agent::Agent;
use crate::failure::Failure;
use crate::streams::{Kind, SocketStream, Stream};
use crate::sys::fd::{self, Moved};
use crate::sys::{poll, socket, Errno};
use crate::token::Token;
use crate::wire::generated::{error_kind as kind, End, Message, Opened, LANE_OUT};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

impl Agent {
    /// No address, or `localhost`, is the loopback interface: IPv4 first, then IPv6.
    pub(crate) fn dial_tcp(&mut self, id: u32, address: &str, port: u16) {
        let local = address.is_empty() || address == "localhost";
        let ip = if local { Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { address.parse() };
        let Ok(ip) = ip else {
            let text = format!("\"{address}\" is not an IP address; the sandbox resolves no names");
            return self.fail(id, &Failure::new(kind::INVALID, text));
        };
        let fallback = local.then_some(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port));
        self.dial(id, SocketAddr::new(ip, port), fallback, None);
    }

    fn dial(&mut self, id: u32, address: SocketAddr, fallback: Option<SocketAddr>, before: Option<Stream>) {
        let connected = socket::connect_tcp(address)
            .and_then(|fd| self.epoll.add(&fd, Token::Socket(id).pack(), poll::READABLE | poll::WRITABLE).map(|()| fd));
        match (connected, fallback) {
            (Err(_), Some(next)) => self.dial(id, next, None, before),
            (Err(errno), None) => self.fail(id, &dial_failure(errno, &address.to_string())),
            (Ok(fd), fallback) => {
                let mut socket = SocketStream::new(fd, true, address.to_string());
                socket.fallback = fallback;
                let mut stream = before.unwrap_or_else(|| Stream::new(Kind::Process(0)));
                if let Kind::Socket(old) = &mut stream.kind {
                    socket.sink.take_over(&mut old.sink);
                }
                stream.kind = Kind::Socket(socket);
                self.streams.insert(id, stream);
            }
        }
    }

    fn socket(&mut self, id: u32) -> Option<(&mut SocketStream, u64)> {
        let stream = self.streams.get_mut(&id)?;
        match &mut stream.kind {
            Kind::Socket(socket) => Some((socket, stream.credit[0])),
            _ => None,
        }
    }

    pub(crate) fn socket_event(&mut self, id: u32, bits: u32) {
        let Some((socket, _)) = self.socket(id) else { return };
        if socket.connecting && bits & (poll::WRITABLE | poll::CLOSED) != 0 {
            match socket::connect_error(&socket.fd) {
                Ok(()) if bits & poll::WRITABLE != 0 => {
                    socket.connecting = false;
                    socket.sink.start();
                    self.output.push(id, 0, &Message::Opened(Opened {}));
                }
                Ok(()) => return,
                Err(errno) => return self.dial_failed(id, errno),
            }
        }
        let Some((socket, _)) = self.socket(id) else { return };
        if bits & (poll::WRITABLE | poll::CLOSED) != 0 {
            socket.sink.flush();
            let consumed = socket.sink.take_consumed();
            self.consumed(id, consumed);
        }
        if bits & (poll::READABLE | poll::CLOSED) != 0 {
            if let Some((socket, _)) = self.socket(id) {
                socket.readable = true;
            }
            self.wake_socket(id);
        }
        self.finish_socket(id);
    }

    fn dial_failed(&mut self, id: u32, errno: Errno) {
        let Some(mut stream) = self.streams.remove(&id) else { return };
        let Kind::Socket(socket) = &mut stream.kind else { return };
        let name = socket.name.clone();
        match socket.fallback.take() {
            Some(next) => self.dial(id, next, None, Some(stream)),
            None => self.fail(id, &dial_failure(errno, &name)),
        }
    }

    pub(crate) fn wake_socket(&mut self, id: u32) {
        let Some((socket, credit)) = self.socket(id) else { return };
        if socket.readable && !socket.queued && !socket.out_ended && !socket.connecting && credit > 0 {
            socket.queued = true;
            self.ready.push_back((id, LANE_OUT));
        }
    }

    fn send_socket(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Kind::Socket(socket) = &mut stream.kind else { return };
        socket.queued = false;
        let mut result = Ok(Moved::WouldBlock);
        let most = usize::try_from(stream.credit[0]).unwrap_or(usize::MAX);
        let fd = &socket.fd;
        let sent = self.output.data(id, LANE_OUT, most, |buffer, most| result = fd::read_append(fd, buffer, most));
        stream.credit[0] -= sent as u64;
        match result {
            Ok(Moved::WouldBlock) => socket.readable = false,
            Ok(Moved::Bytes(count)) if count > 0 => {}
            Ok(Moved::Bytes(_)) => {
                socket.out_ended = true;
                self.output.push(id, LANE_OUT, &Message::End(End {}));
                return self.finish_socket(id);
            }
            Err(errno) => {
                self.streams.remove(&id);
                return self.fail(id, &Failure::of(errno, "the connection broke"));
            }
        }
        self.wake_socket(id);
    }

    pub(crate) fn finish_socket(&mut self, id: u32) {
        let Some((socket, _)) = self.socket(id) else { return };
        if socket.out_ended && socket.sink.is_over() {
            self.streams.remove(&id);
            self.done(id);
        }
    }

    /// Sends one frame of the lane whose turn it is. False: nobody has anything to send.
    pub(crate) fn next_frame(&mut self) -> bool {
        let Some((id, lane)) = self.ready.pop_front() else { return false };
        let Some(stream) = self.streams.get_mut(&id) else { return true };
        match &mut stream.kind {
            Kind::Process(serial) => {
                let serial = *serial;
                self.send_source(id, lane, serial);
            }
            Kind::Socket(_) => self.send_socket(id),
            Kind::Egress => self.send_egress(id),
            Kind::Connection(_) => self.send_connection(id),
            Kind::Task(task) => {
                task.queued = false;
                let most = usize::try_from(stream.credit[0]).unwrap_or(usize::MAX);
                if most > 0 {
                    let sent = self.output.data(id, lane, most, |buffer, most| task.take_pending(buffer, most));
                    stream.credit[0] -= sent as u64;
                }
                self.queue_task(id);
                self.advance(id);
            }
        }
        true
    }
}

pub fn dial_failure(errno: Errno, name: &str) -> Failure {
    let which = match errno.0 {
        libc::ECONNREFUSED | libc::EAGAIN => kind::REFUSED,
        libc::ENOENT => kind::NOT_FOUND,
        libc::EACCES | libc::EPERM => kind::PERMISSION,
        libc::ENAMETOOLONG | libc::EINVAL => kind::INVALID,
        _ => kind::IO,
    };
    Failure::with_kind(which, errno, format!("cannot connect to {name}"))
}
