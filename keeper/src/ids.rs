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
