//! Random and mutated bytes into the decoder: it never panics, never stands still, and never allocates beyond bounds.
//! `BULKHEAD_FUZZ_SECONDS` says for how long (2), `BULKHEAD_FUZZ_SEED` repeats a run.

use bulkhead_agent::decoder::{Decoder, Item, FRAME_BYTES_MAX, HEADER_BYTES};
use bulkhead_agent::wire::codec::{Reader, Writer};
use bulkhead_agent::wire::generated::{Message, INITIAL_CREDIT_BYTES, MAGIC_ATTACH, MAX_PAYLOAD_BYTES};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A payload of 64 KiB becomes at most 4096 items, each with its own header and contents, in a list that grew by doubling.
const DECODED_BYTES_MAX: usize = 1024 * 1024;
const DEFAULT_SECONDS: u64 = 2;

struct Counting;
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands every request to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// xorshift: the same bytes for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let count = self.below(most + 1);
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// The frames of the vectors, valid and not.
fn corpus() -> Vec<Vec<u8>> {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../wire/vectors-1.json")).unwrap();
    let lists = [&vectors["vectors"], &vectors["invalid"]];
    let hex =
        |text: &str| (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect();
    lists.iter().flat_map(|list| list.as_array().unwrap()).map(|v| hex(v["hex"].as_str().unwrap())).collect()
}

fn attach(random: &mut Random) -> Vec<u8> {
    let mut bytes = MAGIC_ATTACH.to_vec();
    bytes.extend_from_slice(&[1, 1, 0, 0, 0x44, 0x33, 0x22, 0x11]);
    bytes.extend_from_slice(&[random.next() as u8; 16]);
    bytes
}

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.next() as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at),
            3 => drop(bytes.splice(at..at, random.bytes(20))),
            4 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            _ => drop(bytes.drain(at..(at + random.below(8)).min(bytes.len()))),
        }
    }
}

fn stream(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    // Without an attach everything is only hunted through.
    let mut bytes = if random.below(4) > 0 { attach(random) } else { Vec::new() };
    for _ in 0..random.below(12) + 1 {
        let mut part = match random.below(8) {
            0 => random.bytes(300),
            1 | 2 => attach(random),
            3 => vec![0; random.below(MAX_PAYLOAD_BYTES + 32)],
            _ => corpus[random.below(corpus.len())].clone(),
        };
        if random.below(3) == 0 {
            mutate(random, &mut part);
        }
        bytes.extend_from_slice(&part);
    }
    bytes
}

/// Feeds the stream in pieces, as the agent does, and checks what every step promises.
fn decode(random: &mut Random, bytes: &[u8]) -> usize {
    let mut decoder = Decoder::default();
    let (mut buffer, mut fed, mut frames) = (Vec::with_capacity(bytes.len()), 0, 0);
    while fed < bytes.len() {
        let piece = (random.below(5000) + 1).min(bytes.len() - fed);
        buffer.extend_from_slice(&bytes[fed..fed + piece]);
        fed += piece;
        let mut at = 0;
        loop {
            let rest = &buffer[at..];
            let before = LIVE.load(Relaxed);
            PEAK.store(before, Relaxed);
            let step = decoder.decode(rest);
            let taken = PEAK.load(Relaxed) - before;
            assert!(taken <= DECODED_BYTES_MAX, "{taken} bytes allocated for one frame");
            assert!(step.used <= rest.len());
            let idle = step.used == 0 && step.item.is_none();
            assert!(!idle || rest.len() < FRAME_BYTES_MAX, "a whole frame's bytes and no step");
            match step.item {
                Some(Item::Data { start, length, .. }) => assert!(start == HEADER_BYTES && start + length <= step.used),
                Some(Item::Lost) => assert!(decoder.is_hunting()),
                Some(Item::Attach(attach)) => assert!(!attach.tag.to_le_bytes().contains(&0) && !decoder.is_hunting()),
                Some(Item::Message { message, .. }) => {
                    frames += 1;
                    reads_back(&message);
                }
                None => {}
            }
            at += step.used;
            if idle || at == buffer.len() {
                break;
            }
        }
        buffer.drain(..at);
    }
    frames
}

/// What was read is written as what is read again.
fn reads_back(message: &Message) {
    let mut writer = Writer::default();
    message.write(&mut writer);
    let mut reader = Reader::new(&writer.buffer);
    assert_eq!(Message::read(message.type_number(), &mut reader).as_ref(), Ok(message));
    assert_eq!(reader.finish(), Ok(()));
}

#[test]
fn any_bytes_at_all() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = number("BULKHEAD_FUZZ_SEED").unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64)
    });
    let until = Instant::now() + Duration::from_secs(number("BULKHEAD_FUZZ_SECONDS").unwrap_or(DEFAULT_SECONDS));
    let corpus = corpus();
    let (mut round, mut frames) = (0u64, 0);
    eprintln!("BULKHEAD_FUZZ_SEED={seed}");
    while Instant::now() < until {
        let mut random = Random(seed.wrapping_add(round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let bytes = stream(&mut random, &corpus);
        frames += decode(&mut random, &bytes);
        round += 1;
    }
    eprintln!("{round} streams, {frames} messages read");
    assert!(frames > 0 && INITIAL_CREDIT_BYTES > MAX_PAYLOAD_BYTES);
}
