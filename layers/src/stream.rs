//! The archive that a blob is: hashed as it comes and as it is unpacked, and bounded on the way.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Chain, Cursor, ErrorKind, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use sha2::{Digest, Sha256};

use crate::failure::{Failure, Kind, Result};
use crate::limits::{Limits, RATIO_FLOOR_BYTES};

const BUFFER_BYTES: usize = 256 * 1024;
const MAGIC_BYTES: usize = 4;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The last half byte of the first is free, all 16 mean "skip this".
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

struct Blob<R> {
    source: R,
    hash: Sha256,
    bytes: u64,
}

/// The blob, for the decoder and for whoever asks what has been read of it.
struct Shared<R>(Rc<RefCell<Blob<R>>>);

impl<R: Read> Read for Shared<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut blob = self.0.borrow_mut();
        let got = blob.source.read(buffer)?;
        blob.hash.update(&buffer[..got]);
        blob.bytes += got as u64;
        Ok(got)
    }
}

/// The blob from its first byte on, of which the first few have been looked at.
type Source<R> = BufReader<Chain<Cursor<Vec<u8>>, Shared<R>>>;

enum Decoder<R: Read> {
    Plain(Source<R>),
    Gzip(Box<MultiGzDecoder<Source<R>>>),
    Zstd(Box<Zstd<Source<R>>>),
}

pub struct TarStream<R: Read> {
    blob: Rc<RefCell<Blob<R>>>,
    decoder: Decoder<R>,
    hash: Sha256,
    bytes: u64,
    limits: Limits,
}

impl<R: Read> TarStream<R> {
    /// Tells gzip, zstd and plain tar apart by how they begin.
    pub fn new(source: R, limits: Limits) -> Result<TarStream<R>> {
        let blob = Rc::new(RefCell::new(Blob { source, hash: Sha256::new(), bytes: 0 }));
        let mut shared = Shared(blob.clone());
        let mut begin = Vec::with_capacity(MAGIC_BYTES);
        (&mut shared).take(MAGIC_BYTES as u64).read_to_end(&mut begin)?;
        let magic = begin.clone();
        let source = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(begin).chain(shared));
        let decoder = match magic.as_slice() {
            [first, second, ..] if [*first, *second] == GZIP => Decoder::Gzip(Box::new(MultiGzDecoder::new(source))),
            [_, rest @ ..] if magic == ZSTD || rest == ZSTD_SKIPPABLE => Decoder::Zstd(Box::new(Zstd::new(source))),
            _ => Decoder::Plain(source),
        };
        Ok(TarStream { blob, decoder, hash: Sha256::new(), bytes: 0, limits })
    }

    /// Bytes of the blob so far.
    pub fn blob_bytes(&self) -> u64 {
        self.blob.borrow().bytes
    }

    /// Fails when that many bytes are more than so much of a blob can honestly become.
    pub fn check_bytes(&self, bytes: u64) -> Result<()> {
        let limits = &self.limits;
        if bytes > limits.max_bytes {
            return Err(Failure::new(Kind::TooLarge, "the layer is too large").limit(limits.max_bytes));
        }
        if bytes > RATIO_FLOOR_BYTES && bytes / limits.max_ratio > self.blob_bytes() {
            let what = format!("more than {} bytes come out of each byte", limits.max_ratio);
            return Err(Failure::new(Kind::Bomb, what).limit(limits.max_ratio));
        }
        Ok(())
    }

    /// What the blob and the archive in it have been, `sha256:` and 64 digits each. To be asked at the end.
    pub fn digests(&self) -> (String, String) {
        (digest(&self.blob.borrow().hash), digest(&self.hash))
    }
}

impl<R: Read> Read for TarStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (kind, got) = match &mut self.decoder {
            Decoder::Plain(source) => (Kind::Io, source.read(buffer)),
            Decoder::Gzip(decoder) => (Kind::BadGzip, decoder.read(buffer)),
            Decoder::Zstd(decoder) => (Kind::BadZstd, decoder.read(buffer)),
        };
        let got = got.map_err(|error| match error.raw_os_error() {
            None if error.kind() == ErrorKind::UnexpectedEof => {
                Failure::new(kind, "the compressed data end early").into()
            }
            None => Failure::new(kind, format!("the compressed data are damaged: {error}")).into(),
            Some(_) => error,
        })?;
        self.hash.update(&buffer[..got]);
        self.bytes += got as u64;
        self.check_bytes(self.bytes)?;
        Ok(got)
    }
}

pub fn digest(hash: &Sha256) -> String {
    let hex: String = hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Frame after frame: one blob may be many, and some are for others (zstd:chunked keeps its index in one). The decoder
/// bounds a frame's window, and with it what it keeps, to 100 MiB.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Zstd<R> {
        Zstd { source, decoder: FrameDecoder::new(), in_frame: false }
    }

    /// @returns false at the end of the source
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                    if skipped < length.into() {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame && !self.begin()? {
                return Ok(0);
            }
            self.in_frame = true;
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(io::Error::other)?;
            }
            let got = self.decoder.read(buffer)?;
            if got > 0 || buffer.is_empty() {
                return Ok(got);
            }
            self.in_frame = false;
        }
    }
}
