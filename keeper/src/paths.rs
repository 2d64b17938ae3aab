//! The only places the keeper writes to: below one sandbox's own directory, reached without following a symbolic link.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use crate::sys;

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// `path` relative to `dir`.
///
/// # Errors
/// `InvalidInput` unless `path` is written plainly (no `.`, `..`, `//`) and lies below `dir`.
pub fn relative(dir: &Path, path: &str) -> io::Result<PathBuf> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let normal: PathBuf = Path::new(path).components().collect();
    let rest = normal.strip_prefix(dir).ok().filter(|rest| !rest.as_os_str().is_empty());
    match rest {
        Some(rest) if plain && normal.as_os_str() == path => Ok(rest.to_path_buf()),
        _ => Err(invalid(format!("path {path:?} is not below the sandbox's own directory"))),
    }
}

/// The directory that holds the last component of `rest`, and that component.
pub fn parent(dir: BorrowedFd<'_>, rest: &Path) -> io::Result<(OwnedFd, CString)> {
    let name = rest.file_name().ok_or_else(|| invalid(format!("path {rest:?} has no name")))?;
    let above = rest.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fd = sys::open_beneath(dir, above, libc::O_PATH | libc::O_DIRECTORY, 0, 0)?;
    Ok((fd, sys::cpath(Path::new(name))?))
}

/// Directories nest deeper than this only when somebody tries to exhaust the stack.
const MAX_DEPTH: u32 = 4096;

/// Removes everything below `dir` (not `dir` itself): follows no link, enters no other file system.
pub fn clear(dir: BorrowedFd<'_>, depth: u32) -> io::Result<()> {
    if depth == MAX_DEPTH {
        return Err(invalid("directories are nested too deeply to be removed".to_string()));
    }
    // Reading through /proc needs a readable descriptor; O_PATH ones are reopened beneath themselves.
    let here = sys::open_beneath(dir, Path::new("."), libc::O_RDONLY | libc::O_DIRECTORY, 0, 0)?;
    let listing = format!("/proc/self/fd/{}", here.as_raw_fd());
    let names: Vec<_> = fs::read_dir(listing)?.collect::<io::Result<Vec<_>>>()?;
    for entry in names {
        let name = sys::cpath(Path::new(&entry.file_name()))?;
        let is_dir = entry.file_type()?.is_dir();
        if is_dir {
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            let path = PathBuf::from(entry.file_name());
            let inner = sys::open_beneath(here.as_fd(), &path, flags, 0, libc::RESOLVE_NO_XDEV)?;
            clear(inner.as_fd(), depth + 1)?;
        }
        sys::unlinkat(here.as_fd(), &name, if is_dir { libc::AT_REMOVEDIR } else { 0 })?;
    }
    Ok(())
}

/// Removes the directory `name` in `above` with all that is in it. Absent is fine.
pub fn remove_tree(above: &Path, name: &str) -> io::Result<()> {
    let above = sys::open_dir(above)?;
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    match sys::open_beneath(above.as_fd(), Path::new(name), flags, 0, libc::RESOLVE_NO_XDEV) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(dir) => clear(dir.as_fd(), 0)?,
    }
    sys::unlinkat(above.as_fd(), &sys::cstr(name)?, libc::AT_REMOVEDIR)
}

/// Names of engines and sandboxes: a letter and 16 hex digits, always the same length, because runsc accepts an
/// abbreviated id and would take one sandbox for another.
pub fn is_name(kind: char, name: &str) -> bool {
    let hex = name.strip_prefix(kind);
    hex.is_some_and(|hex| hex.len() == 16 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

pub fn new_name(kind: char) -> io::Result<String> {
    let mut bytes = [0u8; 8];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(format!("{kind}{:016x}", u64::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_below_the_directory_are_accepted() {
        let dir = Path::new("/run/x/e1/s1");
        assert_eq!(relative(dir, "/run/x/e1/s1/a/b").unwrap(), Path::new("a/b"));
        let bad = [
            "/run/x/e1/s1",
            "/run/x/e1/s1/",
            "/run/x/e1/s1/.",
            "/run/x/e1/s1/../s2/a",
            "/run/x/e1/s1/a/../../s2",
            "/run/x/e1/s10/a",
            "/run/x/e1//s1/a",
            "/run/x/e1/s1/./a",
            "/run/x/e1/s1/a/",
            "run/x/e1/s1/a",
            "/etc/passwd",
            "",
        ];
        for path in bad {
            assert!(relative(dir, path).is_err(), "{path:?} was accepted");
        }
    }

    #[test]
    fn removal_does_not_follow_links() {
        let base = std::env::temp_dir().join(new_name('t').unwrap());
        fs::create_dir_all(base.join("own/deep/er")).unwrap();
        fs::create_dir_all(base.join("other")).unwrap();
        fs::write(base.join("other/kept"), "x").unwrap();
        std::os::unix::fs::symlink(base.join("other"), base.join("own/deep/link")).unwrap();
        std::os::unix::fs::symlink(base.join("other"), base.join("link")).unwrap();
        remove_tree(&base, "own").unwrap();
        assert!(!base.join("own").exists());
        assert!(remove_tree(&base, "link").is_err());
        assert!(base.join("other/kept").exists());
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn names_are_told_from_anything_else() {
        assert!(is_name('e', &new_name('e').unwrap()));
        for bad in ["", "e", "e..", "s0123456789abcdef", "e0123456789abcde/", "e0123456789abcdeF"] {
            assert!(!is_name('e', bad));
        }
    }
}
