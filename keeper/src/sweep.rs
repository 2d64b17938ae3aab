//! Removing what engines left behind whose keeper was killed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::cgroup::{Hierarchies, PREFIX};
use crate::{paths, sys};

/// Held, by flock, for as long as the keeper of the directory lives.
pub const LOCK: &str = "lock";
/// An engine's directory is made under such a name and renamed when it is locked, so that it never appears unlocked.
const UNBORN: char = 'n';
/// Between making and renaming there is no reason to take even a second.
const UNBORN_AGE: Duration = Duration::from_secs(60);

fn open_lock(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(create).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path)
}

/// Makes the directory of a new engine. @returns its name and the lock to hold.
pub fn found(run_dir: &Path) -> io::Result<(String, File)> {
    DirBuilder::new().recursive(true).mode(0o711).create(run_dir)?;
    let (name, unborn) = (paths::new_name('e')?, run_dir.join(paths::new_name(UNBORN)?));
    DirBuilder::new().mode(0o711).create(&unborn)?;
    let lock = open_lock(&unborn.join(LOCK), true)?;
    sys::flock(&lock)?;
    fs::rename(&unborn, run_dir.join(&name))?;
    Ok((name, lock))
}

fn is_dead(dir: &Path, name: &str) -> bool {
    let Ok(meta) = fs::symlink_metadata(dir) else {
        return false;
    };
    if !meta.is_dir() || meta.uid() != 0 {
        return false;
    }
    if paths::is_name(UNBORN, name) {
        let age = meta.modified().ok().and_then(|then| SystemTime::now().duration_since(then).ok());
        return age.is_some_and(|age| age > UNBORN_AGE);
    }
    if !paths::is_name('e', name) {
        return false;
    }
    match open_lock(&dir.join(LOCK), false) {
        // Dropping the lock again is fine: nobody takes over a dead engine's directory.
        Ok(lock) => sys::flock(&lock).is_ok(),
        // The lock file is the last thing an orderly end removes before the directory itself.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Cleans up after every dead engine of this run directory. Two sweeps at once do no harm: each removes what it finds.
pub fn sweep(run_dir: &Path, hierarchies: &Hierarchies) {
    for entry in fs::read_dir(run_dir).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !is_dead(&entry.path(), &name) {
            continue;
        }
        let group = format!("{PREFIX}/{name}");
        let mut result = Ok(());
        if paths::is_name('e', &name) {
            result = hierarchies.destroy(&group);
        }
        // The directory is the record of what is left: it goes last, and only when the rest is gone.
        if let Err(error) = result.and_then(|()| paths::remove_tree(run_dir, &name)) {
            eprintln!("bulkhead-keeper: what engine {name} left behind cannot be removed: {error}");
        }
    }
}
