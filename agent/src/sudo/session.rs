//! One connection to the agent, from the request to the command's end.

use super::terminal::Terminal;
use crate::elevation::{socket_name, Reply, Request, REPLY_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::failure::Failure;
use crate::sys::fd::{self, Moved};
use crate::sys::poll::{self, Epoll};
use crate::sys::{local, process, Errno};
use std::os::fd::{OwnedFd, RawFd};

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
const FROM_COMMAND: u64 = 2;

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
    fn send(&self, bytes: &[u8], streams: &[RawFd; 3]) {
        let Ok(mut at) = local::send(&self.fd, bytes, streams) else { return };
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

/// Runs what `request` says; `terminal` of it is decided here.
pub fn run(request: &Request) -> Result<Ending, String> {
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
    let terminal = if request.only_ask || request.background { None } else { Terminal::open() };
    if let Some(terminal) = &terminal {
        epoll.add_level(terminal.master(), FROM_COMMAND).map_err(failed)?;
    }
    let bytes = Request { terminal: terminal.is_some(), ..request.clone() }.write();
    if bytes.len() - 4 > REQUEST_BYTES_MAX {
        return Err(format!("the command line and environment have more than {REQUEST_BYTES_MAX} bytes"));
    }
    connection.send(&bytes, &terminal.as_ref().map_or([0, 1, 2], Terminal::streams));
    Session { connection, epoll, signals, terminal, background: request.background }.until_end()
}

struct Session {
    connection: Connection,
    epoll: Epoll,
    signals: OwnedFd,
    terminal: Option<Terminal>,
    background: bool,
}

impl Session {
    fn until_end(mut self) -> Result<Ending, String> {
        let mut events = Vec::new();
        loop {
            self.epoll.wait(-1, &mut events);
            for event in &events {
                match (event.token, &self.terminal) {
                    (FROM_SIGNALS, _) => {
                        poll::pending_signals(&self.signals).into_iter().for_each(|signal| self.pass_on(signal));
                    }
                    (FROM_COMMAND, Some(terminal)) => {
                        if !terminal.show() {
                            self.epoll.remove(terminal.master());
                        }
                    }
                    _ => {
                        if let Some(ending) = self.replies()? {
                            return Ok(ending);
                        }
                    }
                }
            }
        }
    }

    /// What the agent has said by now; the command's end, if that is among it.
    fn replies(&mut self) -> Result<Option<Ending>, String> {
        loop {
            match self.connection.reply()? {
                Reply::Started if self.background => return Ok(Some(Ending::Background)),
                Reply::Started => {
                    if let Some(terminal) = &mut self.terminal {
                        terminal.started();
                    }
                }
                Reply::Ready => {}
                Reply::Failed(failure) => return Ok(Some(Ending::Failed(failure))),
                Reply::Exited { code, signal } => {
                    if let Some(terminal) = &self.terminal {
                        terminal.show_rest();
                    }
                    return Ok(Some(Ending::Exited { code, signal }));
                }
            }
            if self.connection.buffer.is_empty() {
                return Ok(None);
            }
        }
    }

    /// The command is in a session of its own, so it hears of what its caller's terminal does only from here.
    fn pass_on(&self, signal: i32) {
        let tell = |signal: i32| {
            let _ = local::send_plain(&self.connection.fd, &[signal as u8]);
        };
        if let (libc::SIGWINCH, Some(terminal)) = (signal, &self.terminal) {
            terminal.resized();
        }
        if signal != libc::SIGTSTP {
            return tell(signal);
        }
        // The kernel ignores SIGTSTP in a session without a shell; SIGSTOP it cannot ignore.
        tell(libc::SIGSTOP);
        self.set_raw(false);
        process::stop();
        self.set_raw(true);
        tell(libc::SIGCONT);
    }

    fn set_raw(&self, raw: bool) {
        if let Some(terminal) = &self.terminal {
            terminal.set_raw(raw);
        }
    }
}
