//! What Landlock keeps from root where nothing else would: the agent runs as the host's own root here, without any sandbox.
//! Each attempt is first seen to succeed without it.

mod common;

use bulkhead_agent::wire::generated::*;
use common::*;
use std::process::{Child, Command};

/// Version of the interface from which a denial is there.
const ALWAYS: u32 = 2;
const DEVICE_IOCTL: u32 = 5;
const SCOPES: u32 = 6;

/// Prints `had` where what is tried succeeds, or the error's name. OUTSIDE is a process of the host, SOCKET a name of an
/// abstract socket that it could listen on, PLACE a directory with a device node.
const ATTEMPTS: [(&str, u32, &str); 6] = [
    (
        "mount",
        ALWAYS,
        "libc.mount(b'x', b'PLACE/mount', b'tmpfs', 0, None) and fail(); libc.umount(b'PLACE/mount') and fail()",
    ),
    ("character device", ALWAYS, "os.mknod('PLACE/made', 0o20600, os.makedev(1, 3)); os.unlink('PLACE/made')"),
    ("process outside", ALWAYS, "os.listdir('/proc/OUTSIDE/root/')"),
    ("device request", DEVICE_IOCTL, "fcntl.ioctl(open('PLACE/node', 'rb'), 0x80045200, bytes(4))"),
    ("signal", SCOPES, "os.kill(OUTSIDE, 0)"),
    ("abstract socket", SCOPES, "socket.socket(socket.AF_UNIX).connect('\\0SOCKET')"),
];

struct Scene {
    place: String,
    outside: Child,
    socket: String,
    _listener: std::os::unix::net::UnixListener,
}

impl Scene {
    fn new(name: &str) -> Self {
        use std::os::linux::net::SocketAddrExt;
        // Where programs are built: a temporary directory may be on a file system without devices.
        let place = format!("{}/landlock-{}-{name}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
        for directory in ["mount", "one", "two"] {
            std::fs::create_dir_all(format!("{place}/{directory}")).unwrap();
        }
        let node = std::ffi::CString::new(format!("{place}/node")).unwrap();
        // SAFETY: a live string; /dev/urandom under another name.
        assert_eq!(unsafe { libc::mknod(node.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 9)) }, 0);
        let socket = format!("bulkhead-landlock-{}-{name}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&socket).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
        let outside = Command::new("sleep").arg("1000").spawn().unwrap();
        Self { place, outside, socket, _listener }
    }

    fn attempt(&self, agent: &mut Agent, code: &str) -> String {
        let code = code
            .replace("PLACE", &self.place)
            .replace("OUTSIDE", &self.outside.id().to_string())
            .replace("SOCKET", &self.socket);
        let program = format!(
            "import ctypes, errno, fcntl, os, socket\n\
             libc = ctypes.CDLL(None, use_errno=True)\n\
             def fail(): raise OSError(ctypes.get_errno(), '')\n\
             try:\n  {code}\n  print('had')\n\
             except OSError as error: print(errno.errorcode[error.errno])"
        );
        let ended = agent.wire.run(&["python3", "-c", &program]);
        assert_eq!(ended.code(), 0, "{ended:?}");
        ended.text().trim().to_owned()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.outside.kill();
        let _ = self.outside.wait();
        let _ = std::fs::remove_dir_all(&self.place);
    }
}

fn agent(arguments: &[&str]) -> Agent {
    // Mounts that are made here are nobody else's.
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", env!("CARGO_BIN_EXE_bulkhead-agent")]).args(arguments);
    let mut agent = Agent::start_command(command);
    agent.wire.attach(TAG, false);
    // Capabilities and all: nothing but Landlock is to stand in the way.
    agent.wire.send(0, 0, &Message::Configure(Configure { allow_setuid: true, ..Configure::default() }));
    agent
}

/// None, loudly, where this cannot be tried.
fn landlock() -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_bulkhead-agent")).arg("--landlock-version").output().unwrap();
    let version = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    // SAFETY: no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    if !root || version.parse::<u32>().unwrap() < ALWAYS {
        eprintln!("SKIPPED: root {root}, Landlock of version {version}");
        return None;
    }
    Some(version)
}

#[test]
fn what_it_denies_is_denied_to_root_where_nothing_else_would() {
    let Some(version) = landlock() else { return };
    let scene = Scene::new("denied");
    let (mut free, mut confined) = (agent(&[]), agent(&["--landlock", &version]));
    for (name, since, code) in ATTEMPTS {
        assert_eq!(scene.attempt(&mut free, code), "had", "the control: {name}");
        let expected = version.parse::<u32>().unwrap() >= since;
        let got = scene.attempt(&mut confined, code);
        assert_eq!(matches!(got.as_str(), "EPERM" | "EACCES"), expected, "{name}: {got}");
    }
}

#[test]
fn programs_reach_each_other_and_their_files_as_ever() {
    let Some(version) = landlock() else { return };
    let scene = Scene::new("inside");
    let mut agent = agent(&["--landlock", &version]);
    let other = agent.wire.open(&exec(&["/bin/sleep", "1000"]));
    let Received::Message(_, _, Message::Started(started)) = agent.wire.next_on(other) else { panic!("no start") };
    let place = &scene.place;
    let script = format!(
        "set -e; cd {place}; echo x >one/file; mv one/file two/; ln two/file one/again; mkfifo one/fifo; \
         test -r /proc/{pid}/environ; cat /proc/{pid}/environ >/dev/null; kill -TERM {pid}; echo whole >/dev/stderr",
        pid = started.pid
    );
    let ended = agent.wire.run(&["/bin/sh", "-c", &script]);
    assert_eq!((ended.code(), ended.err.as_slice()), (0, &b"whole\n"[..]), "{ended:?}");
    assert_eq!(agent.wire.finish(other).exited.unwrap().signal, libc::SIGTERM as u8);
    let stream = agent.wire.open(&Message::Exec(Exec {
        pty: true,
        rows: 9,
        cols: 33,
        ..exec_request(&["/bin/sh", "-c", "stty size </dev/tty"])
    }));
    assert_eq!(agent.wire.finish(stream).text().trim(), "9 33");
}

#[test]
fn an_agent_that_cannot_have_it_serves_nobody() {
    for arguments in [&["--landlock", "9999"][..], &["--landlock", "1"], &["--landlock"], &["--landlock", "x"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_bulkhead-agent")).args(arguments).output().unwrap();
        assert!(!output.status.success() && !output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}
