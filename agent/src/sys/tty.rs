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
