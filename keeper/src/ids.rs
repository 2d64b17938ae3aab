//! Ranges of host ids: one per sandbox, unique on the host, given back when the keeper dies.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;

use crate::sys;

/// Ids in one range: all that a 16-bit system inside can name.
pub const RANGE: u32 = 65_536;
/// Far above what distributions, /etc/subuid and systemd's dynamic users hand out (all below 0x0fff_ffff is theirs).
const FIRST: u32 = 0x1000_0000;
/// Ids stay below 2^31, because some tools still treat them as signed.
const SLOTS: u32 = (0x7fff_0000 - FIRST) / RANGE;
/// Fixed, whatever run directory an engine uses: uniqueness is per host.
const LOCK_FILE: &str = "/run/bulkhead-ids.lock";

/// Ids of files that are seen as others: `(file, seen)` trade places. The default leaves all as they are.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Exchange {
    pub uid: Option<(u32, u32)>,
    pub gid: Option<(u32, u32)>,
}

/// The lines of a user namespace's map that show a file's id N as `base` + N, but for the pair that trades places.
///
/// # Errors
/// `InvalidInput` when `seen` is not in the range, or `file` is no id.
pub fn map(base: u32, exchange: Option<(u32, u32)>) -> io::Result<String> {
    let Some((file, seen)) = exchange.filter(|(file, seen)| file != seen) else {
        return Ok(format!("0 {base} {RANGE}"));
    };
    if seen >= RANGE || file == u32::MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("id {file} cannot be seen as {seen}")));
    }
    let mut lines = vec![format!("{file} {} 1", base + seen)];
    if file < RANGE {
        lines.push(format!("{seen} {} 1", base + file));
    }
    let mut start = 0;
    for end in [file.min(seen), file.max(seen).min(RANGE), RANGE] {
        if end > start {
            lines.push(format!("{start} {} {}", base + start, end - start));
        }
        start = end + 1;
    }
    Ok(lines.join("\n"))
}

/// Byte N of the lock file stands for range N. The lock belongs to the open file, so the kernel gives every range back
/// when the keeper dies.
pub struct Ranges {
    file: File,
    mine: Mutex<(HashSet<u32>, u32)>,
}

impl Ranges {
    pub fn open() -> io::Result<Ranges> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW).open(LOCK_FILE)?;
        Ok(Ranges { file, mine: Mutex::new((HashSet::new(), std::process::id() % SLOTS)) })
    }

    /// Takes the next free range. The search goes on from the last one, so that a range is not reused soon.
    pub fn take(&self) -> io::Result<u32> {
        let mut mine = self.mine.lock().unwrap();
        for _ in 0..SLOTS {
            mine.1 = (mine.1 + 1) % SLOTS;
            let slot = mine.1;
            if mine.0.contains(&slot) || sys::lock_byte(&self.file, slot.into(), true).is_err() {
                continue;
            }
            mine.0.insert(slot);
            return Ok(FIRST + slot * RANGE);
        }
        Err(io::Error::other("every range of host ids is taken"))
    }

    pub fn give_back(&self, base: u32) {
        let slot = (base - FIRST) / RANGE;
        let mut mine = self.mine.lock().unwrap();
        if mine.0.remove(&slot) {
            // Unlocking an owned byte fails for no reason a caller could act on; the lock dies with the process.
            let _ = sys::lock_byte(&self.file, slot.into(), false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{map, RANGE};

    /// What a file's id is seen as, by the lines of a map.
    fn seen(lines: &str, file: u32) -> Option<u32> {
        let found: Vec<u32> = lines
            .lines()
            .filter_map(|line| {
                let [from, to, count]: [u32; 3] =
                    line.split(' ').map(|n| n.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap();
                (from..from + count).contains(&file).then(|| to + (file - from))
            })
            .collect();
        assert!(found.len() < 2, "{file} is named twice in {lines}");
        found.first().copied()
    }

    #[test]
    fn two_ids_trade_places_and_all_others_stay() {
        const BASE: u32 = 1_000_000;
        for (file, to) in [(0, 1000), (1000, 0), (1000, 1001), (65_535, 0), (0, 65_535), (7, 65_535)] {
            let lines = map(BASE, Some((file, to))).unwrap();
            assert_eq!((seen(&lines, file), seen(&lines, to)), (Some(BASE + to), Some(BASE + file)), "{lines}");
            for other in (0..RANGE).filter(|id| ![file, to].contains(id)) {
                assert_eq!(seen(&lines, other), Some(BASE + other), "{lines}");
            }
        }
        assert_eq!(map(BASE, Some((5, 5))).unwrap(), map(BASE, None).unwrap());
    }

    #[test]
    fn an_id_beyond_the_range_takes_the_place_of_one_in_it() {
        for (file, to) in [(100_500, 1000), (RANGE, 65_535), (u32::MAX - 1, 0)] {
            let lines = map(0x1000_0000, Some((file, to))).unwrap();
            assert_eq!((seen(&lines, file), seen(&lines, to)), (Some(0x1000_0000 + to), None), "{lines}");
            assert_eq!(seen(&lines, 1), Some(0x1000_0001), "{lines}");
        }
    }

    #[test]
    fn nothing_is_seen_outside_the_range() {
        assert!(map(0, Some((0, RANGE))).is_err());
        assert!(map(0, Some((u32::MAX, 0))).is_err());
    }
}
