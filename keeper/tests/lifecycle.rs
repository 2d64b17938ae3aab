//! The keeper as a process, on the real kernel. Needs root, like the keeper.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use support::*;

#[test]
fn an_engine_that_dies_leaves_nothing() {
    if !is_root() {
        return;
    }
    let run = fresh_dir("eof");
    let mut keeper = Keeper::start(&run);
    let instance = keeper.reserve();
    let pid = pid_of(&keeper.acquire(&instance, shell_runtime(&instance, "sleep 1000 & sleep 1000")).unwrap());
    assert!(lives(pid));
    let group = instance["cgroup"].as_str().unwrap().to_string();
    assert!(!cgroup_dirs(&group).is_empty());
    assert!(keeper.end());
    // What the keeper did not reap itself goes to process 1, which may take its time.
    eventually("the end of its process", || !lives(pid));
    assert!(cgroup_dirs(&group).is_empty());
    assert!(cgroup_dirs(group.rsplit_once('/').unwrap().0).is_empty());
    assert!(empty(&run));
}

#[test]
fn a_keeper_that_is_killed_is_swept_by_the_next() {
    if !is_root() {
        return;
    }
    let run = fresh_dir("sweep");
    let mut first = Keeper::start(&run);
    let instance = first.reserve();
    let pid = pid_of(&first.acquire(&instance, shell_runtime(&instance, "sleep 1000")).unwrap());
    let mut neighbour = Keeper::start(&run);
    let kept = neighbour.reserve();
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert!(lives(pid));
    let second = Keeper::start(&run);
    eventually("the sweep", || !lives(pid) && !engine_dir(&instance).exists());
    assert!(cgroup_dirs(instance["cgroup"].as_str().unwrap()).is_empty());
    assert!(Path::new(kept["dir"].as_str().unwrap()).exists(), "a living engine's sandbox was swept");
    assert!(second.end() && neighbour.end());
    assert!(empty(&run));
}

#[test]
fn sigterm_is_an_orderly_end() {
    if !is_root() {
        return;
    }
    let run = fresh_dir("term");
    let mut keeper = Keeper::start(&run);
    let instance = keeper.reserve();
    let pid = pid_of(&keeper.acquire(&instance, shell_runtime(&instance, "sleep 1000")).unwrap());
    unsafe { libc::kill(keeper.child.id() as i32, libc::SIGTERM) };
    assert!(keeper.child.wait().unwrap().success());
    eventually("the end of its process", || !lives(pid));
    assert!(empty(&run));
}

#[test]
fn the_end_of_a_sandbox_is_reported_with_code_and_log() {
    if !is_root() {
        return;
    }
    let run = fresh_dir("ended");
    let mut keeper = Keeper::start(&run);
    for (body, code, signal) in [
        ("echo oops >&2; exit 7", json!(7), json!(null)),
        ("sleep 0.2; exit 0", json!(0), json!(null)),
        ("exec sh -c 'kill -SEGV $$'", json!(null), json!(11)),
    ] {
        let instance = keeper.reserve();
        keeper.acquire(&instance, shell_runtime(&instance, body)).unwrap();
        let event = keeper.event();
        assert_eq!((&event["code"], &event["signal"]), (&code, &signal), "{event}");
        assert_eq!(event["instance"], instance["id"]);
        assert_eq!(event["log"].as_str().unwrap().contains("oops"), code == json!(7));
        keeper.ask(json!({"op": "release", "instance": instance["id"]})).unwrap();
        assert!(!Path::new(instance["dir"].as_str().unwrap()).exists());
    }
    assert!(keeper.end());
}

#[test]
fn input_ends_when_the_engine_closes_its_end_and_not_before() {
    if !is_root() {
        return;
    }
    let run = fresh_dir("settled");
    let mut keeper = Keeper::start(&run);
    let instance = keeper.reserve();
    let pid = pid_of(&keeper.acquire(&instance, shell_runtime(&instance, "exec cat")).unwrap());
    std::thread::sleep(Duration::from_millis(100));
    assert!(lives(pid), "input ended before the engine had opened its end");
    let dir = PathBuf::from(instance["dir"].as_str().unwrap());
    let input = fs::OpenOptions::new().write(true).open(dir.join("in")).unwrap();
    let mut output = BufReader::new(fs::File::open(dir.join("out")).unwrap());
    keeper.ask(json!({"op": "settled", "instance": instance["id"]})).unwrap();
    (&input).write_all(b"there and back\n").unwrap();
    let mut text = String::new();
    output.read_line(&mut text).unwrap();
    assert_eq!(text, "there and back\n");
    drop(input);
    assert_eq!(keeper.event()["code"], json!(0));
    assert_eq!(output.read_line(&mut text).unwrap(), 0);
    assert!(keeper.end());
}
