//! The agent as process 1, by what this machine has. `BULKHEAD_RUNSC` names runsc where it is not in PATH.

mod common;

use bulkhead_agent::wire::generated::*;
use common::*;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

struct Sandbox {
    child: Child,
    wire: Wire,
}

impl Sandbox {
    /// None, loudly, where the runtime cannot run here.
    fn start(command: &[&str]) -> Option<Self> {
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("SKIPPED: {} needs root here", command[0]);
            return None;
        }
        let child = Command::new(command[0]).args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = child else {
            eprintln!("SKIPPED: {} is not installed", command[0]);
            return None;
        };
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Some(Self { wire: attach(to, from), child })
    }
}

fn attach(to: impl Write + 'static, from: impl Read + AsRawFd + 'static) -> Wire {
    let mut wire = Wire::new(to, from);
    let hello = wire.attach(TAG, false);
    assert_eq!(hello.pid, 1);
    assert_eq!(hello.boot_id.len(), 36);
    assert!(!hello.kernel_release.is_empty());
    wire
}

/// gVisor lets root inside kill process 1, and so the sandbox.
fn works(mut sandbox: Sandbox, protects_init: bool, may_change_user: bool) {
    let wire = &mut sandbox.wire;
    assert_eq!(wire.run(&["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]).code(), 3);
    let stream = wire.open(&exec_with_stdin(&["/bin/cat"]));
    wire.data(stream, b"through");
    wire.end(stream);
    assert_eq!(wire.finish(stream).out, b"through");
    for _ in 0..20 {
        assert_eq!(wire.run(&["/bin/sh", "-c", "(sleep 0.01 &) ; (sleep 0.01 &)"]).code(), 0);
    }
    wait_until("the reaping of orphans", || {
        let ended = wire.ask(Message::ListProcesses(ListProcesses {}));
        ended.out.windows(5).filter(|w| w == b"sleep").count() == 0
    });
    if protects_init {
        let ended = wire.run(&["/bin/sh", "-c", "kill -9 1; echo $?; kill -KILL -1; echo alive"]);
        assert!(ended.exited.is_some(), "{ended:?}");
    }
    assert_eq!(wire.run(&["/bin/sh", "-c", "exit 0"]).code(), 0);
    let stream = wire.open(&Message::Exec(Exec {
        pty: true,
        rows: 9,
        cols: 33,
        ..exec_request(&["/bin/sh", "-c", "tty; exit 2"])
    }));
    let ended = wire.finish(stream);
    if let Some(failed) = &ended.failed {
        panic!("no terminal: {failed:?}");
    }
    assert_eq!(ended.code(), 2);
    // Without a loopback interface that is up the network would be unreachable instead.
    let ended = wire.ask(Message::DialTcp(DialTcp { address: "127.0.0.1".into(), port: 9 }));
    assert_eq!(ended.kind(), error_kind::REFUSED, "{ended:?}");
    let nobody =
        Exec { user: "1234:1234".into(), ..exec_request(&["/bin/sh", "-c", "echo x >/dev/stderr; kill -9 1; exit 5"]) };
    match wire.ask(Message::Exec(nobody)) {
        ended if may_change_user => assert_eq!((ended.code(), ended.err.starts_with(b"x\n")), (5, true), "{ended:?}"),
        ended => assert_eq!(ended.kind(), error_kind::PERMISSION, "{ended:?}"),
    }
    wire.send(0, 0, &Message::Shutdown(Shutdown { grace_ms: 500 }));
    assert!(sandbox.child.wait().unwrap().success());
}

/// A root directory with a shell, its libraries and the agent; and a bundle around it.
fn bundle(name: &str) -> PathBuf {
    let bundle = std::env::temp_dir().join(format!("bulkhead-pid1-{name}-{}", std::process::id()));
    let root = bundle.join("rootfs");
    let _ = std::fs::remove_dir_all(&bundle);
    for directory in ["bin", "proc", "dev", "tmp", "etc", ".bulkhead"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    for program in ["sh", "cat", "sleep", "tty", "dd", "true"] {
        let found = ["/bin", "/usr/bin"].iter().map(|d| Path::new(d).join(program)).find(|p| p.exists()).unwrap();
        std::fs::copy(&found, root.join("bin").join(program)).unwrap();
        let libraries = Command::new("ldd").arg(&found).output().unwrap().stdout;
        for library in String::from_utf8(libraries).unwrap().split_whitespace().filter(|w| w.starts_with('/')) {
            let target = root.join(&library[1..]);
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(library, target).unwrap();
        }
    }
    std::fs::copy(env!("CARGO_BIN_EXE_bulkhead-agent"), root.join(".bulkhead/agent")).unwrap();
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
    let capabilities =
        ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL"];
    let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|kind| serde_json::json!({ "type": kind }));
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 }, "args": ["/.bulkhead/agent"], "cwd": "/", "noNewPrivileges": true,
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
        },
        "root": { "path": "rootfs" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"] },
        ],
        "linux": { "namespaces": namespaces },
    });
    std::fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    bundle
}

#[test]
fn under_unshare() {
    let agent = env!("CARGO_BIN_EXE_bulkhead-agent");
    if let Some(sandbox) = Sandbox::start(&["unshare", "--fork", "--pid", "--mount", "--net", "--mount-proc", agent]) {
        works(sandbox, true, true);
    }
}

