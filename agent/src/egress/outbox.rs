//! Records on their way to the host, and the host's records as they come.

use crate::wire::codec::{Malformed, Reader, Writer};
use crate::wire::generated::{EgressReply, EgressRequest, MAX_RECORD_BYTES};

/// Of what may be lost (datagrams, queries, first segments, which are repeated) nothing more is taken above this.
const WAITING_BYTES_MAX: usize = 256 * 1024;
const LENGTH_BYTES: usize = 4;

#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    at: usize,
}

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub fn is_full(&self) -> bool {
        self.bytes.len() - self.at >= WAITING_BYTES_MAX
    }

    pub fn push(&mut self, request: &EgressRequest) {
        let start = self.bytes.len();
        let mut writer = Writer { buffer: std::mem::take(&mut self.bytes) };
        writer.u32(0);
        request.write(&mut writer);
        let length = (writer.buffer.len() - start - LENGTH_BYTES) as u32;
        writer.buffer[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        self.bytes = writer.buffer;
    }

    /// Moves up to `most` bytes to the end of `to`.
    pub fn take(&mut self, to: &mut Vec<u8>, most: usize) {
        let count = most.min(self.bytes.len() - self.at);
        to.extend_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        if self.is_empty() {
            self.at = 0;
            self.bytes = Vec::new();
        } else if self.at > self.bytes.len() / 2 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
    }
}

/// Holds at most one record that has not come whole.
#[derive(Default)]
pub struct Inbox {
    bytes: Vec<u8>,
}

impl Inbox {
    /// The replies that are whole now.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<EgressReply>, Malformed> {
        self.bytes.extend_from_slice(bytes);
        let mut replies = Vec::new();
        let mut at = 0;
        while let Some(head) = self.bytes[at..].first_chunk::<LENGTH_BYTES>() {
            let length = u32::from_le_bytes(*head) as usize;
            if length > MAX_RECORD_BYTES {
                return Err(Malformed("a record longer than allowed"));
            }
            let start = at + LENGTH_BYTES;
            let Some(record) = self.bytes.get(start..start + length) else { break };
            let mut reader = Reader::new(record);
            replies.push(EgressReply::read(&mut reader)?);
            reader.finish()?;
            at = start + length;
        }
        self.bytes.drain(..at);
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        Ok(replies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::generated::{egress_reply_kind, egress_request_kind};

    fn reply(id: u32) -> EgressReply {
        EgressReply { kind: egress_reply_kind::ANSWER, id, payload: vec![7; 100], ..EgressReply::default() }
    }

    fn record(reply: &EgressReply) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u32(0);
        reply.write(&mut writer);
        let length = writer.buffer.len() as u32 - 4;
        writer.buffer[..4].copy_from_slice(&length.to_le_bytes());
        writer.buffer
    }

    #[test]
    fn replies_come_whole_however_they_are_cut() {
        let bytes: Vec<u8> = (0..9).flat_map(|id| record(&reply(id))).collect();
        for piece in [1, 3, 4, 5, 100, 1000] {
            let mut inbox = Inbox::default();
            let got: Vec<EgressReply> = bytes.chunks(piece).flat_map(|part| inbox.push(part).unwrap()).collect();
            assert_eq!(got, (0..9).map(reply).collect::<Vec<_>>());
            assert_eq!(inbox.bytes.capacity(), 0);
        }
    }

    #[test]
    fn a_record_that_is_none_is_refused() {
        let mut long = record(&reply(1));
        long[..4].copy_from_slice(&(MAX_RECORD_BYTES as u32 + 1).to_le_bytes());
        assert!(Inbox::default().push(&long).is_err());
        let mut short = record(&reply(1));
        short[0] -= 1;
        assert!(Inbox::default().push(&short).is_err());
    }

    #[test]
    fn requests_leave_in_pieces_and_in_order() {
        let mut outbox = Outbox::default();
        for id in 0..50 {
            outbox.push(&EgressRequest { kind: egress_request_kind::GONE, id, ..EgressRequest::default() });
        }
        let mut bytes = Vec::new();
        while !outbox.is_empty() {
            let before = bytes.len();
            outbox.take(&mut bytes, 7);
            assert!(bytes.len() > before && bytes.len() <= before + 7);
        }
        let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize + 4;
        let ids: Vec<u32> =
            bytes.chunks(length).map(|one| EgressRequest::read(&mut Reader::new(&one[4..])).unwrap().id).collect();
        assert_eq!(ids, (0..50).collect::<Vec<_>>());
    }
}
