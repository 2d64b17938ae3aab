//! Egress: what programs send to the outside comes out of an interface (`interface`), its TCP ends here (`stack`), and the
//! host decides and connects (`serve`). Nothing of it takes memory before the host opens it.

mod connection;
mod device;
#[cfg(test)]
mod fuzz;
mod interface;
mod outbox;
mod packet;
mod serve;
mod stack;

pub use connection::ConnectionStream;
pub use interface::prepare;
pub use serve::Egress;

use std::net::{Ipv4Addr, Ipv6Addr};

const INTERFACE: &str = "eth0";
/// Each packet costs a system call at both ends, and in gVisor far more; 16 KiB are enough that this no longer shows.
const MTU: usize = 16 * 1024;
/// The programs' own addresses, and those of the other end of the wire. 192.0.0.0/29 is for the ends of tunnels (RFC 7335)
/// and fd00::/8 is private: neither is anybody's outside.
const ADDRESS_4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
const ADDRESS_6: Ipv6Addr = Ipv6Addr::new(0xfd62, 0x756c, 0x6b68, 0, 0, 0, 0, 2);
const ROUTER_4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);
const ROUTER_6: Ipv6Addr = Ipv6Addr::new(0xfd62, 0x756c, 0x6b68, 0, 0, 0, 0, 1);
