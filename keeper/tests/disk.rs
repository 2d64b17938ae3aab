//! Writable layers on disk, on the real kernel. Needs root, like the keeper.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{json, Value};
use support::*;

const BYTES: u64 = 32 * 1024 * 1024;

/// A file of root's alone with an empty ext4 in it, as the engine makes them.
fn layer(dir: &Path, name: &str) -> String {
    let (path, contents) = (dir.join(name), dir.join("contents"));
    for name in ["data", "work"] {
        fs::create_dir_all(contents.join(name)).unwrap();
    }
    let made = Command::new("/usr/sbin/mkfs.ext4")
        .args([
            "-q",
            "-F",
            "-m",
            "0",
            "-b",
            "4096",
            "-E",
            "lazy_itable_init=1,assume_storage_prezeroed=1,root_owner=0:0",
            "-d",
        ])
        .args([&contents, &path])
        .arg((BYTES / 4096).to_string())
        .status()
        .unwrap();
    assert!(made.success());
    Command::new("chmod").arg("600").arg(&path).status().unwrap();
    path.to_str().unwrap().to_string()
}

/// Puts the layer on `disk`, under an overlay on `root`, and runs a script in that as the sandbox's root; what it prints goes to `said`.
fn steps(instance: &Value, path: &str, keep: bool, script: &str, said: &Path) -> Value {
    let (dir, id) = (instance["dir"].as_str().unwrap(), instance["idBase"].as_u64().unwrap());
    let disk = format!("{dir}/disk");
    let run = format!(
        "cd {dir}/root && exec setpriv --reuid {id} --regid {id} --clear-groups sh -ec '{script}' > {} 2>&1",
        said.display()
    );
    json!([
        {"op": "dir", "path": disk, "mode": 0o755},
        {"op": "disk", "target": disk, "path": path, "maxBytes": BYTES, "keep": keep},
        {"op": "dir", "path": format!("{dir}/low"), "mode": 0o755, "uid": id, "gid": id},
        {"op": "file", "path": format!("{dir}/low/given"), "mode": 0o644, "content": "given", "uid": id, "gid": id},
        {"op": "dir", "path": format!("{dir}/root"), "mode": 0o755},
        {"op": "overlay", "target": format!("{dir}/root"), "lower": [format!("{dir}/low")],
         "upper": format!("{disk}/data"), "work": format!("{disk}/work"), "volatile": !keep},
        {"op": "run", "argv": ["/bin/sh", "-c", run], "timeoutMs": 20_000},
    ])
}

/// Loop devices whose contents are a file below `dir`, named or not.
fn devices(dir: &Path) -> Vec<String> {
    let all = fs::read_dir("/sys/block").unwrap().flatten();
    let files = all.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.filter(|file| file.starts_with(dir.to_str().unwrap())).collect()
}

#[test]
fn a_layer_is_each_sandboxs_own_and_nothing_is_left_of_it() {
    if !is_root() {
        return;
    }
    let (run, dir) = (fresh_dir("disk-run"), fresh_dir("disk"));
    let path = layer(&dir, "empty");
    let mut keeper = Keeper::start(&run);
    // The first makes its own; later ones find it ready.
    for _ in 0..4 {
        let instance = keeper.reserve();
        let script = "cat given; echo mine >> given; echo new > made; stat -c %u made given; ls | wc -l";
        let said = dir.join("said");
        let answer = keeper.acquire(&instance, steps(&instance, &path, false, script, &said));
        let text = fs::read_to_string(&said).unwrap_or_default();
        answer.unwrap_or_else(|error| panic!("{error}: {text}"));
        let id = &instance["idBase"];
        assert_eq!(text, format!("given{id}\n{id}\n2\n"));
        keeper.ask(json!({"op": "settled", "instance": instance["id"]})).unwrap();
        eventually("the layer's device", || !devices(&dir).is_empty());
        keeper.ask(json!({"op": "release", "instance": instance["id"]})).unwrap();
    }
    assert_eq!(fs::read_dir(&*dir).unwrap().count(), 3, "the empty layer, what it was made of, and what was said");
    assert!(keeper.end());
    eventually("the devices' end", || devices(&dir).is_empty());
}

#[test]
fn a_layer_is_full_at_its_size() {
    if !is_root() {
        return;
    }
    let (run, dir) = (fresh_dir("disk-full-run"), fresh_dir("disk-full"));
    let path = layer(&dir, "empty");
    let mut keeper = Keeper::start(&run);
    let instance = keeper.reserve();
    let said = dir.join("said");
    let script = "head -c 100000000 /dev/zero > fill || true";
    keeper.acquire(&instance, steps(&instance, &path, false, script, &said)).unwrap();
    assert!(fs::read_to_string(&said).unwrap().contains("No space left"));
    assert!(keeper.end());
    eventually("the device's end", || devices(&dir).is_empty());
}

#[test]
fn a_kept_layer_goes_on_under_other_ids_and_is_one_sandboxs_at_a_time() {
    if !is_root() {
        return;
    }
    let (run, dir) = (fresh_dir("disk-kept-run"), fresh_dir("disk-kept"));
    let path = layer(&dir, "layer.ext4");
    let mut keeper = Keeper::start(&run);
    let said = dir.join("said");
    let (first, second) = (keeper.reserve(), keeper.reserve());
    keeper.acquire(&first, steps(&first, &path, true, "echo kept > made", &said)).unwrap();
    let error = keeper.acquire(&second, steps(&second, &path, true, "true", &said)).unwrap_err();
    assert_eq!((&error["errno"], &error["op"]), (&json!("EBUSY"), &json!("disk")));
    keeper.ask(json!({"op": "release", "instance": first["id"]})).unwrap();
    let third = keeper.reserve();
    assert_ne!(third["idBase"], first["idBase"]);
    keeper.acquire(&third, steps(&third, &path, true, "cat made; stat -c %u made", &said)).unwrap();
    assert_eq!(fs::read_to_string(&said).unwrap(), format!("kept\n{}\n", third["idBase"]));
    assert!(keeper.end());
    eventually("the device's end", || devices(&dir).is_empty());
}

#[test]
fn what_is_no_layer_of_roots_alone_is_not_mounted() {
    if !is_root() {
        return;
    }
    let (run, dir) = (fresh_dir("disk-bad-run"), fresh_dir("disk-bad"));
    let mut keeper = Keeper::start(&run);
    let said = dir.join("said");
    let good = layer(&dir, "good");
    let link = dir.join("link").to_str().unwrap().to_string();
    std::os::unix::fs::symlink(&good, &link).unwrap();
    let open = layer(&dir, "open");
    Command::new("chmod").args(["644", &open]).status().unwrap();
    let twice = layer(&dir, "twice");
    fs::hard_link(&twice, dir.join("again")).unwrap();
    let large = layer(&dir, "large");
    fs::File::options().write(true).open(&large).unwrap().set_len(BYTES + 1).unwrap();
    for path in [link, open, twice, large, dir.join("absent").to_str().unwrap().to_string()] {
        let instance = keeper.reserve();
        let error = keeper.acquire(&instance, steps(&instance, &path, true, "true", &said)).unwrap_err();
        assert_eq!(error["op"], json!("disk"), "{path}: {error}");
    }
    assert!(keeper.end() && devices(&dir).is_empty());
}
