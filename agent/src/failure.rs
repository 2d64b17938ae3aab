//! Why a request could not be done: a kind the host can act on, the error number, and words naming the thing.

use crate::sys::Errno;
use crate::wire::generated::{error_kind as kind, Failed};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: u16,
    pub errno: u32,
    pub message: String,
}

pub type Outcome<T> = Result<T, Failure>;

/// Messages quote what the host sent; longer ones are cut.
const MESSAGE_BYTES_MAX: usize = 1024;

impl Failure {
    pub fn new(kind: u16, message: impl Into<String>) -> Self {
        Self { kind, errno: 0, message: cut(message.into()) }
    }

    /// `doing` names the action and the thing; the system's words follow.
    pub fn of(errno: Errno, doing: impl std::fmt::Display) -> Self {
        Self::with_kind(kind_of(errno), errno, doing)
    }

    pub fn with_kind(kind: u16, errno: Errno, doing: impl std::fmt::Display) -> Self {
        Self { kind, errno: errno.0 as u32, message: cut(format!("{doing}: {errno}")) }
    }

    pub fn to_message(&self) -> Failed {
        Failed { kind: self.kind, errno: self.errno, message: self.message.clone() }
    }
}

fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let mut end = MESSAGE_BYTES_MAX;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
    }
    message
}

/// Adds what was being done to a system call's failure.
pub trait Doing<T> {
    fn doing<D: std::fmt::Display>(self, what: impl FnOnce() -> D) -> Outcome<T>;
}

impl<T> Doing<T> for Result<T, Errno> {
    fn doing<D: std::fmt::Display>(self, what: impl FnOnce() -> D) -> Outcome<T> {
        self.map_err(|errno| Failure::of(errno, what()))
    }
}

pub fn kind_of(errno: Errno) -> u16 {
    match errno.0 {
        libc::ENOENT => kind::NOT_FOUND,
        libc::EEXIST => kind::EXISTS,
        libc::ENOTDIR => kind::NOT_DIRECTORY,
        libc::EISDIR => kind::IS_DIRECTORY,
        libc::EACCES | libc::EPERM | libc::EROFS => kind::PERMISSION,
        libc::ENOSPC | libc::EDQUOT => kind::NO_SPACE,
        libc::ENOTEMPTY => kind::NOT_EMPTY,
        libc::ESRCH => kind::PROCESS_NOT_FOUND,
        libc::ECONNREFUSED => kind::REFUSED,
        libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOMEM | libc::E2BIG => kind::LIMIT,
        libc::EINVAL | libc::ENAMETOOLONG | libc::ELOOP => kind::INVALID,
        libc::ENOSYS | libc::EOPNOTSUPP => kind::UNSUPPORTED,
        _ => kind::IO,
    }
}

/// A path or another name for a message.
pub fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
