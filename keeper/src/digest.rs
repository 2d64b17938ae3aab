//! A digest of large files that are mostly holes: what is not there costs nothing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use serde_json::{json, Value};
use sha2::{Digest, Sha256};

use crate::sys;

/// What is left out when it is all zeros. A hole and zeros that were written are the same contents.
const BLOCK_BYTES: u64 = 64 * 1024;

/// `bytes` is the file's length, `digest` SHA-256 over it (8 bytes, little-endian) and, for each block that is not all
/// zeros, its place (the same) and what it holds, in order.
pub fn of(path: &str) -> io::Result<Value> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let digest = sparse(&file, meta.len())?;
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(json!({ "bytes": meta.len(), "digest": format!("sha256:{hex}") }))
}

fn sparse(file: &File, length: u64) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    hash.update(length.to_le_bytes());
    let mut block = vec![0; BLOCK_BYTES as usize];
    let mut at = 0;
    while let Some((start, end)) = sys::next_data(file.as_fd(), at)? {
        at = at.max(start / BLOCK_BYTES * BLOCK_BYTES);
        while at < end {
            let want = (length - at).min(BLOCK_BYTES) as usize;
            file.read_exact_at(&mut block[..want], at)?;
            if block[..want].iter().any(|byte| *byte != 0) {
                hash.update(at.to_le_bytes());
                hash.update(&block[..want]);
            }
            at += want as u64;
        }
        if at >= length {
            break;
        }
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths;

    #[test]
    fn holes_and_zeros_are_the_same_and_every_byte_counts() {
        let dir = std::env::temp_dir();
        let path = dir.join(paths::new_name('d').unwrap());
        let text = path.to_str().unwrap();
        let length = 3 * BLOCK_BYTES + 100;
        let write = |at: u64, bytes: &[u8]| {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).unwrap();
            file.set_len(length).unwrap();
            file.write_all_at(bytes, at).unwrap();
            of(text).unwrap()["digest"].as_str().unwrap().to_string()
        };
        let first = write(BLOCK_BYTES + 5, b"x");
        assert_eq!(write(2 * BLOCK_BYTES, &[0; 4096]), first);
        let last = write(length - 1, b"y");
        assert_ne!(last, first);
        assert_ne!(write(BLOCK_BYTES + 5, b"z"), last);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(of(text).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
