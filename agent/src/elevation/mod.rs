//! sudo where the sandbox's kernel ignores set-user-id bits: the agent, root inside, starts the command for its caller.
//! The agent's end is `serve`, the caller's is `crate::sudo`; both are this program, so their wire has no generations.
//!
//! Caller to agent, after `Reply::Ready`: a u32 length and a `Request`, its first byte together with the caller's three
//! standard streams; then one byte for each signal that the command's process group is to get. Agent to caller: `Reply`s,
//! each a u32 length before it; the connection ends after `Failed`, `Exited`, and `Started` in the background.

mod serve;

pub use serve::Elevation;

use crate::exec::Surroundings;
use crate::failure::{Failure, Outcome};
use crate::sys::spawn::{spawn, Limit, Program};
use crate::sys::{identity, process};
use crate::users::User;
use crate::wire::codec::{Malformed, Reader, Writer};
use crate::wire::generated::error_kind as kind;
use crate::workers::{Input, Next, Output, Task};
use std::os::fd::OwnedFd;

/// What an execve takes at most with the usual stack limit.
pub const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;
pub const REPLY_BYTES_MAX: usize = 4096;
/// Names a socket elsewhere, for more than one agent on one machine.
const SOCKET_VARIABLE: &str = "BULKHEAD_SUDO_SOCKET";
const SOCKET: &[u8] = b"@bulkhead/sudo";
const GROUPS_MAX: usize = 65_536;

