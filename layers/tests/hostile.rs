//! What a hostile archive tries, by name. Nothing may appear outside the layer, and the failure says what it was.

mod support;

use std::fs;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};

use serde_json::json;
use support::*;

/// Unpacks beside a directory that the archive is after.
///
/// @returns the outcome; that nothing outside has changed is checked here
fn attack(make: impl Fn(&str) -> Vec<u8>) -> Outcome {
    let dir = fresh_dir();
    let victim = dir.join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("secret"), "kept").unwrap();
    let before = listing(&victim);
    let blob = make(victim.to_str().unwrap());
    let text = limits().to_string();
    let (ok, last) = run(&dir, &["unpack", "--into", "layer", "--limits", &text], &blob);
    assert_eq!(listing(&victim), before);
    let mut names: Vec<_> = fs::read_dir(&*dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["layer", "victim"]);
    // The descriptor of a file outside would show as a second name of it.
    assert_eq!(fs::metadata(victim.join("secret")).unwrap().nlink(), 1);
    Outcome { dir, last, ok }
}

fn refused(kind: &str, make: impl Fn(&str) -> Vec<u8>) {
    let outcome = attack(make);
    assert!(!outcome.ok, "{}", outcome.last);
    assert_eq!(outcome.kind(), kind, "{}", outcome.last);
    assert!(!outcome.layer().join("layer.json").exists());
}

