//! Volumes on the real kernel: one device however many keepers use one, and nothing of it after them.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{json, Value};
use support::*;

const DATA: &str = "data.ext4";

fn make(dir: &Path) -> String {
    fs::create_dir(dir).unwrap();
    let data = dir.join(DATA);
    let made =
        Command::new("/usr/sbin/mkfs.ext4").args(["-q", "-F", "-b", "4096"]).arg(&data).arg("16M").status().unwrap();
    assert!(made.success());
    dir.to_str().unwrap().to_string()
}

/// Loop devices with the volume's file behind them.
fn devices(volume: &str) -> usize {
    let behind = |name: String| fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).unwrap_or_default();
    let all = fs::read_dir("/sys/block").unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    all.filter(|name| name.starts_with("loop")).filter(|name| behind(name.clone()).starts_with(volume)).count()
}

fn step(instance: &Value, volume: &str, read_only: bool, shared: bool) -> Value {
    let target = format!("{}/volume", instance["dir"].as_str().unwrap());
    json!({"op": "volume", "source": volume, "target": target, "readOnly": read_only, "shared": shared})
}

fn write(instance: &Value, script: &str) -> Value {
    let place = format!("{}/volume", instance["dir"].as_str().unwrap());
    json!({"op": "run", "argv": ["/bin/sh", "-c", script], "cwd": place, "timeoutMs": 20_000})
}

