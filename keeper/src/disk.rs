//! Writable layers on disk: an ext4 in a file, on a loop device, mounted first and put somewhere later.
//!
//! A layer that is thrown away is a nameless copy of an empty one. File, device and mount hold each other and end with the
//! last process that sees the mount, whoever dies first. A layer that is kept is its file itself, locked for as long as
//! anybody has it: the lock belongs to the open file, which the device or the virtual machine's monitor holds on to.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::proto::Failure;
use crate::{sealed, sys};

/// The kernel takes a mount apart a moment after its last user has ended.
const UNMOUNTED_WITHIN: Duration = Duration::from_secs(2);
const BETWEEN: Duration = Duration::from_millis(20);

/// An empty layer as it was when it was copied: device, file, length and time of the last change.
type Key = (u64, u64, u64, i64, i64);

/// Layers that are thrown away. Who starts one sandbox of a size after another finds the next one's layer ready.
#[derive(Default)]
pub struct Layers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: Option<(Key, String, u64)>,
    /// More than one sandbox of that size has been started here: the first may be the only one.
    again: bool,
    ready: Option<(Key, OwnedFd)>,
}

impl Layers {
    /// A mount of an empty layer, of nobody's yet, made as a copy of the file at `path`.
    pub fn take(&self, path: &str, max_bytes: u64) -> Result<OwnedFd, Failure> {
        let key = key_of(path).map_err(|error| Failure::from(error).at(path))?;
        let found = {
            let mut state = self.state.lock().unwrap();
            state.again = state.last.as_ref().is_some_and(|(last, ..)| *last == key);
            state.last = Some((key, path.to_string(), max_bytes));
            state.ready.take()
        };
        match found {
            Some((of, mount)) if of == key => Ok(mount),
            // One of another size is taken apart here.
            _ => make(path, max_bytes),
        }
    }

    pub fn wants_one(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.again && state.ready.is_none()
    }

    /// Makes the next one, when a start is over and nobody waits.
    pub fn prepare(&self) {
        let Some((key, path, max_bytes)) = self.state.lock().unwrap().last.clone() else { return };
        // Whoever comes next makes its own, and says what is wrong.
        let Ok(mount) = make(&path, max_bytes) else { return };
        let mut state = self.state.lock().unwrap();
        if state.ready.is_none() {
            state.ready = Some((key, mount));
        }
    }
}

fn key_of(path: &str) -> io::Result<Key> {
    let meta = fs::metadata(path)?;
    Ok((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

fn make(path: &str, max_bytes: u64) -> Result<OwnedFd, Failure> {
    let copy = sealed::nameless_copy(path, max_bytes).map_err(|error| Failure::from(error).at(path))?;
    mount(&copy)
}

/// The file system in `file`, of nobody's yet. Nothing in it is a device, and no program of it raises privileges outside.
pub fn mount(file: &File) -> Result<OwnedFd, Failure> {
    let at = |error: io::Error| Failure::from(error).at("a loop device");
    let device = sys::LoopDevice::attach(file.as_fd()).map_err(at)?;
    let attributes = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV | sys::MOUNT_ATTR_NOATIME;
    let mounted = sys::mount_detached(c"ext4", &device.path, &[], attributes);
    mounted
        .map_err(|error| Failure::from(error).at(&format!("the writable layer on {}", device.path.to_string_lossy())))
}

/// The file of a layer that is kept, locked for whoever holds it or a copy of the descriptor.
///
/// # Errors
/// `EBUSY` while another sandbox has it.
pub fn open_kept(path: &str, max_bytes: u64) -> Result<File, Failure> {
    let failed = |error: io::Error| Failure::from(error).at(path);
    let found = sys::open_real(Path::new(path)).map_err(failed)?;
    let file = OpenOptions::new().read(true).write(true).open(sys::fd_path(&found)).map_err(failed)?;
    lock(&file).map_err(failed)?;
    // Looked at when it is locked: before, it may have been on its way out.
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() || meta.uid() != 0 || meta.mode() & 0o077 != 0 || meta.nlink() != 1 || meta.len() > max_bytes {
        return Err(Failure::new(format!("{path} is no layer of root's alone of at most {max_bytes} bytes")));
    }
    Ok(file)
}

fn lock(file: &File) -> io::Result<()> {
    let begin = Instant::now();
    loop {
        match sys::flock(file) {
            Err(error) if error.raw_os_error() == Some(libc::EWOULDBLOCK) => {
                if begin.elapsed() > UNMOUNTED_WITHIN {
                    return Err(io::Error::from_raw_os_error(libc::EBUSY));
                }
                thread::sleep(BETWEEN);
            }
            result => return result,
        }
    }
}
