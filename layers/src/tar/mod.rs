//! Reads a tar stream member by member. What it keeps in memory is bounded, whatever the stream says, and what different
//! programs would read differently is refused: nobody can hide a file from a scanner that way.

mod header;
mod pax;
mod sparse;
pub mod write;

use std::io::{ErrorKind, Read};

use header::{Header, BLOCK_BYTES};
pub use pax::Time;
use pax::{check_global, Pax};
pub use sparse::Sparse;

use crate::failure::{Failure, Kind as Fault, Result};

/// Of one extended header: attributes of a file have 64 KiB in the kernel, a path has 4.
const EXTENDED_BYTES_MAX: u64 = 1024 * 1024;
/// The last id is no id: calls take it for "leave it".
const ID_MAX: u64 = u32::MAX as u64 - 1;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    /// A device by its major and minor number.
    Character(u64, u64),
    Block(u64, u64),
}

#[derive(Debug)]
pub struct Member {
    pub kind: Kind,
    /// As it stands in the archive.
    pub name: Vec<u8>,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// Permission bits with set-user-id, set-group-id and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Bytes of contents in the archive.
    pub stored: u64,
    pub sparse: Option<Sparse>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Member {
    /// The file's length, holes included.
    pub fn size(&self) -> u64 {
        self.sparse.as_ref().map_or(self.stored, |sparse| sparse.real_size)
    }
}

/// What extension headers said about the next member.
#[derive(Default)]
struct Extended {
    pax: Option<Pax>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

pub struct Archive<R> {
    source: R,
    /// Of the member's contents, not yet read.
    left: u64,
    /// After the contents, to the next block.
    padding: u64,
}

impl<R: Read> Archive<R> {
    pub fn new(source: R) -> Archive<R> {
        Archive { source, left: 0, padding: 0 }
    }

    pub fn source(&self) -> &R {
        &self.source
    }

    /// The next member; None at the end, after which there are only zeros.
    pub fn next(&mut self) -> Result<Option<Member>> {
        let mut extended = Extended::default();
        loop {
            self.skip(self.left.saturating_add(self.padding))?;
            (self.left, self.padding) = (0, 0);
            let header = self.block()?;
            if header.is_zero() {
                return self.finish(&extended).map(|()| None);
            }
            header.check()?;
            // Each of these has its own size: what an extended header says is about the file.
            match header.kind() {
                b'x' | b'X' => put(&mut extended.pax, Pax::parse(&self.extension(&header)?)?)?,
                b'g' => check_global(&self.extension(&header)?)?,
                b'L' => put(&mut extended.name, without_zero(self.extension(&header)?))?,
                b'K' => put(&mut extended.link, without_zero(self.extension(&header)?))?,
                _ => return self.member(&header, extended).map(Some),
            }
        }
    }

    /// Reads contents of the current member.
    ///
    /// @returns bytes read; 0 at the end of the contents
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let got = self.source.read(&mut buffer[..want])?;
        if got == 0 {
            return Err(ends_early());
        }
        self.left -= got as u64;
        Ok(got)
    }

    fn member(&mut self, header: &Header, extended: Extended) -> Result<Member> {
        let Extended { pax, name, link } = extended;
        let pax = pax.unwrap_or_default();
        if (pax.path.is_some() && name.is_some()) || (pax.link.is_some() && link.is_some()) {
            return Err(bad("an entry has two long names"));
        }
        let stored = pax.size.map_or_else(|| header.size(), Ok)?;
        let name = pax.sparse.name.clone().or(pax.path).or(name).unwrap_or_else(|| header.name());
        let kind = kind_of(header, &name).map_err(|failure| failure.at(&name))?;
        if kind != Kind::File && stored != 0 {
            return Err(bad("an entry that is no file has contents").at(&name));
        }
        (self.left, self.padding) = (stored, padding(stored));
        let sparse = self.sparse(header, pax.sparse).map_err(|failure| failure.at(&name))?;
        let id = |said: Option<u64>, own: Result<u64>| match said.map_or(own, Ok)? {
            id if id <= ID_MAX => Ok(id as u32),
            id => Err(Failure::new(Fault::BadId, format!("owner {id} is beyond what a file can have")).at(&name)),
        };
        Ok(Member {
            kind,
            link: pax.link.or(link).unwrap_or_else(|| header.link()),
            mode: header.mode()?,
            uid: id(pax.uid, header.uid())?,
            gid: id(pax.gid, header.gid())?,
            mtime: pax.mtime.map_or_else(|| header.mtime().map(|seconds| Time { seconds, nanos: 0 }), Ok)?,
            stored: self.left,
            sparse,
            xattrs: pax.xattrs,
            name,
        })
    }

