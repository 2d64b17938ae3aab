//! What a sandbox's first process holds besides its code: the memory file it maps privately, as it has changed it, and the
//! nameless disk it writes to. Written to files while it has stopped its machine.
//!
//! What is read belongs to that process alone, whatever it says of its own mappings, so that one that was taken over can
//! spoil its own capture and no more.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use crate::proto::Failure;
use crate::sealed::copy_sparsely;
use crate::steps::Acquired;
use crate::sys;

const PAGE_BYTES: u64 = 4096;
/// Pages whose state is asked for at once: their entries fill 64 KiB.
const PAGES_AT_ONCE: u64 = 8192;
/// Memory read at once.
const CHUNK_PAGES: u64 = 64;
/// A monitor has some 200 mappings of 100 bytes each.
const MAX_MAPS_BYTES: u64 = 4 * 1024 * 1024;
/// Of /proc/pid/pagemap: there at all, swapped out, a page of a file.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// One mapping of the memory file.
#[derive(Debug, PartialEq)]
struct Mapping {
    address: u64,
    /// Within the file.
    offset: u64,
    length: u64,
}

pub struct Holdings {
    /// As the process was given it.
    base: Arc<File>,
    disk: File,
    maps: File,
    pagemap: File,
    memory: File,
}

impl Holdings {
    pub fn of(got: &Acquired, init: Option<&OwnedFd>) -> Result<Holdings, Failure> {
        let (Some(base), Some(disk), Some(pid), Some(pidfd)) = (&got.memory, &got.disk, got.init, init) else {
            return Err(Failure::new("this sandbox has no memory and disk that could be captured"));
        };
        let open = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            File::open(&path).map_err(|error| Failure::from(error).at(&path))
        };
        let held = Holdings {
            base: base.clone(),
            // Opened anew: the process has set its own, which is shared, to bypass the page cache, where every read must be aligned.
            disk: File::open(sys::fd_path(disk))?,
            maps: open("maps")?,
            pagemap: open("pagemap")?,
            memory: open("mem")?,
        };
        // It lives, so what was opened by its number is its own.
        if sys::poll_in(&[Some(pidfd.as_fd())], 0)? != [false] {
            return Err(Failure::new("the sandbox has ended"));
        }
        Ok(held)
    }

    pub fn write(mut self, into: &str, cancelled: &AtomicBool) -> Result<(), Failure> {
        let dir = private_directory(into)?;
        let at = |what: &'static str| move |error: io::Error| Failure::from(error).at(what);
        copy_sparsely(&self.disk, &create(&dir, "disk")?).map_err(at("the disk"))?;
        let memory = create(&dir, "memory")?;
        copy_sparsely(&self.base, &memory).map_err(at("the memory it began with"))?;
        let meta = self.base.metadata()?;
        let mut text = String::new();
        Read::take(&mut self.maps, MAX_MAPS_BYTES).read_to_string(&mut text)?;
        let mappings = mappings_of(&text, meta.dev(), meta.ino());
        require_whole(&mappings, meta.len())?;
        for mapping in &mappings {
            self.write_changed(mapping, &memory, cancelled)?;
        }
        Ok(())
    }

    /// A page that was written to is the process's own and no longer the file's.
    fn write_changed(&self, mapping: &Mapping, to: &File, cancelled: &AtomicBool) -> Result<(), Failure> {
        let pages = mapping.length / PAGE_BYTES;
        let mut entries = vec![0; (PAGES_AT_ONCE * 8) as usize];
        let mut bytes = vec![0; (CHUNK_PAGES * PAGE_BYTES) as usize];
        let mut at = 0;
        while at < pages {
            if cancelled.load(Ordering::Relaxed) {
                return Err(Failure::new("the sandbox is being removed"));
            }
            let count = (pages - at).min(PAGES_AT_ONCE);
            let part = &mut entries[..(count * 8) as usize];
            self.pagemap.read_exact_at(part, (mapping.address / PAGE_BYTES + at) * 8)?;
            for (first, run) in runs(part, CHUNK_PAGES) {
                let (place, length) = ((at + first) * PAGE_BYTES, (run * PAGE_BYTES) as usize);
                let read = self.memory.read_exact_at(&mut bytes[..length], mapping.address + place);
                read.map_err(|error| Failure::from(error).at("the memory it has changed"))?;
                to.write_all_at(&bytes[..length], mapping.offset + place)?;
            }
            at += count;
        }
        Ok(())
    }
}

