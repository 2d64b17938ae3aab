//! One connection to the agent, from the request to the command's end.

use crate::elevation::{socket_name, Reply, Request, REPLY_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::failure::Failure;
use crate::sys::fd::{self, Moved};
use crate::sys::poll::{self, Epoll};
use crate::sys::{local, process, Errno};
use std::os::fd::OwnedFd;

/// What ends or changes a command when its caller gets it.
const PASSED_ON: [i32; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
    libc::SIGCONT,
];
const FROM_AGENT: u64 = 0;
const FROM_SIGNALS: u64 = 1;

pub enum Ending {
    Exited { code: i32, signal: u8 },
    Background,
    Failed(Failure),
}

struct Connection {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Connection {
    /// Waits for the next reply.
    fn reply(&mut self) -> Result<Reply, String> {
        loop {
            if let Some(length) = self.buffer.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize) {
                if length > REPLY_BYTES_MAX {
                    return Err("what answers is not the sandbox's agent".into());
                }
                if self.buffer.len() >= 4 + length {
                    let reply = Reply::read(&self.buffer[4..4 + length]);
                    self.buffer.drain(..4 + length);
                    return reply
                        .map_err(|malformed| format!("what answers is not the sandbox's agent: {}", malformed.0));
                }
            }
            match fd::read_append(&self.fd, &mut self.buffer, REPLY_BYTES_MAX) {
                Ok(Moved::Bytes(count)) if count > 0 => {}
                Ok(_) => return Err("the sandbox's agent ended the connection".into()),
                Err(errno) => return Err(format!("the sandbox's agent ended the connection: {errno}")),
            }
        }
    }

    /// Everything, or as much as the agent takes: when it refuses, its reply says why.
    fn send(&self, bytes: &[u8]) {
        let Ok(mut at) = local::send(&self.fd, bytes, &[0, 1, 2]) else { return };
        while at < bytes.len() {
            match local::send_plain(&self.fd, &bytes[at..]) {
                Ok(count) => at += count,
                Err(_) => return,
            }
        }
    }
}

fn connect() -> Result<Connection, String> {
    let fd = local::connect(&socket_name()).map_err(|errno| match errno {
        Errno(libc::ECONNREFUSED | libc::ENOENT) => {
            "this sandbox runs no commands for another user: its agent does not listen for them".to_string()
        }
        errno => format!("the sandbox's agent cannot be reached: {errno}"),
    })?;
    Ok(Connection { fd, buffer: Vec::new() })
}

pub fn run(request: &Request) -> Result<Ending, String> {
    let bytes = request.write();
    if bytes.len() - 4 > REQUEST_BYTES_MAX {
        return Err(format!("the command line and environment have more than {REQUEST_BYTES_MAX} bytes"));
    }
    let mut connection = connect()?;
    match connection.reply()? {
        Reply::Ready => {}
        Reply::Failed(failure) => return Ok(Ending::Failed(failure)),
        _ => return Err("what answers is not the sandbox's agent".into()),
    }
    let failed = |errno: Errno| format!("cannot wait for the command: {errno}");
    let epoll = Epoll::new().map_err(failed)?;
    // One that is ignored here (nohup) is not the command's business either.
    let wanted: Vec<i32> =
        PASSED_ON.into_iter().chain([libc::SIGTSTP]).filter(|signal| !process::is_ignored(*signal)).collect();
    let signals = poll::signal_descriptor(&wanted).map_err(failed)?;
    epoll
        .add_level(&signals, FROM_SIGNALS)
        .and_then(|()| epoll.add_level(&connection.fd, FROM_AGENT))
        .map_err(failed)?;
    connection.send(&bytes);
    let mut events = Vec::new();
    loop {
        epoll.wait(-1, &mut events);
        for event in std::mem::take(&mut events) {
            if event.token == FROM_SIGNALS {
                poll::pending_signals(&signals).into_iter().for_each(|signal| pass_on(&connection, signal));
                continue;
            }
            loop {
                match connection.reply()? {
                    Reply::Started if request.background => return Ok(Ending::Background),
                    Reply::Started | Reply::Ready => {}
                    Reply::Failed(failure) => return Ok(Ending::Failed(failure)),
                    Reply::Exited { code, signal } => return Ok(Ending::Exited { code, signal }),
                }
                if connection.buffer.is_empty() {
                    break;
                }
            }
        }
    }
}

/// The command is in a session of its own, so it hears of what its caller's terminal does only from here.
fn pass_on(connection: &Connection, signal: i32) {
    let tell = |signal: i32| {
        let _ = local::send_plain(&connection.fd, &[signal as u8]);
    };
    if signal != libc::SIGTSTP {
        return tell(signal);
    }
    // The kernel ignores SIGTSTP in a session without a shell; SIGSTOP it cannot ignore.
    tell(libc::SIGSTOP);
    process::stop();
    tell(libc::SIGCONT);
}