#[test]
fn under_bwrap_without_a_capability() {
    let bundle = bundle("bwrap");
    let root = bundle.join("rootfs");
    let command = [
        "bwrap",
        "--unshare-all",
        "--as-pid-1",
        "--bind",
        root.to_str().unwrap(),
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "/.bulkhead/agent",
    ];
    if let Some(sandbox) = Sandbox::start(&command) {
        works(sandbox, true, false);
    }
    let _ = std::fs::remove_dir_all(bundle);
}

#[test]
fn under_crun() {
    let bundle = bundle("crun");
    let state = bundle.join("state");
    // crun refuses a hybrid hierarchy unless the second one looks empty; in a mount namespace of its own that harms nobody.
    let script = "[ -d /sys/fs/cgroup/unified ] && mount -t tmpfs -o size=1m tmpfs /sys/fs/cgroup/unified; exec \"$@\"";
    let id = format!("bulkhead-pid1-{}", std::process::id());
    let command = [
        "unshare",
        "-m",
        "--propagation",
        "slave",
        "sh",
        "-c",
        script,
        "sh",
        "crun",
        "--root",
        state.to_str().unwrap(),
        "run",
        "-b",
        bundle.to_str().unwrap(),
        &id,
    ];
    if installed("crun") {
        if let Some(sandbox) = Sandbox::start(&command) {
            works(sandbox, true, true);
        }
    }
    let _ = std::fs::remove_dir_all(bundle);
}

#[test]
fn under_runsc() {
    let runsc = std::env::var("BULKHEAD_RUNSC").unwrap_or_else(|_| "runsc".into());
    if !installed(&runsc) {
        return;
    }
    let bundle = bundle("runsc");
    let state = bundle.join("state");
    let id = format!("bulkhead-pid1-{:08}", std::process::id());
    let command = [
        &runsc,
        "--root",
        state.to_str().unwrap(),
        "--platform=systrap",
        "--network=none",
        "--ignore-cgroups",
        "run",
        "-bundle",
        bundle.to_str().unwrap(),
        &id,
    ];
    if let Some(sandbox) = Sandbox::start(&command) {
        works(sandbox, false, true);
    }
    let _ = std::fs::remove_dir_all(bundle);
}

fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

/// As the drivers do it: detached, between two FIFOs, with one host after the other.
#[test]
fn under_runsc_detached_a_second_host_finds_the_first_ones_process() {
    let runsc = std::env::var("BULKHEAD_RUNSC").unwrap_or_else(|_| "runsc".into());
    // SAFETY: no arguments.
    if !installed(&runsc) || unsafe { libc::geteuid() } != 0 {
        return;
    }
    let bundle = bundle("runsc-fifo");
    let state = bundle.join("state");
    let id = format!("bulkhead-fifo-{:08}", std::process::id());
    for end in ["in", "out"] {
        let path = std::ffi::CString::new(bundle.join(end).to_str().unwrap()).unwrap();
        // SAFETY: a live string.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    }
    let open = |end: &str, read: bool, write: bool| {
        std::fs::OpenOptions::new().read(read).write(write).open(bundle.join(end)).unwrap()
    };
    let held = (open("in", true, true), open("out", true, true));
    let flags = ["--root", state.to_str().unwrap(), "--platform=systrap", "--network=none", "--ignore-cgroups"];
    let started = Command::new(&runsc)
        .args(flags)
        .args(["run", "-detach", "-bundle", bundle.to_str().unwrap(), &id])
        .stdin(Stdio::from(open("in", true, false)))
        .stdout(Stdio::from(open("out", false, true)))
        .status();
    assert!(started.unwrap().success());
    let connect = || {
        let from = open("out", true, false);
        Wire::new(open("in", false, true), from)
    };
    let mut host = connect();
    drop(held);
    assert!(!host.attach(TAG, false).reattached);
    host.send(0, 0, &Message::Configure(Configure { host_gone: host_gone::KEEP, ..Configure::default() }));
    let stream = host.open(&exec_with_stdin(&["/bin/sh", "-c", "read line; echo got $line; exit 6"]));
    let Received::Message(_, _, Message::Started(process)) = host.next_on(stream) else { panic!("not started") };
    drop(host);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut host = connect();
    assert!(host.attach(0x0707_0707, true).reattached);
    let stream = host.open(&Message::Connect(Connect { pid: process.pid }));
    host.data(stream, b"it\n");
    let ended = host.finish(stream);
    assert_eq!((ended.code(), ended.out.as_slice()), (6, &b"got it\n"[..]));
    host.send(0, 0, &Message::Configure(Configure::default()));
    host.send(0, 0, &Message::Ping(Ping { token: 1 }));
    assert!(host.receive().is_some());
    // The last host goes: the sandbox with it.
    drop(host);
    let stopped = || {
        let output = Command::new(&runsc).args(flags).args(["state", &id]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("\"stopped\"")
    };
    wait_until("the sandbox's end", stopped);
    let deleted = Command::new(&runsc).args(flags).args(["delete", "-force", &id]).status();
    assert!(deleted.unwrap().success());
    let _ = std::fs::remove_dir_all(bundle);
}
