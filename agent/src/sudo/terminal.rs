//! A terminal of the command's own between it and the caller's: the command leads another session, where the caller's
//! terminal could neither control its jobs nor be asked who is in front.

use crate::sys::fd::{self, Moved};
use crate::sys::{identity, tty};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

const COPY_BYTES: usize = 16 * 1024;
/// What a command wrote before its end and we have not shown yet; more is some other program's, which lives on.
const LAST_BYTES_MAX: usize = 1024 * 1024;

pub struct Terminal {
    master: OwnedFd,
    /// The command's end, until it has it.
    slave: Option<OwnedFd>,
    settings: tty::Settings,
    input: OwnedFd,
    output: OwnedFd,
}

impl Terminal {
    /// None where the caller is not at a terminal with both hands, or not in front of it.
    pub fn open() -> Option<Self> {
        if !tty::is_terminal(0) || !tty::is_terminal(1) || !tty::is_in_front(0) {
            return None;
        }
        let (input, output) = (fd::duplicate(0).ok()?, fd::duplicate(1).ok()?);
        let (rows, cols) = tty::size(&input);
        let (master, slave) = tty::pair(rows, cols, identity::own_uid()).ok()?;
        let settings = tty::Settings::of(&input)?;
        settings.apply(&slave);
        let terminal = Self { master, slave: Some(slave), settings, input, output };
        terminal.settings.raw().apply(&terminal.input);
        Some(terminal)
    }

    /// The streams that the command gets: its own terminal in place of the caller's, and what is none as it is.
    pub fn streams(&self) -> [RawFd; 3] {
        let own = self.slave.as_ref().map(AsRawFd::as_raw_fd);
        [0, 1, 2].map(|number| own.filter(|_| tty::is_terminal(number)).unwrap_or(number))
    }

    pub fn master(&self) -> &OwnedFd {
        &self.master
    }

    /// The command has its end: ours would keep the terminal from ever ending.
    pub fn started(&mut self) {
        self.slave = None;
        let (Ok(input), Ok(master)) = (self.input.try_clone(), self.master.try_clone()) else { return };
        // A thread, because a terminal whose program does not read would hold up what it writes. It ends with us.
        let copy = move || {
            let mut bytes = [0u8; COPY_BYTES];
            while let Ok(Moved::Bytes(count)) = fd::read(&input, &mut bytes) {
                if count == 0 || !write_all(&master, &bytes[..count]) {
                    return;
                }
            }
        };
        let _ = std::thread::Builder::new().spawn(copy);
    }

    /// Shows some of what the command wrote. False: nothing more will come.
    pub fn show(&self) -> bool {
        let mut bytes = [0u8; COPY_BYTES];
        match fd::read(&self.master, &mut bytes) {
            Ok(Moved::Bytes(count)) if count > 0 => write_all(&self.output, &bytes[..count]),
            _ => false,
        }
    }

    /// The command has ended: what it wrote last.
    pub fn show_rest(&self) {
        let _ = fd::set_nonblocking(&self.master, true);
        let mut left = LAST_BYTES_MAX / COPY_BYTES;
        while left > 0 && self.show() {
            left -= 1;
        }
    }

    pub fn resized(&self) {
        let (rows, cols) = tty::size(&self.input);
        let _ = tty::resize(&self.master, rows, cols);
    }

    /// Around a stop of ours: the shell in front meanwhile wants its terminal as it was.
    pub fn set_raw(&self, raw: bool) {
        if raw {
            self.settings.raw().apply(&self.input);
        } else {
            self.settings.apply(&self.input);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.set_raw(false);
    }
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match fd::write(to, bytes) {
            Ok(Moved::Bytes(count)) => bytes = &bytes[count..],
            // The caller's own terminal may be without blocking, by another program's doing.
            Ok(Moved::WouldBlock) => std::thread::sleep(std::time::Duration::from_millis(1)),
            Err(_) => return false,
        }
    }
    true
}
