//! Reads in a template what programs of its clones will read first, so that it lies in the memory that all of them share.
//! Nothing of the image runs: its files are looked at and read, all of them bounded, since they may be made to harm.

use super::elf;
use crate::sys::guest::open_within_root;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Of all files together: it is the template's memory, in which its clones have no part of their own.
const BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Larger ones are not read but for what they say they need: few of their pages are ever used.
const FILE_BYTES_MAX: u64 = 12 * 1024 * 1024;
const FILES_MAX: usize = 1024;
/// Under emulation on a busy host it takes seconds: what is not read then, every clone reads by itself.
const TIME_MAX: Duration = Duration::from_secs(20);
const PIECE_BYTES: usize = 64 * 1024;
const ACCOUNTS_MAX: usize = 64;

const DIRECTORIES: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];
/// What most of all that is run in sandboxes begins with.
const PROGRAMS: [&str; 9] = ["sh", "bash", "env", "true", "cat", "ls", "sleep", "python3", "node"];
/// What the loader and C libraries look at before any program of theirs begins.
const FILES: [&str; 8] = [
    "/etc/ld.so.preload",
    "/etc/ld.so.cache",
    "/usr/lib/locale/locale-archive",
    "/usr/lib/locale/C.UTF-8/LC_CTYPE",
    "/usr/lib/locale/C.utf8/LC_CTYPE",
    "/usr/share/locale/locale.alias",
    "/etc/localtime",
    "/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache",
];
/// Of Python's library, those that it reads by itself.
const MODULES: [&str; 16] = [
    "encodings/__init__",
    "encodings/aliases",
    "encodings/utf_8",
    "encodings/latin_1",
    "codecs",
    "io",
    "abc",
    "site",
    "os",
    "stat",
    "posixpath",
    "genericpath",
    "_collections_abc",
    "_sitebuiltins",
    "sitecustomize",
    "usercustomize",
];
const LIBRARIES: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

struct Reader {
    until: Instant,
    bytes_left: u64,
    files_left: usize,
    seen: BTreeSet<(u64, u64)>,
    buffer: Vec<u8>,
}

/// Best effort: what cannot be read is read by whoever needs it.
pub fn warm() {
    let mut reader = Reader {
        until: Instant::now() + TIME_MAX,
        bytes_left: BYTES_MAX,
        files_left: FILES_MAX,
        seen: BTreeSet::new(),
        buffer: vec![0; PIECE_BYTES],
    };
    for path in FILES {
        reader.read(Path::new(path));
    }
    reader.accounts();
    for name in PROGRAMS {
        // Those before it are looked for in vain by a shell too.
        if let Some(path) = DIRECTORIES.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file()) {
            reader.program(&path);
            if name.starts_with("python") {
                reader.python(&path);
            }
        }
    }
}

impl Reader {
    fn is_spent(&self) -> bool {
        self.bytes_left == 0 || self.files_left == 0 || Instant::now() >= self.until
    }

    /// Reads a plain file of the root file system, and gives it.
    fn read(&mut self, path: &Path) -> Option<File> {
        if self.is_spent() {
            return None;
        }
        self.files_left -= 1;
        let file = open_within_root(path).ok()?;
        let meta = file.metadata().ok()?;
        if !meta.is_file() || !self.seen.insert((meta.dev(), meta.ino())) {
            return None;
        }
        if meta.len() <= FILE_BYTES_MAX {
            let mut at = 0;
            while !self.is_spent() {
                let most = self.buffer.len().min(usize::try_from(self.bytes_left).unwrap_or(usize::MAX));
                let count = file.read_at(&mut self.buffer[..most], at).unwrap_or(0) as u64;
                if count == 0 {
                    break;
                }
                at += count;
                self.bytes_left -= count;
            }
        }
        Some(file)
    }

    /// A program with all that it needs to begin.
    fn program(&mut self, path: &Path) {
        let mut waiting = VecDeque::from([path.to_path_buf()]);
        while let Some(path) = waiting.pop_front() {
            let Some(file) = self.read(&path) else { continue };
            let needs = elf::needs(&|offset, most| {
                let mut bytes = vec![0; most];
                let count = file.read_at(&mut bytes, offset).unwrap_or(0);
                bytes.truncate(count);
                bytes
            });
            waiting.extend(needs.interpreter.map(|path| PathBuf::from(OsStr::from_bytes(&path))));
            waiting.extend(needs.libraries.iter().filter_map(|name| library(name)));
        }
    }

    /// What it looks at before the first line of any program, in the order of its own start; most of it in vain.
    fn python(&mut self, program: &Path) {
        let Ok(real) = std::fs::canonicalize(program) else { return };
        let (Some(name), Some(bin)) = (real.file_name().and_then(OsStr::to_str), real.parent()) else { return };
        let (Some(version), Some(prefix)) = (name.strip_prefix("python"), bin.parent()) else { return };
        let number = version.replace('.', "");
        let home = prefix.join("lib").join(name);
        for above in [bin, prefix] {
            self.read(&above.join("pyvenv.cfg"));
        }
        for name in ["python3._pth", &format!("{name}._pth"), "pybuilddir.txt", "Modules", "lib"] {
            self.read(&bin.join(name));
        }
        self.read(&prefix.join(format!("lib/python{number}.zip")));
        for module in MODULES {
            let path = home.join(module);
            let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
                return;
            };
            // Its date is compared, its contents are not read.
            let _ = std::fs::metadata(path.with_extension("py"));
            self.read(&directory.join(format!("__pycache__/{name}.cpython-{number}.pyc")));
        }
        let packages = ["lib/python3/dist-packages", &format!("local/lib/{name}/dist-packages")];
        let packages = packages.map(|directory| prefix.join(directory));
        let own =
            ["", "encodings", "lib-dynload", "site-packages", "dist-packages"].map(|directory| home.join(directory));
        for directory in packages.into_iter().chain(own) {
            let paths = self.names(&directory).into_iter();
            for path in paths.filter(|path| path.extension() == Some(OsStr::new("pth"))) {
                self.read(&path);
            }
        }
    }

    fn names(&self, directory: &Path) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
        entries.take(self.files_left).flatten().map(|entry| entry.path()).collect()
    }

    /// Home directories are where programs begin.
    fn accounts(&mut self) {
        self.read(Path::new("/etc/group"));
        let Some(file) = self.read(Path::new("/etc/passwd")) else { return };
        let mut text = vec![0; PIECE_BYTES];
        let count = file.read_at(&mut text, 0).unwrap_or(0);
        for line in text[..count].split(|byte| *byte == b'\n').take(ACCOUNTS_MAX) {
            if let Some(home) = line.split(|byte| *byte == b':').nth(5).filter(|home| home.starts_with(b"/")) {
                let _ = std::fs::metadata(OsStr::from_bytes(home));
            }
        }
    }
}

/// Where the loader would find it, most likely.
fn library(name: &[u8]) -> Option<PathBuf> {
    let name = OsStr::from_bytes(name);
    LIBRARIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists())
}
