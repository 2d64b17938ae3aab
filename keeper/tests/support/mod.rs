//! A keeper as a process, spoken to as an engine does.

// Each test program uses a part of this.
#![allow(dead_code)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{json, Value};

pub struct Keeper {
    pub child: Child,
    pub socket: UnixStream,
    pub lines: BufReader<UnixStream>,
    pub run: PathBuf,
    pub next: u64,
    pub events: Vec<Value>,
}

pub fn is_root() -> bool {
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("SKIPPED: the keeper's tests need root");
    }
    root
}

/// A directory of one test, removed when the test is over.
pub struct FreshDir(PathBuf);

impl std::ops::Deref for FreshDir {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for FreshDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn fresh_dir(name: &str) -> FreshDir {
    let name = format!("bulkhead-keeper-test-{}-{name}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    FreshDir(dir)
}

impl Keeper {
    pub fn start(run: &Path) -> Keeper {
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
        ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let lines = BufReader::new(ours.try_clone().unwrap());
        Keeper { child, socket: ours, lines, run: run.to_path_buf(), next: 0, events: Vec::new() }
    }

    pub fn send(&mut self, mut request: Value) -> u64 {
        self.next += 1;
        request["id"] = json!(self.next);
        writeln!(self.socket, "{request}").unwrap();
        self.next
    }

    pub fn line(&mut self) -> Value {
        let mut text = String::new();
        self.lines.read_line(&mut text).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
    }

    pub fn answer(&mut self, id: u64) -> Result<Value, Value> {
        loop {
            let line = self.line();
            if line.get("event").is_some() {
                self.events.push(line);
            } else if line["id"] == json!(id) {
                return line.get("ok").cloned().ok_or_else(|| line["error"].clone());
            }
        }
    }

    pub fn ask(&mut self, request: Value) -> Result<Value, Value> {
        let id = self.send(request);
        self.answer(id)
    }

    pub fn event(&mut self) -> Value {
        if let Some(event) = self.events.pop() {
            return event;
        }
        self.line()
    }

    pub fn reserve(&mut self) -> Value {
        self.ask(json!({"op": "reserve"})).unwrap()
    }

    pub fn acquire(&mut self, instance: &Value, steps: Value) -> Result<Value, Value> {
        self.ask(json!({"op": "acquire", "instance": instance["id"], "steps": steps}))
    }

    /// Closes the socket, as the death of an engine does, and waits for the keeper.
    pub fn end(mut self) -> bool {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
        self.child.wait().unwrap().success()
    }
}

pub fn eventually(what: &str, check: impl Fn() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(15), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

pub fn cgroup_dirs(group: &str) -> Vec<PathBuf> {
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    roots.extend(fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path()));
    roots.into_iter().map(|root| root.join(&group[1..])).filter(|dir| dir.is_dir()).collect()
}

/// A "runtime" made of a shell: moves itself into the group, leaves a process behind that ignores polite signals, and
/// writes its id.
/// It ends by exec, since dash reaps its children after a builtin, and then nobody could say how they ended.
pub fn shell_runtime(instance: &Value, body: &str) -> Value {
    let (dir, group) = (instance["dir"].as_str().unwrap(), instance["cgroup"].as_str().unwrap());
    let script = format!(
        "for root in /sys/fs/cgroup /sys/fs/cgroup/pids /sys/fs/cgroup/freezer; do
           [ -e $root/cgroup.procs ] || continue
           mkdir -p $root{group}/inner && echo $$ > $root{group}/inner/cgroup.procs
         done
         exec 3<&0; (trap '' TERM HUP INT; {body}) <&3 & exec /bin/echo $! > {dir}/pid"
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

/// Of the engine whose sandbox it is; what sweeps removes it last.
pub fn engine_dir(instance: &Value) -> PathBuf {
    Path::new(instance["dir"].as_str().unwrap()).parent().unwrap().to_path_buf()
}

pub fn pid_of(answer: &Value) -> i32 {
    answer["pid"].as_i64().unwrap() as i32
}

pub fn lives(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
