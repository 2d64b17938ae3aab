//! Connections inside the sandbox that carry descriptors and say whose they are.

use super::{check, retry, Errno, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 64;
/// Descriptors of one message: the three standard streams.
pub const DESCRIPTORS: usize = 3;
/// Enough for one user's ids and the descriptors, each with its header.
const CONTROL_WORDS: usize = 16;

/// `@name` is a name in the kernel alone, which no file system has to hold; anything else is a path.
fn address(name: &[u8]) -> Result<(libc::sockaddr_un, u32)> {
    // SAFETY: plain data; the name is copied within the bounds checked before.
    unsafe {
        let mut raw: libc::sockaddr_un = std::mem::zeroed();
        if name.len() < 2 || name.len() >= raw.sun_path.len() || name.contains(&0) {
            return Err(Errno(libc::ENAMETOOLONG));
        }
        raw.sun_family = libc::AF_UNIX as u16;
        std::ptr::copy_nonoverlapping(name.as_ptr().cast(), raw.sun_path.as_mut_ptr(), name.len());
        let head = std::mem::size_of_val(&raw) - raw.sun_path.len();
        if name[0] == b'@' {
            raw.sun_path[0] = 0;
            return Ok((raw, (head + name.len()) as u32));
        }
        Ok((raw, (head + name.len() + 1) as u32))
    }
}

fn socket(flags: i32) -> Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags;
    // SAFETY: gives a new descriptor that nobody else owns.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(libc::AF_UNIX, kind, 0) as i64)? as i32)) }
}

/// Two ends of one connection.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0i32; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two new descriptors that nobody else owns.
    unsafe {
        check(libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) as i64)?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

pub fn listen(name: &[u8]) -> Result<OwnedFd> {
    let (raw, size) = address(name)?;
    let fd = socket(libc::SOCK_NONBLOCK)?;
    // SAFETY: a live address with its size.
    unsafe {
        check(libc::bind(fd.as_raw_fd(), (&raw const raw).cast(), size) as i64)?;
        check(libc::listen(fd.as_raw_fd(), BACKLOG) as i64)?;
    }
    Ok(fd)
}

/// A waiting connection, non-blocking, on which every message says who sent it. None: nobody waits.
///
/// The sender's ids come with its messages because gVisor answers SO_PEERCRED with the ids of whoever asks.
pub fn accept(listener: &OwnedFd) -> Result<Option<OwnedFd>> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let null = std::ptr::null_mut();
    // SAFETY: no address is wanted; gives a new descriptor that nobody else owns.
    let fd = unsafe {
        match retry(|| libc::accept4(listener.as_raw_fd(), null, std::ptr::null_mut(), flags) as i64) {
            Ok(fd) => OwnedFd::from_raw_fd(fd as i32),
            Err(Errno(libc::EAGAIN | libc::ECONNABORTED)) => return Ok(None),
            Err(errno) => return Err(errno),
        }
    };
    let on = 1i32;
    // SAFETY: an integer option.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, (&raw const on).cast(), 4) }
        as i64)?;
    Ok(Some(fd))
}

/// Blocks until the connection stands.
pub fn connect(name: &[u8]) -> Result<OwnedFd> {
    let (raw, size) = address(name)?;
    let fd = socket(0)?;
    // SAFETY: a live address with its size.
    retry(|| unsafe { libc::connect(fd.as_raw_fd(), (&raw const raw).cast(), size) as i64 })?;
    Ok(fd)
}

/// Sends what fits of `bytes` together with `descriptors`; no SIGPIPE when nobody reads.
pub fn send(fd: &OwnedFd, bytes: &[u8], descriptors: &[RawFd; DESCRIPTORS]) -> Result<usize> {
    let mut control = [0u64; CONTROL_WORDS];
    let size = std::mem::size_of_val(descriptors) as u32;
    // SAFETY: the control buffer is aligned and larger than the one header and its descriptors.
    unsafe {
        let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size) as _;
        std::ptr::copy_nonoverlapping(descriptors.as_ptr().cast(), libc::CMSG_DATA(header), size as usize);
        retry(|| libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) as i64).map(|sent| sent as usize)
    }
}

/// As `fd::write`, without SIGPIPE.
pub fn send_plain(fd: &OwnedFd, bytes: &[u8]) -> Result<usize> {
    // SAFETY: pointer and length of a live slice.
    retry(|| unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) as i64 })
        .map(|sent| sent as usize)
}

#[derive(Debug, Default)]
pub struct Received {
    /// 0 is the end.
    pub bytes: usize,
    /// The sender's user, where the kernel said so.
    pub uid: Option<u32>,
    pub descriptors: Vec<OwnedFd>,
}

/// Descriptors beyond the room for them are closed by the kernel.
pub fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> Result<Received> {
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: buffers with their sizes; headers are followed within what the kernel filled, and the descriptors in them
    // are new ones that nobody else owns.
    unsafe {
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = std::mem::size_of_val(&control) as _;
        let bytes = retry(|| libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) as i64)?;
        let mut received = Received { bytes: bytes as usize, ..Received::default() };
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            let size = ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    for index in 0..size / std::mem::size_of::<RawFd>() {
                        let number = data.cast::<RawFd>().add(index).read_unaligned();
                        received.descriptors.push(OwnedFd::from_raw_fd(number));
                    }
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if size >= std::mem::size_of::<libc::ucred>() => {
                    received.uid = Some(data.cast::<libc::ucred>().read_unaligned().uid);
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
        Ok(received)
    }
}
