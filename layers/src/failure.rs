//! Why a layer was refused, as its caller is told.

use std::fmt;
use std::io;

use serde_json::{json, Value};

/// As much of a path as an error shows.
const SHOWN_PATH_BYTES: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A path or link of the archive that leads out of it, or through another of its links.
    Traversal,
    /// A device that means something to a layered file system.
    Device,
    /// A name that would mean something else in a layer.
    BadName,
    /// Part of a writable layer that is elsewhere.
    Redirect,
    /// More comes out of it than its size admits.
    Bomb,
    TooLarge,
    TooManyEntries,
    PathTooLong,
    TooDeep,
    BadTar,
    BadGzip,
    BadZstd,
    /// A hard link to what is not there or cannot be linked.
    BadLink,
    /// An owner outside 0 to 2^32-2.
    BadId,
    Xattr,
    WrongDigest,
    WrongDiffId,
    /// The command line is at fault.
    Usage,
    /// The host is at fault: its disk, its kernel, the pipe.
    Io,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Traversal => "traversal",
            Kind::Device => "device",
            Kind::BadName => "bad-name",
            Kind::Redirect => "redirect",
            Kind::Bomb => "bomb",
            Kind::TooLarge => "too-large",
            Kind::TooManyEntries => "too-many-entries",
            Kind::PathTooLong => "path-too-long",
            Kind::TooDeep => "too-deep",
            Kind::BadTar => "bad-tar",
            Kind::BadGzip => "bad-gzip",
            Kind::BadZstd => "bad-zstd",
            Kind::BadLink => "bad-link",
            Kind::BadId => "bad-id",
            Kind::Xattr => "xattr",
            Kind::WrongDigest => "wrong-digest",
            Kind::WrongDiffId => "wrong-diff-id",
            Kind::Usage => "usage",
            Kind::Io => "io",
        }
    }
}

#[derive(Debug)]
pub struct Failure {
    pub kind: Kind,
    what: String,
    path: Option<Vec<u8>>,
    limit: Option<u64>,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(kind: Kind, what: impl Into<String>) -> Failure {
        Failure { kind, what: what.into(), path: None, limit: None }
    }

    /// Names the entry, unless it is named already.
    pub fn at(mut self, path: &[u8]) -> Failure {
        self.path.get_or_insert_with(|| path.to_vec());
        self
    }

    /// Names what it was done to.
    pub fn of(mut self, thing: &str) -> Failure {
        self.what = format!("{thing}: {}", self.what);
        self
    }

    pub fn limit(mut self, limit: u64) -> Failure {
        self.limit = Some(limit);
        self
    }

    pub fn to_json(&self) -> Value {
        let mut error = json!({ "kind": self.kind.name(), "what": self.what });
        if let Some(path) = &self.path {
            error["path"] = shown(path).into();
        }
        if let Some(limit) = self.limit {
            error["limit"] = limit.into();
        }
        json!({ "error": error })
    }
}

/// A path for people: what is no printable text is escaped, so that it can go to a terminal.
pub fn shown(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path[..path.len().min(SHOWN_PATH_BYTES)].utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    if path.len() > SHOWN_PATH_BYTES {
        text.push_str("...");
    }
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// A failure can travel inside an I/O error, through readers that know no other kind.
impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        io::Error::other(failure)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.downcast::<Failure>() {
            Ok(failure) => failure,
            Err(error) => Failure::new(Kind::Io, error.to_string()),
        }
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Failure {
        io::Error::from(error).into()
    }
}
