//! Archives by chance: honest ones become what `tar` makes of them, damaged and hostile ones end in a typed failure or in a
//! layer, and in nothing outside. `BULKHEAD_FUZZ_SECONDS` says for how long (2), `BULKHEAD_FUZZ_SEED` repeats a run.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::*;

const DEFAULT_SECONDS: u64 = 2;

/// xorshift: the same archives for the same seed.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("BULKHEAD_FUZZ_SEED").map_or(now | 1, |text| text.parse().unwrap());
        println!("BULKHEAD_FUZZ_SEED={seed}");
        Random(seed)
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
    fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let count = self.below(most + 1);
        (0..count).map(|_| self.next() as u8).collect()
    }
}

fn end() -> Instant {
    let seconds = std::env::var("BULKHEAD_FUZZ_SECONDS").map_or(DEFAULT_SECONDS, |text| text.parse().unwrap());
    Instant::now() + Duration::from_secs(seconds)
}

/// Directories, each listed before what is in it, and in them files, links and pipes, no path twice.
fn honest(random: &mut Random) -> Vec<u8> {
    let mut tar = Tar::new();
    let mut directories = vec![String::new()];
    let mut files: Vec<String> = Vec::new();
    for number in 0..random.below(30) + 1 {
        let above = directories[random.below(directories.len())].clone();
        let stem =
            random.of(&["n", "Name", "na me", "\u{fc}", "-x", "'\"\\", "very-long-name-of-which-a-header-takes-half"]);
        let name = format!("{above}{stem}{number}");
        let mut next = entry(b'0', &name);
        next.mode = random.of(&[&0o644, &0o755, &0o600, &0o4755, &0o2711, &0]).to_owned();
        (next.uid, next.gid) = (random.next() % 70_000, random.next() % 70_000);
        next.mtime = (random.next() % (1 << 32)) as i64 - (1 << 31);
        match random.below(8) {
            0 | 1 => {
                next.kind = b'5';
                next.name.push(b'/');
                next.mode |= 0o700;
                directories.push(format!("{name}/"));
            }
            2 => {
                (next.kind, next.mode) = (b'2', 0o777);
                next.link = random.of(&["..", "/etc/passwd", "n0", "../../x"]).as_bytes().to_vec();
            }
            3 => next.kind = b'6',
            4 if !files.is_empty() => {
                next.kind = b'1';
                next.link = files[random.below(files.len())].clone().into_bytes();
            }
            _ => {
                next.data = random.bytes(3000).iter().map(|byte| b'a' + byte % 26).collect();
                files.push(name.clone());
            }
        }
        tar = long_names(random, tar, &next).add(next);
    }
    tar.end()
}

/// What the header has no room for, in one of the ways it is written.
fn long_names(random: &mut Random, tar: Tar, entry: &Entry) -> Tar {
    let texts = [(&entry.name, b'L', "path"), (&entry.link, b'K', "linkpath")];
    let long: Vec<_> = texts.into_iter().filter(|(text, _, _)| text.len() > 100).collect();
    if long.is_empty() {
        return tar;
    }
    if random.below(2) == 0 {
        return long.into_iter().fold(tar, |tar, (text, kind, _)| tar.long(kind, text));
    }
    let records: Vec<_> = long.into_iter().map(|(text, _, key)| (key, text.as_slice())).collect();
    tar.pax(&records)
}

/// Without the root, which the archive does not describe.
fn tree_of(root: &Path) -> Vec<String> {
    listing(root).into_iter().filter(|line| !line.starts_with(' ')).collect()
}

/// Changes that a header's reader has to survive, with the checksum right again or not.
fn damage(random: &mut Random, tar: &mut Vec<u8>) {
    for _ in 0..random.below(4) + 1 {
        let blocks = tar.len() / 512;
        if blocks == 0 {
            return;
        }
        let at = random.below(blocks) * 512;
        match random.below(7) {
            0 => {
                let position = random.below(tar.len());
                tar[position] = random.next() as u8;
            }
            1 => tar.truncate(random.below(tar.len()).max(512)),
            2 => {
                let again = tar[at..at + 512].to_vec();
                drop(tar.splice(at..at, again));
            }
            3 => drop(tar.drain(at..at + 512)),
            _ => {
                let mut block: [u8; 512] = tar[at..at + 512].try_into().unwrap();
                match random.below(6) {
                    0 => block[156] = random.of(&[b"0", b"1", b"2", b"3", b"5", b"6", b"L", b"K", b"x", b"g", b"S"])[0],
                    1 => {
                        let name =
                            random.of(&["../../x", "a/../../victim/secret", ".wh..", ".wh.x", "", "/", "//x", "n0/x"]);
                        block[..100].fill(0);
                        block[..name.len()].copy_from_slice(name.as_bytes());
                    }
                    2 => {
                        let link = random.of(&["../victim/secret", "..", "n0", "/", "n1/x"]);
                        block[157..257].fill(0);
                        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
                    }
                    3 => block[124..136].copy_from_slice(random.of(&[
                        b"77777777777\0",
                        b"00000000001\0",
                        b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                        b"            ",
                    ])),
                    _ => {
                        let position = random.below(512);
                        block[position] = random.next() as u8;
                    }
                }
                checksum(&mut block);
                tar[at..at + 512].copy_from_slice(&block);
            }
        }
    }
}

#[test]
fn honest_archives_become_what_tar_makes_of_them() {
    if !is_root() {
        return;
    }
    let (mut random, end) = (Random::new(), end());
    while Instant::now() < end {
        let tar = honest(&mut random);
        let ours = unpack(&tar).expect_done();
        fs::write(ours.dir.join("archive"), &tar).unwrap();
        let theirs = ours.dir.join("theirs");
        fs::create_dir(&theirs).unwrap();
        let options =
            ["--extract", "--same-permissions", "--same-owner", "--numeric-owner", "--delay-directory-restore"];
        let mut command = Command::new("tar");
        command.args(options).arg("--file").arg(ours.dir.join("archive")).arg("--directory").arg(&theirs);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (ours, theirs) = (tree_of(&ours.tree()), tree_of(&theirs));
        for (our, their) in ours.iter().zip(&theirs) {
            assert_eq!(our, their);
        }
        assert_eq!(ours.len(), theirs.len());
    }
}

#[test]
fn damaged_archives_end_in_a_layer_or_a_failure_and_in_nothing_else() {
    if !is_root() {
        return;
    }
    let (mut random, end) = (Random::new(), end());
    while Instant::now() < end {
        let mut tar = honest(&mut random);
        damage(&mut random, &mut tar);
        let blob = if random.below(4) == 0 { gzip(&tar) } else { tar };
        let dir = fresh_dir();
        fs::create_dir(dir.join("victim")).unwrap();
        fs::write(dir.join("victim/secret"), "kept").unwrap();
        let before = listing(&dir.join("victim"));
        let (ok, last) = run(&dir, &["unpack", "--into", "layer", "--limits", &limits().to_string()], &blob);
        let kind = last["error"]["kind"].as_str().unwrap_or_default();
        assert!(ok || !["", "io", "internal", "usage"].contains(&kind), "{last}");
        assert_eq!(listing(&dir.join("victim")), before);
        assert_eq!(fs::metadata(dir.join("victim/secret")).unwrap().nlink(), 1);
        assert_eq!(fs::read_dir(&*dir).unwrap().count(), 2);
        assert_eq!(ok, dir.join("layer/layer.json").exists());
    }
}
