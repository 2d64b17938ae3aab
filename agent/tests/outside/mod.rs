//! What is outside of a sandbox with egress, and the programs inside it, as threads.

use super::common::*;
use bulkhead_agent::wire::codec::Writer;
use bulkhead_agent::wire::generated::*;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread::JoinHandle;

pub const RESOLVER: &str = "192.0.0.1";
pub const WINDOW: u32 = 64 * 1024;

pub struct Sandbox {
    pub agent: Agent,
    pub egress: u32,
    pub records: Vec<u8>,
}

pub fn outside(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl Sandbox {
    pub fn start() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", env!("CARGO_BIN_EXE_bulkhead-agent")]);
        let mut agent = Agent::start_command(command);
        agent.wire.attach(TAG, false);
        let egress = open(&mut agent.wire);
        Self { agent, egress, records: Vec::new() }
    }

    /// Runs where the programs are.
    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.agent.child.id())).unwrap();
        std::thread::spawn(move || {
            // SAFETY: a live descriptor; only this thread changes its namespace.
            assert_eq!(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            work()
        })
    }

    pub fn connect(&self, to: &str) -> JoinHandle<std::io::Result<TcpStream>> {
        let to = outside(to);
        self.inside(move || TcpStream::connect_timeout(&to, PATIENCE))
    }

    pub fn request(&mut self) -> EgressRequest {
        loop {
            if let Some(head) = self.records.first_chunk::<4>() {
                let length = u32::from_le_bytes(*head) as usize;
                if self.records.len() >= 4 + length {
                    let record: Vec<u8> = self.records.drain(..4 + length).collect();
                    return records(&record, |reader| EgressRequest::read(reader).unwrap()).remove(0);
                }
            }
            match self.agent.wire.next_on(self.egress) {
                Received::Data(_, LANE_OUT, bytes) => self.records.extend_from_slice(&bytes),
                Received::Message(_, _, Message::Credit(_)) => {}
                other => panic!("{other:?} on the egress stream"),
            }
        }
    }

    /// The next request of that kind; the kernel's own datagrams are nobody's here.
    pub fn asked(&mut self, kind: u8) -> EgressRequest {
        let request = self.request();
        assert_eq!(request.kind, kind, "{request:?}");
        request
    }

    pub fn reply(&mut self, reply: &EgressReply) {
        let mut writer = Writer::default();
        writer.u32(0);
        reply.write(&mut writer);
        let length = writer.buffer.len() as u32 - 4;
        writer.buffer[..4].copy_from_slice(&length.to_le_bytes());
        let stream = self.egress;
        self.agent.wire.data(stream, &writer.buffer);
    }

    pub fn refuse(&mut self, id: u32, refusal: u8) {
        self.reply(&EgressReply { kind: egress_reply_kind::REFUSE, id, refusal, ..EgressReply::default() });
    }

    /// Takes the next connection that is asked for.
    pub fn take(&mut self) -> (u32, EgressRequest) {
        let request = self.asked(egress_request_kind::CONNECT);
        let take = Message::TakeConnection(TakeConnection { id: request.id, window_bytes: WINDOW });
        let stream = self.agent.wire.open(&take);
        let first = self.agent.wire.next_on(stream);
        assert!(matches!(first, Received::Message(_, _, Message::Opened(_))), "{first:?}");
        (stream, request)
    }

    /// A connection from both ends.
    pub fn connected(&mut self, to: &str) -> (TcpStream, u32) {
        let connecting = self.connect(to);
        let (stream, request) = self.take();
        let to = outside(to);
        assert_eq!((request.address, request.port), (octets(to.ip()), to.port()));
        (connecting.join().unwrap().unwrap(), stream)
    }
}

pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub fn open(wire: &mut Wire) -> u32 {
    let stream = wire.open(&Message::OpenEgress(OpenEgress { resolver: RESOLVER.into() }));
    let first = wire.next_on(stream);
    assert!(matches!(first, Received::Message(_, _, Message::Opened(_))), "{first:?}");
    stream
}

pub fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8) ^ seed).collect()
}

/// Sends within the stream's credit; what comes meanwhile is returned.
pub fn send_all(wire: &mut Wire, stream: u32, bytes: &[u8]) -> Vec<u8> {
    let (mut credit, mut at, mut got) = (WINDOW as usize, 0, Vec::new());
    while at < bytes.len() {
        let count = credit.min(bytes.len() - at).min(16 * 1024);
        if count > 0 {
            wire.data(stream, &bytes[at..at + count]);
            (at, credit) = (at + count, credit - count);
            continue;
        }
        match wire.next_on(stream) {
            Received::Message(_, 0, Message::Credit(more)) => credit += more.bytes as usize,
            Received::Data(_, LANE_OUT, bytes) => got.extend_from_slice(&bytes),
            other => panic!("{other:?} while sending"),
        }
    }
    got
}
