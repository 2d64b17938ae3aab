//! Waiting: epoll, signals as a descriptor, an event counter, the clock.

use super::{check, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

pub const READABLE: u32 = (libc::EPOLLIN | libc::EPOLLRDHUP) as u32;
pub const WRITABLE: u32 = libc::EPOLLOUT as u32;
/// What a file of the kernel's says when its contents have changed.
pub const CHANGED: u32 = (libc::EPOLLPRI | libc::EPOLLERR) as u32;
pub const CLOSED: u32 = (libc::EPOLLHUP | libc::EPOLLERR) as u32;

pub struct Epoll {
    fd: OwnedFd,
}

/// Events of one wait.
pub const EVENTS_PER_WAIT: usize = 64;

#[derive(Clone, Copy)]
pub struct Event {
    pub token: u64,
    pub bits: u32,
}

impl Epoll {
    pub fn new() -> Result<Self> {
        // SAFETY: gives a new descriptor that nobody else owns.
        unsafe {
            let fd = check(libc::epoll_create1(libc::EPOLL_CLOEXEC) as i64)?;
            Ok(Self { fd: OwnedFd::from_raw_fd(fd as i32) })
        }
    }

    /// Edge-triggered: a reader must read until it would block. Closing the descriptor removes it.
    pub fn add(&self, fd: &impl AsRawFd, token: u64, bits: u32) -> Result<()> {
        let mut event = libc::epoll_event { events: bits | libc::EPOLLET as u32, u64: token };
        // SAFETY: `event` lives through the call.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event) } as i64)
            .map(drop)
    }

    /// As `add`, but told again for as long as there is something to read: a reader may take a little at a time.
    pub fn add_level(&self, fd: &impl AsRawFd, token: u64) -> Result<()> {
        let mut event = libc::epoll_event { events: READABLE, u64: token };
        // SAFETY: `event` lives through the call.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event) } as i64)
            .map(drop)
    }

    pub fn remove(&self, fd: &impl AsRawFd) {
        // SAFETY: integers only; one that is not there may go.
        unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_DEL, fd.as_raw_fd(), std::ptr::null_mut()) };
    }

    /// `timeout_ms` below 0 waits for ever.
    pub fn wait(&self, timeout_ms: i32, out: &mut Vec<Event>) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_PER_WAIT];
        out.clear();
        // SAFETY: room for EVENTS_PER_WAIT events.
        let count =
            unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr(), EVENTS_PER_WAIT as i32, timeout_ms) };
        for event in events.iter().take(count.max(0) as usize) {
            out.push(Event { token: event.u64, bits: event.events });
        }
    }
}

/// Blocks every signal but those a fault raises, in this thread and all that it starts, and makes `wanted` readable.
pub fn signal_descriptor(wanted: &[i32]) -> Result<OwnedFd> {
    // SAFETY: signal sets are plain data, filled before use.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        for fault in
            [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT, libc::SIGSYS]
        {
            libc::sigdelset(&mut all, fault);
        }
        check(libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut()) as i64)?;
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in wanted {
            libc::sigaddset(&mut set, *signal);
        }
        let fd = check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) as i64)?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Signals that are pending, at most 16.
pub fn pending_signals(fd: &OwnedFd) -> Vec<i32> {
    let mut signals = Vec::new();
    for _ in 0..16 {
        // SAFETY: the record is plain data of exactly the size that is read.
        unsafe {
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            let size = std::mem::size_of_val(&info);
            let got = libc::read(fd.as_raw_fd(), (&raw mut info).cast(), size);
            if got != size as isize {
                break;
            }
            signals.push(info.ssi_signo as i32);
        }
    }
    signals
}

/// A counter that a thread raises to wake the loop.
pub fn event_counter() -> Result<OwnedFd> {
    // SAFETY: gives a new descriptor that nobody else owns.
    unsafe {
        let fd = check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) as i64)?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Milliseconds of `clock` (CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME).
pub fn clock_ms(clock: i32) -> u64 {
    // SAFETY: the kernel fills plain data.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(clock, &mut time);
        time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
    }
}

pub fn now_ms() -> u64 {
    clock_ms(libc::CLOCK_MONOTONIC)
}

/// A directory watcher's descriptor, non-blocking.
pub fn inotify() -> Result<OwnedFd> {
    // SAFETY: gives a new descriptor that nobody else owns.
    unsafe {
        let fd = check(libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) as i64)?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

pub fn inotify_add(fd: &OwnedFd, path: &[u8], mask: u32) -> Result<i32> {
    let path = super::c_string(path)?;
    // SAFETY: a live NUL-terminated string.
    check(unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), mask) } as i64).map(|wd| wd as i32)
}

pub fn inotify_remove(fd: &OwnedFd, watch: i32) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::inotify_rm_watch(fd.as_raw_fd(), watch) } as i64).map(drop)
}
