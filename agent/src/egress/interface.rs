//! The programs' way out: an interface whose packets come to the agent.

use super::{ADDRESS_4, ADDRESS_6, INTERFACE, MTU};
use crate::failure::{Doing, Outcome};
use crate::sys::tun::{self, Netlink};
use crate::sys::{capabilities, process, Errno, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

const CAP_NET_ADMIN: u32 = 12;
/// Addresses of documentation: nobody's, and nothing is sent to them.
const ELSEWHERE_4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ELSEWHERE_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Where the sandbox was given the right to administrate its network, it was for this alone: makes the interface and gives
/// the right up, before there is another thread or process. A virtual machine's root keeps it. None: no right, no interface.
pub fn prepare() -> Result<Option<Outcome<OwnedFd>>> {
    if process::own_pid() != 1 || crate::guest::is_guest() || !capabilities::has(CAP_NET_ADMIN)? {
        return Ok(None);
    }
    let made = make();
    capabilities::give_up(CAP_NET_ADMIN)?;
    Ok(Some(made))
}

/// The interface, set up. It is there for as long as the descriptor.
pub fn make() -> Outcome<OwnedFd> {
    let device = tun::create(INTERFACE).doing(|| format!("cannot make the interface {INTERFACE}"))?;
    let index = tun::index(INTERFACE).doing(|| format!("cannot find the interface {INTERFACE}"))?;
    let netlink = Netlink::open().doing(|| "cannot ask the kernel about interfaces")?;
    netlink.bring_up(index, MTU as u32).doing(|| format!("cannot bring {INTERFACE} up"))?;
    let led = lead_out(&netlink, index, ADDRESS_4.into(), ELSEWHERE_4.into());
    led.doing(|| format!("cannot lead {ADDRESS_4} out by {INTERFACE}"))?;
    // A kernel may have no IPv6, or have it switched off: programs see then that there is none.
    let _ = lead_out(&netlink, index, ADDRESS_6.into(), ELSEWHERE_6.into());
    Ok(device)
}

/// Makes everything of the address's family go out by the interface.
fn lead_out(netlink: &Netlink, index: u32, address: IpAddr, elsewhere: IpAddr) -> Result<()> {
    let alone = if address.is_ipv4() { 32 } else { 128 };
    // gVisor has no routes without a router, but sends by an interface what its address's own prefix covers.
    let prefix = netlink.add_default_route(index, address).map_or(0, |()| alone);
    netlink.add_address(index, address, prefix)?;
    if tun::has_way_to(SocketAddr::new(elsewhere, 1)) {
        Ok(())
    } else {
        Err(Errno(libc::ENETUNREACH))
    }
}
