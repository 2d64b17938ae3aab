//! Pseudo terminals.

use super::{check, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

fn open(path: &[u8]) -> Result<OwnedFd> {
    let path = super::c_string(path)?;
    // SAFETY: a live string; gives a new descriptor that nobody else owns.
    unsafe {
        let fd = check(libc::open(path.as_ptr(), libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) as i64)?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// The host's end and the process's end, which belongs to `uid` afterwards.
pub fn pair(rows: u16, cols: u16, uid: u32) -> Result<(OwnedFd, OwnedFd)> {
    let master = open(b"/dev/ptmx").or_else(|_| open(b"/dev/pts/ptmx"))?;
    let unlocked = 0i32;
    let mut number = 0u32;
    // SAFETY: both requests take a pointer to an integer.
    unsafe {
        check(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) as i64)?;
        check(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) as i64)?;
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: gives a new descriptor that nobody else owns.
    let peer = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    let slave = if peer >= 0 {
        // SAFETY: as above.
        unsafe { OwnedFd::from_raw_fd(peer) }
    } else {
        open(format!("/dev/pts/{number}").as_bytes())?
    };
    resize(&master, rows, cols)?;
    // SAFETY: integers only; the group stays what devpts gave it.
    unsafe { libc::fchown(slave.as_raw_fd(), uid, u32::MAX) };
    Ok((master, slave))
}

pub fn resize(master: &OwnedFd, rows: u16, cols: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: a live structure of the request's type.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } as i64).map(drop)
}

/// Tells the programs of `leader`'s session about a new size. gVisor's kernel keeps the size and tells nobody; where the
/// kernel has told, this second signal meets the first.
pub fn tell_resized(master: &OwnedFd, leader: i32) {
    let mut group: libc::pid_t = 0;
    // SAFETY: the kernel fills one integer; then integers only.
    unsafe {
        let known = libc::ioctl(master.as_raw_fd(), libc::TIOCGPGRP, &raw mut group) == 0 && group > 1;
        libc::kill(if known { -group } else { -leader }, libc::SIGWINCH);
    }
}

/// The byte that ends the input, and whether the terminal gathers lines (then a begun line needs it twice).
pub fn end_of_input(master: &OwnedFd) -> (u8, bool) {
    const DEFAULT: u8 = 4;
    // SAFETY: the kernel fills plain data.
    unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        if libc::tcgetattr(master.as_raw_fd(), &mut settings) != 0 {
            return (DEFAULT, true);
        }
        let canonical = settings.c_lflag & libc::ICANON != 0;
        (if canonical { settings.c_cc[libc::VEOF] } else { DEFAULT }, canonical)
    }
}

pub fn is_terminal(number: i32) -> bool {
    // SAFETY: an integer only.
    unsafe { libc::isatty(number) == 1 }
}

/// This process may read from its terminal.
pub fn is_in_front(number: i32) -> bool {
    // SAFETY: integers only.
    unsafe { libc::tcgetpgrp(number) == libc::getpgrp() }
}

/// Rows and columns; 0 where they are not known.
pub fn size(terminal: &OwnedFd) -> (u16, u16) {
    // SAFETY: the kernel fills plain data.
    unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size);
        (size.ws_row, size.ws_col)
    }
}

/// How a terminal treats what goes through it.
#[derive(Clone, Copy)]
pub struct Settings(libc::termios);

impl Settings {
    pub fn of(terminal: &OwnedFd) -> Option<Self> {
        // SAFETY: the kernel fills plain data.
        unsafe {
            let mut settings: libc::termios = std::mem::zeroed();
            (libc::tcgetattr(terminal.as_raw_fd(), &mut settings) == 0).then_some(Self(settings))
        }
    }

    /// Everything goes through as it is.
    pub fn raw(&self) -> Self {
        let mut raw = *self;
        // SAFETY: changes plain data.
        unsafe { libc::cfmakeraw(&mut raw.0) };
        raw
    }

    /// After what was written before has gone out.
    pub fn apply(&self, terminal: &OwnedFd) {
        // SAFETY: a live structure.
        unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSADRAIN, &self.0) };
    }
}
