//! What the keeper refuses, undoes and bounds, on the real kernel. Needs root, like the keeper.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use support::*;

#[test]
fn a_failed_step_undoes_all_and_says_which() {
    if !is_root() {
        return;
    }
    let run = fresh_dir("failed");
    let mut keeper = Keeper::start(&run);
    let instance = keeper.reserve();
    let mut steps = shell_runtime(&instance, "sleep 1000");
    let script = "echo first >&2; echo last words >&2; exit 3";
    steps.as_array_mut().unwrap().push(json!({"op": "run", "argv": ["/bin/sh", "-c", script], "timeoutMs": 5000}));
    let error = keeper.acquire(&instance, steps).unwrap_err();
    assert_eq!((&error["step"], &error["op"]), (&json!(5), &json!("run")));
    assert!(error["stderr"].as_str().unwrap().contains("last words"), "{error}");
    assert!(!Path::new(instance["dir"].as_str().unwrap()).exists());
    assert!(cgroup_dirs(instance["cgroup"].as_str().unwrap()).is_empty());
    assert!(keeper.ask(json!({"op": "release", "instance": instance["id"]})).is_err());
    assert!(keeper.end());
}

#[test]
fn what_ran_out_is_named_by_its_path() {
    if !is_root() {
        return;
    }
    let run = fresh_dir("full");
    let mut keeper = Keeper::start(&run);
    let instance = keeper.reserve();
    let disk = format!("{}/disk", instance["dir"].as_str().unwrap());
    let error = keeper
        .acquire(
            &instance,
            json!([
                {"op": "dir", "path": disk, "mode": 0o755},
                {"op": "tmpfs", "target": disk, "sizeBytes": 4096, "inodes": 10, "mode": 0o755, "uid": 0, "gid": 0},
                {"op": "file", "path": format!("{disk}/large"), "mode": 0o600, "content": "x".repeat(100_000)},
            ]),
        )
        .unwrap_err();
    assert_eq!((&error["step"], &error["errno"]), (&json!(2), &json!("ENOSPC")));
    assert!(error["message"].as_str().unwrap().contains("/disk/large"), "{error}");
    assert!(keeper.end());
}

#[test]
fn a_start_that_hangs_is_called_off_by_release_and_by_its_own_time() {
    if !is_root() {
        return;
    }
    let run = fresh_dir("hang");
    let mut keeper = Keeper::start(&run);
    let hang = |ms: u64| json!([{"op": "run", "argv": ["/bin/sleep", "1000"], "timeoutMs": ms}]);
    let instance = keeper.reserve();
    let error = keeper.acquire(&instance, hang(100)).unwrap_err();
    assert_eq!(error["errno"], json!("ETIMEDOUT"));

    // Also what it has put into a session of its own, outside every control group.
    let instance = keeper.reserve();
    let note = run.join("stray");
    let script = format!("setsid sh -c 'echo $$ > {}; exec sleep 1000' & sleep 1000", note.display());
    let stray = json!([{"op": "run", "argv": ["/bin/sh", "-c", script], "timeoutMs": 500}]);
    assert!(keeper.acquire(&instance, stray).is_err());
    let pid = std::fs::read_to_string(&note).unwrap().trim().parse().unwrap();
    eventually("the stray's end", || !lives(pid));
    std::fs::remove_file(&note).unwrap();

    let (stuck, other) = (keeper.reserve(), keeper.reserve());
    let acquire = keeper.send(json!({"op": "acquire", "instance": stuck["id"], "steps": hang(60_000)}));
    // A stuck sandbox holds up nobody else.
    keeper.ask(json!({"op": "release", "instance": other["id"]})).unwrap();
    let begin = Instant::now();
    keeper.send(json!({"op": "release", "instance": stuck["id"]}));
    assert!(keeper.answer(acquire).is_err());
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(keeper.end() && empty(&run));
}

