//! Copies of the host's files that are handed to a program as open descriptors.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::{paths, sys};

/// Fits a processor's cache.
const CHUNK_BYTES: usize = 256 * 1024;

/// A file as it was when it was copied.
type Key = (u64, u64, u64, i64, i64);

/// Copies that are kept for the next sandbox; each is some 40 MB of the host's memory.
const KEPT: usize = 8;

type Slot = Arc<Mutex<Option<OwnedFd>>>;

/// Memory files that nobody can write, grow or shrink, whoever holds them. They end with the keeper and its sandboxes; the
/// keeper itself holds those used last.
#[derive(Default)]
pub struct Sealed {
    made: Mutex<Vec<(Key, Slot)>>,
}

impl Sealed {
    /// The first caller copies the file, those that come meanwhile wait for it.
    pub fn open(&self, path: &str) -> io::Result<OwnedFd> {
        let source = File::open(path)?;
        let meta = source.metadata()?;
        let key = (meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
        let slot = self.slot(key);
        let mut slot = slot.lock().unwrap();
        if let Some(made) = slot.as_ref() {
            return made.try_clone();
        }
        let copy = sys::memory_file(c"bulkhead-template")?;
        copy_sparsely(&source, &copy)?;
        sys::seal(copy.as_fd())?;
        let made = OwnedFd::from(copy);
        *slot = Some(made.try_clone()?);
        Ok(made)
    }

    /// The last one is the one used last.
    fn slot(&self, key: Key) -> Slot {
        let mut made = self.made.lock().unwrap();
        let slot = match made.iter().position(|(known, _)| *known == key) {
            Some(at) => made.remove(at).1,
            None => Slot::default(),
        };
        made.push((key, slot.clone()));
        if made.len() > KEPT {
            made.remove(0);
        }
        slot
    }
}

/// A copy that has no name, so that nothing is left of it whoever dies first. It lies beside `path`, on the same disk.
pub fn nameless_copy(path: &str, max_bytes: u64) -> io::Result<OwnedFd> {
    let source = File::open(path)?;
    if source.metadata()?.len() > max_bytes {
        return Err(io::Error::other(format!("larger than the {max_bytes} bytes it may have")));
    }
    let above = Path::new(path).parent().unwrap_or(Path::new("/"));
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let copy = match options.clone().custom_flags(libc::O_TMPFILE).open(above) {
        // Some file systems make no nameless file: one that loses its name at once is the same but for that moment.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            let name = above.join(format!(".{}", paths::new_name('c')?));
            let file = options.create_new(true).open(&name)?;
            std::fs::remove_file(&name)?;
            file
        }
        other => other?,
    };
    copy_sparsely(&source, &copy)?;
    Ok(copy.into())
}

fn copy_sparsely(from: &File, to: &File) -> io::Result<()> {
    to.set_len(from.metadata()?.len())?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while let Some((start, end)) = sys::next_data(from.as_fd(), at)? {
        at = start;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let got = from.read_at(&mut chunk[..want], at)?;
            if got == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            to.write_all_at(&chunk[..got], at)?;
            at += got as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const HOLE_BYTES: u64 = 8 * 1024 * 1024;

    fn sparse_file() -> std::path::PathBuf {
        let path = std::env::temp_dir().join(paths::new_name('f').unwrap());
        let file = File::create(&path).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"middle", HOLE_BYTES).unwrap();
        file.set_len(2 * HOLE_BYTES).unwrap();
        path
    }

    #[test]
    fn a_sealed_file_is_made_once_and_cannot_be_changed() {
        let path = sparse_file();
        let sealed = Sealed::default();
        let first = File::from(sealed.open(path.to_str().unwrap()).unwrap());
        let second = File::from(sealed.open(path.to_str().unwrap()).unwrap());
        assert_eq!(first.metadata().unwrap().ino(), second.metadata().unwrap().ino());
        assert!(first.metadata().unwrap().blocks() * 512 < HOLE_BYTES);
        let mut middle = [0; 6];
        first.read_exact_at(&mut middle, HOLE_BYTES).unwrap();
        assert_eq!(&middle, b"middle");
        let reopened = OpenOptions::new().write(true).open(sys::fd_path(&first)).unwrap();
        assert!(reopened.write_at(b"x", 0).is_err());
        assert!(reopened.set_len(1).is_err());
        assert!(sys::punch_hole(reopened.as_fd(), 0, 4096).is_err());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn only_the_files_used_last_are_kept() {
        let sealed = Sealed::default();
        let paths: Vec<_> = (0..=KEPT).map(|_| sparse_file()).collect();
        let inode = |path: &Path| File::from(sealed.open(path.to_str().unwrap()).unwrap()).metadata().unwrap().ino();
        let first: Vec<u64> = paths[..KEPT].iter().map(|path| inode(path)).collect();
        // Used again, so the second is the oldest now.
        assert_eq!(inode(&paths[0]), first[0]);
        inode(&paths[KEPT]);
        assert_eq!(sealed.made.lock().unwrap().len(), KEPT);
        assert_eq!(inode(&paths[0]), first[0]);
        assert_eq!(inode(&paths[2]), first[2]);
        let held = sealed
            .made
            .lock()
            .unwrap()
            .iter()
            .filter_map(|(_, slot)| slot.lock().unwrap().as_ref().map(sys::fd_path))
            .count();
        assert_eq!(held, KEPT);
        for path in paths {
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_copy_has_no_name_and_a_bound() {
        let path = sparse_file();
        let text = path.to_str().unwrap();
        let mut copy = File::from(nameless_copy(text, 2 * HOLE_BYTES).unwrap());
        assert_eq!(copy.metadata().unwrap().nlink(), 0);
        assert_eq!(copy.metadata().unwrap().len(), 2 * HOLE_BYTES);
        copy.write_all(b"other").unwrap();
        let mut begin = [0; 5];
        File::open(&path).unwrap().read_exact_at(&mut begin, 0).unwrap();
        assert_eq!(&begin, b"begin");
        assert!(nameless_copy(text, HOLE_BYTES).is_err());
        std::fs::remove_file(path).unwrap();
    }
}
