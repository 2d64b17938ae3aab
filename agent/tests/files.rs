mod common;

use bulkhead_agent::wire::generated::*;
use common::*;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bulkhead-files-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
    fn path(&self, name: &str) -> Vec<u8> {
        self.0.join(name).as_os_str().as_bytes().to_vec()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn user() -> String {
    String::new()
}

fn read(path: Vec<u8>, offset: u64, length: u64) -> Message {
    Message::ReadFile(ReadFile { path, offset, length, user: user() })
}

fn write(path: Vec<u8>, how: u8) -> Message {
    Message::WriteFile(WriteFile { path, mode: 0o640, how, make_parents: true, user: user() })
}

fn write_all(wire: &mut Wire, message: &Message, bytes: &[u8]) -> Ended {
    let stream = wire.open(message);
    for chunk in bytes.chunks(60_000) {
        wire.data(stream, chunk);
    }
    wire.end(stream);
    wire.finish(stream)
}

#[test]
fn what_is_written_is_read_back() {
    let scratch = Scratch::new("write");
    let mut agent = Agent::start();
    let bytes: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).take(250_000).collect();
    for how in [write_mode::TRUNCATE, write_mode::ATOMIC] {
        let path = scratch.path(&format!("deep/er/{how}"));
        let ended = write_all(&mut agent.wire, &write(path.clone(), how), &bytes);
        assert!(
            matches!(ended.ok().messages[..], [Message::Opened(_), Message::Written(Written { bytes: 250_000 })]),
            "{ended:?}"
        );
        let ended = agent.wire.ask(read(path, 0, u64::MAX));
        assert_eq!(ended.ok().out, bytes);
        let Message::StatResult(stat) = &ended.messages[0] else { panic!("no stat") };
        assert_eq!((stat.entry.size, stat.entry.mode), (250_000, 0o100640));
    }
    let ended = agent.wire.ask(read(scratch.path("deep/er/0"), 4, 8));
    assert_eq!(ended.out, bytes[4..12]);
    assert!(agent.wire.ask(read(scratch.path("deep/er/0"), 250_000, 5)).ok().out.is_empty());
    write_all(&mut agent.wire, &write(scratch.path("deep/er/0"), write_mode::APPEND), b"end").ok();
    assert_eq!(std::fs::read(scratch.0.join("deep/er/0")).unwrap().len(), 250_003);
    let ended = write_all(&mut agent.wire, &write(scratch.path("deep/er/0"), write_mode::EXCLUSIVE), b"");
    assert_eq!(ended.kind(), error_kind::EXISTS);
    assert_eq!(std::fs::read_dir(scratch.0.join("deep/er")).unwrap().count(), 2, "something was left beside");
}

#[test]
fn a_large_file_goes_both_ways() {
    let scratch = Scratch::new("large");
    let mut agent = Agent::start();
    let bytes: Vec<u8> = (0..20u32 << 20).map(|i| (i ^ i >> 8 ^ i >> 16) as u8).collect();
    std::fs::write(scratch.0.join("a"), &bytes).unwrap();
    assert!(agent.wire.ask(read(scratch.path("a"), 0, u64::MAX)).ok().out == bytes);
}

#[test]
fn a_cancelled_atomic_write_leaves_nothing() {
    let scratch = Scratch::new("cancel");
    std::fs::write(scratch.0.join("a"), b"old").unwrap();
    let mut agent = Agent::start();
    let stream = agent.wire.open(&write(scratch.path("a"), write_mode::ATOMIC));
    assert!(matches!(agent.wire.next_on(stream), Received::Message(_, _, Message::Opened(_))));
    agent.wire.data(stream, b"new");
    agent.wire.send(stream, 0, &Message::Cancel(Cancel {}));
    assert!(agent.wire.finish(stream).failed.is_none());
    wait_until("the removal of what was begun", || std::fs::read_dir(&scratch.0).unwrap().count() == 1);
    assert_eq!(std::fs::read(scratch.0.join("a")).unwrap(), b"old");
}