#[test]
fn keepers_that_come_at_once_share_one_device_and_see_each_others_files() {
    if !is_root() {
        return;
    }
    const AT_ONCE: usize = 6;
    let base = fresh_dir("volume-shared");
    let volume = make(&base.join("one"));
    let mut keepers: Vec<Keeper> = (0..AT_ONCE).map(|_| Keeper::start(&base.join("run"))).collect();
    let instances: Vec<Value> = keepers.iter_mut().map(Keeper::reserve).collect();
    let requests: Vec<u64> = keepers
        .iter_mut()
        .zip(&instances)
        .enumerate()
        .map(|(i, (keeper, instance))| {
            let steps = json!([step(instance, &volume, false, true), write(instance, &format!("echo {i} > {i}"))]);
            keeper.send(json!({"op": "acquire", "instance": instance["id"], "steps": steps}))
        })
        .collect();
    for (keeper, request) in keepers.iter_mut().zip(requests) {
        keeper.answer(request).unwrap();
    }
    assert_eq!(devices(&volume), 1);
    let mut last = keepers.pop().unwrap();
    for mut keeper in keepers {
        // As kill -9 does.
        keeper.child.kill().unwrap();
        keeper.child.wait().unwrap();
    }
    assert_eq!(devices(&volume), 1);
    let reader = last.reserve();
    let count = write(&reader, &format!("test $(ls | grep -c '^[0-9]$') = {AT_ONCE}"));
    last.acquire(&reader, json!([step(&reader, &volume, true, false), count])).unwrap();
    assert!(last.end());
    eventually("the device's end", || devices(&volume) == 0);
    // Whoever comes next takes away what killed keepers could not.
    let run = base.join("run");
    let next = Keeper::start(&run);
    eventually("the sweep", || instances.iter().all(|one| !engine_dir(one).exists()));
    assert!(next.end());
    assert!(empty(&run), "{:?}", fs::read_dir(&run).unwrap().collect::<Vec<_>>());
    let checked =
        Command::new("/usr/sbin/e2fsck").args(["-f", "-n"]).arg(Path::new(&volume).join(DATA)).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

#[test]
fn who_writes_is_alone_and_says_whose_it_is() {
    if !is_root() {
        return;
    }
    let base = fresh_dir("volume-alone");
    let volume = make(&base.join("two"));
    let (mut ours, mut other) = (Keeper::start(&base.join("run")), Keeper::start(&base.join("run")));
    let writer = ours.reserve();
    ours.acquire(&writer, json!([step(&writer, &volume, false, false)])).unwrap();
    for (read_only, shared) in [(false, false), (true, false), (false, true)] {
        let instance = other.reserve();
        let error = other.acquire(&instance, json!([step(&instance, &volume, read_only, shared)])).unwrap_err();
        assert_eq!(
            (&error["errno"], &error["message"]),
            (&json!("EWOULDBLOCK"), &json!("volume \"two\" is in use")),
            "{error}"
        );
    }
    ours.ask(json!({"op": "release", "instance": writer["id"]})).unwrap();
    let reader = other.reserve();
    other.acquire(&reader, json!([step(&reader, &volume, true, false)])).unwrap();
    let instance = ours.reserve();
    assert!(ours.acquire(&instance, json!([step(&instance, &volume, false, false)])).is_err());
    let instance = ours.reserve();
    let refused = json!([step(&instance, &volume, true, false), write(&instance, "echo x > x")]);
    assert!(ours.acquire(&instance, refused).unwrap_err()["stderr"].as_str().unwrap().contains("Read-only"));
    assert!(ours.end() && other.end());
}

#[test]
fn what_is_no_volume_or_is_damaged_is_told() {
    if !is_root() {
        return;
    }
    let base = fresh_dir("volume-none");
    let mut keeper = Keeper::start(&base.join("run"));
    let instance = keeper.reserve();
    let absent = base.join("absent");
    let error = keeper.acquire(&instance, json!([step(&instance, absent.to_str().unwrap(), true, false)])).unwrap_err();
    assert_eq!((&error["errno"], &error["message"]), (&json!("ENOENT"), &json!("there is no volume \"absent\"")));
    // A link in place of the file would be somebody else's file.
    let volume = make(&base.join("three"));
    fs::rename(base.join("three").join(DATA), base.join("moved")).unwrap();
    std::os::unix::fs::symlink(base.join("moved"), base.join("three").join(DATA)).unwrap();
    let instance = keeper.reserve();
    assert!(keeper.acquire(&instance, json!([step(&instance, &volume, true, false)])).is_err());
    fs::remove_file(base.join("three").join(DATA)).unwrap();
    fs::write(base.join("three").join(DATA), vec![0; 1 << 20]).unwrap();
    let instance = keeper.reserve();
    let error = keeper.acquire(&instance, json!([step(&instance, &volume, true, false)])).unwrap_err();
    assert!(error["message"].as_str().unwrap().contains("three"), "{error}");
    assert!(keeper.end());
    eventually("the device's end", || devices(&volume) == 0);
}

#[test]
fn one_that_is_full_is_told_once_until_it_has_room_again() {
    if !is_root() {
        return;
    }
    let base = fresh_dir("volume-full");
    let volume = make(&base.join("three"));
    let mut keeper = Keeper::start(&base.join("run"));
    let act = |keeper: &mut Keeper, script: &str| {
        let instance = keeper.reserve();
        keeper.acquire(&instance, json!([step(&instance, &volume, false, true), write(&instance, script)])).unwrap();
        instance
    };
    let fill = "cat /dev/zero > big; [ -s big ]";
    let holder = act(&mut keeper, fill);
    let look = json!({"op": "look", "instance": holder["id"]});
    let told = |keeper: &mut Keeper| {
        keeper.ask(look.clone()).unwrap();
        keeper.events.drain(..).collect::<Vec<Value>>()
    };
    let full = json!({
        "event": "limit", "instance": holder["id"], "killed": [], "refused": false,
        "full": [{"volume": "three", "bytes": 16 * 1024 * 1024}],
    });
    assert_eq!(told(&mut keeper), std::slice::from_ref(&full));
    assert_eq!(told(&mut keeper), [Value::Null; 0]);
    act(&mut keeper, "rm big && sync .");
    assert_eq!(told(&mut keeper), [Value::Null; 0]);
    act(&mut keeper, fill);
    assert_eq!(told(&mut keeper), [full]);
    assert!(keeper.end());
    eventually("the device's end", || devices(&volume) == 0);
}
