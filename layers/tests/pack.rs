//! A writable layer packed, and what it is when it is unpacked on top of its image.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{chown, lchown, symlink, FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{mknodat, setxattr, FileType, Mode, XattrFlags, CWD};
use serde_json::{json, Value};
use support::*;

const BASE: u32 = 500_000;

macro_rules! root_tests {
    ($($name:ident $body:block)*) => {
        $(#[test] fn $name() { if is_root() $body })*
    };
}

fn owned(path: &Path, uid: u32) {
    lchown(path, Some(BASE + uid), Some(BASE + uid)).unwrap();
}

fn attribute(path: &Path, name: &str, value: &[u8]) {
    setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn pack(dir: &Path, out: &str) -> (bool, Value) {
    run(dir, &["pack", "--from", "upper", "--id-base", &BASE.to_string(), "--out", out], b"")
}

fn refused(kind: &str, make: impl Fn(&Path)) {
    let dir = fresh_dir();
    fs::create_dir(dir.join("upper")).unwrap();
    make(&dir.join("upper"));
    let (ok, last) = pack(&dir, "out");
    assert_eq!((ok, &last["error"]["kind"]), (false, &json!(kind)), "{last}");
}

fn file(path: &Path, text: &str, uid: u32) {
    fs::write(path, text).unwrap();
    owned(path, uid);
}

root_tests! {
    all_that_was_done_inside_is_in_the_layer {
        let dir = fresh_dir();
        let upper = dir.join("upper");
        fs::create_dir_all(upper.join("d/opaque")).unwrap();
        file(&upper.join("d/f"), "text", 1000);
        fs::hard_link(upper.join("d/f"), upper.join("d/again")).unwrap();
        fs::set_permissions(upper.join("d/f"), fs::Permissions::from_mode(0o4755)).unwrap();
        attribute(&upper.join("d/f"), "user.note", b"\0\xff");
        // As setcap inside leaves it: version 3, with the root of the sandbox's user namespace.
        let capability = [&b"\x01\0\0\x03\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..], &BASE.to_le_bytes()].concat();
        attribute(&upper.join("d/f"), "security.capability", &capability);
        symlink("../../etc", upper.join("d/l")).unwrap();
        owned(&upper.join("d/l"), 1);
        let long = "\u{fc}".repeat(100);
        file(&upper.join(&long), "long", 65_535);
        for name in ["gone", "d/opaque/.hidden"] {
            mknodat(CWD, upper.join(name), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        }
        mknodat(CWD, upper.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        owned(&upper.join("pipe"), 0);
        attribute(&upper.join("d/opaque"), "trusted.overlay.opaque", b"y");
        attribute(&upper.join("d"), "trusted.overlay.origin", b"\0");
        attribute(&upper.join("d"), "trusted.overlay.impure", b"y");
        for name in ["d", "d/opaque"] {
            owned(&upper.join(name), 0);
        }
        let hole = File::create(upper.join("hole")).unwrap();
        hole.write_all_at(b"begin", 0).unwrap();
        hole.write_all_at(b"middle", 8 * MIB).unwrap();
        hole.set_len(32 * MIB).unwrap();
        owned(&upper.join("hole"), 0);

        let (ok, last) = pack(&dir, "one");
        assert!(ok, "{last}");
        assert_eq!(fs::metadata(dir.join("one")).unwrap().mode() & 0o777, 0o600);
        assert!(fs::metadata(dir.join("one")).unwrap().len() < MIB);
        let (_, again) = pack(&dir, "two");
        assert_eq!(again, last, "the same layer has one digest");
        // What is there already is not written over.
        assert_eq!(pack(&dir, "one").1["error"]["kind"], "io");

        let outcome = unpack(&fs::read(dir.join("one")).unwrap()).expect_done();
        for field in ["entries", "diffId"] {
            assert_eq!(outcome.last["done"][field], last["done"][field]);
        }
        let record = outcome.record();
        assert_eq!(record["whiteouts"], json!(["d/opaque/.hidden", "gone"]));
        assert_eq!((&record["opaque"], &record["implied"], &record["links"]), (&json!(["d/opaque"]), &json!([""]), &json!([])));
        let tree = outcome.tree();
        for (name, uid) in [("d/f", 1000), ("d/l", 1), (long.as_str(), 65_535), ("d", 0), ("pipe", 0)] {
            let (is, was) = (fs::symlink_metadata(tree.join(name)).unwrap(), fs::symlink_metadata(upper.join(name)).unwrap());
            assert_eq!((is.uid(), is.gid(), is.mode()), (uid, uid, was.mode()), "{name}");
            assert_eq!((is.mtime(), is.mtime_nsec()), (was.mtime(), was.mtime_nsec()), "{name}");
        }
        let value = |name: &str| {
            let mut value = [0; 100];
            let length = rustix::fs::getxattr(tree.join("d/f"), name, &mut value).unwrap();
            value[..length].to_vec()
        };
        assert_eq!(value("user.note"), b"\0\xff");
        assert_eq!(value("security.capability"), [&b"\x01\0\0\x02"[..], &capability[4..20]].concat());
        assert_eq!(fs::metadata(tree.join("d/again")).unwrap().nlink(), 2);
        assert_eq!(fs::read_link(tree.join("d/l")).unwrap().to_str(), Some("../../etc"));
        assert_eq!(fs::read(tree.join("hole")).unwrap(), fs::read(upper.join("hole")).unwrap());
        assert!(fs::metadata(tree.join("hole")).unwrap().blocks() * 512 < MIB);
    }

    what_cannot_be_a_layer_is_refused {
        refused("redirect", |upper| {
            fs::create_dir(upper.join("renamed")).unwrap();
            owned(&upper.join("renamed"), 0);
            attribute(&upper.join("renamed"), "trusted.overlay.redirect", b"old");
        });
        refused("redirect", |upper| {
            file(&upper.join("f"), "", 0);
            attribute(&upper.join("f"), "trusted.overlay.metacopy", b"");
        });
        refused("bad-name", |upper| file(&upper.join(".wh.passwd"), "", 0));
        refused("bad-name", |upper| file(&upper.join(".wh..wh..opq"), "", 0));
        refused("bad-id", |upper| {
            fs::write(upper.join("f"), "").unwrap();
            chown(upper.join("f"), Some(BASE - 1), Some(BASE)).unwrap();
        });
        refused("bad-id", |upper| file(&upper.join("f"), "", 65_536));
        refused("too-deep", |upper| {
            let deep = upper.join("d/".repeat(1030));
            fs::create_dir_all(&deep).unwrap();
            deep.ancestors().take_while(|path| *path != upper).for_each(|path| owned(path, 0));
        });
    }
}
