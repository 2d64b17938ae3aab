//! Filters of system calls that a child puts on itself before it becomes its program: one that the host gives, and one that
//! asks us about every call, so that a program's calls can be written down.

use super::{check, Errno, Result};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// `BPF_MAXINSNS`
const INSTRUCTIONS_MAX: usize = 4096;
const INSTRUCTION_BYTES: usize = 8;

// linux/seccomp.h, which libc does not have whole.
const SET_MODE_FILTER: u32 = 1;
const NEW_LISTENER: u64 = 1 << 3;
/// Signals do not interrupt a call that we have been told of, which would otherwise be made twice.
const WAIT_KILLABLE: u64 = 1 << 5;
const ASK: u32 = 0x7fc0_0000;
const ALLOW: u32 = 0x7fff_0000;
const CONTINUE: u32 = 1;
const NEXT_CALL: libc::c_ulong = 0xc050_2100;
const ANSWER: libc::c_ulong = 0xc018_2101;

/// A program for the kernel; empty: none.
#[derive(Clone, Default)]
pub struct Filter(Arc<Vec<libc::sock_filter>>);

impl Filter {
    /// From `struct sock_filter` after `struct sock_filter`, little-endian. None: it is no such list, or too long.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if !bytes.len().is_multiple_of(INSTRUCTION_BYTES) || bytes.len() / INSTRUCTION_BYTES > INSTRUCTIONS_MAX {
            return None;
        }
        let instruction = |b: &[u8]| libc::sock_filter {
            code: u16::from_le_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        };
        Some(Self(Arc::new(bytes.chunks_exact(INSTRUCTION_BYTES).map(instruction).collect())))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// On the calling thread, for good. Allocates nothing.
    pub fn install(&self) -> Result<()> {
        install(&self.0, 0).map(drop)
    }
}

fn install(code: &[libc::sock_filter], flags: u64) -> Result<i64> {
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_ptr().cast_mut() };
    // SAFETY: the program and its instructions live through the call; the kernel copies and checks them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) })
}

/// Where a child that records finds its end of the connection to us; everything above is closed.
pub const HANDOVER_FD: i32 = 3;
/// Flags that no program gives together, so that only the hand-over itself is let through without asking.
const HANDOVER_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_CONFIRM | libc::MSG_EOR | libc::MSG_MORE | MSG_PROXY;
const MSG_PROXY: i32 = 0x10;

/// One message that carries the listener of a recording filter, made before the child, which may allocate nothing.
pub struct Handover {
    /// The child's end.
    socket: OwnedFd,
    code: Vec<libc::sock_filter>,
    message: Box<Message>,
}

struct Message {
    header: libc::msghdr,
    part: libc::iovec,
    byte: u8,
    control: [u64; 4],
}

// SAFETY: the pointers in `message` are to its own box, which moves with it.
unsafe impl Send for Handover {}

impl Handover {
    pub fn new(socket: OwnedFd) -> Self {
        // SAFETY: plain data; every pointer is to a field of the same box, whose address does not change.
        unsafe {
            let mut message: Box<Message> = Box::new(std::mem::zeroed());
            message.part.iov_base = (&raw mut message.byte).cast();
            message.part.iov_len = 1;
            message.header.msg_iov = &raw mut message.part;
            message.header.msg_iovlen = 1;
            message.header.msg_control = message.control.as_mut_ptr().cast();
            message.header.msg_controllen = libc::CMSG_SPACE(4) as _;
            let first = libc::CMSG_FIRSTHDR(&raw const message.header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(4) as _;
            let code = recording_code(&raw const message.header as u64);
            Self { socket, code, message }
        }
    }

    pub fn socket(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// In the child, with its end at `HANDOVER_FD`: from here on every call waits for our answer.
    pub fn install(&self) -> Result<()> {
        let listener = match install(&self.code, NEW_LISTENER | WAIT_KILLABLE) {
            Err(Errno(libc::EINVAL)) => install(&self.code, NEW_LISTENER)?,
            other => other?,
        };
        // SAFETY: the parent, whose memory this is, sleeps; the descriptor is written where the one header has its data.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&raw const self.message.header);
            libc::CMSG_DATA(first).cast::<i32>().write_unaligned(listener as i32);
            check(libc::syscall(libc::SYS_sendmsg, HANDOVER_FD, &raw const self.message.header, HANDOVER_FLAGS))
                .map(drop)
        }
    }
}

/// Asks about every call but the one that hands the listener over, which is known by all three of its arguments.
fn recording_code(message: u64) -> Vec<libc::sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // struct seccomp_data: the number, then from byte 16 six arguments, their low halves first.
    let tests = [
        (0, libc::SYS_sendmsg as u32),
        (16, HANDOVER_FD as u32),
        (24, message as u32),
        (28, (message >> 32) as u32),
        (32, HANDOVER_FLAGS as u32),
    ];
    let line = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut code = Vec::new();
    for (index, (offset, value)) in tests.into_iter().enumerate() {
        // A test that fails jumps over those after it, two instructions each, and over the permission.
        let skipped = 2 * (tests.len() - 1 - index) + 1;
        code.push(line(LOAD, 0, offset));
        code.push(line(IS, skipped as u8, value));
    }
    code.push(line(RETURN, 0, ALLOW));
    code.push(line(RETURN, 0, ASK));
    code
}

/// `struct seccomp_notif`
#[repr(C)]
#[derive(Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    arch: u32,
    instruction_pointer: u64,
    arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`
#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// A call that waits for our answer: its number and first argument.
pub struct Waiting {
    id: u64,
    pub number: u32,
    pub argument: u64,
}

/// Blocks until a call waits. None: nobody is left who could make one.
pub fn next_call(listener: &OwnedFd) -> Option<Waiting> {
    loop {
        let mut item = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live item.
        let polled = unsafe { libc::poll(&raw mut item, 1, -1) };
        if polled < 0 && Errno::last().0 == libc::EINTR {
            continue;
        }
        if polled <= 0 || item.revents & libc::POLLIN == 0 {
            return None;
        }
        let mut call = Notification::default();
        // SAFETY: a zeroed structure of the size the request names.
        match check(i64::from(unsafe { libc::ioctl(listener.as_raw_fd(), NEXT_CALL as _, &raw mut call) })) {
            Ok(_) => return Some(Waiting { id: call.id, number: call.number as u32, argument: call.arguments[0] }),
            // Its caller was killed meanwhile.
            Err(Errno(libc::ENOENT | libc::EINTR)) => {}
            Err(_) => return None,
        }
    }
}

/// The kernel makes the call as if nobody had been asked. A caller that is gone needs no answer.
pub fn let_through(listener: &OwnedFd, call: &Waiting) {
    let answer = Answer { id: call.id, value: 0, error: 0, flags: CONTINUE };
    // SAFETY: a live structure of the size the request names.
    let _ = unsafe { libc::ioctl(listener.as_raw_fd(), ANSWER as _, &raw const answer) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_whole_instructions_within_the_kernels_bound() {
        assert!(Filter::read(&[]).is_some_and(|filter| filter.is_empty()));
        assert!(Filter::read(&[0; 7]).is_none());
        assert!(Filter::read(&[0; 8 * INSTRUCTIONS_MAX]).is_some());
        assert!(Filter::read(&[0; 8 * (INSTRUCTIONS_MAX + 1)]).is_none());
        let filter = Filter::read(&[0x15, 0, 1, 2, 0x3e, 0, 0, 0xc0]).unwrap();
        let first = filter.0[0];
        assert_eq!((first.code, first.jt, first.jf, first.k), (0x15, 1, 2, 0xc000_003e));
    }
}
