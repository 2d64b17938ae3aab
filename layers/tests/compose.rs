//! What layers become together.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{json, Value};
use support::*;

/// Files of one directory, as the largest images have them.
const MANY: usize = 100_000;

macro_rules! root_tests {
    ($($name:ident $body:block)*) => {
        $(#[test] fn $name() { if is_root() $body })*
    };
}

struct Image {
    dir: FreshDir,
    done: Value,
}

impl Image {
    fn rootfs(&self) -> PathBuf {
        self.dir.join("image/rootfs")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.rootfs().join(name)).unwrap()
    }

    fn names(&self, name: &str) -> Vec<String> {
        names(&self.rootfs().join(name))
    }
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Unpacks the archives to layers 0, 1, … and puts them together.
fn try_image(archives: &[Tar]) -> (FreshDir, bool, Value) {
    let dir = fresh_dir();
    let mut limits = limits();
    limits["maxEntries"] = (2 * MANY).into();
    let limits = limits.to_string();
    let mut words = vec!["compose".to_string(), "--into".into(), "image".into()];
    for (number, archive) in archives.iter().enumerate() {
        let name = number.to_string();
        let (ok, last) = run(&dir, &["unpack", "--into", &name, "--limits", &limits], &archive.clone().end());
        assert!(ok, "{last}");
        words.push(name);
    }
    fs::create_dir(dir.join("image")).unwrap();
    let (ok, last) = run(&dir, &words, b"");
    (dir, ok, last)
}

fn image(archives: &[Tar]) -> Image {
    let (dir, ok, last) = try_image(archives);
    assert!(ok, "{last}");
    // Nothing that was needed on the way is left.
    assert_eq!(names(&dir.join("image")), ["rootfs"]);
    Image { dir, done: last["done"].clone() }
}

root_tests! {
    the_upper_layer_counts_and_the_rest_shines_through {
        let image = image(&[
            Tar::new().dir("d/").file("d/low", "low").file("d/both", "lower").file("f", "file").dir("e/").file("e/x", "x"),
            Tar::new().dir("d/").file("d/both", "upper").dir("f/").file("f/in", "now a directory").file("e", "now a file"),
        ]);
        assert_eq!((image.read("d/low"), image.read("d/both")), ("low".into(), "upper".into()));
        assert_eq!((image.read("f/in"), image.read("e")), ("now a directory".into(), "now a file".into()));
        assert_eq!(image.done, json!({ "entries": 11, "linked": 7, "bytes": 3 + 5 + 4 + 1 + 5 + 15 + 10 }));
    }

    files_are_the_layers_own_and_directories_are_not {
        let image = image(&[Tar::new().dir("d/").file("d/f", "x").symlink("d/l", "f").add(entry(b'6', "d/p"))]);
        let pair = |name: &str| {
            let of = |path: PathBuf| fs::symlink_metadata(path).unwrap();
            (of(image.rootfs().join(name)), of(image.dir.join("0/tree").join(name)))
        };
        for name in ["d/f", "d/l", "d/p"] {
            let (made, own) = pair(name);
            assert_eq!((made.ino(), made.nlink()), (own.ino(), 2), "{name}");
        }
        let (made, own) = pair("d");
        assert_ne!(made.ino(), own.ino());
    }

    whiteouts_hide_lower_layers_only {
        let low = Tar::new().dir("a/").file("a/gone", "1").file("a/both", "2").dir("a/tree/").file("a/tree/x", "3");
        let low = low.file("a/stays", "4").dir("o/").file("o/old", "5").dir("o/sub/").file("o/sub/old", "6");
        let high = Tar::new().file("a/.wh.gone", "").file("a/both", "new").file("a/.wh.both", "").file("a/.wh.tree", "");
        let high = high.dir("o/").file("o/new", "7").file("o/.wh..wh..opq", "").file("a/.wh.never", "");
        let high = high.file("no/such/.wh.place", "").file("a/stays/.wh.x", "");
        let image = image(&[low, high]);
        assert_eq!(image.names("a"), ["both", "stays"]);
        assert_eq!(image.read("a/both"), "new");
        assert_eq!(image.names("o"), ["new"]);
    }

    a_directory_that_is_whited_out_and_made_again_is_empty_below {
        let image = image(&[
            Tar::new().dir("d/").file("d/old", "x"),
            Tar::new().file(".wh.d", "").dir("d/").file("d/new", "y"),
        ]);
        assert_eq!(image.names("d"), ["new"]);
    }

    whiteouts_go_through_no_link {
        let low = Tar::new().dir("etc/").file("etc/passwd", "x").symlink("link", "etc").symlink("out", "/");
        let high = Tar::new().file("link/.wh.passwd", "").file("out/.wh.etc", "").file("link/.wh..wh..opq", "");
        let image = image(&[low, high]);
        assert_eq!(image.read("etc/passwd"), "x");
    }

    a_directory_over_a_link_is_a_directory {
        let victim = fresh_dir();
        fs::write(victim.join("f"), "kept").unwrap();
        let image = image(&[
            Tar::new().symlink("a", victim.to_str().unwrap()),
            Tar::new().file("a/f", "overwritten"),
        ]);
        assert_eq!(image.read("a/f"), "overwritten");
        assert_eq!(fs::read(victim.join("f")).unwrap(), b"kept");
    }

    a_directory_is_as_the_last_layer_that_lists_it_says {
        let described = |name: &str, mode, uid, mtime| Entry { mode, uid, mtime, ..entry(b'5', name) };
        let image = image(&[
            Tar::new()
                .pax(&[("SCHILY.xattr.user.old", b"1")])
                .add(described("told/", 0o700, 5, 50))
                .add(described("brought/", 0o711, 6, 60))
                .file("brought/x", ""),
            Tar::new()
                .pax(&[("SCHILY.xattr.user.new", b"2")])
                .add(described("told/", 0o2755, 7, 70))
                .file("brought/y", "")
                .file("brought/.wh.x", "")
                .file("fresh/z", ""),
        ]);
        let of = |name: &str| {
            let meta = fs::metadata(image.rootfs().join(name)).unwrap();
            (meta.mode() & 0o7777, meta.uid(), meta.mtime())
        };
        assert_eq!(of("told"), (0o2755, 7, 70));
        assert_eq!(of("brought"), (0o711, 6, 60), "the second layer did not list it");
        assert_eq!(of("fresh"), (0o755, 0, 0));
        assert_eq!(of(""), (0o755, 0, 0));
        let mut buffer = [0; 100];
        let length = rustix::fs::listxattr(image.rootfs().join("told"), &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"user.new\0");
        // By a whiteout alone a directory's time does not change.
        let image = self::image(&[
            Tar::new().add(described("d/", 0o755, 0, 80)).file("d/x", ""),
            Tar::new().file("d/.wh.x", ""),
        ]);
        assert_eq!(fs::metadata(image.rootfs().join("d")).unwrap().mtime(), 80);
    }

    hard_links_stay_links {
        let image = image(&[
            Tar::new().file("a", "x").hardlink("b", "a"),
            // To what the first layer had, although this layer takes it away and puts another there.
            Tar::new().dir("d/").hardlink("d/c", "a").file(".wh.a", "").hardlink("d/again", "d/c"),
            Tar::new().hardlink("e", "d/c").file("d/c", "other"),
        ]);
        assert_eq!(image.done["bytes"], 6, "each file once");
        let inode = |name: &str| fs::metadata(image.rootfs().join(name)).unwrap().ino();
        assert_eq!(image.names(""), ["b", "d", "e"]);
        assert_eq!((inode("b"), inode("b")), (inode("d/again"), inode("e")));
        assert_eq!((image.read("d/c"), image.read("e")), ("other".into(), "x".into()));
    }

    a_hard_link_to_what_no_layer_has {
        for target in ["nothing", "d", "link/f"] {
            let low = Tar::new().dir("d/").file("d/f", "x").symlink("link", "d");
            let (_dir, ok, last) = try_image(&[low, Tar::new().hardlink("a", target)]);
            assert!(!ok);
            assert_eq!((&last["error"]["kind"], &last["error"]["path"]), (&json!("bad-link"), &json!("a")), "{last}");
        }
    }

    the_same_layer_twice_and_in_two_images {
        let layer = Tar::new().dir("d/").file("d/f", "x");
        let image = image(&[layer.clone(), Tar::new().file("d/g", "y"), layer]);
        assert_eq!(image.names("d"), ["f", "g"]);
        fs::create_dir(image.dir.join("other")).unwrap();
        let (ok, last) = run(&image.dir, &["compose", "--into", "other", "0", "1"], b"");
        assert!(ok, "{last}");
        assert_eq!(fs::metadata(image.dir.join("other/rootfs/d/g")).unwrap().nlink(), 3);
        // What is there already is not built over.
        let (ok, last) = run(&image.dir, &["compose", "--into", "other", "0"], b"");
        assert_eq!((ok, &last["error"]["kind"]), (false, &json!("io")));
    }

    deep_trees_fit_in_the_descriptors_there_are {
        let deep = "d/".repeat(1023);
        let layer = Tar::new().long(b'L', format!("{deep}f")).file("f", "x");
        let image = image(&[layer, Tar::new().long(b'L', format!("{deep}g")).file("g", "y")]);
        assert_eq!(image.read(&format!("{deep}g")), "y");
        // And all of it can be taken away.
        let (_dir, ok, last) = try_image(&[
            Tar::new().long(b'L', format!("{deep}f")).file("f", "x"),
            Tar::new().file(".wh.d", ""),
        ]);
        assert!(ok, "{last}");
    }

    a_hundred_thousand_files_in_one_directory {
        let low = (0..MANY).fold(Tar::new(), |tar, number| tar.file(format!("many/f{number}"), ""));
        let high = Tar::new().file("many/.wh.f7", "").file("many/f8", "new");
        let image = image(&[low, high]);
        assert_eq!(image.names("many").len(), MANY - 1);
        assert_eq!((image.read("many/f8"), image.read("many/f9")), ("new".into(), String::new()));
    }

    a_record_that_is_none {
        let image = image(&[Tar::new().file("f", "x")]);
        for text in ["", "{}", "{\"version\":2}", "{\"version\":1,\"bytes\":1,\"links\":[],\"whiteouts\":[\"\u{100}\"]}"] {
            fs::write(image.dir.join("0/layer.json"), text).unwrap();
            fs::create_dir(image.dir.join("other")).unwrap();
            let (ok, last) = run(&image.dir, &["compose", "--into", "other", "0"], b"");
            assert_eq!((ok, &last["error"]["kind"]), (false, &json!("io")), "{text}");
            fs::remove_dir_all(image.dir.join("other")).unwrap();
        }
    }
}
