mod common;

use bulkhead_agent::wire::generated::*;
use common::*;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn configure(host_gone: u8) -> Message {
    Message::Configure(Configure { host_gone, ..Configure::default() })
}

/// An agent between two FIFOs, so that a host can go and another come.
struct Fifos {
    directory: PathBuf,
    child: Child,
    held: Option<(File, File)>,
}

impl Fifos {
    fn start(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("bulkhead-agent-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        for end in ["in", "out"] {
            let path = std::ffi::CString::new(directory.join(end).to_str().unwrap()).unwrap();
            // SAFETY: a live string.
            assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        }
        // Held open both ways for the start only, as a keeper does.
        let both = |end: &str| OpenOptions::new().read(true).write(true).open(directory.join(end)).unwrap();
        let (held_in, held_out) = (both("in"), both("out"));
        let input = OpenOptions::new().read(true).open(directory.join("in")).unwrap();
        let output = OpenOptions::new().write(true).open(directory.join("out")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_bulkhead-agent"))
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output))
            .spawn()
            .unwrap();
        let mut fifos = Self { directory, child, held: None };
        fifos.held = Some((held_in, held_out));
        fifos
    }

    /// From here on the agent sees the end of its host.
    fn let_go(&mut self) {
        self.held = None;
    }

    fn ends(&self) -> (File, File) {
        let from =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(self.directory.join("out")).unwrap();
        let to = OpenOptions::new().write(true).open(self.directory.join("in")).unwrap();
        (to, from)
    }

    fn connect(&self) -> Wire {
        let (to, from) = self.ends();
        Wire::new(to, from)
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        // SAFETY: a signal to a child of ours that has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        wait_until("the agent's end", || self.child.try_wait().unwrap().is_some());
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn hello_says_who_answers() {
    let mut agent = Agent::start_unattached();
    let hello = agent.wire.attach(TAG, true);
    assert_eq!(hello.agent_version, env!("CARGO_PKG_VERSION"));
    assert!(!hello.reattached && !hello.kernel_release.is_empty() && hello.boot_id.len() == 36);
    assert!(agent.wire.attach(TAG + 1, true).reattached);
    agent.wire.send(0, 0, &Message::Ping(Ping { token: u64::MAX }));
    assert_eq!(agent.wire.receive(), Some(Received::Message(0, 0, Message::Pong(Pong { token: u64::MAX }))));
}

#[test]
fn a_host_without_a_common_generation_is_told() {
    let mut agent = Agent::start_unattached();
    let mut bytes = MAGIC_ATTACH.to_vec();
    bytes.extend_from_slice(&[7, 9, 0, 0, 1, 1, 1, 1]);
    bytes.extend_from_slice(&[3; 16]);
    agent.wire.raw(&bytes);
    assert!(!agent.wire.attach(TAG, false).reattached);
}

#[test]
fn with_exit_everything_ends_with_the_host() {
    let mut agent = Agent::start();
    agent.wire.send(0, 0, &configure(host_gone::EXIT));
    let stream = agent.wire.open(&exec(&["/bin/sh", "-c", "trap '' TERM; sleep 1000 & echo $!; wait"]));
    let pid = loop {
        if let Received::Data(_, _, bytes) = agent.wire.next_on(stream) {
            break String::from_utf8(bytes).unwrap().trim().to_string();
        }
    };
    let (to, from) = (std::io::sink(), File::open("/dev/null").unwrap());
    agent.wire = Wire::new(to, from);
    let status = agent.child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "a process outlived its sandbox");
}

#[test]
fn with_keep_a_new_host_finds_the_process() {
    let mut fifos = Fifos::start("keep");
    let mut host = fifos.connect();
    host.attach(TAG, false);
    fifos.let_go();
    host.send(0, 0, &configure(host_gone::KEEP));
    let script = "echo before; read line; echo got $line; for i in 1 2 3; do echo $i; done; exit 5";
    let stream = host.open(&exec_with_stdin(&["/bin/sh", "-c", script]));
    let Received::Message(_, _, Message::Started(started)) = host.next_on(stream) else { panic!("not started") };
    assert!(matches!(host.next_on(stream), Received::Data(_, LANE_OUT, bytes) if bytes == b"before\n"));
    drop(host);
    std::thread::sleep(Duration::from_millis(250));
    let mut host = fifos.connect();
    assert!(host.attach(0x0101_0101, true).reattached);
    let stream = host.open(&Message::Connect(Connect { pid: started.pid }));
    let Received::Message(_, _, Message::Started(again)) = host.next_on(stream) else { panic!("not connected") };
    assert_eq!(again.stdout_offset, 7);
    host.data(stream, b"hello\n");
    let ended = host.finish(stream);
    assert_eq!((ended.code(), ended.text().as_str()), (5, "got hello\n1\n2\n3\n"));
    let ended = host.ask(Message::Connect(Connect { pid: started.pid }));
    assert_eq!((ended.code(), ended.lanes_ended.len()), (5, 2));
}

#[test]
fn a_half_written_frame_does_not_confuse_the_next_host() {
    let fifos = Fifos::start("half");
    let mut host = fifos.connect();
    host.attach(TAG, false);
    host.send(0, 0, &configure(host_gone::KEEP));
    let magic = [&MAGIC_ATTACH[..], &[1, 1, 0, 0, 9, 9, 9, 9], &[0; 16]].concat();
    let whole = frame(TAG, 1, message_type::DATA, 0, &[magic.as_slice(), &[7; 60_000]].concat());
    // An attach inside a dead host's data must not be taken for one.
    for length in [1, 5, 11, 12, 40, 60_010] {
        host.raw(&whole[..length]);
        let mut next = fifos.connect();
        assert!(next.attach(TAG + length as u32, true).reattached);
        assert_eq!(next.run(&["/bin/sh", "-c", "exit 4"]).code(), 4);
        host = next;
    }
}

