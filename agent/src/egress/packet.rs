//! Packets of the interface: what a program's kernel sends is read, what it is told is written.
//!
//! They come from programs that may write any bytes (raw sockets, at levels where root has them): what is not exactly one
//! whole segment or datagram from one of our own addresses to somebody outside is dropped.

use super::{ADDRESS_4, ADDRESS_6, ROUTER_4, ROUTER_6};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr,
    IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, TcpPacket, UdpPacket, UdpRepr,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Of a refused packet this much goes back: what makes it known is in its first bytes.
const QUOTED_BYTES_MAX: usize = 512;
const HOPS: u8 = 64;

/// The two ends of a connection or an exchange of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    pub inside: SocketAddr,
    pub outside: SocketAddr,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// The first segment of a connection.
    Syn,
    Reset,
    /// Any other segment of TCP.
    Segment,
    Datagram(&'a [u8]),
    /// A question whether an address of ours is there: type, code and checksum, then what is to come back.
    Echo(&'a [u8]),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    pub flow: Flow,
    pub kind: Kind<'a>,
    /// From the first byte of its header to the last of its payload.
    pub whole: &'a [u8],
}

/// Why something is not carried; says which answer a program's kernel gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// "connection refused"
    Reset,
    /// "no route to host"
    Unreachable,
    /// "permission denied" where the kernel has it for this (IPv6), else as `Unreachable`.
    Prohibited,
}

pub fn parse(bytes: &[u8]) -> Option<Packet<'_>> {
    match bytes.first()? >> 4 {
        4 => parse_4(bytes),
        6 => parse_6(bytes),
        _ => None,
    }
}

fn parse_4(bytes: &[u8]) -> Option<Packet<'_>> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    let (source, target) = (packet.src_addr(), packet.dst_addr());
    let fragment = packet.more_frags() || packet.frag_offset() != 0;
    if fragment || source != ADDRESS_4 || !is_somebody_4(target) {
        return None;
    }
    let whole = &bytes[..usize::from(packet.total_len())];
    segment(whole, packet.payload(), packet.next_header(), source.into(), target.into())
}

fn parse_6(bytes: &[u8]) -> Option<Packet<'_>> {
    let packet = Ipv6Packet::new_checked(bytes).ok()?;
    let (source, target) = (packet.src_addr(), packet.dst_addr());
    if source != ADDRESS_6 || !is_somebody_6(target) {
        return None;
    }
    segment(&bytes[..packet.total_len()], packet.payload(), packet.next_header(), source.into(), target.into())
}

fn segment<'a>(
    whole: &'a [u8],
    payload: &'a [u8],
    protocol: IpProtocol,
    source: IpAddr,
    target: IpAddr,
) -> Option<Packet<'a>> {
    let (kind, from, to) = match protocol {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(payload).ok()?;
            let kind = match (tcp.syn(), tcp.ack() || tcp.fin(), tcp.rst()) {
                (_, _, true) => Kind::Reset,
                (true, false, false) => Kind::Syn,
                _ => Kind::Segment,
            };
            (kind, tcp.src_port(), tcp.dst_port())
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(payload).ok()?;
            (Kind::Datagram(udp.payload()), udp.src_port(), udp.dst_port())
        }
        IpProtocol::Icmp if target == ROUTER_4 => {
            let icmp = Icmpv4Packet::new_checked(payload).ok()?;
            let asks = icmp.msg_type() == Icmpv4Message::EchoRequest;
            return asks.then(|| Packet { flow: flow(source, 0, target, 0), kind: Kind::Echo(payload), whole });
        }
        _ => return None,
    };
    (from != 0 && to != 0).then(|| Packet { flow: flow(source, from, target, to), kind, whole })
}

fn flow(source: IpAddr, from: u16, target: IpAddr, to: u16) -> Flow {
    Flow { inside: SocketAddr::new(source, from), outside: SocketAddr::new(target, to) }
}

/// One machine, and not this one: connections to several or to nobody exist nowhere.
fn is_somebody_4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first != 127 && first < 224 && address != ADDRESS_4
}

/// An IPv4 address in IPv6's clothes never leaves a kernel.
fn is_somebody_6(address: Ipv6Addr) -> bool {
    let none = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    !none && !address.is_unicast_link_local() && address.to_ipv4_mapped().is_none() && address != ADDRESS_6
}