#[test]
fn only_regular_files_are_read_and_written() {
    let scratch = Scratch::new("odd");
    let fifo = scratch.path("fifo");
    let c = std::ffi::CString::new(fifo.clone()).unwrap();
    // SAFETY: a live string.
    assert_eq!(unsafe { libc::mkfifo(c.as_ptr(), 0o600) }, 0);
    let mut agent = Agent::start();
    for path in [fifo, b"/dev/zero".to_vec()] {
        assert_eq!(agent.wire.ask(read(path.clone(), 0, 10)).kind(), error_kind::INVALID);
        let message = Message::WriteFile(WriteFile { path, how: write_mode::TRUNCATE, ..WriteFile::default() });
        assert_eq!(agent.wire.ask(message).kind(), error_kind::INVALID);
    }
    assert_eq!(agent.wire.ask(read(b"/tmp".to_vec(), 0, 1)).kind(), error_kind::IS_DIRECTORY);
    assert_eq!(agent.wire.ask(read(scratch.path("none"), 0, 1)).kind(), error_kind::NOT_FOUND);
    assert_eq!(agent.wire.ask(read(Vec::new(), 0, 1)).kind(), error_kind::INVALID);
    assert_eq!(agent.wire.ask(read(vec![b'/'; 9000], 0, 1)).kind(), error_kind::INVALID);
    assert_eq!(agent.wire.ask(read(b"/a\0b".to_vec(), 0, 1)).kind(), error_kind::INVALID);
}

fn list(wire: &mut Wire, path: Vec<u8>, depth: u16) -> Vec<Entry> {
    let ended = wire.ask(Message::ListDirectory(ListDirectory { path, depth, user: user() }));
    records(&ended.ok().out, |reader| Entry::read(reader).unwrap())
}

#[test]
fn a_listing_goes_to_its_depth_and_follows_no_link() {
    let scratch = Scratch::new("list");
    std::fs::create_dir_all(scratch.0.join("a/b/c")).unwrap();
    symlink("/etc", scratch.0.join("link")).unwrap();
    for index in 0..3000 {
        std::fs::write(scratch.0.join(format!("a/file-{index:06}")), b"").unwrap();
    }
    let mut agent = Agent::start();
    let names = |list: &[Entry]| {
        let mut names: Vec<String> = list.iter().map(|e| String::from_utf8_lossy(&e.path).into_owned()).collect();
        names.sort();
        names
    };
    let root = scratch.path("");
    let root = root[..root.len() - 1].to_vec();
    let first = list(&mut agent.wire, root.clone(), 1);
    assert_eq!(names(&first).iter().map(|n| n.rsplit('/').next().unwrap()).collect::<Vec<_>>(), ["a", "link"]);
    let link = first.iter().find(|e| e.kind == entry_kind::SYMLINK).unwrap();
    assert_eq!(link.target, b"/etc");
    let second = list(&mut agent.wire, root.clone(), 2);
    assert_eq!(second.len(), 2 + 3001);
    assert_eq!(list(&mut agent.wire, root, 65535).len(), 2 + 3001 + 1);
}

