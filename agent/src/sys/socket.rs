//! Outgoing connections, non-blocking.

use super::{check, Errno, Result};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

fn socket(domain: i32) -> Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: gives a new descriptor that nobody else owns.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(domain, kind, 0) as i64)? as i32)) }
}

/// The socket becomes writable when connected; `connect_error` then says how it went.
pub fn connect_tcp(address: SocketAddr) -> Result<OwnedFd> {
    // SAFETY: addresses are plain data with their own length.
    let result = unsafe {
        match address {
            SocketAddr::V4(v4) => {
                let fd = socket(libc::AF_INET)?;
                let mut raw: libc::sockaddr_in = std::mem::zeroed();
                raw.sin_family = libc::AF_INET as u16;
                raw.sin_port = v4.port().to_be();
                raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                let size = std::mem::size_of_val(&raw) as u32;
                (check(libc::connect(fd.as_raw_fd(), (&raw const raw).cast(), size) as i64), fd)
            }
            SocketAddr::V6(v6) => {
                let fd = socket(libc::AF_INET6)?;
                let mut raw: libc::sockaddr_in6 = std::mem::zeroed();
                raw.sin6_family = libc::AF_INET6 as u16;
                raw.sin6_port = v6.port().to_be();
                raw.sin6_addr.s6_addr = v6.ip().octets();
                raw.sin6_scope_id = v6.scope_id();
                let size = std::mem::size_of_val(&raw) as u32;
                (check(libc::connect(fd.as_raw_fd(), (&raw const raw).cast(), size) as i64), fd)
            }
        }
    };
    match result {
        (Ok(_) | Err(Errno(libc::EINPROGRESS)), fd) => {
            let on = 1i32;
            // SAFETY: an integer option; failing only costs latency.
            unsafe {
                libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, (&raw const on).cast(), 4);
            }
            Ok(fd)
        }
        (Err(error), _) => Err(error),
    }
}

pub fn connect_unix(path: &[u8]) -> Result<OwnedFd> {
    let fd = socket(libc::AF_UNIX)?;
    // SAFETY: the path is copied within the address's bounds, checked before.
    unsafe {
        let mut raw: libc::sockaddr_un = std::mem::zeroed();
        if path.is_empty() || path.len() >= raw.sun_path.len() || path.contains(&0) {
            return Err(Errno(libc::ENAMETOOLONG));
        }
        raw.sun_family = libc::AF_UNIX as u16;
        std::ptr::copy_nonoverlapping(path.as_ptr().cast(), raw.sun_path.as_mut_ptr(), path.len());
        let size = (std::mem::size_of_val(&raw) - raw.sun_path.len() + path.len() + 1) as u32;
        check(libc::connect(fd.as_raw_fd(), (&raw const raw).cast(), size) as i64)?;
    }
    Ok(fd)
}

/// The outcome of a connect that was in progress.
pub fn connect_error(fd: &OwnedFd) -> Result<()> {
    let mut error = 0i32;
    let mut size = 4u32;
    // SAFETY: an integer option with its size.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &mut size)
    } as i64)?;
    if error == 0 {
        Ok(())
    } else {
        Err(Errno(error))
    }
}

pub fn shutdown_write(fd: &OwnedFd) {
    // SAFETY: integers only; a peer that is gone already is fine.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) };
}

/// Brings the loopback interface up. Errors are left: a sandbox without a network of its own has none to bring up.
pub fn loopback_up() {
    let Ok(fd) = socket_datagram() else { return };
    // SAFETY: `request` is plain data with a NUL-terminated name.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        if libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFFLAGS as _, &mut request) != 0 {
            return;
        }
        let flags = request.ifr_ifru.ifru_flags;
        if i32::from(flags) & libc::IFF_UP == 0 {
            request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as i16;
            libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS as _, &mut request);
        }
    }
}

fn socket_datagram() -> Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: gives a new descriptor that nobody else owns.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, kind, 0) as i64)? as i32)) }
}
