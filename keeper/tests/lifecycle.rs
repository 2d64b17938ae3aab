//! The keeper as a process, on the real kernel. Needs root, like the keeper.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{json, Value};

struct Keeper {
    child: Child,
    socket: UnixStream,
    lines: BufReader<UnixStream>,
    run: PathBuf,
    next: u64,
    events: Vec<Value>,
}

fn is_root() -> bool {
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("SKIPPED: the keeper's tests need root");
    }
    root
}

fn fresh_dir(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!(
        "bulkhead-keeper-test-{}-{name}",
        std::process::id()
    ));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

impl Keeper {
    fn start(run: &Path) -> Keeper {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let fd = theirs.as_raw_fd();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead-keeper"));
        command.arg("--run").arg(run).stdin(Stdio::null());
        // SAFETY: dup2 is async-signal-safe. The copy loses close-on-exec unless the number already is 3.
        unsafe {
            command.pre_exec(move || {
                if libc::dup2(fd, 3) == -1 || libc::fcntl(3, libc::F_SETFD, 0) == -1 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let lines = BufReader::new(ours.try_clone().unwrap());
        Keeper {
            child,
            socket: ours,
            lines,
            run: run.to_path_buf(),
            next: 0,
            events: Vec::new(),
        }
    }

    fn send(&mut self, mut request: Value) -> u64 {
        self.next += 1;
        request["id"] = json!(self.next);
        writeln!(self.socket, "{request}").unwrap();
        self.next
    }

    fn line(&mut self) -> Value {
        let mut text = String::new();
        self.lines.read_line(&mut text).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
    }

    fn answer(&mut self, id: u64) -> Result<Value, Value> {
        loop {
            let line = self.line();
            if line.get("event").is_some() {
                self.events.push(line);
            } else if line["id"] == json!(id) {
                return line.get("ok").cloned().ok_or_else(|| line["error"].clone());
            }
        }
    }

    fn ask(&mut self, request: Value) -> Result<Value, Value> {
        let id = self.send(request);
        self.answer(id)
    }

    fn event(&mut self) -> Value {
        if let Some(event) = self.events.pop() {
            return event;
        }
        self.line()
    }

    fn reserve(&mut self) -> Value {
        self.ask(json!({"op": "reserve"})).unwrap()
    }

    fn acquire(&mut self, instance: &Value, steps: Value) -> Result<Value, Value> {
        self.ask(json!({"op": "acquire", "instance": instance["id"], "steps": steps}))
    }

    /// Closes the socket, as the death of an engine does, and waits for the keeper.
    fn end(mut self) -> bool {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
        self.child.wait().unwrap().success()
    }
}

fn eventually(what: &str, check: impl Fn() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "{what} did not happen"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

fn cgroup_dirs(group: &str) -> Vec<PathBuf> {
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    roots.extend(
        fs::read_dir("/sys/fs/cgroup")
            .unwrap()
            .flatten()
            .map(|entry| entry.path()),
    );
    roots
        .into_iter()
        .map(|root| root.join(&group[1..]))
        .filter(|dir| dir.is_dir())
        .collect()
}

/// A "runtime" made of a shell: moves itself into the group, leaves a process behind that ignores polite signals, and
/// writes its id.
fn shell_runtime(instance: &Value, body: &str) -> Value {
    let (dir, group) = (
        instance["dir"].as_str().unwrap(),
        instance["cgroup"].as_str().unwrap(),
    );
    let script = format!(
        "for root in /sys/fs/cgroup /sys/fs/cgroup/pids /sys/fs/cgroup/freezer; do
           [ -e $root/cgroup.procs ] || continue
           mkdir -p $root{group}/inner && echo $$ > $root{group}/inner/cgroup.procs
         done
         exec 3<&0; (trap '' TERM HUP INT; {body}) <&3 & echo $! > {dir}/pid"
    );
    json!([
        {"op": "cgroup", "path": group},
        {"op": "fifo", "path": format!("{dir}/in"), "mode": 0o600},
        {"op": "fifo", "path": format!("{dir}/out"), "mode": 0o600},
        {"op": "fifo", "path": format!("{dir}/log"), "mode": 0o600},
        {"op": "run", "argv": ["/bin/sh", "-c", script], "timeoutMs": 5000, "pidFile": format!("{dir}/pid"),
         "stdin": format!("{dir}/in"), "stdout": format!("{dir}/out"), "stderr": format!("{dir}/log")},
    ])
}

fn pid_of(answer: &Value) -> i32 {
    answer["pid"].as_i64().unwrap() as i32
}

fn lives(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn an_engine_that_dies_leaves_nothing() {
    if !is_root() {
        return;
    }
    let run = fresh_dir("eof");
    let mut keeper = Keeper::start(&run);
    let instance = keeper.reserve();
    let pid = pid_of(
        &keeper
            .acquire(
                &instance,
                shell_runtime(&instance, "sleep 1000 & sleep 1000"),
            )
            .unwrap(),
    );
    assert!(lives(pid));
    let group = instance["cgroup"].as_str().unwrap().to_string();
    assert!(!cgroup_dirs(&group).is_empty());
    assert!(keeper.end());
    assert!(!lives(pid));
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
    let pid = pid_of(
        &first
            .acquire(&instance, shell_runtime(&instance, "sleep 1000"))
            .unwrap(),
    );
    let mut neighbour = Keeper::start(&run);
    let kept = neighbour.reserve();
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert!(lives(pid));
    let second = Keeper::start(&run);
    eventually("the sweep", || {
        !lives(pid) && !Path::new(instance["dir"].as_str().unwrap()).exists()
    });
    assert!(cgroup_dirs(instance["cgroup"].as_str().unwrap()).is_empty());
    assert!(
        Path::new(kept["dir"].as_str().unwrap()).exists(),
        "a living engine's sandbox was swept"
    );
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
    let pid = pid_of(
        &keeper
            .acquire(&instance, shell_runtime(&instance, "sleep 1000"))
            .unwrap(),
    );
    unsafe { libc::kill(keeper.child.id() as i32, libc::SIGTERM) };
    assert!(keeper.child.wait().unwrap().success());
    assert!(!lives(pid) && empty(&run));
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
        keeper
            .acquire(&instance, shell_runtime(&instance, body))
            .unwrap();
        let event = keeper.event();
        assert_eq!(
            (&event["code"], &event["signal"]),
            (&code, &signal),
            "{event}"
        );
        assert_eq!(event["instance"], instance["id"]);
        assert_eq!(
            event["log"].as_str().unwrap().contains("oops"),
            code == json!(7)
        );
        keeper
            .ask(json!({"op": "release", "instance": instance["id"]}))
            .unwrap();
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
    let pid = pid_of(
        &keeper
            .acquire(&instance, shell_runtime(&instance, "exec cat"))
            .unwrap(),
    );
    std::thread::sleep(Duration::from_millis(100));
    assert!(
        lives(pid),
        "input ended before the engine had opened its end"
    );
    let dir = PathBuf::from(instance["dir"].as_str().unwrap());
    let input = fs::OpenOptions::new()
        .write(true)
        .open(dir.join("in"))
        .unwrap();
    let mut output = BufReader::new(fs::File::open(dir.join("out")).unwrap());
    keeper
        .ask(json!({"op": "settled", "instance": instance["id"]}))
        .unwrap();
    (&input).write_all(b"there and back\n").unwrap();
    let mut text = String::new();
    output.read_line(&mut text).unwrap();
    assert_eq!(text, "there and back\n");
    drop(input);
    assert_eq!(keeper.event()["code"], json!(0));
    assert_eq!(output.read_line(&mut text).unwrap(), 0);
    assert!(keeper.end());
}

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
    steps
        .as_array_mut()
        .unwrap()
        .push(json!({"op": "run", "argv": ["/bin/sh", "-c", script], "timeoutMs": 5000}));
    let error = keeper.acquire(&instance, steps).unwrap_err();
    assert_eq!((&error["step"], &error["op"]), (&json!(5), &json!("run")));
    assert!(
        error["stderr"].as_str().unwrap().contains("last words"),
        "{error}"
    );
    assert!(!Path::new(instance["dir"].as_str().unwrap()).exists());
    assert!(cgroup_dirs(instance["cgroup"].as_str().unwrap()).is_empty());
    assert!(keeper
        .ask(json!({"op": "release", "instance": instance["id"]}))
        .is_err());
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

    let (stuck, other) = (keeper.reserve(), keeper.reserve());
    let acquire =
        keeper.send(json!({"op": "acquire", "instance": stuck["id"], "steps": hang(60_000)}));
    // A stuck sandbox holds up nobody else.
    keeper
        .ask(json!({"op": "release", "instance": other["id"]}))
        .unwrap();
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
    let (out1, out2, near1, near2) = (
        out.to_string(),
        out.to_string(),
        near.to_string(),
        near.to_string(),
    );
    let link = format!("ln -s {out} ");
    let attempts: Vec<Make> = vec![
        Box::new(move |_, _| json!([{"op": "dir", "path": format!("{out1}/made"), "mode": 0o755}])),
        Box::new(|dir, _| json!([{"op": "dir", "path": format!("{dir}/../made"), "mode": 0o755}])),
        Box::new(
            move |_, _| json!([{"op": "file", "path": format!("{near1}/made"), "mode": 0o644, "content": "x"}]),
        ),
        Box::new(
            |_, _| json!([{"op": "file", "path": "/etc/bulkhead-made", "mode": 0o644, "content": "x"}]),
        ),
        Box::new(
            |dir, id| json!([{"op": "dir", "path": format!("{dir}/made"), "mode": 0o755, "uid": id - 1}]),
        ),
        Box::new(
            |dir, id| json!([{"op": "dir", "path": format!("{dir}/made"), "mode": 0o755, "gid": id + 65_536}]),
        ),
        Box::new(
            move |_, id| json!([{"op": "tmpfs", "target": out2, "sizeBytes": 4096, "inodes": 4, "mode": 0o755, "uid": id, "gid": id}]),
        ),
        Box::new(
            move |dir, _| json!([{"op": "bind", "source": near2, "target": format!("{dir}/made"), "readOnly": true}]),
        ),
        Box::new(
            |dir, _| json!([{"op": "bind", "source": "/", "target": format!("{dir}/made"), "readOnly": true}]),
        ),
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
        let steps = attempt(
            instance["dir"].as_str().unwrap(),
            instance["idBase"].as_u64().unwrap(),
        );
        assert!(
            keeper.acquire(&instance, steps.clone()).is_err(),
            "attempt {index} was carried out: {steps}"
        );
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
    assert!(bases
        .iter()
        .all(|base| *base >= 0x1000_0000 && base % 65_536 == 0 && base + 65_536 < 1 << 31));
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
    let output = keeper
        .ask(ask(
            json!(["/bin/sh", "-c", "seq 1 100000; echo end >&2; exit 4"]),
            10_000,
        ))
        .unwrap();
    assert_eq!(
        (&output["code"], &output["stdout"], &output["stderr"]),
        (&json!(4), &json!("0000\n"), &json!("end\n"))
    );
    assert_eq!(
        keeper
            .ask(ask(json!(["/bin/sleep", "100"]), 50))
            .unwrap_err()["errno"],
        json!("ETIMEDOUT")
    );
    assert_eq!(
        keeper.ask(ask(json!(["/nonexistent"]), 50)).unwrap_err()["errno"],
        json!("ENOENT")
    );
    assert!(keeper.end());
}
