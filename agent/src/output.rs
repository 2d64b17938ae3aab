//! The way to the host: whole frames, control before data, one data frame at a time.

use crate::decoder::{HEADER_BYTES, TAG_BYTES};
use crate::sys::fd::{self, Moved};
use crate::wire::codec::Writer;
use crate::wire::generated::{message_type, Message, MAGIC_ATTACHED, MAX_PAYLOAD_BYTES};
use std::os::fd::OwnedFd;

/// A frame of this payload fills a pipe of the usual size exactly.
pub const DATA_BYTES_MAX: usize = MAX_PAYLOAD_BYTES - HEADER_BYTES - TAG_BYTES;
/// Small enough to stay on an idle heap.
const DATA_BYTES_SMALL: usize = 4096;
/// Above this much waiting for the host, nothing more is read from it.
const CONTROL_BYTES_HIGH: usize = 256 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub enum Flush {
    Clear,
    Blocked,
    Gone,
}

/// Whole frames one after the other, and where each ends.
#[derive(Default)]
struct Frames {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Frames {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

pub struct Output {
    fd: OwnedFd,
    pub writable: bool,
    /// Being written; `at` bytes of it are.
    current: Frames,
    at: usize,
    control: Frames,
    tag: u32,
    comfort: usize,
}

impl Output {
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            writable: true,
            current: Frames::default(),
            at: 0,
            control: Frames::default(),
            tag: 0,
            comfort: DATA_BYTES_SMALL,
        }
    }

    pub fn push(&mut self, stream: u32, lane: u8, message: &Message) {
        let start = self.control.bytes.len();
        let mut writer = Writer { buffer: std::mem::take(&mut self.control.bytes) };
        writer.buffer.resize(start + HEADER_BYTES, 0);
        message.write(&mut writer);
        self.control.bytes = writer.buffer;
        seal(&mut self.control, start, stream, message.type_number(), lane, self.tag);
    }

    /// Makes one data frame of what `fill` appends, of at most the number it is given. Nothing may be waiting.
    pub fn data(&mut self, stream: u32, lane: u8, most: usize, fill: impl FnOnce(&mut Vec<u8>, usize)) -> usize {
        self.current.clear();
        self.at = 0;
        self.current.bytes.resize(HEADER_BYTES, 0);
        let most = most.min(self.comfort);
        fill(&mut self.current.bytes, most);
        let length = self.current.bytes.len() - HEADER_BYTES;
        if length == 0 {
            self.current.clear();
            return 0;
        }
        if length >= self.comfort {
            self.comfort = DATA_BYTES_MAX;
        }
        seal(&mut self.current, 0, stream, message_type::DATA, lane, self.tag);
        length
    }

    pub fn is_crowded(&self) -> bool {
        self.control.bytes.len() > CONTROL_BYTES_HIGH
    }

    /// Writes what waits, control frames after what was begun.
    pub fn flush(&mut self) -> Flush {
        loop {
            if self.at == self.current.bytes.len() {
                self.current.clear();
                self.at = 0;
                if self.control.bytes.is_empty() {
                    return Flush::Clear;
                }
                std::mem::swap(&mut self.current, &mut self.control);
            }
            if !self.writable {
                return Flush::Blocked;
            }
            match fd::write(&self.fd, &self.current.bytes[self.at..]) {
                Ok(Moved::Bytes(count)) => self.at += count,
                Ok(Moved::WouldBlock) => {
                    self.writable = false;
                    return Flush::Blocked;
                }
                Err(_) => return Flush::Gone,
            }
        }
    }

    /// Drops every frame that has not been begun, and answers an attach after the one that has.
    pub fn attached(&mut self, generation: u8, tag: u32, nonce: &[u8; 16]) {
        let end = self.current.ends.iter().copied().find(|end| *end >= self.at).unwrap_or(0);
        let keep = if self.at == 0 { 0 } else { end };
        self.current.bytes.truncate(keep);
        self.current.ends.retain(|end| *end <= keep);
        self.control.clear();
        self.current.bytes.extend_from_slice(&MAGIC_ATTACHED);
        self.current.bytes.extend_from_slice(&[generation, 0, 0, 0]);
        self.current.bytes.extend_from_slice(nonce);
        self.current.ends.push(self.current.bytes.len());
        self.tag = tag;
        self.writable = true;
    }

    /// The session is over, but not what is begun: the next host reads up to the answer to its attach.
    pub fn forget(&mut self) {
        self.control.clear();
    }

    /// The reader is gone; nothing begun will ever be finished.
    pub fn clear(&mut self) {
        self.current.clear();
        self.control.clear();
        self.at = 0;
    }

    /// Gives back what grew. What waits stays: a machine that stood still for a while can be idle by the clock with
    /// frames made a moment ago.
    pub fn shrink(&mut self) {
        self.comfort = DATA_BYTES_SMALL;
        if self.at == self.current.bytes.len() {
            self.at = 0;
            self.current = Frames::default();
        }
        if self.control.bytes.is_empty() {
            self.control = Frames::default();
        }
    }
}

fn seal(frames: &mut Frames, start: usize, stream: u32, kind: u8, lane: u8, tag: u32) {
    let length = (frames.bytes.len() - start - HEADER_BYTES) as u32;
    let header = &mut frames.bytes[start..start + HEADER_BYTES];
    header[0..4].copy_from_slice(&length.to_le_bytes());
    header[4..8].copy_from_slice(&stream.to_le_bytes());
    header[8] = kind;
    header[9] = lane;
    frames.bytes.extend_from_slice(&tag.to_le_bytes());
    frames.ends.push(frames.bytes.len());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::generated::End;
    use std::io::Read;

    #[test]
    fn shrinking_loses_nothing_that_waits() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let mut output = Output::new(writer.into());
        output.push(3, 1, &Message::End(End {}));
        output.shrink();
        assert_eq!(output.flush(), Flush::Clear);
        output.shrink();
        output.push(5, 1, &Message::End(End {}));
        assert_eq!(output.flush(), Flush::Clear);
        drop(output);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).expect("two frames");
        assert_eq!(bytes.len(), 2 * (HEADER_BYTES + TAG_BYTES));
        assert_eq!([bytes[4], bytes[HEADER_BYTES + TAG_BYTES + 4]], [3, 5]);
    }
}
