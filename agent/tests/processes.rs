mod common;

use bulkhead_agent::wire::generated::*;
use common::*;
use std::time::{Duration, Instant};

#[test]
fn output_error_and_code_come_apart() {
    let mut agent = Agent::start();
    let ended = agent.wire.run(&["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(ended.code(), 3);
    assert_eq!((ended.out.as_slice(), ended.err.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(ended.lanes_ended.len(), 2);
    assert!(matches!(ended.messages[..], [Message::Started(_)]));
}

#[test]
fn input_comes_back_from_cat() {
    let mut agent = Agent::start();
    let stream = agent.wire.open(&exec_with_stdin(&["cat"]));
    agent.wire.data(stream, b"one\n\0\xff");
    agent.wire.data(stream, b"two");
    agent.wire.end(stream);
    let ended = agent.wire.finish(stream);
    assert_eq!(ended.code(), 0);
    assert_eq!(ended.out, b"one\n\0\xfftwo");
}

#[test]
fn without_input_a_reader_sees_the_end() {
    let mut agent = Agent::start();
    assert_eq!(agent.wire.run(&["/bin/cat"]).code(), 0);
}

#[test]
fn a_signal_is_named() {
    let mut agent = Agent::start();
    let ended = agent.wire.run(&["/bin/sh", "-c", "kill -SEGV $$"]);
    assert_eq!(ended.exited.unwrap().signal, libc::SIGSEGV as u8);
}

#[test]
fn signals_reach_one_process_or_its_group() {
    let mut agent = Agent::start();
    for group in [false, true] {
        let stream = agent.wire.open(&exec(&["/bin/sleep", "100"]));
        assert!(matches!(agent.wire.next_on(stream), Received::Message(_, _, Message::Started(_))));
        agent.wire.send(stream, 0, &Message::Signal(Signal { signal: 15, group }));
        assert_eq!(agent.wire.finish(stream).exited.unwrap().signal, 15);
    }
    let stream = agent.wire.open(&exec(&["/bin/sh", "-c", "sleep 100 & wait"]));
    assert!(matches!(agent.wire.next_on(stream), Received::Message(_, _, Message::Started(_))));
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    agent.wire.send(stream, 0, &Message::Signal(Signal { signal: 9, group: true }));
    // Both lanes end only when the grandchild is gone too.
    assert_eq!(agent.wire.finish(stream).exited.unwrap().signal, 9);
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn what_cannot_start_says_why() {
    let mut agent = Agent::start();
    let cases: [(&[&str], u16); 5] = [
        (&["no-such-program"], error_kind::COMMAND_NOT_FOUND),
        (&["/no/such/program"], error_kind::COMMAND_NOT_FOUND),
        (&["/etc/passwd"], error_kind::COMMAND_NOT_EXECUTABLE),
        (&["/tmp"], error_kind::COMMAND_NOT_EXECUTABLE),
        (&[], error_kind::INVALID),
    ];
    for (argv, kind) in cases {
        let ended = agent.wire.run(argv);
        assert_eq!(ended.kind(), kind, "{argv:?}: {ended:?}");
    }
    let wrong = |change: &dyn Fn(&mut Exec)| {
        let mut request = exec_request(&["/bin/true"]);
        change(&mut request);
        Message::Exec(request)
    };
    let ended = agent.wire.ask(wrong(&|r| r.cwd = b"/no/such/directory".to_vec()));
    assert_eq!(ended.kind(), error_kind::WORKDIR_NOT_FOUND);
    assert!(ended.failed.unwrap().message.contains("/no/such/directory"));
    let ended = agent.wire.ask(wrong(&|r| r.user = "nobody-of-that-name".into()));
    assert_eq!(ended.kind(), error_kind::USER_NOT_FOUND);
    let ended = agent.wire.ask(wrong(&|r| r.env = vec![b"NOVALUE".to_vec()]));
    assert_eq!(ended.kind(), error_kind::INVALID);
    let ended = agent.wire.ask(wrong(&|r| r.rlimits = vec![Rlimit { resource: 200, soft: 1, hard: 1 }]));
    assert_eq!(ended.kind(), error_kind::INVALID);
}

#[test]
fn ten_megabytes_come_back_whole() {
    let mut agent = Agent::start();
    let stream = agent.wire.open(&exec_with_stdin(&["/bin/cat"]));
    let bytes: Vec<u8> = (0..10u32 << 20).map(|i| (i ^ i >> 8 ^ i >> 16) as u8).collect();
    let mut out = Vec::new();
    let mut credit = INITIAL_CREDIT_BYTES;
    let mut chunks = bytes.chunks(60_000).peekable();
    let mut ended = false;
    loop {
        while let Some(chunk) = chunks.next_if(|chunk| chunk.len() <= credit) {
            credit -= chunk.len();
            agent.wire.data(stream, chunk);
        }
        if chunks.peek().is_none() && !ended {
            ended = true;
            agent.wire.end(stream);
        }
        match agent.wire.next_on(stream) {
            Received::Data(_, _, bytes) => out.extend_from_slice(&bytes),
            Received::Message(_, LANE_IN, Message::Credit(more)) => credit += more.bytes as usize,
            Received::Message(_, _, Message::Done(_)) => break,
            _ => {}
        }
    }
    assert!(out == bytes, "{} bytes came back", out.len());
}

#[test]
fn more_than_the_credit_ends_the_session() {
    let mut agent = Agent::start();
    let stream = agent.wire.open(&exec_with_stdin(&["/bin/sleep", "1000"]));
    for _ in 0..6 {
        agent.wire.data(stream, &[0; 60_000]);
    }
    assert!(agent.wire.attach(TAG, true).reattached);
}

#[test]
fn a_slow_reader_stalls_only_itself() {
    let mut agent = Agent::start();
    agent.wire.returns_credit = false;
    let slow = agent.wire.open(&exec(&["/bin/sh", "-c", "head -c 2000000 /dev/zero; echo end >&2"]));
    let mut got = 0;
    while got < INITIAL_CREDIT_BYTES {
        if let Received::Data(_, LANE_OUT, bytes) = agent.wire.next_on(slow) {
            got += bytes.len();
        }
    }
    assert_eq!(got, INITIAL_CREDIT_BYTES, "more was sent than there was credit for");
    agent.wire.returns_credit = true;
    for _ in 0..20 {
        assert_eq!(agent.wire.run(&["/bin/echo", "hello"]).out, b"hello\n");
    }
    let credit = |bytes| Message::Credit(Credit { bytes });
    agent.wire.send(slow, LANE_OUT, &credit(u32::MAX));
    agent.wire.send(slow, LANE_OUT, &credit(u32::MAX));
    let ended = agent.wire.finish(slow);
    assert_eq!((ended.out.len() + got, ended.err.as_slice()), (2_000_000, &b"end\n"[..]));
}

#[test]
fn fifty_at_once() {
    let mut agent = Agent::start();
    let script = "i=0; while [ $i -lt 50 ]; do echo $1; i=$((i+1)); done; exit $1";
    let streams: Vec<u32> =
        (0..50).map(|i| agent.wire.open(&exec(&["/bin/sh", "-c", script, "sh", &i.to_string()]))).collect();
    for (index, stream) in streams.into_iter().enumerate() {
        let ended = agent.wire.finish(stream);
        assert_eq!((ended.code(), ended.text()), (index as i32, format!("{index}\n").repeat(50)));
    }
}

#[test]
fn too_many_streams_are_refused_one_by_one() {
    let mut agent = Agent::start();
    let path = std::env::temp_dir().to_str().unwrap().as_bytes().to_vec();
    let watch = Message::Watch(Watch { path, recursive: false, user: String::new() });
    let streams: Vec<u32> = (0..MAX_STREAMS).map(|_| agent.wire.open(&watch)).collect();
    assert_eq!(agent.wire.run(&["/bin/true"]).kind(), error_kind::LIMIT);
    for stream in streams {
        agent.wire.send(stream, 0, &Message::Cancel(Cancel {}));
        agent.wire.finish(stream);
    }
    assert_eq!(agent.wire.run(&["/bin/true"]).code(), 0);
}

#[test]
fn a_terminal_is_one_and_changes_its_size() {
    let mut agent = Agent::start();
    let script = "tty; stty size; trap 'stty size; exit 7' WINCH; echo ready; while :; do sleep 0.05; done";
    let request = Exec { pty: true, rows: 24, cols: 80, ..exec_request(&["/bin/sh", "-c", script]) };
    let stream = agent.wire.open(&Message::Exec(request));
    let mut out = String::new();
    while !out.contains("ready") {
        if let Received::Data(_, LANE_OUT, bytes) = agent.wire.next_on(stream) {
            out.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    assert!(out.starts_with("/dev/pts/") && out.contains("24 80"), "{out}");
    agent.wire.send(stream, 0, &Message::Resize(Resize { rows: 50, cols: 132 }));
    let ended = agent.wire.finish(stream);
    assert_eq!(ended.code(), 7);
    assert!(ended.text().contains("50 132"), "{}", ended.text());
    assert_eq!(ended.lanes_ended, [LANE_OUT]);
}

#[test]
fn a_terminal_passes_keys_and_the_end_of_input() {
    let mut agent = Agent::start();
    let request = || Message::Exec(Exec { pty: true, rows: 24, cols: 80, ..exec_request(&["/bin/cat"]) });
    let stream = agent.wire.open(&request());
    agent.wire.data(stream, b"half a line");
    agent.wire.end(stream);
    assert_eq!(agent.wire.finish(stream).code(), 0);
    let stream = agent.wire.open(&request());
    agent.wire.data(stream, b"\x03");
    assert_eq!(agent.wire.finish(stream).exited.unwrap().signal, libc::SIGINT as u8);
}

#[test]
fn orphans_are_reaped() {
    let mut agent = Agent::start();
    let ended = agent.wire.run(&["/bin/sh", "-c", "(sleep 0.2 & echo $!) >&2; exit 0"]);
    let pid = String::from_utf8(ended.err).unwrap().trim().to_string();
    wait_until("the orphan's end", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn cancel_kills_or_leaves() {
    let mut agent = Agent::start();
    for kill in [true, false] {
        let stream =
            agent.wire.open(&Message::Exec(Exec { kill_on_cancel: kill, ..exec_request(&["/bin/sleep", "1000"]) }));
        let Received::Message(_, _, Message::Started(started)) = agent.wire.next_on(stream) else {
            panic!("not started")
        };
        agent.wire.send(stream, 0, &Message::Cancel(Cancel {}));
        agent.wire.finish(stream).ok();
        let path = format!("/proc/{}", started.pid);
        if kill {
            wait_until("the end of what was cancelled", || !std::path::Path::new(&path).exists());
        } else {
            std::thread::sleep(Duration::from_millis(100));
            assert!(std::path::Path::new(&path).exists());
            agent.wire.ask(Message::SignalProcess(SignalProcess { pid: started.pid, signal: 9, group: false })).ok();
        }
    }
    // Cancelled before the answer to its start.
    let stream = agent.wire.open(&exec(&["/bin/sh", "-c", "exec sleep 987654"]));
    agent.wire.send(stream, 0, &Message::Cancel(Cancel {}));
    agent.wire.finish(stream);
    wait_until("the end of what was cancelled early", || {
        let ended = agent.wire.ask(Message::ListProcesses(ListProcesses {}));
        !String::from_utf8_lossy(&ended.out).contains("987654")
    });
}

#[test]
fn surroundings_of_a_process() {
    let mut agent = Agent::start();
    let env = vec![b"A=configured".to_vec(), b"B=configured".to_vec()];
    agent.wire.send(0, 0, &Message::Configure(Configure { env, ..Configure::default() }));
    let mut request = exec_request(&["/bin/sh", "-c", "echo $A $B $C $HOME; pwd; umask; ulimit -n; ls /proc/self/fd | wc -l; grep -E 'NoNewPrivs|SigBlk|SigIgn' /proc/self/status"]);
    request.env = vec![b"B=wanted".to_vec(), b"C=wanted".to_vec()];
    request.cwd = b"/usr".to_vec();
    request.rlimits = vec![Rlimit { resource: libc::RLIMIT_NOFILE as u8, soft: 77, hard: 99 }];
    let ended = agent.wire.ask(Message::Exec(request));
    let text = ended.text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("configured wanted wanted /"), "{text}");
    // 0, 1, 2 and the one `ls` opens itself.
    assert_eq!(lines[1..5], ["/usr", "0022", "77", "4"]);
    assert!(
        text.contains("NoNewPrivs:\t1")
            && text.contains("SigBlk:\t0000000000000000")
            && text.contains("SigIgn:\t0000000000000000"),
        "{text}"
    );
}

#[test]
fn another_user_has_no_capabilities() {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: starting as another user needs root");
        return;
    }
    let mut agent = Agent::start();
    let show = "id -u; id -g; id -G; grep ^Cap /proc/self/status; echo x > /dev/stderr";
    let request = Exec { user: "65534:65534".into(), ..exec_request(&["/bin/sh", "-c", show]) };
    let ended = agent.wire.ask(Message::Exec(request));
    let text = ended.text();
    assert!(text.starts_with("65534\n65534\n65534\n"), "{ended:?}");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(text.contains(&format!("{set}:\t0000000000000000")), "{text}");
    }
    assert_eq!(ended.err, b"x\n");
    let text = agent.wire.run(&["/bin/sh", "-c", "grep -E '^Cap(Eff|Bnd)' /proc/self/status"]).text();
    let sets: Vec<u64> =
        text.lines().map(|l| u64::from_str_radix(l.split('\t').nth(1).unwrap(), 16).unwrap()).collect();
    assert_eq!((sets[0] >> 8 & 1, sets[1] >> 8 & 1), (0, 0), "root kept setpcap: {text}");
}

#[test]
fn the_table_and_the_usage() {
    let mut agent = Agent::start();
    let stream = agent.wire.open(&exec(&["/bin/sleep", "1000"]));
    let Received::Message(_, _, Message::Started(started)) = agent.wire.next_on(stream) else { panic!("not started") };
    let mut found = Process::default();
    // Just started, it may still be on its way into its program.
    wait_until("the process's sleep", || {
        let ended = agent.wire.ask(Message::ListProcesses(ListProcesses {}));
        let list = records(&ended.ok().out, |reader| Process::read(reader).unwrap());
        found = list.into_iter().find(|process| process.pid == started.pid).expect("the process is in the table");
        found.state == b'S'
    });
    assert!(found.managed && found.ppid == agent.child.id() && found.started_ms > 0, "{found:?}");
    assert_eq!(found.command, b"/bin/sleep 1000");
    let ended = agent.wire.ask(Message::GetUsage(GetUsage {}));
    let Message::Usage(usage) = &ended.ok().messages[0] else { panic!("no usage") };
    assert!(
        usage.processes > 1
            && usage.cpus > 0
            && usage.memory_total_bytes > usage.memory_used_bytes
            && usage.disk_total_bytes > 0,
        "{usage:?}"
    );
}

#[test]
fn a_signal_before_the_start_is_not_lost() {
    let mut agent = Agent::start();
    for _ in 0..20 {
        let stream = agent.wire.open(&exec(&["/bin/sleep", "1000"]));
        agent.wire.send(stream, 0, &Message::Signal(Signal { signal: 15, group: true }));
        assert_eq!(agent.wire.finish(stream).exited.unwrap().signal, 15);
    }
}

#[test]
fn a_process_that_ends_while_it_is_being_started_is_told() {
    let mut agent = Agent::start();
    for _ in 0..300 {
        assert_eq!(agent.wire.run(&["/bin/true"]).code(), 0);
    }
    for _ in 0..6 {
        let streams: Vec<u32> = (0..50).map(|_| agent.wire.open(&exec(&["/bin/true"]))).collect();
        for stream in streams {
            assert_eq!(agent.wire.finish(stream).code(), 0);
        }
    }
}

#[test]
fn set_user_id_programs_work_only_when_allowed() {
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 || own.contains("NoNewPrivs:\t1") {
        eprintln!("SKIPPED: needs root without no_new_privs");
        return;
    }
    let mut agent = Agent::start();
    let show = "grep -E '^(NoNewPrivs|CapBnd|CapEff|CapPrm|CapInh)' /proc/self/status";
    for allow_setuid in [true, false] {
        agent.wire.send(0, 0, &Message::Configure(Configure { allow_setuid, ..Configure::default() }));
        let request = Exec { user: "65534:65534".into(), ..exec_request(&["/bin/sh", "-c", show]) };
        let text = agent.wire.ask(Message::Exec(request)).text();
        assert_eq!(text.contains("NoNewPrivs:\t0"), allow_setuid, "{text}");
        assert_eq!(!text.contains("CapBnd:\t0000000000000000"), allow_setuid, "{text}");
        for set in ["CapEff", "CapPrm", "CapInh"] {
            assert!(text.contains(&format!("{set}:\t0000000000000000")), "{text}");
        }
    }
}

#[test]
fn nothing_leaks_over_many_starts_and_files() {
    let mut agent = Agent::start();
    let pid = agent.child.id();
    let count = || std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or(0);
    let mut counts = Vec::new();
    for _ in 0..3 {
        for _ in 0..25 {
            agent.wire.run(&["/bin/true"]);
            agent.wire.run(&["no-such-program"]);
            let stream = agent.wire.open(&Message::Exec(Exec { pty: true, ..exec_request(&["/bin/true"]) }));
            agent.wire.finish(stream);
            let path = b"/etc/passwd".to_vec();
            agent.wire.ask(Message::ReadFile(ReadFile { path, length: 10, ..ReadFile::default() })).ok();
            let watch = Message::Watch(Watch { path: b"/etc".to_vec(), recursive: true, user: String::new() });
            let stream = agent.wire.open(&watch);
            agent.wire.send(stream, 0, &Message::Cancel(Cancel {}));
            agent.wire.finish(stream);
            let dial = Message::DialTcp(DialTcp { address: String::new(), port: 1 });
            assert_eq!(agent.wire.ask(dial).kind(), error_kind::REFUSED);
        }
        std::thread::sleep(Duration::from_millis(200));
        counts.push(count());
    }
    // A cancelled watch closes what it has when its worker gets its turn: fewer is no leak, and on a busy machine later.
    wait_until("as few descriptors as at first", || count() <= counts[0]);
}
