//! Paths of an archive, and what layers read into them.

use crate::failure::{Failure, Kind, Result};
use crate::limits::Limits;

/// Of the kernel.
const NAME_MAX: u64 = 255;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Book-keeping of a file system that layers were once kept in; means nothing to anybody else.
const AUFS: &[u8] = b".wh..wh.";

/// The path of an entry without what means nothing: empty for the root, else names with one `/` between. A leading `/`
/// is the image's own root: distroless and others write it, and everybody reads it so.
pub fn parse(raw: &[u8], limits: &Limits) -> Result<Vec<u8>> {
    let fail = |kind, what: &str| Failure::new(kind, what).at(raw);
    if raw.is_empty() || raw.contains(&0) {
        return Err(fail(Kind::BadTar, "an entry's name is empty or has a zero byte"));
    }
    let mut path = Vec::with_capacity(raw.len());
    let mut depth = 0;
    for name in raw.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
        if name == b".." {
            return Err(fail(Kind::Traversal, "a path climbs by \"..\""));
        }
        if name.len() as u64 > NAME_MAX {
            return Err(fail(Kind::PathTooLong, "a name is longer than a file system takes").limit(NAME_MAX));
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        depth += 1;
    }
    if path.len() as u64 > limits.max_path_bytes {
        return Err(fail(Kind::PathTooLong, "a path is too long").limit(limits.max_path_bytes));
    }
    if depth > limits.max_depth {
        return Err(fail(Kind::TooDeep, "a path has too many directories").limit(limits.max_depth));
    }
    Ok(path)
}

/// The directory and the name in it. The root is its own directory, with an empty name.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        name.to_vec()
    } else {
        [directory, b"/", name].concat()
    }
}

/// What an entry's name makes of it.
#[derive(Debug, PartialEq)]
pub enum Role {
    Entry,
    /// What lower layers have at this path is gone.
    Whiteout(Vec<u8>),
    /// What lower layers have in this directory is gone.
    Opaque(Vec<u8>),
    LeftOut,
}

pub fn role(path: &[u8]) -> Result<Role> {
    let (directory, name) = split(path);
    if path.split(|byte| *byte == b'/').any(|part| part.starts_with(AUFS) && part != OPAQUE) {
        return Ok(Role::LeftOut);
    }
    if directory.split(|byte| *byte == b'/').any(|part| part.starts_with(WHITEOUT)) {
        return Err(Failure::new(Kind::BadTar, "an entry lies below a whiteout").at(path));
    }
    if name == OPAQUE {
        return Ok(Role::Opaque(directory.to_vec()));
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Role::Entry),
        Some(b"") => Err(Failure::new(Kind::BadTar, "a whiteout names nothing").at(path)),
        Some(b"." | b"..") => Err(Failure::new(Kind::Traversal, "a whiteout climbs").at(path)),
        Some(hidden) => Ok(Role::Whiteout(join(directory, hidden))),
    }
}

/// Bytes as text of which every character is one byte, so that any name survives JSON.
pub fn to_latin1(path: &[u8]) -> String {
    path.iter().map(|byte| char::from(*byte)).collect()
}

pub fn from_latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { max_bytes: 1, max_entries: 1, max_ratio: 1, max_path_bytes: 300, max_xattr_bytes: 1, max_depth: 5 };

    fn kind(raw: &[u8]) -> Kind {
        parse(raw, &LIMITS).unwrap_err().kind
    }

    #[test]
    fn what_means_nothing_is_taken_out() {
        for (raw, path) in
            [("./", ""), ("/", ""), ("/usr//bin/./sh", "usr/bin/sh"), ("a/", "a"), ("..a/b..", "..a/b..")]
        {
            assert_eq!(parse(raw.as_bytes(), &LIMITS).unwrap(), path.as_bytes());
        }
    }

    #[test]
    fn what_climbs_or_has_no_bound_is_refused() {
        for raw in ["..", "../a", "a/../b", "a/..", "/.."] {
            assert_eq!(kind(raw.as_bytes()), Kind::Traversal, "{raw}");
        }
        assert_eq!(kind(b""), Kind::BadTar);
        assert_eq!(kind(b"a\0b"), Kind::BadTar);
        assert_eq!(kind("a".repeat(256).as_bytes()), Kind::PathTooLong);
        assert_eq!(kind(format!("{0}/{0}", "a".repeat(200)).as_bytes()), Kind::PathTooLong);
        assert_eq!(kind(b"1/2/3/4/5/6"), Kind::TooDeep);
    }

    #[test]
    fn whiteouts_are_told_from_entries() {
        let role = |path: &str| super::role(path.as_bytes());
        assert_eq!(role("a/wh.b").unwrap(), Role::Entry);
        assert_eq!(role("a/.wh.b").unwrap(), Role::Whiteout(b"a/b".to_vec()));
        assert_eq!(role(".wh.b").unwrap(), Role::Whiteout(b"b".to_vec()));
        assert_eq!(role("a/.wh..wh..opq").unwrap(), Role::Opaque(b"a".to_vec()));
        assert_eq!(role("a/.wh..wh.plnk/1.2").unwrap(), Role::LeftOut);
        assert_eq!(role("a/.wh..b").unwrap(), Role::Whiteout(b"a/.b".to_vec()));
        assert_eq!(role("a/.wh...").unwrap_err().kind, Kind::Traversal);
        assert_eq!(role(".wh..").unwrap_err().kind, Kind::Traversal);
        assert_eq!(role(".wh.").unwrap_err().kind, Kind::BadTar);
        assert_eq!(role(".wh.a/b").unwrap_err().kind, Kind::BadTar);
    }

    #[test]
    fn every_byte_survives() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(from_latin1(&to_latin1(&all)).unwrap(), all);
        assert_eq!(from_latin1("\u{100}"), None);
    }
}
