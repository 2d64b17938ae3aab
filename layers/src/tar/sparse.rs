//! Files with holes: which bytes of the archive belong where.

use std::io::Read;

use super::pax::decimal;
use crate::failure::{Failure, Kind, Result};

/// A piece costs 16 bytes to remember; files of images have none.
const PIECES_MAX: usize = 65_536;
/// Of a number in the map before the contents, with its line's end.
const LINE_BYTES_MAX: usize = 21;

#[derive(Debug, Default)]
pub struct Sparse {
    /// With the holes.
    pub real_size: u64,
    /// Offset and length of each piece of data, in order, none over another.
    pub pieces: Vec<(u64, u64)>,
}

impl Sparse {
    /// `stored` is how many bytes of contents follow in the archive.
    pub fn new(real_size: u64, pieces: Vec<(u64, u64)>, stored: u64) -> Result<Sparse> {
        Sparse::check_count(pieces.len())?;
        let mut end = 0;
        let mut total = 0u64;
        for (offset, length) in &pieces {
            let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= real_size);
            end = next.ok_or_else(|| bad("pieces that are not in it, or not in order"))?;
            total += length;
        }
        if total == stored {
            Ok(Sparse { real_size, pieces })
        } else {
            Err(bad("other contents than its pieces have room for"))
        }
    }

    pub fn check_count(pieces: usize) -> Result<()> {
        if pieces > PIECES_MAX {
            return Err(bad("too many pieces").limit(PIECES_MAX as u64));
        }
        Ok(())
    }

    pub fn pairs(numbers: &[u64]) -> Result<Vec<(u64, u64)>> {
        if !numbers.len().is_multiple_of(2) {
            return Err(bad("half a piece"));
        }
        Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }
}

/// The map of format 1.0, decimal numbers on lines of their own.
///
/// @returns the pieces, and how many bytes they took
pub fn read_map(source: &mut impl Read) -> Result<(Vec<(u64, u64)>, u64)> {
    let mut taken = 0;
    let mut line = || -> Result<u64> {
        let mut text = Vec::with_capacity(LINE_BYTES_MAX);
        loop {
            let mut byte = [0];
            source.read_exact(&mut byte).map_err(super::early)?;
            taken += 1;
            match byte[0] {
                b'\n' => return decimal(&text),
                _ if text.len() >= LINE_BYTES_MAX => return Err(bad("a map that is none")),
                other => text.push(other),
            }
        }
    };
    let count = usize::try_from(line()?).unwrap_or(usize::MAX);
    Sparse::check_count(count)?;
    let pieces = (0..count).map(|_| Ok((line()?, line()?))).collect::<Result<_>>()?;
    Ok((pieces, taken))
}

fn bad(what: &str) -> Failure {
    Failure::new(Kind::BadTar, format!("a sparse file has {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_lie_in_the_file_and_in_order() {
        assert!(Sparse::new(100, vec![(0, 10), (50, 50)], 60).is_ok());
        assert!(Sparse::new(100, vec![(0, 10), (50, 51)], 61).is_err());
        assert!(Sparse::new(100, vec![(50, 10), (0, 10)], 20).is_err());
        assert!(Sparse::new(100, vec![(0, 20), (10, 20)], 40).is_err());
        assert!(Sparse::new(u64::MAX, vec![(u64::MAX, 2)], 2).is_err());
        assert!(Sparse::new(100, vec![(0, 10)], 11).is_err());
        assert!(Sparse::pairs(&[1, 2, 3]).is_err());
    }

    #[test]
    fn a_map_before_the_contents() {
        let (pieces, taken) = read_map(&mut &b"2\n0\n5\n512\n7\nrest"[..]).unwrap();
        assert_eq!((pieces, taken), (vec![(0, 5), (512, 7)], 12));
        for bad in [&b"999999999\n"[..], b"1\n0\n", b"x\n", b"0000000000000000000000001\n"] {
            assert!(read_map(&mut &bad[..]).is_err());
        }
    }
}