/// A datagram from outside.
pub fn datagram(flow: &Flow, payload: &[u8]) -> Option<Vec<u8>> {
    let udp = UdpRepr { src_port: flow.outside.port(), dst_port: flow.inside.port() };
    let length = udp.header_len() + payload.len();
    let (source, target) = (flow.outside.ip(), flow.inside.ip());
    let (mut bytes, at) = header(source, target, IpProtocol::Udp, length)?;
    let emit = |to: &mut [u8]| to.copy_from_slice(payload);
    let mut packet = UdpPacket::new_unchecked(&mut bytes[at..]);
    udp.emit(&mut packet, &source.into(), &target.into(), payload.len(), emit, &ChecksumCapabilities::default());
    Some(bytes)
}

/// The word that what was sent to `flow.outside` is not carried. `quoted` is the packet that is refused.
pub fn unreachable(quoted: &[u8], how: Refusal) -> Option<Vec<u8>> {
    let checksums = ChecksumCapabilities::default();
    match quoted.first()? >> 4 {
        4 => {
            let original = Ipv4Packet::new_checked(quoted).ok()?;
            let reason = match how {
                Refusal::Reset => Icmpv4DstUnreachable::PortUnreachable,
                Refusal::Unreachable => Icmpv4DstUnreachable::HostUnreachable,
                Refusal::Prohibited => Icmpv4DstUnreachable::CommProhibited,
            };
            let data = cut(original.payload());
            let header_4 = Ipv4Repr::parse(&original, &ChecksumCapabilities::ignored()).ok()?;
            let message = Icmpv4Repr::DstUnreachable { reason, header: header_4, data };
            let target = original.src_addr();
            let (mut bytes, at) = header(ROUTER_4.into(), target.into(), IpProtocol::Icmp, message.buffer_len())?;
            message.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[at..]), &checksums);
            Some(bytes)
        }
        _ => {
            let original = Ipv6Packet::new_checked(quoted).ok()?;
            let reason = match how {
                Refusal::Reset => Icmpv6DstUnreachable::PortUnreachable,
                Refusal::Unreachable => Icmpv6DstUnreachable::NoRoute,
                Refusal::Prohibited => Icmpv6DstUnreachable::AdminProhibit,
            };
            let data = cut(original.payload());
            let header_6 = Ipv6Repr::parse(&original).ok()?;
            let message = Icmpv6Repr::DstUnreachable { reason, header: header_6, data };
            let target = original.src_addr();
            let (mut bytes, at) = header(ROUTER_6.into(), target.into(), IpProtocol::Icmpv6, message.buffer_len())?;
            message.emit(&ROUTER_6, &target, &mut Icmpv6Packet::new_unchecked(&mut bytes[at..]), &checksums);
            Some(bytes)
        }
    }
}

/// As `unreachable`, for a datagram that is no longer at hand.
pub fn datagram_unreachable(flow: &Flow, how: Refusal) -> Option<Vec<u8>> {
    let there = Flow { inside: flow.outside, outside: flow.inside };
    unreachable(&datagram(&there, &[])?, how)
}

/// The answer to an echo request sent to our end.
pub fn echo_reply(flow: &Flow, request: &[u8]) -> Option<Vec<u8>> {
    let (mut bytes, at) = header(flow.outside.ip(), flow.inside.ip(), IpProtocol::Icmp, request.len())?;
    bytes[at..].copy_from_slice(request);
    let mut packet = Icmpv4Packet::new_unchecked(&mut bytes[at..]);
    packet.set_msg_type(Icmpv4Message::EchoReply);
    packet.fill_checksum();
    Some(bytes)
}

fn cut(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(QUOTED_BYTES_MAX)]
}

/// A packet with its header written and `length` bytes behind it, which begin at the number given with it.
fn header(source: IpAddr, target: IpAddr, protocol: IpProtocol, length: usize) -> Option<(Vec<u8>, usize)> {
    match (source, target) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let repr = Ipv4Repr { src_addr, dst_addr, next_header: protocol, payload_len: length, hop_limit: HOPS };
            let at = repr.buffer_len();
            let mut bytes = vec![0; at + length];
            repr.emit(&mut Ipv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
            Some((bytes, at))
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let repr = Ipv6Repr { src_addr, dst_addr, next_header: protocol, payload_len: length, hop_limit: HOPS };
            let at = repr.buffer_len();
            let mut bytes = vec![0; at + length];
            repr.emit(&mut Ipv6Packet::new_unchecked(&mut bytes));
            Some((bytes, at))
        }
        _ => None,
    }
}

/// 4 or 16 bytes.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub fn address_of(octets: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(octets).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// Our own address in the family of `outside`.
pub fn inside_for(outside: IpAddr) -> IpAddr {
    match outside {
        IpAddr::V4(_) => ADDRESS_4.into(),
        IpAddr::V6(_) => ADDRESS_6.into(),
    }
}

/// As smoltcp names it.
pub fn endpoint(address: SocketAddr) -> (IpAddress, u16) {
    (address.ip().into(), address.port())
}
