//! Pausing a sandbox, and writing what it holds to files, on the real kernel. Needs root, like the keeper.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use serde_json::{json, Value};
use support::*;

const MEMORY_BYTES: u64 = 8 * 1024 * 1024;
const DISK_BYTES: u64 = 4 * 1024 * 1024;

fn freeze(keeper: &mut Keeper, instance: &Value, frozen: bool) -> Result<Value, Value> {
    keeper.ask(json!({"op": "freeze", "instance": instance["id"], "frozen": frozen}))
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map(|meta| meta.len()).unwrap_or(0)
}

fn grows(path: &Path) {
    let before = size(path);
    eventually("growth", || size(path) > before);
}

#[test]
fn a_frozen_sandbox_stands_still_and_goes_on() {
    if !is_root() {
        return;
    }
    let (run, base) = (fresh_dir("freeze"), fresh_dir("freeze-file"));
    let file = base.join("grows");
    let counter = format!("while :; do printf x >>{}; sleep 0.01; done", file.display());
    let mut keeper = Keeper::start(&run);
    let instance = keeper.reserve();
    let pid = pid_of(&keeper.acquire(&instance, shell_runtime(&instance, &counter)).unwrap());
    grows(&file);
    for _ in 0..2 {
        freeze(&mut keeper, &instance, true).unwrap();
        let before = size(&file);
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert_eq!(size(&file), before);
    }
    for _ in 0..2 {
        freeze(&mut keeper, &instance, false).unwrap();
        grows(&file);
    }
    freeze(&mut keeper, &instance, true).unwrap();
    keeper.ask(json!({"op": "release", "instance": instance["id"]})).unwrap();
    eventually("its end", || !lives(pid));
    assert!(freeze(&mut keeper, &instance, true).is_err());
    assert!(freeze(&mut keeper, &json!({"id": "s0123456789abcdef"}), true).is_err());
    assert!(keeper.end());
    assert!(empty(&run));
}

#[test]
fn a_frozen_sandbox_whose_keeper_was_killed_is_swept() {
    if !is_root() {
        return;
    }
    let run = fresh_dir("frozen-sweep");
    let mut first = Keeper::start(&run);
    let instance = first.reserve();
    let pid = pid_of(&first.acquire(&instance, shell_runtime(&instance, "sleep 1000")).unwrap());
    freeze(&mut first, &instance, true).unwrap();
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert!(lives(pid));
    let second = Keeper::start(&run);
    eventually("the sweep", || !lives(pid) && !engine_dir(&instance).exists());
    assert!(cgroup_dirs(instance["cgroup"].as_str().unwrap()).is_empty());
    assert!(second.end());
    assert!(empty(&run));
}

/// Maps descriptor 6 privately, changes two pages of it and one block of the disk, and says so.
fn monitor(instance: &Value, memory: &Path, disk: &Path, ready: &Path) -> Value {
    let python = format!(
        "import mmap,os,time
m=mmap.mmap(6,{MEMORY_BYTES},flags=mmap.MAP_PRIVATE,prot=mmap.PROT_READ|mmap.PROT_WRITE)
m[100*4096]=65; m[1000*4096+5]=66; len(m[:4096])
page=mmap.mmap(-1,4096); page[:7]=b'written'; os.pwrite(4,page,8192)
open('{}','w').close(); time.sleep(1000)",
        ready.display()
    );
    let mut steps = shell_runtime(instance, "exec python3 -c \"$PROGRAM\"");
    let start = steps[4].as_object_mut().unwrap();
    start.insert("env".into(), json!({"PROGRAM": python, "PATH": "/usr/bin:/bin"}));
    start.insert(
        "fds".into(),
        json!([
            {"fd": 4, "from": "copy", "path": disk, "maxBytes": DISK_BYTES},
            {"fd": 6, "from": "sealed", "path": memory, "keep": false},
        ]),
    );
    steps
}

#[test]
fn what_a_sandbox_has_changed_is_written_to_a_directory_of_roots_alone() {
    if !is_root() {
        return;
    }
    let (run, base) = (fresh_dir("capture"), fresh_dir("capture-base"));
    let (memory, disk, ready) = (base.join("memory"), base.join("disk"), base.join("ready"));
    let file = File::create(&memory).unwrap();
    file.set_len(MEMORY_BYTES).unwrap();
    file.write_all_at(b"template", 4096).unwrap();
    File::create(&disk).unwrap().set_len(DISK_BYTES).unwrap();

    let mut keeper = Keeper::start(&run);
    let instance = keeper.reserve();
    keeper.acquire(&instance, monitor(&instance, &memory, &disk, &ready)).unwrap();
    eventually("the program's changes", || ready.exists());

    let into = base.join("into");
    fs::create_dir(&into).unwrap();
    let capture = |keeper: &mut Keeper, into: &Path| {
        keeper.ask(json!({"op": "capture", "instance": instance["id"], "into": into}))
    };
    fs::set_permissions(&into, fs::Permissions::from_mode(0o750)).unwrap();
    assert!(capture(&mut keeper, &into).is_err(), "others could have read it");
    assert!(empty(&into));
    fs::set_permissions(&into, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink(&into, base.join("link")).unwrap();
    assert!(capture(&mut keeper, &base.join("link")).is_err(), "a link was followed");
    assert!(capture(&mut keeper, Path::new("relative")).is_err());
    capture(&mut keeper, &into).unwrap();
    assert!(capture(&mut keeper, &into).is_err(), "files were replaced");

    let mut expected = vec![0; MEMORY_BYTES as usize];
    expected[4096..4104].copy_from_slice(b"template");
    (expected[100 * 4096], expected[1000 * 4096 + 5]) = (65, 66);
    assert!(fs::read(into.join("memory")).unwrap() == expected);
    assert_eq!(&fs::read(into.join("disk")).unwrap()[8192..8199], b"written");
    assert_eq!(fs::metadata(into.join("disk")).unwrap().len(), DISK_BYTES);
    assert_eq!(fs::metadata(into.join("memory")).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(&fs::read(&memory).unwrap()[4096..4104], b"template");

    let other = keeper.reserve();
    keeper.acquire(&other, shell_runtime(&other, "sleep 1000")).unwrap();
    let empty_dir = base.join("empty");
    fs::create_dir(&empty_dir).unwrap();
    fs::set_permissions(&empty_dir, fs::Permissions::from_mode(0o700)).unwrap();
    let request = json!({"op": "capture", "instance": other["id"], "into": empty_dir});
    assert!(keeper.ask(request).is_err(), "there was nothing to capture");
    let digest = |keeper: &mut Keeper, name: &str| keeper.ask(json!({"op": "digest", "path": into.join(name)}));
    assert_eq!(digest(&mut keeper, "disk").unwrap()["bytes"], json!(DISK_BYTES));
    assert!(digest(&mut keeper, "none").is_err());
    assert!(keeper.end());
}
