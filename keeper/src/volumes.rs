//! Volumes: file systems in files of the engine's own, each behind one loop device however many sandboxes use it.
//!
//! Two devices on one file would be two kernels' worth of caches writing over each other. So a device is looked for and
//! made under a lock of the volume's directory, by the file's inode, and the kernel then has one file system of it, which is
//! mounted as often as asked. Nothing has to be undone: a device lets go of its file with its last mount, a lock with its
//! holder, and both end with whoever dies.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::proto::Failure;
use crate::sys::{self, LoopDevice};

/// The file system of a volume, in its directory.
const DATA: &str = "data.ext4";
/// Space that files give back is the host's again; inodes are zeroes in a sparse file without being written.
const FLAGS: [&std::ffi::CStr; 2] = [c"discard", c"noinit_itable"];

/// How a sandbox wants it: alone for writing, or beside others.
#[derive(Clone, Copy, PartialEq)]
pub struct Use {
    pub read_only: bool,
    pub shared: bool,
}

pub struct Volume {
    /// Not attached anywhere yet.
    pub tree: OwnedFd,
    /// Keeps those away who cannot be there at the same time.
    pub hold: File,
}

/// A volume that a sandbox has.
pub struct Attached {
    /// Its mount, which lets go of the file before the hold does.
    tree: OwnedFd,
    hold: File,
    name: String,
    /// Who only reads does not come to its end.
    written: bool,
    was_full: bool,
}

impl Attached {
    pub fn new(dir: &Path, Volume { tree, hold }: Volume, wanted: Use) -> Attached {
        let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned();
        Attached { tree, hold, name, written: !wanted.read_only, was_full: false }
    }

    pub fn tree(&self) -> &OwnedFd {
        &self.tree
    }

    /// Its name and size, once until it has room again.
    pub fn newly_full(&mut self) -> Option<(&str, u64)> {
        let full = self.written && sys::is_full(self.tree.as_fd());
        let newly = full && !self.was_full;
        self.was_full = full;
        newly.then(|| (self.name.as_str(), self.hold.metadata().map_or(0, |meta| meta.len())))
    }
}

/// As people know it: directories of volumes have their names.
fn named(dir: &Path) -> String {
    format!("volume {:?}", dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy())
}

/// Mounts the volume in the directory `dir`, which is real and the engine's own.
pub fn open(dir: &Path, wanted: Use) -> Result<Volume, Failure> {
    let hold = hold(dir, wanted)?;
    let above = File::open(dir)?;
    sys::lock(&above, true, true)?;
    let device = device(&hold).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::new("volumes need loop devices, and this host's kernel has none"),
        _ => Failure::from(error).at("a loop device"),
    })?;
    let attributes = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV;
    let tree = sys::mount_detached(c"ext4", &device.path, &FLAGS, attributes)
        .map_err(|error| Failure::from(error).at(&format!("the file system of {}", named(dir))))?;
    // Held until there was a mount: without a user the device would have let go.
    drop(device);
    Ok(Volume { tree, hold })
}

/// Opens the volume's file and enters as one of its users.
fn hold(dir: &Path, wanted: Use) -> Result<File, Failure> {
    let path = dir.join(DATA);
    let absent = || Failure { errno: Some("ENOENT".into()), ..Failure::new(format!("there is no {}", named(dir))) };
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => absent(),
        _ => Failure::from(error).at(&path.to_string_lossy()),
    })?;
    let alone = !wanted.read_only && !wanted.shared;
    if let Err(error) = sys::lock(&file, alone, false) {
        let text = format!("{} is in use", named(dir));
        let in_use = error.kind() == io::ErrorKind::WouldBlock;
        let errno = in_use.then(|| "EWOULDBLOCK".to_string());
        return Err(if in_use { Failure { errno, ..Failure::new(text) } } else { error.into() });
    }
    // One that was removed meanwhile has its file still open here, and another may have taken its name.
    let same = fs::metadata(&path).is_ok_and(|now| file.metadata().is_ok_and(|ours| ours.ino() == now.ino()));
    if same {
        Ok(file)
    } else {
        Err(absent())
    }
}

/// The one loop device with that file behind it.
fn device(file: &File) -> io::Result<LoopDevice> {
    let meta = file.metadata()?;
    if let Some(found) = LoopDevice::of((meta.dev(), meta.ino()))? {
        return Ok(found);
    }
    // Opened anew: a device that held the caller's opening would keep its lock until the last mount is gone.
    let own = OpenOptions::new().read(true).write(true).open(sys::fd_path(file))?;
    LoopDevice::attach(own.as_fd())
}