/// First page and number of pages of each run of changed ones, at most `most` long.
fn runs(entries: &[u8], most: u64) -> Vec<(u64, u64)> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for (index, entry) in (0u64..).zip(entries.chunks_exact(8)) {
        let entry = u64::from_ne_bytes(entry.try_into().unwrap_or_default());
        if entry & SWAPPED == 0 && (entry & PRESENT == 0 || entry & OF_FILE != 0) {
            continue;
        }
        match found.last_mut() {
            Some((first, run)) if *first + *run == index && *run < most => *run += 1,
            _ => found.push((index, 1)),
        }
    }
    found
}

/// Of the lines of /proc/pid/maps (`start-end mode offset major:minor inode path`) those that map that file.
fn mappings_of(maps: &str, device: u64, inode: u64) -> Vec<Mapping> {
    let wanted = (format!("{:02x}:{:02x}", libc::major(device), libc::minor(device)), inode.to_string());
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let read = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let offset = words.nth(1)?;
        if words.next()? != wanted.0 || words.next()? != wanted.1 {
            return None;
        }
        let (start, end) = (hex(start)?, hex(end)?);
        Some(Mapping { address: start, offset: hex(offset)?, length: end.checked_sub(start)? })
    };
    maps.lines().filter_map(read).collect()
}

/// Each byte of the file once, no byte beyond it.
fn require_whole(mappings: &[Mapping], length: u64) -> Result<(), Failure> {
    let mut parts: Vec<(u64, u64)> = mappings.iter().map(|one| (one.offset, one.length)).collect();
    parts.sort_unstable();
    let mut at = 0;
    for (offset, part) in parts {
        if offset != at || part % PAGE_BYTES != 0 || part > length - at {
            return Err(Failure::new("the sandbox's memory is not mapped as it was given"));
        }
        at += part;
    }
    if at == length {
        Ok(())
    } else {
        Err(Failure::new("the sandbox's memory is not mapped whole"))
    }
}

/// What it will hold may be secret, and is root's: nobody else may come into the directory.
fn private_directory(path: &str) -> Result<OwnedFd, Failure> {
    let refuse = |why: &str| Failure::new(format!("{path} {why}"));
    if !path.starts_with('/') {
        return Err(refuse("is not absolute"));
    }
    let dir = sys::open_dir(Path::new(path)).map_err(|error| Failure::from(error).at(path))?;
    let stat = sys::fstat(dir.as_fd())?;
    if stat.st_uid != 0 || stat.st_mode & 0o077 != 0 {
        return Err(refuse("is not root's alone"));
    }
    Ok(dir)
}

/// A new file that replaces nothing.
fn create(dir: &OwnedFd, name: &str) -> io::Result<File> {
    let path = Path::new(&sys::fd_path(dir)).join(name);
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path);
    made.map_err(|error| match fs::symlink_metadata(&path) {
        Ok(_) => io::Error::new(error.kind(), format!("{name} is there already")),
        Err(_) => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55aa00000000-55aa00001000 r--p 00000000 fe:00 12 /usr/bin/qemu
7f0000000000-7f0000200000 rw-p 00000000 00:01 77 /memfd:bulkhead-template (deleted)
7f0000200000-7f0000400000 rw-p 00200000 00:01 77 /memfd:bulkhead-template (deleted)
7f0000500000-7f0000600000 rw-p 00000000 00:01 78 /memfd:other (deleted)
7f0000600000-7f0000700000 rw-p 00000000 00:00 0
nonsense
";

    #[test]
    fn only_mappings_of_the_file_count_and_together_they_are_all_of_it() {
        let found = mappings_of(MAPS, libc::makedev(0, 1), 77);
        assert_eq!(found.len(), 2);
        assert!(require_whole(&found, 0x40_0000).is_ok());
        assert!(require_whole(&found, 0x40_1000).is_err());
        assert!(require_whole(&found, 0x30_0000).is_err());
        assert!(require_whole(&found[1..], 0x20_0000).is_err());
        let twice = format!("{MAPS}{MAPS}");
        assert!(require_whole(&mappings_of(&twice, libc::makedev(0, 1), 77), 0x40_0000).is_err());
    }

    #[test]
    fn changed_pages_come_in_runs() {
        let entries = [PRESENT, PRESENT, PRESENT | OF_FILE, SWAPPED, 0, PRESENT, PRESENT, PRESENT];
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_ne_bytes()).collect();
        assert_eq!(runs(&bytes, 2), [(0, 2), (3, 1), (5, 2), (7, 1)]);
    }
}
