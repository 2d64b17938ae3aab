//! The host's end of the channel as a descriptor that can be waited for.

use crate::sys::fd::{self, Moved};
use crate::sys::poll::{self, Epoll};
use crate::sys::Result;
use crate::token::Token;
use std::os::fd::OwnedFd;

const COPY_BYTES: usize = 64 * 1024;
const STACK_BYTES: usize = 128 * 1024;

/// Registers the input. One that cannot be polled is read by a thread of its own, into a pipe that can.
pub fn pollable(epoll: &Epoll, input: OwnedFd) -> Result<OwnedFd> {
    fd::set_nonblocking(&input, true)?;
    if epoll.add(&input, Token::Input.pack(), poll::READABLE).is_ok() {
        return Ok(input);
    }
    fd::set_nonblocking(&input, false)?;
    let (read, write) = fd::pipe()?;
    fd::set_nonblocking(&read, true)?;
    epoll.add(&read, Token::Input.pack(), poll::READABLE)?;
    let copier = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || copy(&input, &write));
    copier.map_err(|_| crate::sys::Errno(libc::EAGAIN))?;
    Ok(read)
}

fn copy(input: &OwnedFd, output: &OwnedFd) {
    let mut buffer = vec![0u8; COPY_BYTES];
    while let Ok(Moved::Bytes(count)) = fd::read(input, &mut buffer) {
        if count == 0 {
            return;
        }
        let mut at = 0;
        while at < count {
            match fd::write(output, &buffer[at..count]) {
                Ok(Moved::Bytes(written)) => at += written,
                _ => return,
            }
        }
    }
}
