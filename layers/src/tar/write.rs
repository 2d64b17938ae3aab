//! Writes a tar stream: plain headers, and extended ones where those have no room.

use std::io::Write;

use sha2::{Digest, Sha256};

use super::header::BLOCK_BYTES;
use super::{padding, Time};
use crate::failure::Result;

const NAME_BYTES: usize = 100;
/// Octal digits of a size and a time.
const LONG_DIGITS: usize = 11;
const LONG_MAX: u64 = (1 << (3 * LONG_DIGITS as u32)) - 1;
/// What an owner's seven digits hold.
const SHORT_MAX: u32 = (1 << 21) - 1;

/// What stands before an entry's contents.
pub struct Head<'a> {
    /// As in the header: `0` a file, `5` a directory and so on.
    pub kind: u8,
    pub path: &'a [u8],
    pub link: &'a [u8],
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Bytes of contents that follow.
    pub stored: u64,
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
    /// The length with holes; the contents begin with the map then.
    pub sparse_size: Option<u64>,
}

pub struct Writer<W> {
    out: W,
    hash: Sha256,
    /// After the contents that are being written, to the next block.
    padding: u64,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> Writer<W> {
        Writer { out, hash: Sha256::new(), padding: 0 }
    }

    /// Begins an entry; its contents follow by `contents`.
    pub fn entry(&mut self, head: &Head<'_>) -> Result<()> {
        self.pad()?;
        let records = records(head);
        if !records.is_empty() {
            let extended = Head { kind: b'x', path: b"pax", link: b"", xattrs: &[], ..*head };
            self.contents(&block(&Head { stored: records.len() as u64, ..extended }))?;
            self.contents(&records)?;
            self.padding = padding(records.len() as u64);
            self.pad()?;
        }
        self.contents(&block(head))?;
        self.padding = padding(head.stored);
        Ok(())
    }

    pub fn contents(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        Ok(self.out.write_all(bytes)?)
    }

    /// @returns the archive's digest
    pub fn finish(mut self) -> Result<String> {
        self.pad()?;
        self.contents(&[0; 2 * BLOCK_BYTES])?;
        self.out.flush()?;
        Ok(crate::stream::digest(&self.hash))
    }

    fn pad(&mut self) -> Result<()> {
        let zeros = [0; BLOCK_BYTES];
        let count = std::mem::take(&mut self.padding) as usize;
        self.contents(&zeros[..count])
    }
}

/// Offset and length of each piece, as they stand before the contents of a file with holes, filled up to whole blocks.
pub fn map(pieces: &[(u64, u64)]) -> Vec<u8> {
    let mut text = format!("{}\n", pieces.len());
    for (offset, length) in pieces {
        text.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut text = text.into_bytes();
    text.resize(text.len().next_multiple_of(BLOCK_BYTES), 0);
    text
}

/// What the header has no room for, or says otherwise.
fn records(head: &Head<'_>) -> Vec<u8> {
    let mut records = Vec::new();
    let mut say = |key: &[u8], value: &[u8]| records.extend(record(key, value));
    if let Some(size) = head.sparse_size {
        say(b"GNU.sparse.major", b"1");
        say(b"GNU.sparse.minor", b"0");
        say(b"GNU.sparse.name", head.path);
        say(b"GNU.sparse.realsize", size.to_string().as_bytes());
    } else if !fits(head.path) {
        say(b"path", head.path);
    }
    if !fits(head.link) {
        say(b"linkpath", head.link);
    }
    if head.stored > LONG_MAX {
        say(b"size", head.stored.to_string().as_bytes());
    }
    for (key, id) in [(b"uid", head.uid), (b"gid", head.gid)] {
        if id > SHORT_MAX {
            say(key, id.to_string().as_bytes());
        }
    }
    if head.mtime.nanos != 0 || !(0..=LONG_MAX as i64).contains(&head.mtime.seconds) {
        say(b"mtime", time(head.mtime).as_bytes());
    }
    for (name, value) in head.xattrs {
        say(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    records
}

/// `LENGTH KEY=VALUE\n`, the length's own digits included.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    // A blank, an equals sign and a line's end.
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn fits(text: &[u8]) -> bool {
    text.len() <= NAME_BYTES && text.is_ascii()
}

/// Seconds with a fraction. Nanoseconds count forwards from the second, also before 1970.
fn time(Time { seconds, nanos }: Time) -> String {
    match nanos {
        0 => seconds.to_string(),
        _ if seconds >= 0 => format!("{seconds}.{nanos:09}"),
        _ => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos),
    }
}

fn block(head: &Head<'_>) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    let cut = |text: &[u8]| text[..text.len().min(NAME_BYTES)].to_vec();
    let long = |value: u64| format!("{:0LONG_DIGITS$o}\0", value.min(LONG_MAX)).into_bytes();
    let short = |value: u32| format!("{:07o}\0", value.min(SHORT_MAX)).into_bytes();
    put(0, &cut(if head.sparse_size.is_some() { b"GNUSparseFile.0/sparse" } else { head.path }));
    put(100, &short(head.mode));
    put(108, &short(head.uid));
    put(116, &short(head.gid));
    put(124, &long(head.stored));
    put(136, &long(u64::try_from(head.mtime.seconds).unwrap_or(0)));
    put(148, b"        ");
    put(156, &[head.kind]);
    put(157, &cut(head.link));
    put(257, b"ustar\x0000");
    put(329, &short(0));
    put(337, &short(0));
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::pax;

    #[test]
    fn records_count_their_own_digits() {
        assert_eq!(record(b"path", b"a=b"), b"12 path=a=b\n");
        for length in [80, 85, 86, 87, 88, 89, 90, 980, 988, 989, 990] {
            let text = record(b"path", &vec![b'x'; length]);
            assert_eq!(pax::Pax::parse(&text).unwrap().path.unwrap().len(), length);
        }
    }

    #[test]
    fn owners_that_a_header_has_no_digits_for_are_said_besides() {
        for (uid, gid) in [(0, SHORT_MAX), (SHORT_MAX + 1, 7), (u32::MAX - 1, u32::MAX - 1)] {
            let (mtime, path) = (Time::default(), b"f".as_slice());
            let rest = Head {
                kind: b'0',
                path,
                link: b"",
                mode: 0,
                uid,
                gid,
                mtime,
                stored: 0,
                xattrs: &[],
                sparse_size: None,
            };
            let said = pax::Pax::parse(&records(&rest)).unwrap();
            let large = |id: u32| (id > SHORT_MAX).then_some(u64::from(id));
            assert_eq!((said.uid, said.gid), (large(uid), large(gid)));
            assert_eq!(block(&rest)[115], 0);
        }
    }

    #[test]
    fn times_are_read_as_they_were_written() {
        for (seconds, nanos) in [(0, 0), (5, 7), (-1, 0), (-1, 1), (-5, 999_999_999), (i64::MAX, 1), (-(1 << 40), 3)] {
            let text = record(b"mtime", time(Time { seconds, nanos }).as_bytes());
            assert_eq!(pax::Pax::parse(&text).unwrap().mtime, Some(Time { seconds, nanos }));
        }
    }
}
