//! The move that spares runtimes a wait, on the real kernel. Needs root, like the keeper.

mod support;

use std::fs;

use serde_json::json;
use support::*;

/// Where each thread is, in all hierarchies.
fn whereabouts(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut groups: Vec<_> = tasks.filter_map(|task| fs::read_to_string(task.path().join("cgroup")).ok()).collect();
    groups.dedup();
    groups
}

#[test]
fn the_keeper_stays_in_its_groups_and_keeps_no_thread_for_it() {
    if !is_root() {
        return;
    }
    let run = fresh_dir("passage");
    let mut keeper = Keeper::start(&run);
    keeper.ask(json!({"op": "hello"})).unwrap();
    let pid = keeper.child.id();
    let before = whereabouts(pid);
    assert_eq!(before.len(), 1, "{before:?}");
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    // With those that a keeper has only at its beginning.
    let at_first = threads();
    for _ in 0..8 {
        let instance = keeper.reserve();
        keeper.acquire(&instance, json!([{"op": "run", "argv": ["/bin/true"], "timeoutMs": 5000}])).unwrap();
        assert_eq!(whereabouts(pid), before);
        keeper.ask(json!({"op": "release", "instance": instance["id"]})).unwrap();
    }
    eventually("the end of all that a start begins", || threads() <= at_first);
    assert_eq!(whereabouts(pid), before);
    assert!(keeper.end());
}
