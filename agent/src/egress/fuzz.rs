//! Arbitrary packets, and true ones lost, doubled, swapped and changed, into the stack while connections live: it never panics,
//! holds no more than its bounds, and what a connection carries is what was sent or nothing.
//! `BULKHEAD_FUZZ_SECONDS` says for how long (2), `BULKHEAD_FUZZ_SEED` repeats a run.

use super::device::Link;
use super::packet::{self, Flow, Refusal};
use super::stack::{Asked, Read, Stack, Standing};
use super::{ADDRESS_4, ADDRESS_6, MTU};
use crate::wire::generated::MAX_CONNECTIONS;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

const DEFAULT_SECONDS: u64 = 2;
const WINDOW: usize = 8192;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }
}

#[derive(Default)]
struct Queue(VecDeque<Vec<u8>>);

impl Link for Queue {
    fn send(&mut self, packet: &[u8]) {
        self.0.push_back(packet.to_vec());
    }
}

/// The programs' kernel: a device with packets each way.
#[derive(Default)]
struct Kernel {
    inward: VecDeque<Vec<u8>>,
    outward: VecDeque<Vec<u8>>,
}

struct Inward(Vec<u8>);
struct Outward<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Inward {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Outward<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut bytes = vec![0; length];
        let result = fill(&mut bytes);
        self.0.push_back(bytes);
        result
    }
}

impl Device for Kernel {
    type RxToken<'a> = Inward;
    type TxToken<'a> = Outward<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Inward, Outward<'_>)> {
        self.inward.pop_front().map(|bytes| (Inward(bytes), Outward(&mut self.outward)))
    }
    fn transmit(&mut self, _now: Instant) -> Option<Outward<'_>> {
        Some(Outward(&mut self.outward))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

struct Programs {
    interface: Interface,
    sockets: SocketSet<'static>,
    kernel: Kernel,
    open: Vec<(SocketHandle, u8)>,
    port: u16,
}

impl Programs {
    fn new(seed: u64) -> Self {
        let mut kernel = Kernel::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut kernel, Instant::from_millis(0));
        interface.update_ip_addrs(|list| {
            let _ = list.push(IpCidr::new(ADDRESS_4.into(), 0));
            let _ = list.push(IpCidr::new(ADDRESS_6.into(), 0));
        });
        Self { interface, sockets: SocketSet::new(Vec::new()), kernel, open: Vec::new(), port: 1024 }
    }

    /// To a port that says which bytes the connection carries.
    fn connect(&mut self, random: &mut Random) {
        let mut socket = Socket::new(SocketBuffer::new(vec![0; WINDOW]), SocketBuffer::new(vec![0; WINDOW]));
        self.port = self.port.wrapping_add(1).max(1024);
        let to: IpAddress = if random.one_in(2) {
            IpAddress::v4(203, 0, 113, 1)
        } else {
            IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)
        };
        let value = random.below(256) as u8;
        if socket.connect(self.interface.context(), (to, 1 + u16::from(value)), self.port).is_ok() {
            self.open.push((self.sockets.add(socket), value));
        }
    }

    fn step(&mut self, now: u64, random: &mut Random) {
        if self.open.len() < 20 && random.one_in(8) {
            self.connect(random);
        }
        let now = Instant::from_millis(now as i64);
        let mut index = 0;
        while index < self.open.len() {
            let (handle, value) = self.open[index];
            let socket = self.sockets.get_mut::<Socket>(handle);
            let _ = socket.recv(|bytes| {
                assert!(bytes.iter().all(|byte| *byte == value), "a program got another's bytes");
                (bytes.len(), ())
            });
            match random.below(40) {
                0 => socket.close(),
                1 => socket.abort(),
                2..20 => drop(socket.send_slice(&vec![value; random.below(3000)])),
                _ => {}
            }
            if !socket.is_active() && random.one_in(20) {
                self.sockets.remove(handle);
                self.open.swap_remove(index);
                continue;
            }
            index += 1;
        }
        self.interface.poll(now, &mut self.kernel, &mut self.sockets);
    }
}

/// The agent and its host, which does anything.
struct Host {
    stack: Stack<Queue>,
    /// The ports of connections that are there, and whether they are taken.
    known: HashMap<u32, (u16, bool)>,
    /// Only the network does strange things, not the programs: what arrives is what they sent.
    honest: bool,
    received: usize,
}

impl Host {
    fn asked(&mut self, asked: &Option<Asked>) {
        match asked {
            Some(Asked::Connection { id, flow }) => {
                assert!(self.known.insert(*id, (flow.outside.port(), false)).is_none());
                assert!(self.known.len() <= MAX_CONNECTIONS);
            }
            Some(Asked::Gone(id)) => assert_eq!(self.known.remove(id).map(|(_, taken)| taken), Some(false)),
            Some(Asked::Query(flow, payload) | Asked::Datagram(flow, payload)) => {
                assert!(payload.len() <= MTU);
                self.stack.datagram(flow, payload);
            }
            None => {}
        }
    }