/// A name that no program inside can take, for the agent has it before it starts the first.
pub fn socket_name() -> Vec<u8> {
    use std::os::unix::ffi::OsStringExt;
    std::env::var_os(SOCKET_VARIABLE).map_or(SOCKET.to_vec(), OsStringExt::into_vec)
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Request {
    /// Asks only whether the caller may; nothing is started.
    pub only_ask: bool,
    /// The command goes on when the caller is gone.
    pub background: bool,
    /// Tried in this order; empty only in a question.
    pub candidates: Vec<Vec<u8>>,
    pub argv: Vec<Vec<u8>>,
    pub env: Vec<Vec<u8>>,
    /// Standard output is a terminal that becomes the command's own.
    pub terminal: bool,
    pub cwd: Vec<u8>,
    /// The caller stands in `cwd` already; else the target user must be able to enter it.
    pub cwd_is_given: bool,
    pub umask: u32,
    /// For messages.
    pub user: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

fn write_list<T>(writer: &mut Writer, items: &[T], write: impl Fn(&mut Writer, &T)) {
    writer.u32(items.len() as u32);
    items.iter().for_each(|item| write(writer, item));
}

/// Every item takes 4 bytes or more of a message that is bounded itself.
fn read_list<T>(reader: &mut Reader, read: impl Fn(&mut Reader) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
    let count = reader.u32()?;
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(read(reader)?);
    }
    Ok(items)
}

impl Request {
    pub fn write(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u32(0);
        writer.bool(self.only_ask);
        writer.bool(self.background);
        writer.bool(self.terminal);
        for list in [&self.candidates, &self.argv, &self.env] {
            write_list(&mut writer, list, |writer, item| writer.bytes(item));
        }
        writer.bytes(&self.cwd);
        writer.bool(self.cwd_is_given);
        writer.u32(self.umask);
        writer.str(&self.user);
        writer.u32(self.uid);
        writer.u32(self.gid);
        write_list(&mut writer, &self.groups, |writer, group| writer.u32(*group));
        framed(writer)
    }

    fn read(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let request = Self {
            only_ask: reader.bool()?,
            background: reader.bool()?,
            terminal: reader.bool()?,
            candidates: read_list(&mut reader, |reader| reader.bytes())?,
            argv: read_list(&mut reader, |reader| reader.bytes())?,
            env: read_list(&mut reader, |reader| reader.bytes())?,
            cwd: reader.bytes()?,
            cwd_is_given: reader.bool()?,
            umask: reader.u32()?,
            user: reader.str()?,
            uid: reader.u32()?,
            gid: reader.u32()?,
            groups: read_list(&mut reader, |reader| reader.u32())?,
        };
        reader.finish()?;
        Ok(request)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Ready,
    Failed(Failure),
    Started,
    Exited { code: i32, signal: u8 },
}

fn framed(mut writer: Writer) -> Vec<u8> {
    let length = (writer.buffer.len() - 4) as u32;
    writer.buffer[..4].copy_from_slice(&length.to_le_bytes());
    writer.buffer
}

impl Reply {
    fn write(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u32(0);
        match self {
            Self::Ready => writer.u8(0),
            Self::Failed(failure) => {
                writer.u8(1);
                writer.u16(failure.kind);
                writer.u32(failure.errno);
                writer.str(&failure.message);
            }
            Self::Started => writer.u8(2),
            Self::Exited { code, signal } => {
                writer.u8(3);
                writer.i32(*code);
                writer.u8(*signal);
            }
        }
        framed(writer)
    }

    pub fn read(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let reply = match reader.u8()? {
            0 => Self::Ready,
            1 => Self::Failed(Failure { kind: reader.u16()?, errno: reader.u32()?, message: reader.str()? }),
            2 => Self::Started,
            3 => Self::Exited { code: reader.i32()?, signal: reader.u8()? },
            _ => return Err(Malformed("a reply of no known kind")),
        };
        reader.finish()?;
        Ok(reply)
    }
}

/// Starts what a caller asked for, with the caller's own streams.
struct Start {
    caller: u32,
    request: Request,
    /// In, out, err.
    streams: Vec<OwnedFd>,
    surroundings: Surroundings,
}

impl Task for Start {
    fn starts_process(&self) -> bool {
        true
    }

    fn caller(&self) -> Option<u32> {
        Some(self.caller)
    }

    fn step(&mut self, _input: Input) -> Result<Output, Failure> {
        // Closed at the end of this step, or the caller's pipes would never end.
        let mut streams = std::mem::take(&mut self.streams).into_iter();
        let (Some(stdin), Some(stdout), Some(stderr)) = (streams.next(), streams.next(), streams.next()) else {
            return Err(Failure::new(kind::INVALID, "the caller's standard streams are missing"));
        };
        let pid = self.start(stdin, stdout, stderr)?;
        Ok(Output { messages: Vec::new(), data: Vec::new(), next: Next::Elevated(pid) })
    }
}

impl Start {
    fn start(&self, stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd) -> Outcome<u32> {
        use crate::exec::{c_string, explain, strings};
        let Self { request, surroundings, .. } = self;
        let Some(command) = request.argv.first().filter(|_| !request.candidates.is_empty()) else {
            return Err(Failure::new(kind::INVALID, "no command was named"));
        };
        if request.groups.len() > GROUPS_MAX {
            return Err(Failure::new(kind::INVALID, format!("a user has at most {GROUPS_MAX} groups")));
        }
        let (soft, hard) = surroundings.descriptor_limit;
        let program = Program {
            candidates: strings(&request.candidates, "program")?,
            argv: strings(&request.argv, "argument")?,
            env: strings(&request.env, "environment variable")?,
            cwd: c_string(&request.cwd, "working directory")?,
            cwd_is_given: request.cwd_is_given,
            umask: request.umask & 0o777,
            uid: request.uid,
            gid: request.gid,
            groups: request.groups.clone(),
            change_user: request.uid != identity::own_uid() || request.gid != identity::own_gid(),
            limits: vec![Limit { resource: libc::RLIMIT_NOFILE, soft, hard }],
            allow_setuid: surroundings.allow_setuid,
            stdin: Some(stdin),
            stdout,
            stderr,
            terminal: request.terminal,
            reset_oom_score: surroundings.reset_oom_score,
            bounding_set: surroundings.bounding_set,
            filter: surroundings.filter.clone(),
            record: None,
        };
        spawn(&program).map_err(|(step, errno)| {
            let user = User { name: request.user.clone(), uid: request.uid, ..User::default() };
            explain(step, errno, command, &user, &request.cwd)
        })
    }
}

/// Streams whose closing may take long (a socket that lingers): for a worker to close, not for the loop.
struct Closing(Vec<OwnedFd>);

impl Task for Closing {
    fn step(&mut self, _input: Input) -> Result<Output, Failure> {
        Ok(Output::done())
    }

    fn cancel(&mut self) {
        self.0.clear();
    }
}

/// A caller that is gone takes its command with it: word first, which a stopped one would not hear, then the end.
fn hang_up(pid: u32) {
    for signal in [libc::SIGHUP, libc::SIGCONT] {
        let _ = process::kill(-(pid as i32), signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            background: true,
            candidates: vec![b"/bin/a".to_vec(), b"/b".to_vec()],
            argv: vec![b"a".to_vec(), Vec::new()],
            env: vec![b"A=1".to_vec()],
            cwd: b"/\xff".to_vec(),
            cwd_is_given: true,
            umask: 0o27,
            user: "root".into(),
            uid: 1,
            gid: 2,
            groups: vec![2, 3],
            ..Request::default()
        }
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let bytes = request().write();
        assert_eq!(u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len() - 4);
        assert_eq!(Request::read(&bytes[4..]), Ok(request()));
    }

    #[test]
    fn a_request_cut_or_lengthened_is_refused() {
        let bytes = request().write();
        for end in 4..bytes.len() {
            assert!(Request::read(&bytes[4..end]).is_err(), "cut at {end}");
        }
        assert!(Request::read(&[&bytes[4..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_list_longer_than_its_message_is_refused_without_room_for_it() {
        assert!(Request::read(&[0, 0, 0, 0xff, 0xff, 0xff, 0xff]).is_err());
    }

    #[test]
    fn replies_are_read_as_they_were_written() {
        let failure = Failure { kind: 3, errno: 2, message: "no".into() };
        for reply in [Reply::Ready, Reply::Failed(failure), Reply::Started, Reply::Exited { code: -1, signal: 9 }] {
            assert_eq!(Reply::read(&reply.write()[4..]), Ok(reply));
        }
        assert!(Reply::read(&[9]).is_err());
    }
}