    /// Reads the map that lies before the contents, where there is one.
    fn sparse(&mut self, header: &Header, pax: pax::PaxSparse) -> Result<Option<Sparse>> {
        if header.kind() == b'S' {
            let mut pieces = Vec::new();
            let mut more = header.sparse_pieces(&mut pieces)?;
            while more {
                // Bounded here as well: each of these blocks is one more of the stream.
                Sparse::check_count(pieces.len())?;
                more = header::more_pieces(&self.block()?.0, &mut pieces)?;
            }
            return Sparse::new(header.sparse_real_size()?, pieces, self.left).map(Some);
        }
        if !pax.is_some() {
            return Ok(None);
        }
        let real_size = pax.real_size.ok_or_else(|| bad("a sparse file says no size"))?;
        if !pax.in_data {
            return Sparse::new(real_size, Sparse::pairs(&pax.numbers)?, self.left).map(Some);
        }
        let mut contents = (&mut self.source).take(self.left);
        let (pieces, taken) = sparse::read_map(&mut contents)?;
        let map = taken + padding(taken);
        if map > self.left {
            return Err(bad("a sparse file's map is longer than the file"));
        }
        self.skip(padding(taken))?;
        self.left -= map;
        Sparse::new(real_size, pieces, self.left).map(Some)
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = header.size()?;
        if size > EXTENDED_BYTES_MAX {
            return Err(bad("an extended header is too long").limit(EXTENDED_BYTES_MAX));
        }
        let mut data = Vec::new();
        (&mut self.source).take(size).read_to_end(&mut data)?;
        if (data.len() as u64) < size {
            return Err(ends_early());
        }
        self.padding = padding(size);
        Ok(data)
    }

    fn block(&mut self) -> Result<Header> {
        let mut block = [0; BLOCK_BYTES];
        self.source.read_exact(&mut block).map_err(early)?;
        Ok(Header(block))
    }

    fn skip(&mut self, mut count: u64) -> Result<()> {
        let mut scratch = [0; 4096];
        while count > 0 {
            let want = count.min(scratch.len() as u64) as usize;
            self.source.read_exact(&mut scratch[..want]).map_err(early)?;
            count -= want as u64;
        }
        Ok(())
    }

    fn finish(&mut self, extended: &Extended) -> Result<()> {
        if extended.pax.is_some() || extended.name.is_some() || extended.link.is_some() {
            return Err(bad("the archive ends after the header of an entry"));
        }
        let mut scratch = [0; 4096];
        loop {
            match self.source.read(&mut scratch)? {
                0 => return Ok(()),
                got if scratch[..got].iter().all(|byte| *byte == 0) => {}
                _ => return Err(bad("something follows the end of the archive")),
            }
        }
    }
}

fn kind_of(header: &Header, name: &[u8]) -> Result<Kind> {
    Ok(match header.kind() {
        // Before there was a type for directories their names had a slash at the end.
        b'0' | 0 if name.ends_with(b"/") => Kind::Directory,
        b'0' | 0 | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => header.device().map(|(major, minor)| Kind::Character(major, minor))?,
        b'4' => header.device().map(|(major, minor)| Kind::Block(major, minor))?,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => return Err(bad(&format!("an entry has the unknown type {:?}", char::from(other)))),
    })
}

/// To the next block.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK_BYTES as u64
}

fn without_zero(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

fn put<T>(slot: &mut Option<T>, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(bad("an entry has the same header twice")),
    }
}

fn early(error: std::io::Error) -> Failure {
    if error.kind() == ErrorKind::UnexpectedEof {
        ends_early()
    } else {
        error.into()
    }
}

fn ends_early() -> Failure {
    bad("the archive ends early")
}

fn bad(what: &str) -> Failure {
    Failure::new(Fault::BadTar, what)
}
