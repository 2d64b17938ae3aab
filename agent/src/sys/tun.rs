//! A TUN interface: made by ioctl, set up by netlink, which is all that gVisor takes (it has no SIOCSIFADDR and its like).

use super::{check, retry, Errno, Result};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const DEVICE: &std::ffi::CStr = c"/dev/net/tun";
/// Room for an error with the request it answers.
const ANSWER_BYTES: usize = 512;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
const IFA_LOCAL: u16 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_F_NODAD: u8 = 2;

/// A new interface `name` without link-layer headers, not blocking. It is gone when the descriptor is closed.
pub fn create(name: &str) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: a live path; gives a new descriptor that nobody else owns. `request` is plain data with a NUL-terminated name.
    unsafe {
        let fd = OwnedFd::from_raw_fd(check(libc::open(DEVICE.as_ptr(), flags) as i64)? as i32);
        let mut request: libc::ifreq = std::mem::zeroed();
        if name.len() >= request.ifr_name.len() {
            return Err(Errno(libc::EINVAL));
        }
        std::ptr::copy_nonoverlapping(name.as_ptr().cast(), request.ifr_name.as_mut_ptr(), name.len());
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
        check(libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &mut request) as i64)?;
        Ok(fd)
    }
}

/// The number of the interface `name`.
pub fn index(name: &str) -> Result<u32> {
    let name = super::c_string(name.as_bytes())?;
    // SAFETY: a live NUL-terminated string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(Errno::last()),
        index => Ok(index),
    }
}

/// Whether the kernel knows a way to `address`; nothing is sent.
pub fn has_way_to(address: SocketAddr) -> bool {
    std::net::UdpSocket::bind(match address {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    })
    .and_then(|socket| socket.connect(address))
    .is_ok()
}

/// Requests to the kernel about interfaces, addresses and routes, one at a time.
pub struct Netlink {
    fd: OwnedFd,
}

impl Netlink {
    pub fn open() -> Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: gives a new descriptor that nobody else owns.
        let fd = unsafe {
            OwnedFd::from_raw_fd(check(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) as i64)? as i32)
        };
        Ok(Self { fd })
    }

    /// Sets the largest packet and brings the interface up.
    pub fn bring_up(&self, index: u32, mtu: u32) -> Result<()> {
        let up = libc::IFF_UP as u32;
        let mut body = vec![libc::AF_UNSPEC as u8, 0, 0, 0];
        for word in [index, up, up] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        attribute(&mut body, libc::IFLA_MTU, &mtu.to_ne_bytes());
        self.ask(libc::RTM_NEWLINK, 0, &body)
    }

    pub fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> Result<()> {
        let mut body = vec![family(address), prefix, IFA_F_NODAD, libc::RT_SCOPE_UNIVERSE];
        body.extend_from_slice(&index.to_ne_bytes());
        let octets = octets(address);
        attribute(&mut body, IFA_LOCAL, &octets);
        attribute(&mut body, IFA_ADDRESS, &octets);
        self.ask(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body)
    }

    /// Everything of the address's family that no other route leads to goes out by the interface.
    pub fn add_default_route(&self, index: u32, address: IpAddr) -> Result<()> {
        let scope = if address.is_ipv4() { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE };
        let mut body = vec![family(address), 0, 0, 0, libc::RT_TABLE_MAIN, libc::RTPROT_BOOT, scope, libc::RTN_UNICAST];
        body.extend_from_slice(&0u32.to_ne_bytes());
        attribute(&mut body, libc::RTA_OIF, &index.to_ne_bytes());
        self.ask(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body)
    }

    /// One request and the kernel's answer to it.
    fn ask(&self, kind: u16, flags: i32, body: &[u8]) -> Result<()> {
        let header = std::mem::size_of::<libc::nlmsghdr>();
        let mut message = Vec::with_capacity(header + body.len());
        message.extend_from_slice(&((header + body.len()) as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&((flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(body);
        // SAFETY: pointer and length of a live slice.
        retry(|| unsafe { libc::send(self.fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) as i64 })?;
        let mut answer = [0u8; ANSWER_BYTES];
        // SAFETY: pointer and length of a live exclusive slice.
        let count =
            retry(|| unsafe { libc::recv(self.fd.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) as i64 })?
                as usize;
        let told = answer.get(header..header + 4).filter(|_| count >= header + 4);
        let is_answer = answer[4..6] == (libc::NLMSG_ERROR as u16).to_ne_bytes();
        match told.and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes) {
            Some(0) if is_answer => Ok(()),
            Some(errno) if is_answer => Err(Errno(-errno)),
            _ => Err(Errno(libc::EPROTO)),
        }
    }
}

/// A type, a length before the contents, and zeros to a multiple of four.
fn attribute(body: &mut Vec<u8>, kind: u16, contents: &[u8]) {
    body.extend_from_slice(&((ATTRIBUTE_HEADER_BYTES + contents.len()) as u16).to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(contents);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