#[test]
fn changes_to_files() {
    let scratch = Scratch::new("change");
    let mut agent = Agent::start();
    let wire = &mut agent.wire;
    wire.ask(Message::MakeDirectory(MakeDirectory {
        path: scratch.path("x/y/z"),
        mode: 0o700,
        parents: true,
        user: user(),
    }))
    .ok();
    let again = MakeDirectory { path: scratch.path("x/y/z"), mode: 0o700, parents: false, user: user() };
    assert_eq!(wire.ask(Message::MakeDirectory(again)).kind(), error_kind::EXISTS);
    write_all(wire, &write(scratch.path("x/f"), write_mode::TRUNCATE), b"1").ok();
    write_all(wire, &write(scratch.path("x/g"), write_mode::TRUNCATE), b"2").ok();
    let rename =
        |overwrite| Message::Move(Move { from: scratch.path("x/f"), to: scratch.path("x/g"), overwrite, user: user() });
    assert_eq!(wire.ask(rename(false)).kind(), error_kind::EXISTS);
    wire.ask(rename(true)).ok();
    assert_eq!(std::fs::read(scratch.0.join("x/g")).unwrap(), b"1");
    wire.ask(Message::ChangeMode(ChangeMode { path: scratch.path("x/g"), mode: 0o4755, user: user() })).ok();
    assert_eq!(std::fs::metadata(scratch.0.join("x/g")).unwrap().permissions().mode() & 0o7777, 0o4755);
    let past = -1_500_000_000;
    wire.ask(Message::ChangeTime(ChangeTime { path: scratch.path("x/g"), mtime_ns: past, user: user() })).ok();
    let changed = std::fs::metadata(scratch.0.join("x/g")).unwrap();
    assert_eq!((changed.mtime(), changed.mtime_nsec()), (-2, 500_000_000));
    wire.ask(Message::MakeSymlink(MakeSymlink { path: scratch.path("l"), target: scratch.path("x"), user: user() }))
        .ok();
    let stat = |wire: &mut Wire, follow| match wire
        .ask(Message::Stat(Stat { path: scratch.path("l"), follow, user: user() }))
        .ok()
        .messages[0]
        .clone()
    {
        Message::StatResult(result) => result.entry.kind,
        other => panic!("{other:?}"),
    };
    assert_eq!((stat(wire, false), stat(wire, true)), (entry_kind::SYMLINK, entry_kind::DIRECTORY));
    let before = std::fs::metadata(scratch.0.join("x")).unwrap().mtime();
    wire.ask(Message::ChangeTime(ChangeTime { path: scratch.path("l"), mtime_ns: 7, user: user() })).ok();
    assert_eq!(std::fs::symlink_metadata(scratch.0.join("l")).unwrap().mtime_nsec(), 7);
    assert_eq!(std::fs::metadata(scratch.0.join("x")).unwrap().mtime(), before, "a link is not followed");
    let remove = |name: &str, recursive| Message::Remove(Remove { path: scratch.path(name), recursive, user: user() });
    assert_eq!(wire.ask(remove("x", false)).kind(), error_kind::NOT_EMPTY);
    let owner =
        ChangeOwner { path: scratch.path("x/g"), owner: "nobody-here".into(), group: String::new(), user: user() };
    assert_eq!(wire.ask(Message::ChangeOwner(owner)).kind(), error_kind::USER_NOT_FOUND);
}

#[test]
fn a_recursive_removal_follows_no_link() {
    let (scratch, outside) = (Scratch::new("remove"), Scratch::new("outside"));
    std::fs::write(outside.0.join("kept"), b"").unwrap();
    std::fs::create_dir_all(scratch.0.join("t/a/b")).unwrap();
    std::fs::write(scratch.0.join("t/a/b/f"), b"").unwrap();
    symlink(&outside.0, scratch.0.join("t/a/link")).unwrap();
    let mut agent = Agent::start();
    agent.wire.ask(Message::Remove(Remove { path: scratch.path("t"), recursive: true, user: user() })).ok();
    assert!(!scratch.0.join("t").exists() && outside.0.join("kept").exists());
    symlink(&outside.0, scratch.0.join("top")).unwrap();
    agent.wire.ask(Message::Remove(Remove { path: scratch.path("top"), recursive: true, user: user() })).ok();
    assert!(outside.0.join("kept").exists());
}

