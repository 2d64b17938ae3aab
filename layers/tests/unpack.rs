//! What honest layers become.

mod support;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use ruzstd::encoding::{compress_to_vec, CompressionLevel};
use serde_json::json;
use support::*;

macro_rules! root_tests {
    ($($name:ident $body:block)*) => {
        $(#[test] fn $name() { if is_root() $body })*
    };
}

/// Lists of layer.json: whiteouts, opaque, implied, links.
fn lists(outcome: &Outcome) -> serde_json::Value {
    let record = outcome.record();
    json!([record["whiteouts"], record["opaque"], record["implied"], record["links"]])
}

root_tests! {
    every_kind_of_entry_as_it_was_packed {
        let time = |name| Entry { mtime: -5, uid: 1000, gid: 1001, ..entry(b'0', name) };
        let tar = Tar::new()
            .add(Entry { mode: 0o1777, uid: 3, mtime: 7, ..entry(b'5', "./") })
            .add(Entry { mode: 0o2750, ..time("./d/") }.of(b'5'))
            .add(Entry { data: b"text".to_vec(), mode: 0o4711, ..time("./d/f") })
            .add(Entry { link: b"f".to_vec(), ..time("d/l") }.of(b'2'))
            .add(Entry { mode: 0o600, ..time("d/p") }.of(b'6'))
            .hardlink("d/h", "./d/f")
            .add(entry(0, "old/"))
            .end();
        let outcome = unpack(&tar).expect_done();
        let tree = outcome.tree();
        let root = fs::metadata(&tree).unwrap();
        assert_eq!((root.mode() & 0o7777, root.uid(), root.mtime()), (0o1777, 3, 7));
        for (name, mode) in [("d", 0o42750), ("d/f", 0o104711), ("d/l", 0o120777), ("d/p", 0o10600)] {
            let meta = fs::symlink_metadata(tree.join(name)).unwrap();
            assert_eq!((meta.mode(), meta.uid(), meta.gid(), meta.mtime()), (mode, 1000, 1001, -5), "{name}");
        }
        assert_eq!(fs::read(tree.join("d/h")).unwrap(), b"text");
        assert_eq!(fs::metadata(tree.join("d/h")).unwrap().ino(), fs::metadata(tree.join("d/f")).unwrap().ino());
        assert!(fs::symlink_metadata(tree.join("d/p")).unwrap().file_type().is_fifo());
        assert!(fs::metadata(tree.join("old")).unwrap().is_dir());
        assert_eq!(lists(&outcome), json!([[], [], [], []]));
        let done = &outcome.last["done"];
        assert_eq!((&done["entries"], &done["bytes"], &done["leftOut"]), (&json!(7), &json!(4), &json!(0)));
    }

    directories_that_are_not_listed_or_come_late {
        let tar = Tar::new()
            .file("a/b/c/f", "x")
            .add(Entry { mtime: 99, mode: 0o700, ..entry(b'5', "a/b/") })
            .file("a/b/g", "y")
            .end();
        let outcome = unpack(&tar).expect_done();
        assert_eq!(lists(&outcome), json!([[], [], ["", "a", "a/b/c"], []]));
        let meta = |path: &str| fs::metadata(outcome.tree().join(path)).unwrap();
        assert_eq!((meta("a/b").mtime(), meta("a/b").mode() & 0o777), (99, 0o700));
        assert_eq!((meta("a").mtime(), meta("a").mode() & 0o777, meta("").mtime()), (0, 0o755, 0));
        assert_eq!(outcome.last["done"]["entries"], 6);
    }

    the_last_of_two_entries_counts {
        let tar = Tar::new()
            .file("f", "one")
            .file("f", "two")
            .dir("d/")
            .file("d/sub/x", "x")
            .file("d", "a file now")
            .symlink("s", "f")
            .dir("s/")
            .file("s/in", "y")
            .dir("kept/")
            .file("kept/in", "z")
            .add(Entry { mode: 0o711, ..entry(b'5', "kept/") })
            .file("l", "own")
            .hardlink("l", "f")
            .end();
        let outcome = unpack(&tar).expect_done();
        let read = |name: &str| fs::read_to_string(outcome.tree().join(name)).unwrap();
        assert_eq!((read("f"), read("d"), read("l")), ("two".into(), "a file now".into(), "two".into()));
        assert_eq!((read("s/in"), read("kept/in")), ("y".into(), "z".into()));
        assert_eq!(fs::metadata(outcome.tree().join("kept")).unwrap().mode() & 0o777, 0o711);
        assert_eq!(lists(&outcome), json!([[], [], [""], []]));
    }

    whiteouts_in_any_order_hide_what_is_below_and_not_what_is_here {
        let tar = Tar::new()
            .file("a/.wh.gone", "")
            .file("a/.wh.both", "")
            .file("a/both", "here")
            .file("b/in", "x")
            .file("b/.wh..wh..opq", "")
            .file(".wh.top", "")
            .file("c/.wh..wh.plnk/1.2", "aufs")
            .end();
        let outcome = unpack(&tar).expect_done();
        assert_eq!(lists(&outcome), json!([["a/both", "a/gone", "top"], ["b"], ["", "a", "b"], []]));
        assert_eq!(fs::read(outcome.tree().join("a/both")).unwrap(), b"here");
        assert_eq!(fs::read_dir(outcome.tree().join("b")).unwrap().count(), 1);
        assert!(!outcome.tree().join("c").exists());
        assert_eq!(outcome.last["done"]["whiteouts"], 4);
    }

    hard_links_to_lower_layers_are_noted {
        let tar = Tar::new().hardlink("a", "below/f").hardlink("b", "a").hardlink("c", "x").file("c", "own").end();
        let outcome = unpack(&tar).expect_done();
        assert_eq!(lists(&outcome)[3], json!([["a", "below/f"], ["b", "below/f"]]));
    }

    names_of_any_bytes_and_any_length {
        let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
        let tar = Tar::new()
            .file(b"\xff\x01\n", "bytes")
            .file("README", "upper")
            .file("readme", "lower")
            .long(b'L', &long)
            .file("cut", "gnu")
            .pax(&[("path", "\u{fc}ber/\u{1f600}".as_bytes()), ("linkpath", "t".repeat(300).as_bytes())])
            .symlink("cut", "cut")
            .end();
        let outcome = unpack(&tar).expect_done();
        let tree = outcome.tree();
        assert_eq!(fs::read(tree.join(std::ffi::OsStr::from_bytes(b"\xff\x01\n"))).unwrap(), b"bytes");
        assert_eq!(fs::read(tree.join("README")).unwrap(), b"upper");
        assert_eq!(fs::read(tree.join("readme")).unwrap(), b"lower");
        assert_eq!(fs::read(tree.join(long)).unwrap(), b"gnu");
        assert_eq!(fs::read_link(tree.join("\u{fc}ber/\u{1f600}")).unwrap().as_os_str().len(), 300);
        let hidden = Tar::new().file(b".wh.\xff", "").end();
        assert_eq!(lists(&unpack(&hidden).expect_done())[0], json!(["\u{ff}"]));
    }

    a_name_in_two_parts {
        let mut block = header(&entry(b'0', "name"));
        block[345..351].copy_from_slice(b"prefix");
        checksum(&mut block);
        let outcome = unpack(&Tar(block.to_vec()).end()).expect_done();
        assert!(outcome.tree().join("prefix/name").exists());
    }

    extended_attributes_and_capabilities {
        // cap_net_bind_service=ep
        let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let pax = [("SCHILY.xattr.security.capability", &capability[..]), ("SCHILY.xattr.user.empty", b"")];
        let tar = Tar::new().pax(&pax).add(Entry { uid: 7, data: b"x".to_vec(), ..entry(b'0', "ping") });
        let tar = tar.pax(&[("SCHILY.xattr.user.\u{fc}", &[0, 1, 255])]).dir("d/").end();
        let outcome = unpack(&tar).expect_done();
        let read = |name: &str, key: &str| {
            let mut value = [0; 100];
            let length = rustix::fs::getxattr(outcome.tree().join(name), key, &mut value).unwrap();
            value[..length].to_vec()
        };
        assert_eq!(read("ping", "security.capability"), capability);
        assert_eq!(read("ping", "user.empty"), b"");
        assert_eq!(read("d", "user.\u{fc}"), [0, 1, 255]);
    }

    times_at_their_ends {
        let tar = Tar::new()
            .pax(&[("mtime", b"1700000000.123456789"), ("atime", b"1")])
            .file("exact", "")
            .pax(&[("mtime", b"-9223372036854775808.5")])
            .file("never", "")
            .add(Entry { mtime: i64::MAX, ..entry(b'0', "far") })
            .end();
        let outcome = unpack(&tar);
        assert_eq!(outcome.kind(), "bad-tar", "2^63 seconds before 1970 are no time");
        let tar = Tar::new()
            .pax(&[("mtime", b"1700000000.123456789"), ("atime", b"1")])
            .file("exact", "")
            .pax(&[("mtime", b"-9223372036854775807")])
            .file("never", "")
            .add(Entry { mtime: i64::MAX, ..entry(b'0', "far") })
            .end();
        let outcome = unpack(&tar).expect_done();
        let meta = fs::metadata(outcome.tree().join("exact")).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_700_000_000, 123_456_789));
        // What a file system cannot hold becomes the nearest that it can.
        assert!(fs::metadata(outcome.tree().join("never")).unwrap().mtime() < 0);
        assert!(fs::metadata(outcome.tree().join("far")).unwrap().mtime() > 4_000_000_000);
    }

    files_with_holes_in_all_four_spellings {
        let mut data = vec![b'A'; 1000];
        data.extend_from_slice(&[b'B'; 512]);
        let mut gnu = header(&Entry { data: data.clone(), ..entry(b'S', "gnu") });
        for (at, value) in [(386, 0), (398, 1000), (410, 1 << 20), (422, 512), (483, 2 << 20)] {
            gnu[at..at + 12].copy_from_slice(format!("{value:011o}\0").as_bytes());
        }
        checksum(&mut gnu);
        let size = (2 << 20).to_string();
        let size = size.as_bytes();
        let map = [b"2\n0\n1000\n1048576\n512\n".to_vec(), vec![0; 512 - 21], data.clone()].concat();
        let tar = Tar(gnu.to_vec())
            .raw(&data)
            .pax(&[
                ("GNU.sparse.size", size),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"0"),
                ("GNU.sparse.numbytes", b"1000"),
                ("GNU.sparse.offset", b"1048576"),
                ("GNU.sparse.numbytes", b"512"),
            ])
            .file("zero", &data)
            .pax(&[("GNU.sparse.size", size), ("GNU.sparse.map", b"0,1000,1048576,512"), ("GNU.sparse.name", b"one")])
            .file("GNUSparseFile.1/one", &data)
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"two"),
                ("GNU.sparse.realsize", size),
            ])
            .file("GNUSparseFile.1/two", &map)
            .file("after", "x")
            .end();
        let outcome = unpack(&tar).expect_done();
        for name in ["gnu", "zero", "one", "two"] {
            let path = outcome.tree().join(name);
            let read = fs::read(&path).unwrap();
            assert_eq!(read.len(), 2 << 20, "{name}");
            assert_eq!((&read[..1000], &read[1 << 20..][..512]), (&data[..1000], &data[1000..]), "{name}");
            assert!(read[1000..1 << 20].iter().all(|byte| *byte == 0));
            assert!(fs::metadata(&path).unwrap().blocks() * 512 < 1 << 20, "{name} has no holes");
        }
        assert!(outcome.tree().join("after").exists());
    }

    gzip_and_zstd_are_the_same_layer {
        let text: Vec<u8> = (0..300_000u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
        let tar = Tar::new().file("big", &text).end();
        let plain = unpack(&tar).expect_done();
        let frames = |data: &[u8]| compress_to_vec(data, CompressionLevel::Fastest);
        // For others: 8 bytes that are passed over.
        let skipped = b"\x5a\x2a\x4d\x18\x08\0\0\0notatar!";
        let (front, back) = tar.split_at(5000);
        for blob in [
            gzip(&tar),
            frames(&tar),
            [&frames(front)[..], skipped, &frames(back), skipped].concat(),
            [&skipped[..], &frames(&tar)].concat(),
        ] {
            let packed = unpack(&blob).expect_done();
            assert_eq!(packed.last["done"]["diffId"], plain.last["done"]["diffId"]);
            assert_eq!(listing(&packed.tree()), listing(&plain.tree()));
        }
    }

    what_really_is_dense_is_not_a_bomb {
        // Zeros below the floor, whatever they are packed to.
        unpack(&gzip(&Tar::new().file("log", vec![0; 40 * MIB as usize]).end())).expect_done();
    }

    a_comment_for_all_files_is_no_statement_about_them {
        let data = record("comment", "0123");
        let tar = Tar::new().add(Entry { data, ..entry(b'g', "pax_global_header") }).file("a", "x").end();
        unpack(&tar).expect_done();
    }

    nothing_is_left_of_the_rights_it_had {
        // A FIFO for a blob: the program has set itself up and waits.
        let dir = fresh_dir();
        let text = limits().to_string();
        let mut child = std::process::Command::new(PROGRAM)
            .args(["unpack", "--into", "layer", "--limits", &text])
            .current_dir(&*dir)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let proc = std::path::PathBuf::from(format!("/proc/{}", child.id()));
        let status = || fs::read_to_string(proc.join("status")).unwrap();
        let begin = std::time::Instant::now();
        while !status().contains("Seccomp:\t2") && begin.elapsed().as_secs() < 60 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let status = status();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        assert_eq!(field("Uid:"), "65534\t65534\t65534\t65534");
        assert_eq!(field("Groups:"), "");
        assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1", "2"));
        // chown, dac_override, fowner, fsetid, setfcap.
        assert_eq!((field("CapEff:"), field("CapBnd:")), ("000000008000001b", "0000000000000000"));
        for namespace in ["mnt", "net", "ipc", "uts"] {
            let of = |proc: &std::path::Path| fs::read_link(proc.join("ns").join(namespace)).unwrap();
            assert_ne!(of(&proc), of(std::path::Path::new("/proc/self")), "{namespace}");
        }
        let root: Vec<_> = fs::read_dir(proc.join("root")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(root, ["tree"]);
        assert_eq!(fs::read_to_string(proc.join("mountinfo")).unwrap().lines().count(), 1);
        drop(child.stdin.take());
        assert!(!child.wait().unwrap().success());
    }
}
