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
