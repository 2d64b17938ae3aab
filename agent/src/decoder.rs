//! Reads the host's byte stream: hunts for an attach, then cuts frames.

use crate::wire::codec::Reader;
use crate::wire::generated::{message_type, Message, LANE_ERR, MAGIC_ATTACH, MAX_PAYLOAD_BYTES};

pub const HEADER_BYTES: usize = 12;
pub const TAG_BYTES: usize = 4;
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + MAX_PAYLOAD_BYTES + TAG_BYTES;
/// magic, generations, reserved, tag, nonce
const ATTACH_BYTES: usize = 16 + 4 + 4 + 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attach {
    pub lowest: u8,
    pub highest: u8,
    pub tag: u32,
    pub nonce: [u8; 16],
}

#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    Attach(Attach),
    Message {
        stream: u32,
        lane: u8,
        message: Message,
    },
    /// The payload is `length` bytes at `start` of the buffer that was decoded.
    Data {
        stream: u32,
        lane: u8,
        start: usize,
        length: usize,
    },
    /// What came is no frame of this session: it is over.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Hunting,
    Framed(u32),
}

pub struct Decoder {
    state: State,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Hunting }
    }
}

/// How many bytes to drop from the buffer's front, and what they were.
pub struct Step {
    pub used: usize,
    pub item: Option<Item>,
}

const fn step(used: usize, item: Option<Item>) -> Step {
    Step { used, item }
}

impl Decoder {
    pub fn reset(&mut self) {
        self.state = State::Hunting;
    }

    pub fn is_hunting(&self) -> bool {
        self.state == State::Hunting
    }

    /// Looks at the bytes not used yet. Nothing used and no item: more bytes are needed, at most FRAME_BYTES_MAX in all.
    pub fn decode(&mut self, bytes: &[u8]) -> Step {
        match self.state {
            State::Hunting => self.hunt(bytes),
            State::Framed(tag) => self.frame(bytes, tag),
        }
    }

    fn hunt(&mut self, bytes: &[u8]) -> Step {
        let mut at = 0;
        while at < bytes.len() {
            let Some(skip) = bytes[at..].iter().position(|b| *b == MAGIC_ATTACH[0]) else {
                return step(bytes.len(), None);
            };
            at += skip;
            let rest = &bytes[at..];
            let seen = rest.len().min(MAGIC_ATTACH.len());
            if rest[..seen] != MAGIC_ATTACH[..seen] {
                at += 1;
                continue;
            }
            if rest.len() < ATTACH_BYTES {
                return step(at, None);
            }
            match parse_attach(rest) {
                Some(attach) => {
                    self.state = State::Framed(attach.tag);
                    return step(at + ATTACH_BYTES, Some(Item::Attach(attach)));
                }
                None => at += 1,
            }
        }
        step(at, None)
    }

    fn frame(&mut self, bytes: &[u8], tag: u32) -> Step {
        if bytes.len() < HEADER_BYTES {
            return step(0, None);
        }
        let length = word(bytes, 0) as usize;
        let stream = word(bytes, 4);
        let (kind, lane) = (bytes[8], bytes[9]);
        if length > MAX_PAYLOAD_BYTES || bytes[10] != 0 || bytes[11] != 0 || lane > LANE_ERR || kind == 0 {
            self.state = State::Hunting;
            return step(HEADER_BYTES, Some(Item::Lost));
        }
        let whole = HEADER_BYTES + length + TAG_BYTES;
        if bytes.len() < whole {
            return step(0, None);
        }
        // The tag first: what another host began to write is not to be read at all.
        let item = if word(bytes, HEADER_BYTES + length) != tag {
            None
        } else if kind == message_type::DATA {
            Some(Item::Data { stream, lane, start: HEADER_BYTES, length })
        } else {
            let mut reader = Reader::new(&bytes[HEADER_BYTES..HEADER_BYTES + length]);
            let read = Message::read(kind, &mut reader).and_then(|message| reader.finish().map(|()| message));
            read.ok().map(|message| Item::Message { stream, lane, message })
        };
        if item.is_none() {
            self.state = State::Hunting;
        }
        step(whole, Some(item.unwrap_or(Item::Lost)))
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0u8; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

fn parse_attach(bytes: &[u8]) -> Option<Attach> {
    let tag = word(bytes, 20);
    if bytes[18] != 0 || bytes[19] != 0 || tag.to_le_bytes().contains(&0) {
        return None;
    }
    let mut nonce = [0u8; 16];
    nonce.copy_from_slice(&bytes[24..40]);
    Some(Attach { lowest: bytes[16], highest: bytes[17], tag, nonce })
}
