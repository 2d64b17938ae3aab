//! The control protocol: one JSON object per line in both directions over a stream socket. Requests carry an `id` that
//! the reply repeats; replies come in any order. Lines without `id` from the keeper are events.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Mutex;

use serde_json::{json, Value};

/// Raised when a request or an answer changes its meaning.
pub const GENERATION: u32 = 1;
/// Largest request: a plan's files (an OCI configuration of about 40 KiB) with much room.
const MAX_LINE_BYTES: u64 = 4 * 1024 * 1024;

/// Why a request failed. `step` and `op` name the step of an acquire.
#[derive(Debug, Default)]
pub struct Failure {
    pub step: Option<usize>,
    pub op: Option<&'static str>,
    /// The system's name of the error (`ENOSPC`), when there is one.
    pub errno: Option<String>,
    pub message: String,
    pub stderr: String,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        let errno = error.raw_os_error().map(errno_name);
        Failure { errno, message: error.to_string(), ..Failure::default() }
    }
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), ..Failure::default() }
    }

    fn to_json(&self) -> Value {
        json!({
            "step": self.step, "op": self.op, "errno": self.errno, "message": self.message, "stderr": self.stderr,
        })
    }

    /// Puts what was being done before what went wrong.
    pub fn at(mut self, what: &str) -> Failure {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

fn errno_name(code: i32) -> String {
    let name = match code {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EIO => "EIO",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::EXDEV => "EXDEV",
        libc::ENODEV => "ENODEV",
        libc::ENOTDIR => "ENOTDIR",
        libc::EISDIR => "EISDIR",
        libc::EINVAL => "EINVAL",
        libc::ENFILE => "ENFILE",
        libc::EMFILE => "EMFILE",
        libc::ENOSPC => "ENOSPC",
        libc::EROFS => "EROFS",
        libc::EPIPE => "EPIPE",
        libc::ENAMETOOLONG => "ENAMETOOLONG",
        libc::ENOSYS => "ENOSYS",
        libc::ENOTEMPTY => "ENOTEMPTY",
        libc::ELOOP => "ELOOP",
        libc::EOVERFLOW => "EOVERFLOW",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EDQUOT => "EDQUOT",
        libc::ESTALE => "ESTALE",
        libc::EUCLEAN => "EUCLEAN",
        libc::E2BIG => "E2BIG",
        _ => return format!("errno {code}"),
    };
    name.to_string()
}

/// The sending half; lines of different threads never mix.
pub struct Sender {
    socket: Mutex<File>,
}

impl Sender {
    pub fn new(socket: File) -> Sender {
        Sender { socket: Mutex::new(socket) }
    }

    /// Failure means that the engine is gone; the reading side sees that too and ends the keeper.
    pub fn send(&self, message: &Value) {
        let mut line = message.to_string();
        line.push('\n');
        let _ = self.socket.lock().unwrap().write_all(line.as_bytes());
    }

    pub fn reply(&self, id: u64, result: Result<Value, Failure>) {
        self.send(&match result {
            Ok(value) => json!({ "id": id, "ok": value }),
            Err(failure) => json!({ "id": id, "error": failure.to_json() }),
        });
    }
}

pub struct Lines {
    reader: BufReader<File>,
}

impl Lines {
    pub fn new(socket: File) -> Lines {
        Lines { reader: BufReader::with_capacity(64 * 1024, socket) }
    }

    /// The next line, or None at the end, which a line that is too long also is: nothing after it can be trusted.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        let got = self.reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
        got.ok()?;
        (line.pop() == Some(b'\n')).then_some(line)
    }
}