    fn step(&mut self, now: u64, random: &mut Random) {
        let ids: Vec<u32> = self.known.keys().copied().collect();
        for id in ids {
            let (port, taken) = self.known[&id];
            if !taken {
                match random.below(8) {
                    0 => {
                        let how = [Refusal::Reset, Refusal::Unreachable, Refusal::Prohibited][random.below(3)];
                        self.stack.refuse(id, how, now);
                        self.known.remove(&id);
                    }
                    1..4 => {
                        assert!(self.stack.take(id, WINDOW, now));
                        self.known.insert(id, (port, true));
                    }
                    _ => {}
                }
                continue;
            }
            self.drive(id, port, now, random);
        }
        for id in self.stack.poll(now) {
            assert_eq!(self.known.remove(&id).map(|(_, taken)| taken), Some(false));
        }
    }

    fn drive(&mut self, id: u32, port: u16, now: u64, random: &mut Random) {
        let value = (port - 1) as u8;
        let mut got = Vec::new();
        if random.one_in(2) && self.stack.read(id, &mut got, 2000) == Read::Broken {
            self.stack.abort(id, now);
            self.known.remove(&id);
            return;
        }
        assert!(got.len() <= 2000);
        self.received += got.len();
        if self.honest {
            assert!(got.iter().all(|byte| *byte == value), "the host got another connection's bytes");
        }
        self.stack.write(id, &vec![value; random.below(3000)]);
        if random.one_in(30) {
            self.stack.finish(id);
        }
        if self.stack.standing(id, now) == Standing::Broken || random.one_in(100) {
            self.stack.abort(id, now);
            self.known.remove(&id);
        }
    }
}

/// The header's own checks would stop what is changed at random: they are put right again.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..1 + random.below(3) {
        if bytes.is_empty() {
            return;
        }
        let header = bytes.len().min(80);
        match random.below(5) {
            0 => {
                let at = random.below(header);
                bytes[at] = random.next() as u8;
            }
            1 => {
                let at = random.below(header);
                bytes[at] ^= 1 << random.below(8);
            }
            2 => bytes.truncate(random.below(bytes.len() + 1)),
            3 => bytes.extend_from_slice(&random.bytes(40)),
            // Sequence, acknowledgement, flags and window: where a stack has its arithmetic.
            _ => {
                let start = if bytes[0] >> 4 == 4 { 20 } else { 40 };
                let at = start + 4 + random.below(16);
                if at < bytes.len() {
                    bytes[at] = random.next() as u8;
                }
            }
        }
    }
}

fn noise(random: &mut Random) -> Vec<u8> {
    let outside: SocketAddr = ["203.0.113.1:7", "[2001:db8::1]:7"][random.below(2)].parse().unwrap();
    let inside = SocketAddr::new(packet::inside_for(outside.ip()), 1 + random.below(60_000) as u16);
    let payload = random.bytes(200);
    let mut bytes = packet::datagram(&Flow { inside: outside, outside: inside }, &payload).unwrap();
    if random.one_in(2) {
        let at = if outside.is_ipv4() { 9 } else { 6 };
        // TCP, ICMP, fragments and extension headers instead.
        bytes[at] = [6, 1, 58, 44, 0, 43, 60][random.below(7)];
    }
    if random.one_in(2) {
        mutate(random, &mut bytes);
    }
    if random.one_in(4) {
        bytes = random.bytes(200);
    }
    bytes
}

/// Gives the bytes that programs got through.
fn run(seed: u64, steps: usize) -> usize {
    let mut random = Random(seed | 1);
    let honest = random.one_in(2);
    let mut now = 0;
    let mut programs = Programs::new(random.next());
    let mut host =
        Host { stack: Stack::new(Queue::default(), random.next(), now), known: HashMap::new(), honest, received: 0 };
    // Some runs have a good wire, so that connections get far before something strange comes.
    let trouble = [5, 50, 500, 10_000][random.below(4)];
    for _ in 0..steps {
        now += [0, 1, 10, 300, 5000][random.below(5)];
        programs.step(now, &mut random);
        while let Some(mut bytes) = programs.kernel.outward.pop_front() {
            if random.one_in(trouble) {
                match random.below(if honest { 2 } else { 4 }) {
                    0 => continue,
                    1 => programs.kernel.outward.push_back(bytes.clone()),
                    2 => mutate(&mut random, &mut bytes),
                    _ => bytes = noise(&mut random),
                }
            }
            let asked = host.stack.receive(&bytes, now);
            host.asked(&asked);
        }
        host.step(now, &mut random);
        while let Some(bytes) = host.stack.link().0.pop_front() {
            if !random.one_in(trouble) {
                programs.kernel.inward.push_back(bytes);
            }
        }
        let _ = host.stack.due_at();
    }
    host.stack.abort_all(now);
    assert_eq!(host.stack.poll(now).len(), 0);
    host.received
}

#[test]
fn the_stack_bears_any_packets() {
    let read = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = read("BULKHEAD_FUZZ_SEED") {
        run(seed, 2000);
        return;
    }
    let mut received = 0;
    let seconds = read("BULKHEAD_FUZZ_SECONDS").unwrap_or(DEFAULT_SECONDS);
    let start = std::time::Instant::now();
    let mut seed = u64::from(std::process::id()) << 32 | u64::from(start.elapsed().subsec_nanos()) | 0x9e37;
    while start.elapsed().as_secs() < seconds {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let result = std::panic::catch_unwind(|| run(seed, 2000));
        received += result.unwrap_or_else(|_| panic!("BULKHEAD_FUZZ_SEED={seed} repeats it"));
    }
    assert!(received > 0, "no connection carried anything, so nothing was tried");
}