#[test]
fn steps_cannot_leave_the_sandboxes_own_places() {
    if !is_root() {
        return;
    }
    let run = fresh_dir("hostile");
    let outside = fresh_dir("hostile-outside");
    let mut keeper = Keeper::start(&run);
    let neighbour = keeper.reserve();
    let near = neighbour["dir"].as_str().unwrap();
    let out = outside.to_str().unwrap();
    type Make = Box<dyn Fn(&str, u64) -> Value>;
    let (out1, out2, near1, near2) = (out.to_string(), out.to_string(), near.to_string(), near.to_string());
    let link = format!("ln -s {out} ");
    let attempts: Vec<Make> = vec![
        Box::new(move |_, _| json!([{"op": "dir", "path": format!("{out1}/made"), "mode": 0o755}])),
        Box::new(|dir, _| json!([{"op": "dir", "path": format!("{dir}/../made"), "mode": 0o755}])),
        Box::new(move |_, _| json!([{"op": "file", "path": format!("{near1}/made"), "mode": 0o644, "content": "x"}])),
        Box::new(|_, _| json!([{"op": "file", "path": "/etc/bulkhead-made", "mode": 0o644, "content": "x"}])),
        Box::new(|dir, id| json!([{"op": "dir", "path": format!("{dir}/made"), "mode": 0o755, "uid": id - 1}])),
        Box::new(|dir, id| json!([{"op": "dir", "path": format!("{dir}/made"), "mode": 0o755, "gid": id + 65_536}])),
        Box::new(
            move |_, id| json!([{"op": "tmpfs", "target": out2, "sizeBytes": 4096, "inodes": 4, "mode": 0o755, "uid": id, "gid": id}]),
        ),
        Box::new(
            move |dir, _| json!([{"op": "bind", "source": near2, "target": format!("{dir}/made"), "readOnly": true}]),
        ),
        Box::new(|dir, _| json!([{"op": "bind", "source": "/", "target": format!("{dir}/made"), "readOnly": true}])),
        Box::new(|dir, _| {
            json!([{"op": "bind", "source": "/etc", "target": format!("{dir}/made"), "readOnly": true,
                    "idmap": {"idBase": 0, "size": 65_536}}])
        }),
        Box::new(|_, _| json!([{"op": "cgroup", "path": "/"}])),
        Box::new(|_, _| json!([{"op": "cgroup", "path": "/bulkhead"}])),
        Box::new(|_, _| json!([{"op": "cgroup", "path": "/bulkhead/../other"}])),
        Box::new(|dir, _| {
            json!([{"op": "run", "argv": ["/bin/true"], "timeoutMs": 1000, "stdin": "/dev/zero",
                    "pidFile": format!("{dir}/pid")}])
        }),
        Box::new(|dir, _| {
            json!([{"op": "file", "path": format!("{dir}/pid"), "mode": 0o600, "content": "1\n"},
                   {"op": "run", "argv": ["/bin/true"], "timeoutMs": 1000, "pidFile": format!("{dir}/pid")}])
        }),
        Box::new(|_, _| json!([{"op": "run", "argv": ["true"], "timeoutMs": 1000}])),
        Box::new(move |dir, _| {
            json!([{"op": "run", "argv": ["/bin/sh", "-c", format!("{link} {dir}/link")], "timeoutMs": 1000},
                   {"op": "file", "path": format!("{dir}/link/made"), "mode": 0o644, "content": "x"}])
        }),
    ];
    for (index, attempt) in attempts.iter().enumerate() {
        let instance = keeper.reserve();
        let steps = attempt(instance["dir"].as_str().unwrap(), instance["idBase"].as_u64().unwrap());
        assert!(keeper.acquire(&instance, steps.clone()).is_err(), "attempt {index} was carried out: {steps}");
    }
    assert!(empty(&outside) && empty(Path::new(near)));
    assert!(!Path::new("/etc/bulkhead-made").exists());
    let unknown = json!({"op": "release", "instance": "../.."});
    assert!(keeper.ask(unknown).is_err());
    assert!(keeper.end() && empty(&run));
}

#[test]
fn ranges_of_ids_are_unique_across_keepers() {
    if !is_root() {
        return;
    }
    let (one, two) = (fresh_dir("ids-1"), fresh_dir("ids-2"));
    let mut keepers = [Keeper::start(&one), Keeper::start(&two)];
    let mut bases = Vec::new();
    for _ in 0..50 {
        for keeper in &mut keepers {
            bases.push(keeper.reserve()["idBase"].as_u64().unwrap());
        }
    }
    assert!(bases.iter().all(|base| *base >= 0x1000_0000 && base % 65_536 == 0 && base + 65_536 < 1 << 31));
    let count = bases.len();
    bases.sort();
    bases.dedup();
    assert_eq!(bases.len(), count);
    for keeper in keepers {
        assert!(keeper.run.exists() && keeper.end());
    }
}

#[test]
fn a_one_off_program_has_bounded_output_and_time() {
    if !is_root() {
        return;
    }
    let run = fresh_dir("run");
    let mut keeper = Keeper::start(&run);
    let ask = |argv: Value, ms: u64| json!({"op": "run", "argv": argv, "timeoutMs": ms, "maxOutputBytes": 5});
    let output = keeper.ask(ask(json!(["/bin/sh", "-c", "seq 1 100000; echo end >&2; exit 4"]), 10_000)).unwrap();
    assert_eq!((&output["code"], &output["stdout"], &output["stderr"]), (&json!(4), &json!("0000\n"), &json!("end\n")));
    assert_eq!(keeper.ask(ask(json!(["/bin/sleep", "100"]), 50)).unwrap_err()["errno"], json!("ETIMEDOUT"));
    assert_eq!(keeper.ask(ask(json!(["/nonexistent"]), 50)).unwrap_err()["errno"], json!("ENOENT"));
    assert!(keeper.end());
}

#[test]
fn a_bind_source_that_became_a_link_is_not_followed() {
    if !is_root() {
        return;
    }
    let (run, outside) = (fresh_dir("swapped"), fresh_dir("swapped-outside"));
    let out = std::fs::canonicalize(&*outside).unwrap();
    std::fs::create_dir_all(out.join("secret/below")).unwrap();
    std::os::unix::fs::symlink(out.join("secret"), out.join("link")).unwrap();
    let mut keeper = Keeper::start(&run);
    let mut bind = |name: &str| {
        let instance = keeper.reserve();
        let target = format!("{}/made", instance["dir"].as_str().unwrap());
        let source = out.join(name);
        keeper.acquire(&instance, json!([{"op": "bind", "source": source, "target": target, "readOnly": true}]))
    };
    for name in ["link", "link/below"] {
        let error = bind(name).unwrap_err();
        assert!(error["message"].as_str().unwrap().contains("symbolic link"), "{error}");
    }
    bind("secret/below").unwrap();
    assert!(keeper.end() && empty(&run));
}