macro_rules! root_tests {
    ($($name:ident $body:block)*) => {
        $(#[test] fn $name() { if is_root() $body })*
    };
}

root_tests! {
    a_path_that_climbs {
        for name in ["../evil", "a/../../evil", "./..//evil", "/../evil", "a/.."] {
            refused("traversal", |_| Tar::new().file(name, "x").end());
        }
        refused("traversal", |_| Tar::new().pax(&[("path", b"../evil")]).file("good", "x").end());
        refused("traversal", |_| Tar::new().long(b'L', "../evil").file("good", "x").end());
    }

    an_absolute_path_is_the_images_own {
        let outcome = attack(|victim| Tar::new().file(format!("{victim}/secret"), "x").end()).expect_done();
        let victim = outcome.dir.join("victim/secret");
        assert_eq!(fs::read(outcome.tree().join(victim.strip_prefix("/").unwrap())).unwrap(), b"x");
    }

    a_write_through_a_link {
        refused("traversal", |victim| Tar::new().symlink("a", victim).file("a/secret", "x").end());
        refused("traversal", |victim| Tar::new().symlink("a", victim).dir("a/new/").end());
        refused("traversal", |victim| Tar::new().symlink("a", victim).symlink("a/secret", "x").end());
        refused("traversal", |victim| Tar::new().dir("d/").symlink("d/a", victim).file("d/a/b/c", "x").end());
        refused("traversal", |_| Tar::new().symlink("a", "/").file("a/etc/evil", "x").end());
        refused("traversal", |_| Tar::new().symlink("a", "..").file("a/evil", "x").end());
    }

    a_file_in_place_of_a_link_replaces_the_link {
        let outcome = attack(|victim| Tar::new().symlink("a", format!("{victim}/secret")).file("a", "x").end());
        assert_eq!(fs::read(outcome.expect_done().tree().join("a")).unwrap(), b"x");
    }

    a_directory_in_place_of_a_link_replaces_the_link {
        let outcome = attack(|victim| Tar::new().symlink("a", victim).dir("a/").file("a/secret", "x").end());
        assert!(outcome.expect_done().tree().join("a").symlink_metadata().unwrap().is_dir());
    }

    the_root_as_a_link {
        refused("traversal", |victim| Tar::new().symlink("./", victim).file("secret", "x").end());
        refused("traversal", |victim| Tar::new().symlink("/", victim).file("secret", "x").end());
    }

    a_link_that_leads_out_stays_a_link {
        let outcome = attack(|victim| Tar::new().symlink("a", victim).symlink("b", "../../../x").end()).expect_done();
        assert_eq!(fs::read_link(outcome.tree().join("a")).unwrap(), outcome.dir.join("victim"));
        assert_eq!(fs::read_link(outcome.tree().join("b")).unwrap().to_str(), Some("../../../x"));
    }

    a_hard_link_to_what_is_outside {
        refused("traversal", |_| Tar::new().hardlink("a", "../victim/secret").end());
        refused("traversal", |victim| Tar::new().symlink("d", victim).hardlink("a", "d/secret").end());
        // By an absolute path it is of the image's own root, where a lower layer may have it.
        let outcome = attack(|victim| Tar::new().hardlink("a", format!("{victim}/secret")).end()).expect_done();
        assert!(!outcome.tree().join("a").exists());
        assert_eq!(outcome.record()["links"].as_array().unwrap().len(), 1);
    }

    a_hard_link_to_a_link_and_a_write_through_it {
        let outcome = attack(|victim| {
            let target = format!("{victim}/secret");
            Tar::new().symlink("a", target).hardlink("b", "a").file("b", "x").end()
        });
        assert_eq!(fs::read(outcome.expect_done().tree().join("b")).unwrap(), b"x");
    }

    a_hard_link_to_a_directory_or_itself {
        refused("bad-link", |_| Tar::new().dir("d/").hardlink("a", "d").end());
        refused("bad-link", |_| Tar::new().file("a", "x").hardlink("a", "./a").end());
        refused("bad-link", |_| Tar::new().file("a", "x").hardlink("b", "a/c").end());
        refused("bad-link", |_| Tar::new().hardlink("b", "/").end());
    }

    devices_are_left_out {
        let tar = Tar::new().device(b'3', "null", 1, 3).device(b'4', "sda", 8, 0).hardlink("too", "sda").file("a", "x");
        let outcome = attack(|_| tar.clone().end()).expect_done();
        assert_eq!(outcome.last["done"]["leftOut"], 3);
        let names: Vec<_> = fs::read_dir(outcome.tree()).unwrap().collect();
        assert_eq!(names.len(), 1);
    }

    a_device_that_hides_what_is_below_is_refused {
        refused("device", |_| Tar::new().device(b'3', "etc/passwd", 0, 0).end());
    }

    a_whiteout_that_climbs {
        refused("traversal", |_| Tar::new().file("a/.wh...", "").end());
        refused("traversal", |_| Tar::new().file("../.wh.victim", "").end());
        refused("bad-tar", |_| Tar::new().file(".wh.", "").end());
        refused("bad-tar", |_| Tar::new().file(".wh.victim/secret", "").end());
    }

    attributes_of_the_host_and_of_the_overlay {
        let with = |name: &str| Tar::new().pax(&[(name, b"y")]).dir("d/").end();
        refused("xattr", |_| with("SCHILY.xattr.trusted.overlay.opaque"));
        refused("xattr", |_| with("SCHILY.xattr.trusted.overlay.redirect"));
        for left_out in ["user.overlay.opaque", "security.selinux", "security.ima", "system.posix_acl_access"] {
            let outcome = attack(|_| with(&format!("SCHILY.xattr.{left_out}"))).expect_done();
            let mut names = [0; 4096];
            assert_eq!(rustix::fs::listxattr(outcome.tree().join("d"), &mut names).unwrap(), 0, "{left_out}");
        }
        let big = vec![b'x'; 70_000];
        refused("xattr", |_| Tar::new().pax(&[("SCHILY.xattr.user.big", &big)]).file("a", "").end());
        refused("xattr", |_| {
            let malformed = [("SCHILY.xattr.security.capability", &b"no capability"[..])];
            Tar::new().pax(&malformed).file("a", "").end()
        });
    }

    a_gzip_bomb {
        // 80 MiB of zeros in 400 KiB.
        let bomb = |_: &str| gzip(&Tar::new().file("zeros", vec![0; 80 * MIB as usize]).end());
        let low = json!({
            "maxBytes": 1024 * MIB, "maxEntries": 10, "maxRatio": 100,
            "maxPathBytes": 100, "maxXattrBytes": 100, "maxDepth": 5,
        });
        let outcome = unpack_with(&bomb(""), &low, &[]);
        assert_eq!((outcome.ok, outcome.kind()), (false, "bomb"), "{}", outcome.last);
    }

    a_zstd_bomb {
        // Each block is four bytes that stand for 128 KiB of one byte.
        let block = |last: u32| [&(last | 1 << 1 | (128 * 1024) << 3).to_le_bytes()[..3], b"\0"].concat();
        let frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0, 0x58][..], &block(0).repeat(2000), &block(1)].concat();
        let header = ruzstd::encoding::compress_to_vec(
            &header(&Entry { size: Some(250 * MIB), ..entry(b'0', "zeros") })[..],
            ruzstd::encoding::CompressionLevel::Uncompressed,
        );
        let outcome = unpack(&[header, frame].concat());
        assert_eq!((outcome.ok, outcome.kind()), (false, "bomb"), "{}", outcome.last);
        // A window of a terabyte is not believed.
        refused("bad-zstd", |_| [&[0x28, 0xb5, 0x2f, 0xfd, 0, 0xf8][..], &block(1)].concat());
    }

    a_sparse_bomb {
        let pax = [("GNU.sparse.size", &b"900000000"[..]), ("GNU.sparse.numblocks", b"0")];
        refused("bomb", |_| Tar::new().pax(&pax).file("hole", "").end());
        let pax = [("GNU.sparse.size", &b"9000000000000000000"[..]), ("GNU.sparse.numblocks", b"0")];
        refused("too-large", |_| Tar::new().pax(&pax).file("hole", "").end());
    }

    more_than_fits {
        let mut low = limits();
        low["maxBytes"] = (2 * MIB).into();
        let outcome = unpack_with(&Tar::new().file("a", vec![1; 3 * MIB as usize]).end(), &low, &[]);
        assert_eq!(outcome.kind(), "too-large");
        assert_eq!(outcome.last["error"]["limit"], 2 * MIB);
        assert_eq!(outcome.last["error"]["path"], "a");
        let claimed = Tar::new().add(Entry { size: Some(1 << 60), ..entry(b'0', "a") }).end();
        assert_eq!(unpack_with(&claimed, &low, &[]).kind(), "too-large");
    }

    endless_zeros_after_the_end {
        let mut low = limits();
        low["maxBytes"] = MIB.into();
        let zeros = [Tar::new().file("a", "").end(), vec![0; 3 * MIB as usize]].concat();
        assert_eq!(unpack_with(&gzip(&zeros), &low, &[]).kind(), "too-large");
    }

    more_entries_than_fit {
        let mut low = limits();
        low["maxEntries"] = 10.into();
        let many = (0..11).fold(Tar::new(), |tar, at| tar.file(format!("f{at}"), ""));
        assert_eq!(unpack_with(&many.end(), &low, &[]).kind(), "too-many-entries");
        // Directories that one path brings along count too.
        let deep = Tar::new().file("1/2/3/4/5/6/7/8/9/10/11", "").end();
        assert_eq!(unpack_with(&deep, &low, &[]).kind(), "too-many-entries");
        let again = (0..11).fold(Tar::new(), |tar, _| tar.file("f", ""));
        assert_eq!(unpack_with(&again.end(), &low, &[]).kind(), "too-many-entries");
    }

    paths_without_end {
        refused("too-deep", |_| Tar::new().long(b'L', "d/".repeat(1025)).dir("x").end());
        refused("path-too-long", |_| Tar::new().long(b'L', format!("{}/", "d".repeat(200)).repeat(30)).dir("x").end());
        refused("path-too-long", |_| Tar::new().long(b'L', "n".repeat(256)).file("x", "").end());
        refused("path-too-long", |_| Tar::new().long(b'K', "n".repeat(5000)).symlink("x", "").end());
        refused("bad-tar", |_| Tar::new().add(Entry { size: Some(1 << 40), ..entry(b'L', "x") }).end());
        refused("bad-tar", |_| Tar::new().add(Entry { size: Some(1 << 40), ..entry(b'x', "x") }).end());
        refused("bad-tar", |_| Tar::new().pax(&[("path", b"a\0b")]).file("x", "").end());
    }

    headers_that_different_readers_read_differently {
        // What the extended header says is about the file, not about the long name before it.
        let tar = Tar::new().pax(&[("size", b"2048")]).long(b'L', "name").file("x", vec![b'A'; 2048]).end();
        let outcome = attack(|_| tar.clone()).expect_done();
        assert_eq!(fs::metadata(outcome.tree().join("name")).unwrap().len(), 2048);
        let sized = |size: &[u8]| Tar::new().pax(&[("size", size)]).file("a", "four").file("b", "x").end();
        refused("bad-tar", |_| sized(b"4096"));
        refused("bad-tar", |_| sized(b"-1"));
        refused("too-large", |_| sized(b"18446744073709551615"));
        refused("bad-tar", |_| sized(b"18446744073709551616"));
        refused("bad-tar", |_| Tar::new().pax(&[("path", b"a")]).long(b'L', "b").file("c", "").end());
        refused("bad-tar", |_| Tar::new().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("c", "").end());
        refused("bad-tar", |_| Tar::new().long(b'L', "a").long(b'L', "b").file("c", "").end());
        refused("bad-tar", |_| Tar::new().add(Entry { data: record("path", "b"), ..entry(b'g', "g") }).file("c", "").end());
        refused("bad-tar", |_| Tar::new().add(Entry { data: b"x".to_vec(), link: b"a".to_vec(), ..entry(b'2', "c") }).end());
        refused("bad-tar", |_| Tar::new().add(Entry { data: b"x".to_vec(), ..entry(b'5', "c") }).end());
        refused("bad-tar", |_| Tar::new().add(entry(b'V', "c")).end());
        refused("bad-tar", |_| Tar::new().pax(&[("path", b"a")]).end());
    }

    owners_that_no_file_can_have {
        for uid in [u64::from(u32::MAX), 1 << 32, 1 << 40] {
            refused("bad-id", |_| Tar::new().add(Entry { uid, ..entry(b'0', "a") }).end());
            refused("bad-id", |_| Tar::new().pax(&[("gid", uid.to_string().as_bytes())]).file("a", "").end());
        }
        let tar = Tar::new().add(Entry { uid: u64::from(u32::MAX) - 1, gid: 70_000, ..entry(b'0', "a") }).end();
        let outcome = unpack(&tar).expect_done();
        let meta = fs::metadata(outcome.tree().join("a")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (u32::MAX - 1, 70_000));
    }

    what_is_cut_short {
        let whole = Tar::new().file("a", "x".repeat(2000)).file("b", "y").end();
        for length in (0..whole.len() - 1024).step_by(100).chain([0, 512, 2048]) {
            refused("bad-tar", |_| whole[..length].to_vec());
        }
        let packed = gzip(&whole);
        for length in [3, packed.len() / 2, packed.len() - 1] {
            let outcome = attack(|_| packed[..length].to_vec());
            assert!(["bad-gzip", "bad-tar"].contains(&outcome.kind()), "{length}: {}", outcome.last);
        }
    }

    what_follows_the_end {
        let tar = Tar::new().file("a", "x").end();
        refused("bad-tar", |_| [&tar[..], b"garbage"].concat());
        refused("bad-tar", |_| [&tar[..], &Tar::new().file("b", "hidden").end()].concat());
        refused("bad-gzip", |_| [&gzip(&tar)[..], b"garbage"].concat());
        refused("bad-tar", |_| gzip(&[&tar[..], b"garbage"].concat()));
        // Padding is no garbage, and many gzip members are one stream.
        assert!(unpack(&[&tar[..], &[0; 10_240]].concat()).ok);
        assert!(unpack(&[gzip(&tar[..700]), gzip(&tar[700..])].concat()).ok);
    }

    bytes_that_are_no_archive {
        refused("bad-tar", |_| vec![b'x'; 1024]);
        refused("bad-tar", |_| Vec::new());
        refused("bad-gzip", |_| [&[0x1f, 0x8b, 8, 0][..], &[0xff; 1000]].concat());
        refused("bad-zstd", |_| [&[0x28, 0xb5, 0x2f, 0xfd][..], &[0xff; 1000]].concat());
        let mut damaged = gzip(&Tar::new().file("a", "x".repeat(5000)).end());
        let last = damaged.len() - 6;
        damaged[last] ^= 1;
        refused("bad-gzip", |_| damaged.clone());
        let mut header = header(&entry(b'0', "a"));
        header[0] = b'b';
        refused("bad-tar", |_| header.to_vec());
    }

    what_is_not_what_was_said {
        let tar = Tar::new().file("a", "x").end();
        let packed = gzip(&tar);
        let right = unpack(&packed).expect_done();
        let (digest, diff_id) = (&right.last["done"]["digest"], &right.last["done"]["diffId"]);
        let (digest, diff_id) = (digest.as_str().unwrap(), diff_id.as_str().unwrap());
        assert_ne!(digest, diff_id);
        assert!(unpack_with(&packed, &limits(), &["--digest", digest, "--diff-id", diff_id]).ok);
        assert_eq!(unpack_with(&packed, &limits(), &["--digest", diff_id]).kind(), "wrong-digest");
        let wrong = unpack_with(&packed, &limits(), &["--diff-id", digest]);
        assert_eq!(wrong.kind(), "wrong-diff-id");
        assert!(!wrong.layer().join("layer.json").exists());
        // One byte more in the blob that changes nothing in the archive.
        let other = unpack_with(&[&packed[..], &gzip(b"")].concat(), &limits(), &["--diff-id", diff_id, "--digest", digest]);
        assert_eq!(other.kind(), "wrong-digest");
    }

    set_user_id_bits_are_kept_where_nobody_gets_at_them {
        let tar = Tar::new().add(Entry { mode: 0o6755, uid: 5, ..entry(b'0', "su") }).end();
        let outcome = unpack(&tar).expect_done();
        assert_eq!(fs::metadata(outcome.tree().join("su")).unwrap().mode() & 0o7777, 0o6755);
        assert_eq!(fs::metadata(outcome.layer()).unwrap().permissions().mode() & 0o7777, 0o700);
    }

    the_directory_to_make_is_never_somebody_elses {
        let dir = fresh_dir();
        let text = limits().to_string();
        let blob = Tar::new().file("a", "x").end();
        fs::create_dir(dir.join("there")).unwrap();
        symlink("there", dir.join("link")).unwrap();
        for name in ["there", "link"] {
            let (ok, last) = run(&dir, &["unpack", "--into", name, "--limits", &text], &blob);
            assert_eq!((ok, last["error"]["kind"].as_str()), (false, Some("io")), "{last}");
        }
        assert_eq!(fs::read_dir(dir.join("there")).unwrap().count(), 0);
    }

    a_limit_that_is_not_said_is_not_unlimited {
        for name in ["maxBytes", "maxEntries", "maxRatio", "maxPathBytes", "maxXattrBytes", "maxDepth"] {
            for value in [json!(null), json!(0), json!(-1), json!("many")] {
                let mut limits = limits();
                limits[name] = value;
                assert_eq!(unpack_with(b"", &limits, &[]).kind(), "usage");
            }
        }
    }
}
