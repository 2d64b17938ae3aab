//! Archives made by hand, and the real program to unpack them.

// Each test program uses a part of this.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{json, Value};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_bulkhead-layers");
pub const MIB: u64 = 1024 * 1024;

/// Says aloud when the tests cannot mean anything.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: unpacking needs root");
    }
    root
}

/// A directory of one test, removed when the test is over.
pub struct FreshDir(PathBuf);

impl std::ops::Deref for FreshDir {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for FreshDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn fresh_dir() -> FreshDir {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("bulkhead-layers-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = std::env::temp_dir().join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    FreshDir(dir)
}

/// Fields of a header; what is not set is as for a plain file of root's.
#[derive(Clone)]
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: u8,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: i64,
    pub link: Vec<u8>,
    pub device: (u64, u64),
    pub data: Vec<u8>,
    /// In place of the data's length.
    pub size: Option<u64>,
}

impl Entry {
    pub fn of(mut self, kind: u8) -> Entry {
        self.kind = kind;
        self
    }
}

pub fn entry(kind: u8, name: impl AsRef<[u8]>) -> Entry {
    Entry {
        name: name.as_ref().to_vec(),
        kind,
        mode: if kind == b'5' { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        mtime: 1_000_000_000,
        link: Vec::new(),
        device: (0, 0),
        data: Vec::new(),
        size: None,
    }
}

/// Octal where it fits, else a number of 256s.
fn number(field: &mut [u8], value: i64) {
    let digits = field.len() - 1;
    if (0..1i64 << (3 * digits).min(62)).contains(&value) {
        field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
        return;
    }
    let bytes = i128::from(value).to_be_bytes();
    let length = field.len();
    field.copy_from_slice(&bytes[bytes.len() - length..]);
    field[0] |= 0x80;
}

pub fn header(entry: &Entry) -> [u8; 512] {
    let mut block = [0; 512];
    let name = &entry.name[..entry.name.len().min(100)];
    block[..name.len()].copy_from_slice(name);
    number(&mut block[100..108], i64::from(entry.mode));
    number(&mut block[108..116], entry.uid as i64);
    number(&mut block[116..124], entry.gid as i64);
    number(&mut block[124..136], entry.size.unwrap_or(entry.data.len() as u64) as i64);
    number(&mut block[136..148], entry.mtime);
    block[156] = entry.kind;
    let link = &entry.link[..entry.link.len().min(100)];
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    number(&mut block[329..337], entry.device.0 as i64);
    number(&mut block[337..345], entry.device.1 as i64);
    checksum(&mut block);
    block
}

/// To be called after every change of a header.
pub fn checksum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub fn record(key: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

/// A tar stream that grows.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Tar {
        Tar::default()
    }

    pub fn add(mut self, entry: Entry) -> Tar {
        self.0.extend_from_slice(&header(&entry));
        self.raw(&entry.data)
    }

    /// Bytes, and zeros to the next block.
    pub fn raw(mut self, data: &[u8]) -> Tar {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Tar {
        self.add(Entry { data: data.as_ref().to_vec(), ..entry(b'0', name) })
    }

    pub fn dir(self, name: impl AsRef<[u8]>) -> Tar {
        self.add(entry(b'5', name))
    }

    pub fn symlink(self, name: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Tar {
        self.add(Entry { link: to.as_ref().to_vec(), mode: 0o777, ..entry(b'2', name) })
    }

    pub fn hardlink(self, name: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Tar {
        self.add(Entry { link: to.as_ref().to_vec(), ..entry(b'1', name) })
    }

    pub fn device(self, kind: u8, name: impl AsRef<[u8]>, major: u64, minor: u64) -> Tar {
        self.add(Entry { device: (major, minor), ..entry(kind, name) })
    }

    /// An extended header for the entry after it.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let data = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.add(Entry { data, ..entry(b'x', "pax") })
    }

    /// GNU's way: `L` for a name, `K` for a link.
    pub fn long(self, kind: u8, text: impl AsRef<[u8]>) -> Tar {
        let data = [text.as_ref(), b"\0"].concat();
        self.add(Entry { data, ..entry(kind, "././@LongLink") })
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub fn limits() -> Value {
    json!({
        "maxBytes": 1024 * MIB, "maxEntries": 10_000, "maxRatio": 200,
        "maxPathBytes": 4096, "maxXattrBytes": 65_536, "maxDepth": 1024,
    })
}

/// What the program did: `layer` is in `dir`.
pub struct Outcome {
    pub dir: FreshDir,
    pub last: Value,
    pub ok: bool,
}

impl Outcome {
    pub fn layer(&self) -> PathBuf {
        self.dir.join("layer")
    }

    pub fn tree(&self) -> PathBuf {
        self.dir.join("layer/tree")
    }

    pub fn record(&self) -> Value {
        serde_json::from_slice(&fs::read(self.dir.join("layer/layer.json")).unwrap()).unwrap()
    }

    /// Of the error, empty when there is none.
    pub fn kind(&self) -> &str {
        self.last["error"]["kind"].as_str().unwrap_or_default()
    }

    pub fn expect_done(self) -> Outcome {
        assert!(self.ok, "{}", self.last);
        self
    }
}

pub fn unpack(blob: &[u8]) -> Outcome {
    unpack_with(blob, &limits(), &[])
}

pub fn unpack_with(blob: &[u8], limits: &Value, more: &[&str]) -> Outcome {
    let dir = fresh_dir();
    let limits = limits.to_string();
    let mut words = vec!["unpack", "--into", "layer", "--limits", &limits];
    words.extend(more);
    let (ok, last) = run(&dir, &words, blob);
    Outcome { dir, last, ok }
}

/// @returns whether the program ended well, and its last line
pub fn run(dir: &Path, words: &[impl AsRef<OsStr>], input: &[u8]) -> (bool, Value) {
    let mut command = Command::new(PROGRAM);
    command.args(words).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().unwrap();
    // One that refuses early does not read to the end.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let last = text.lines().last().unwrap_or_else(|| panic!("it said nothing and ended with {}", output.status));
    (output.status.success(), serde_json::from_str(last).unwrap())
}

/// Every path below `root` with type, mode, owner and contents, sorted; nothing is followed.
pub fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    list_into(root, Path::new(""), &mut lines);
    lines.sort();
    lines
}

fn list_into(root: &Path, path: &Path, lines: &mut Vec<String>) {
    let full = root.join(path);
    let meta = fs::symlink_metadata(&full).unwrap();
    let content = if meta.is_symlink() {
        fs::read_link(&full).unwrap().as_os_str().as_bytes().to_vec()
    } else if meta.is_file() {
        fs::read(&full).unwrap()
    } else {
        Vec::new()
    };
    let (mode, uid, gid) = (meta.mode(), meta.uid(), meta.gid());
    let content = String::from_utf8_lossy(&content).into_owned();
    let (time, links) =
        (format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()), if meta.is_dir() { 1 } else { meta.nlink() });
    lines.push(format!("{} {mode:o} {uid}:{gid} {time} {links} {content:?}", path.display()));
    if meta.is_dir() {
        for entry in fs::read_dir(&full).unwrap() {
            list_into(root, &path.join(entry.unwrap().file_name()), lines);
        }
    }
}
