//! Copies of the host's files that are handed to a program as open descriptors.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use crate::{paths, sys};

/// Fits a processor's cache.
const CHUNK_BYTES: usize = 256 * 1024;

/// Of this many bytes addresses, places and lengths are multiples where the page cache is passed by.
const DIRECT_BYTES: usize = 4096;

/// That last without a holder, those that were asked for last. Each is some 50 MB of memory, and images are many.
const LASTING: usize = 4;

/// A file as it was when it was copied.
type Key = (u64, u64, u64, i64, i64);

/// Memory files that nobody can write, grow or shrink, whoever holds them.
#[derive(Default)]
pub struct Sealed {
    made: Mutex<HashMap<Key, Arc<Mutex<Weak<File>>>>>,
    /// The one asked for last is last.
    lasting: Mutex<VecDeque<Arc<File>>>,
}

impl Sealed {
    /// The first caller copies the file, those that come meanwhile wait for it. It lasts as long as somebody holds it, or,
    /// when one of them wants that, as long as it is one of the last few that were asked for so.
    pub fn open(&self, path: &str, keep: bool) -> io::Result<Arc<File>> {
        let source = File::open(path)?;
        let meta = source.metadata()?;
        let key = (meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
        let slot = {
            let mut made = self.made.lock().unwrap();
            // What nobody holds and nobody is making is gone.
            made.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.lock().unwrap().strong_count() > 0);
            made.entry(key).or_default().clone()
        };
        let mut slot = slot.lock().unwrap();
        let file = match slot.upgrade() {
            Some(file) => file,
            None => {
                let copy = sys::memory_file(c"bulkhead-template")?;
                copy_sparsely(&source, &copy)?;
                sys::seal(copy.as_fd())?;
                Arc::new(copy)
            }
        };
        *slot = Arc::downgrade(&file);
        if keep {
            self.keep(&file);
        }
        Ok(file)
    }

    fn keep(&self, file: &Arc<File>) {
        let mut lasting = self.lasting.lock().unwrap();
        lasting.retain(|other| !Arc::ptr_eq(other, file));
        lasting.push_back(file.clone());
        if lasting.len() > LASTING {
            lasting.pop_front();
        }
    }
}

/// A copy that has no name, so that nothing is left of it whoever dies first. It lies beside `path`, on the same disk.
pub fn nameless_copy(path: &str, max_bytes: u64) -> io::Result<File> {
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
    Ok(copy)
}

/// Holes stay holes. Where the file system lets two files share their blocks nothing is copied.
pub fn copy_sparsely(from: &File, to: &File) -> io::Result<()> {
    if sys::share_blocks(from.as_fd(), to.as_fd()).is_ok() {
        return Ok(());
    }
    to.set_len(from.metadata()?.len())?;
    // What is read past the page cache goes to addresses that a device can write to.
    let mut memory = vec![0; CHUNK_BYTES + DIRECT_BYTES];
    let begin = memory.as_ptr().align_offset(DIRECT_BYTES);
    let chunk = &mut memory[begin..begin + CHUNK_BYTES];
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
        let first = sealed.open(path.to_str().unwrap(), false).unwrap();
        let second = sealed.open(path.to_str().unwrap(), false).unwrap();
        assert_eq!(first.metadata().unwrap().ino(), second.metadata().unwrap().ino());
        assert!(first.metadata().unwrap().blocks() * 512 < HOLE_BYTES);
        let mut middle = [0; 6];
        first.read_exact_at(&mut middle, HOLE_BYTES).unwrap();
        assert_eq!(&middle, b"middle");
        let reopened = OpenOptions::new().write(true).open(sys::fd_path(first.as_fd())).unwrap();
        assert!(reopened.write_at(b"x", 0).is_err());
        assert!(reopened.set_len(1).is_err());
        assert!(sys::punch_hole(reopened.as_fd(), 0, 4096).is_err());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_sealed_file_lasts_as_long_as_its_holders_unless_it_is_to_be_kept() {
        let path = sparse_file();
        let text = path.to_str().unwrap();
        let sealed = Sealed::default();
        let inode = |file: &File| file.metadata().unwrap().ino();
        let first = sealed.open(text, false).unwrap();
        let gone = Arc::downgrade(&first);
        drop(first);
        assert!(gone.upgrade().is_none());
        let kept = inode(&sealed.open(text, true).unwrap());
        assert_eq!(inode(&sealed.open(text, false).unwrap()), kept);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn those_asked_for_last_are_kept_and_no_more() {
        let paths: Vec<_> = (0..=LASTING).map(|_| sparse_file()).collect();
        let sealed = Sealed::default();
        let ask = |number: usize| Arc::downgrade(&sealed.open(paths[number].to_str().unwrap(), true).unwrap());
        let mut made: Vec<_> = (0..LASTING).map(ask).collect();
        ask(0);
        made.push(ask(LASTING));
        let there: Vec<bool> = made.iter().map(|file| file.strong_count() > 0).collect();
        assert_eq!(there, (0..=LASTING).map(|number| number != 1).collect::<Vec<_>>());
        for path in paths {
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn what_is_read_past_the_page_cache_is_the_same() {
        let path = sparse_file();
        let source = nameless_copy(path.to_str().unwrap(), 2 * HOLE_BYTES).unwrap();
        sys::set_direct(source.as_fd()).unwrap();
        let to = sys::memory_file(c"bulkhead-test").unwrap();
        copy_sparsely(&source, &to).unwrap();
        let mut middle = [0; 6];
        to.read_exact_at(&mut middle, HOLE_BYTES).unwrap();
        assert_eq!(&middle, b"middle");
        assert_eq!(to.metadata().unwrap().len(), 2 * HOLE_BYTES);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_copy_has_no_name_and_a_bound() {
        let path = sparse_file();
        let text = path.to_str().unwrap();
        let mut copy = nameless_copy(text, 2 * HOLE_BYTES).unwrap();
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