#[test]
fn another_user_sees_what_they_may() {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: acting as another user needs root");
        return;
    }
    let scratch = Scratch::new("user");
    std::fs::write(scratch.0.join("secret"), b"s").unwrap();
    std::fs::set_permissions(scratch.0.join("secret"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::set_permissions(&scratch.0, PermissionsExt::from_mode(0o777)).unwrap();
    let mut agent = Agent::start();
    let nobody = "65534:65534".to_string();
    let message = ReadFile { path: scratch.path("secret"), offset: 0, length: 9, user: nobody.clone() };
    assert_eq!(agent.wire.ask(Message::ReadFile(message)).kind(), error_kind::PERMISSION);
    let message = WriteFile { path: scratch.path("theirs"), mode: 0o600, user: nobody.clone(), ..WriteFile::default() };
    write_all(&mut agent.wire, &Message::WriteFile(message), b"x").ok();
    let ended = agent.wire.ask(Message::Stat(Stat { path: scratch.path("theirs"), follow: false, user: user() }));
    let Message::StatResult(stat) = &ended.ok().messages[0] else { panic!("no stat") };
    assert_eq!((stat.entry.uid, stat.entry.gid), (65534, 65534));
    // The thread that acted is root again.
    for _ in 0..20 {
        agent.wire.ask(read(scratch.path("secret"), 0, 9)).ok();
    }
}

fn watch_until(wire: &mut Wire, stream: u32, wanted: impl Fn(&WatchEvent) -> bool) -> Vec<WatchEvent> {
    let mut seen = Vec::new();
    loop {
        if let Received::Data(_, _, bytes) = wire.next_on(stream) {
            seen.extend(records(&bytes, |reader| WatchEvent::read(reader).unwrap()));
            if seen.iter().any(&wanted) {
                return seen;
            }
        }
    }
}

#[test]
fn a_watch_tells_of_changes_also_in_new_directories() {
    let scratch = Scratch::new("watch");
    std::fs::create_dir(scratch.0.join("old")).unwrap();
    let mut agent = Agent::start();
    let root = scratch.0.as_os_str().as_bytes().to_vec();
    let stream = agent.wire.open(&Message::Watch(Watch { path: root, recursive: true, user: user() }));
    assert!(matches!(agent.wire.next_on(stream), Received::Message(_, _, Message::Opened(_))));
    let is = |kind: u8, path: Vec<u8>| move |event: &WatchEvent| event.kind == kind && event.path == path;
    std::fs::write(scratch.0.join("old/f"), b"x").unwrap();
    watch_until(&mut agent.wire, stream, is(watch_kind::WRITE, scratch.path("old/f")));
    std::fs::create_dir_all(scratch.0.join("new/deep")).unwrap();
    watch_until(&mut agent.wire, stream, is(watch_kind::CREATE, scratch.path("new/deep")));
    std::fs::write(scratch.0.join("new/deep/g"), b"x").unwrap();
    watch_until(&mut agent.wire, stream, is(watch_kind::CREATE, scratch.path("new/deep/g")));
    std::fs::rename(scratch.0.join("new"), scratch.0.join("moved")).unwrap();
    watch_until(&mut agent.wire, stream, is(watch_kind::RENAME, scratch.path("new")));
    std::fs::remove_file(scratch.0.join("moved/deep/g")).unwrap();
    watch_until(&mut agent.wire, stream, is(watch_kind::REMOVE, scratch.path("moved/deep/g")));
    std::fs::set_permissions(scratch.0.join("old/f"), PermissionsExt::from_mode(0o600)).unwrap();
    watch_until(&mut agent.wire, stream, is(watch_kind::CHMOD, scratch.path("old/f")));
    agent.wire.send(stream, 0, &Message::Cancel(Cancel {}));
    agent.wire.finish(stream).ok();
}

#[test]
fn sockets_inside_are_dialled() {
    let scratch = Scratch::new("dial");
    let mut agent = Agent::start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let unix = std::os::unix::net::UnixListener::bind(scratch.0.join("s")).unwrap();
    let server = std::thread::spawn(move || {
        let mut tcp = listener.accept().unwrap().0;
        let mut got = Vec::new();
        tcp.read_to_end(&mut got).unwrap();
        got.reverse();
        tcp.write_all(&got).unwrap();
        drop(tcp);
        let mut unix = unix.accept().unwrap().0;
        let mut got = Vec::new();
        unix.read_to_end(&mut got).unwrap();
        unix.write_all(&got).unwrap();
    });
    let dials = [
        (Message::DialTcp(DialTcp { address: String::new(), port }), &b"cba"[..]),
        (Message::DialUnix(DialUnix { path: scratch.path("s"), user: user() }), &b"abc"[..]),
    ];
    for (dial, answer) in dials {
        let stream = agent.wire.open(&dial);
        agent.wire.data(stream, b"abc");
        agent.wire.end(stream);
        let ended = agent.wire.finish(stream);
        assert_eq!(ended.ok().out, answer);
        assert!(matches!(ended.messages[..], [Message::Opened(_)]));
    }
    server.join().unwrap();
    let refused = agent.wire.ask(Message::DialTcp(DialTcp { address: String::new(), port }));
    assert_eq!(refused.kind(), error_kind::REFUSED);
    assert_eq!(
        agent.wire.ask(Message::DialTcp(DialTcp { address: "example.org".into(), port })).kind(),
        error_kind::INVALID
    );
    let missing = DialUnix { path: scratch.path("none"), user: user() };
    assert_eq!(agent.wire.ask(Message::DialUnix(missing)).kind(), error_kind::NOT_FOUND);
    assert!(Path::new(&scratch.0).exists());
}
