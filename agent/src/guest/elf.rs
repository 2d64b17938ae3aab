//! What a program says it needs besides itself: its interpreter, and the names of its libraries. The file may be anything.

const MAGIC: [u8; 6] = *b"\x7fELF\x02\x01";
const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: usize = 56;
const SEGMENTS_MAX: usize = 64;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_DYNAMIC: u32 = 2;
const SEGMENT_INTERPRETER: u32 = 3;
const ENTRY_BYTES: usize = 16;
const ENTRIES_MAX: usize = 512;
const TAG_NEEDED: u64 = 1;
const TAG_STRINGS: u64 = 5;
const NAME_BYTES_MAX: usize = 255;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub interpreter: Option<Vec<u8>>,
    pub libraries: Vec<Vec<u8>>,
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    bytes: u64,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at).map(u64::from_le_bytes)
}

/// Nothing is needed by what is no such program, or a damaged one.
///
/// `read` gives as many bytes from a place in the file as there are, at most the number it is given.
pub fn needs(read: &dyn Fn(u64, usize) -> Vec<u8>) -> Needs {
    look(read).unwrap_or_default()
}

fn look(read: &dyn Fn(u64, usize) -> Vec<u8>) -> Option<Needs> {
    let header = read(0, HEADER_BYTES);
    if !header.starts_with(&MAGIC) {
        return None;
    }
    let count = usize::from(u16::from_le_bytes(number(&header, 56)?)).min(SEGMENTS_MAX);
    let table = read(word(&header, 32)?, count * SEGMENT_BYTES);
    let segments: Vec<Segment> = table.chunks_exact(SEGMENT_BYTES).filter_map(segment).collect();
    let of = |kind: u32| segments.iter().find(|segment| segment.kind == kind);
    let interpreter = of(SEGMENT_INTERPRETER).and_then(|segment| text(&read(segment.offset, NAME_BYTES_MAX + 1)));
    let libraries = of(SEGMENT_DYNAMIC).and_then(|segment| libraries(segment, &segments, read)).unwrap_or_default();
    Some(Needs { interpreter, libraries })
}

fn segment(bytes: &[u8]) -> Option<Segment> {
    Some(Segment {
        kind: u32::from_le_bytes(number(bytes, 0)?),
        offset: word(bytes, 8)?,
        address: word(bytes, 16)?,
        bytes: word(bytes, 32)?,
    })
}

fn libraries(dynamic: &Segment, all: &[Segment], read: &dyn Fn(u64, usize) -> Vec<u8>) -> Option<Vec<Vec<u8>>> {
    let most = ENTRIES_MAX * ENTRY_BYTES;
    let table = read(dynamic.offset, usize::try_from(dynamic.bytes).map_or(most, |bytes| bytes.min(most)));
    let entries: Vec<(u64, u64)> =
        table.chunks_exact(ENTRY_BYTES).filter_map(|entry| Some((word(entry, 0)?, word(entry, 8)?))).collect();
    let (_, strings) = *entries.iter().find(|(tag, _)| *tag == TAG_STRINGS)?;
    let within = |segment: &&Segment| {
        segment.kind == SEGMENT_LOAD && strings.checked_sub(segment.address).is_some_and(|at| at < segment.bytes)
    };
    let home = all.iter().find(within)?;
    let start = home.offset.checked_add(strings - home.address)?;
    let names = entries.iter().filter(|(tag, _)| *tag == TAG_NEEDED);
    Some(names.filter_map(|(_, at)| text(&read(start.checked_add(*at)?, NAME_BYTES_MAX + 1))).collect())
}

/// Up to a zero byte, which must be there.
fn text(bytes: &[u8]) -> Option<Vec<u8>> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    (end > 0).then(|| bytes[..end].to_vec())
}

#[cfg(test)]
mod tests {
    use super::{needs, Needs};

    fn of(bytes: &[u8]) -> Needs {
        needs(&|offset, most| {
            let start = usize::try_from(offset).map_or(bytes.len(), |start| start.min(bytes.len()));
            bytes[start..bytes.len().min(start.saturating_add(most))].to_vec()
        })
    }

    fn program() -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        let mut put = |at: usize, with: &[u8]| bytes[at..at + with.len()].copy_from_slice(with);
        put(0, b"\x7fELF\x02\x01");
        put(32, &64u64.to_le_bytes());
        put(56, &3u16.to_le_bytes());
        for (index, (kind, offset, address, length)) in
            [(1u32, 0x100u64, 0x5100u64, 0x300u64), (3, 0x100, 0x5100, 8), (2, 0x200, 0x5200, 64)].iter().enumerate()
        {
            let at = 64 + 56 * index;
            put(at, &kind.to_le_bytes());
            put(at + 8, &offset.to_le_bytes());
            put(at + 16, &address.to_le_bytes());
            put(at + 32, &length.to_le_bytes());
        }
        put(0x100, b"/lib/ld\0");
        for (index, (tag, value)) in [(1u64, 1u64), (5, 0x5300), (1, 6), (0, 0)].iter().enumerate() {
            put(0x200 + 16 * index, &tag.to_le_bytes());
            put(0x208 + 16 * index, &value.to_le_bytes());
        }
        put(0x300, b"\0libc\0libm\0");
        bytes
    }

    #[test]
    fn names_the_interpreter_and_the_libraries() {
        let found = of(&program());
        assert_eq!(found.interpreter.as_deref(), Some(b"/lib/ld".as_slice()));
        assert_eq!(found.libraries, [b"libc".to_vec(), b"libm".to_vec()]);
    }

    #[test]
    fn what_is_no_program_needs_nothing() {
        assert_eq!(of(b""), Needs::default());
        assert_eq!(of(b"#!/bin/sh\n"), Needs::default());
        assert_eq!(of(b"\x7fELF\x02\x01"), Needs::default());
    }

    #[test]
    fn a_damaged_program_is_read_as_far_as_it_goes() {
        let whole = program();
        for at in 0..0x310 {
            of(&whole[..at]);
            for value in [0x00, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                of(&bytes);
            }
        }
    }
}
