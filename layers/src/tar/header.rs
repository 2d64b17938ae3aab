//! One 512-byte header, as all kinds of tar write it.

use crate::failure::{Failure, Kind, Result};

pub const BLOCK_BYTES: usize = 512;

pub struct Header(pub [u8; BLOCK_BYTES]);

/// Parts of the block, by name.
const NAME: (usize, usize) = (0, 100);
const MODE: (usize, usize) = (100, 108);
const UID: (usize, usize) = (108, 116);
const GID: (usize, usize) = (116, 124);
const SIZE: (usize, usize) = (124, 136);
const MTIME: (usize, usize) = (136, 148);
const CHECKSUM: (usize, usize) = (148, 156);
const TYPE: usize = 156;
const LINK: (usize, usize) = (157, 257);
const MAGIC: (usize, usize) = (257, 265);
const MAJOR: (usize, usize) = (329, 337);
const MINOR: (usize, usize) = (337, 345);
const PREFIX: (usize, usize) = (345, 500);
/// Where GNU's sparse files have their first four pieces, whether more follow, and how long they are.
const SPARSE: (usize, usize) = (386, 482);
const SPARSE_MORE: usize = 482;
const REAL_SIZE: (usize, usize) = (483, 495);
/// An offset and a length of 12 bytes each.
const PIECE_BYTES: usize = 24;

impl Header {
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// Fails when the block is no header.
    pub fn check(&self) -> Result<()> {
        let sum = |total: u64, byte: &u8| total + u64::from(*byte);
        let own = self.0[CHECKSUM.0..CHECKSUM.1].iter().fold(0, sum);
        let total = self.0.iter().fold(0, sum) - own + 8 * u64::from(b' ');
        match self.unsigned(CHECKSUM, "checksum") {
            Ok(said) if said == total => Ok(()),
            _ => Err(Failure::new(Kind::BadTar, "a header's checksum is wrong")),
        }
    }

    pub fn kind(&self) -> u8 {
        self.0[TYPE]
    }

    /// With the prefix where the header's format has one.
    pub fn name(&self) -> Vec<u8> {
        let prefix = if self.field(MAGIC) == b"ustar\x0000" { text(self.field(PREFIX)) } else { b"" };
        let name = text(self.field(NAME));
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    pub fn link(&self) -> Vec<u8> {
        text(self.field(LINK)).to_vec()
    }

    pub fn mode(&self) -> Result<u32> {
        // Some writers put the type's bits in as well; those are not the mode's.
        Ok((self.unsigned(MODE, "mode")? & 0o7777) as u32)
    }

    pub fn uid(&self) -> Result<u64> {
        self.unsigned(UID, "uid")
    }

    pub fn gid(&self) -> Result<u64> {
        self.unsigned(GID, "gid")
    }

    pub fn size(&self) -> Result<u64> {
        self.unsigned(SIZE, "size")
    }

    pub fn mtime(&self) -> Result<i64> {
        number(self.field(MTIME), "mtime")
    }

    /// Major and minor number.
    pub fn device(&self) -> Result<(u64, u64)> {
        Ok((self.unsigned(MAJOR, "device")?, self.unsigned(MINOR, "device")?))
    }

    pub fn sparse_real_size(&self) -> Result<u64> {
        self.unsigned(REAL_SIZE, "real size")
    }

    /// The pieces in this block, and whether a block with more of them follows.
    pub fn sparse_pieces(&self, into: &mut Vec<(u64, u64)>) -> Result<bool> {
        pieces(self.field(SPARSE), into)?;
        Ok(self.0[SPARSE_MORE] != 0)
    }

    fn field(&self, (start, end): (usize, usize)) -> &[u8] {
        &self.0[start..end]
    }

    fn unsigned(&self, place: (usize, usize), what: &str) -> Result<u64> {
        let value = number(self.field(place), what)?;
        u64::try_from(value).map_err(|_| bad(what))
    }
}

/// A block that goes on with the pieces of a sparse file; as `Header::sparse_pieces`.
pub fn more_pieces(block: &[u8; BLOCK_BYTES], into: &mut Vec<(u64, u64)>) -> Result<bool> {
    const PIECES: usize = 21;
    pieces(&block[..PIECES * PIECE_BYTES], into)?;
    Ok(block[PIECES * PIECE_BYTES] != 0)
}

fn pieces(bytes: &[u8], into: &mut Vec<(u64, u64)>) -> Result<()> {
    for piece in bytes.chunks_exact(PIECE_BYTES) {
        let (offset, length) = piece.split_at(PIECE_BYTES / 2);
        // The list ends at the first piece that is not filled in.
        if offset[0] == 0 || length[0] == 0 {
            break;
        }
        let read =
            |field| number(field, "sparse map").and_then(|value| u64::try_from(value).map_err(|_| bad("sparse map")));
        into.push((read(offset)?, read(length)?));
    }
    Ok(())
}

/// Up to the first zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits, or a big-endian number in two's complement marked by the highest bit.
fn number(field: &[u8], what: &str) -> Result<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = if negative { i128::from(field[0] as i8) } else { i128::from(field[0] & 0x7f) };
        let value = field[1..].iter().try_fold(first, |value, byte| {
            // 96 bits at most fit beside the sign.
            value.checked_mul(256).map(|value| value + i128::from(*byte))
        });
        return value.and_then(|value| i64::try_from(value).ok()).ok_or_else(|| bad(what));
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8).map(|value| value + i64::from(digit - b'0')).ok_or_else(|| bad(what)),
        _ => Err(bad(what)),
    })
}

fn bad(what: &str) -> Failure {
    Failure::new(Kind::BadTar, format!("a header's {what} is no number that can be used"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_both_spellings() {
        let read = |field: &[u8]| number(field, "x").ok();
        assert_eq!(read(b"0000644\0"), Some(0o644));
        assert_eq!(read(b"  644 \0\0"), Some(0o644));
        assert_eq!(read(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(read(b"77777777777\x20"), Some(0o77777777777));
        assert_eq!(read(b"\x80\0\0\0\0\0\x01\0"), Some(256));
        assert_eq!(read(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(read(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), Some(i64::MAX));
        assert_eq!(read(b"\x80\0\0\0\x80\0\0\0\0\0\0\0"), None);
        assert_eq!(read(b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
        assert_eq!(read(b"9999999\0"), None);
        assert_eq!(read(b"-1\0\0\0\0\0\0"), None);
    }
}