#[test]
fn output_of_a_host_that_went_is_dropped_and_the_process_goes_on() {
    let fifos = Fifos::start("drop");
    let mut host = fifos.connect();
    host.attach(TAG, false);
    host.send(0, 0, &configure(host_gone::KEEP));
    host.returns_credit = false;
    let request = exec_request(&["/bin/sh", "-c", "head -c 3000000 /dev/zero; exec sleep 1000"]);
    let stream = host.open(&Message::Exec(Exec { kill_on_cancel: false, ..request }));
    let Received::Message(_, _, Message::Started(started)) = host.next_on(stream) else { panic!("not started") };
    drop(host);
    let mut offset = 0;
    let mut tag = 0x0202_0202;
    wait_until("all of the output", || {
        tag += 1;
        let mut host = fifos.connect();
        host.attach(tag, true);
        let stream = host.open(&Message::Connect(Connect { pid: started.pid }));
        if let Received::Message(_, _, Message::Started(again)) = host.next_on(stream) {
            offset = again.stdout_offset;
        }
        host.send(stream, 0, &Message::Cancel(Cancel {}));
        host.finish(stream);
        offset >= 3_000_000
    });
    let mut host = fifos.connect();
    host.attach(0x0303_0303, true);
    host.ask(Message::SignalProcess(SignalProcess { pid: started.pid, signal: 9, group: true })).ok();
    host.send(0, 0, &configure(host_gone::EXIT));
}

#[test]
fn malformed_messages_end_the_session_and_not_the_agent() {
    let mut agent = Agent::start();
    let cases: [Vec<u8>; 4] = [
        frame(TAG + 1, 0, message_type::PING, 0, &[0; 8]),
        frame(TAG, 0, 200, 0, b""),
        frame(TAG, 0, message_type::PING, 0, &[0; 9]),
        frame(TAG, 0, message_type::HELLO, 0, b""),
    ];
    for (index, bytes) in cases.iter().enumerate() {
        agent.wire.raw(bytes);
        let hello = agent.wire.attach(TAG, true);
        assert!(hello.reattached, "case {index}");
    }
}

#[test]
fn shutdown_is_graceful_then_not() {
    let mut agent = Agent::start();
    let polite = agent.wire.open(&exec(&[
        "/bin/sh",
        "-c",
        "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done",
    ]));
    let stubborn = agent.wire.open(&exec(&["/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"]));
    for stream in [polite, stubborn] {
        while !matches!(agent.wire.next_on(stream), Received::Data(..)) {}
    }
    let begun = Instant::now();
    agent.wire.send(0, 0, &Message::Shutdown(Shutdown { grace_ms: 700 }));
    let ended = agent.wire.finish(polite);
    assert_eq!((ended.code(), ended.text().as_str()), (0, "bye\n"));
    assert_eq!(agent.child.wait().unwrap().code(), Some(0));
    assert!(begun.elapsed() >= Duration::from_millis(600));
}

#[test]
fn a_shutdown_with_nothing_running_is_quick() {
    let mut agent = Agent::start();
    let begun = Instant::now();
    agent.wire.send(0, 0, &Message::Shutdown(Shutdown { grace_ms: 20_000 }));
    assert_eq!(agent.child.wait().unwrap().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_stream_opened_twice_ends_the_session() {
    let mut agent = Agent::start();
    let stream = agent.wire.open(&exec_with_stdin(&["/bin/cat"]));
    agent.wire.send(stream, 0, &exec(&["/bin/true"]));
    agent.wire.send(0, 0, &Message::Ping(Ping { token: 3 }));
    while let Some(received) = agent.wire.receive_within(Duration::from_millis(300)) {
        assert!(!matches!(received, Received::Message(_, _, Message::Pong(_))), "a host out of step was believed");
    }
    assert!(agent.wire.attach(TAG, true).reattached);
    assert_eq!(agent.wire.run(&["/bin/sh", "-c", "exit 9"]).code(), 9);
}

#[test]
fn a_host_that_does_not_read_is_not_read_either() {
    let mut agent = Agent::start();
    let pings: Vec<u8> = (0..1000).flat_map(|_| frame(TAG, 0, message_type::PING, 0, &[7; 8])).collect();
    let mut to = agent.child_input();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        // 28 MB: far more than pipes and the agent's bound hold.
        for _ in 0..1000 {
            to.write_all(&pings).unwrap();
        }
    });
    std::thread::sleep(Duration::from_millis(400));
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.child.id())).unwrap();
    let rss: u64 = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .unwrap()
        .trim()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(rss < 16 * 1024, "the agent holds {rss} kB for a host that does not read");
    for _ in 0..1_000_000 {
        assert!(matches!(agent.wire.receive(), Some(Received::Message(0, 0, Message::Pong(_)))));
    }
    writer.join().unwrap();
}

#[test]
fn an_input_that_cannot_be_polled_is_read_all_the_same() {
    let path = std::env::temp_dir().join(format!("bulkhead-agent-input-{}", std::process::id()));
    let attach = [&MAGIC_ATTACH[..], &[1, 1, 0, 0, 9, 9, 9, 9], &[5; 16]].concat();
    let ping = frame(0x0909_0909, 0, message_type::PING, 0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    std::fs::write(&path, [attach, ping].concat()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bulkhead-agent")).stdin(File::open(&path).unwrap()).output().unwrap();
    let _ = std::fs::remove_file(&path);
    assert!(output.status.success());
    assert!(output.stdout.ends_with(&frame(0x0909_0909, 0, message_type::PONG, 0, &[1, 2, 3, 4, 5, 6, 7, 8])));
}
