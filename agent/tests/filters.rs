//! Filters between fork and exec: the one that is given, and the one that records.

mod common;

use bulkhead_agent::wire::generated::*;
use common::*;

const RETURN: u16 = 0x06;
const LOAD: u16 = 0x20;
const IS: u16 = 0x15;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

fn code(lines: &[(u16, u8, u8, u32)]) -> Vec<u8> {
    let bytes =
        |(code, jt, jf, k): &(u16, u8, u8, u32)| [&code.to_le_bytes()[..], &[*jt, *jf], &k.to_le_bytes()].concat();
    lines.iter().flat_map(bytes).collect()
}

/// Refuses these calls with EACCES.
fn refusing(calls: &[i64]) -> Vec<u8> {
    let mut lines = vec![(LOAD, 0, 0, 0)];
    for call in calls {
        lines.push((IS, 0, 1, *call as u32));
        lines.push((RETURN, 0, 0, ERRNO | libc::EACCES as u32));
    }
    lines.push((RETURN, 0, 0, ALLOW));
    code(&lines)
}

fn configured(filter: Vec<u8>, allow_setuid: bool) -> Agent {
    let mut agent = Agent::start();
    let configure = Configure { filter, allow_setuid, ..Configure::default() };
    agent.wire.send(0, 0, &Message::Configure(configure));
    agent
}

fn root() -> bool {
    // SAFETY: an integer.
    unsafe { libc::geteuid() == 0 }
}

#[cfg(target_arch = "x86_64")]
const MKDIR: [i64; 2] = [libc::SYS_mkdir, libc::SYS_mkdirat];
#[cfg(not(target_arch = "x86_64"))]
const MKDIR: [i64; 1] = [libc::SYS_mkdirat];

fn directory(name: &str) -> String {
    format!("/tmp/bulkhead-filter-{}-{name}", std::process::id())
}

#[test]
fn a_filter_is_on_every_program_and_its_children() {
    let place = directory("given");
    let script = format!("mkdir {place}; (mkdir {place}); grep Seccomp: /proc/self/status");
    let mut agent = configured(refusing(&MKDIR), false);
    let ended = agent.wire.run(&["/bin/sh", "-c", &script]);
    assert_eq!((ended.code(), ended.text().trim()), (0, "Seccomp:\t2"), "{ended:?}");
    assert_eq!(String::from_utf8_lossy(&ended.err).matches("Permission denied").count(), 2, "{ended:?}");
    // The control: without it the same succeeds.
    let mut free = configured(Vec::new(), false);
    assert_eq!(free.wire.run(&["/bin/sh", "-c", &format!("mkdir {place} && rmdir {place}")]).code(), 0);
}

#[test]
fn it_is_on_programs_that_may_raise_their_privileges() {
    if !root() {
        return eprintln!("not tested: needs root");
    }
    let mut agent = configured(refusing(&MKDIR), true);
    for user in ["root", "65534:65534"] {
        let script = format!("mkdir {}; grep -e Seccomp: -e NoNew -e CapPrm /proc/self/status", directory("raised"));
        let request = Exec { user: user.into(), ..exec_request(&["/bin/sh", "-c", &script]) };
        let ended = agent.wire.ask(Message::Exec(request));
        assert!(String::from_utf8_lossy(&ended.err).contains("Permission denied"), "{user}: {ended:?}");
        let text = ended.ok().text();
        assert!(text.contains("Seccomp:\t2") && text.contains("NoNewPrivs:\t0"), "{user}: {text}");
        // What the child kept to install it went with its program.
        assert!(user == "root" || text.contains("CapPrm:\t0000000000000000"), "{user}: {text}");
    }
}

#[test]
fn nothing_starts_where_the_kernel_does_not_take_it() {
    let mut agent = configured(code(&[(LOAD, 0, 0, 0)]), false);
    let ended = agent.wire.run(&["/bin/true"]);
    assert_eq!(ended.kind(), error_kind::UNSUPPORTED, "{ended:?}");
    assert!(ended.failed.unwrap().message.contains("seccomp profile"));
}

#[test]
fn a_filter_that_refuses_everything_ends_the_start() {
    let mut agent = configured(code(&[(RETURN, 0, 0, ERRNO | 1)]), false);
    assert_eq!(agent.wire.run(&["/bin/true"]).kind(), error_kind::COMMAND_NOT_EXECUTABLE);
    // The agent itself is not under it.
    let ended = agent.wire.ask(Message::Stat(Stat { path: b"/".to_vec(), follow: true, user: String::new() }));
    assert!(ended.failed.is_none(), "{ended:?}");
}

#[test]
fn half_an_instruction_or_too_many_end_the_session() {
    for length in [7, 8 * 4097] {
        let mut agent = configured(vec![0; length], false);
        agent.wire.open(&exec(&["/bin/true"]));
        assert_eq!(agent.wire.receive_within(std::time::Duration::from_millis(300)), None, "{length}");
    }
}

fn recorded(agent: &mut Agent, argv: &[&str]) -> (Ended, Vec<RecordedCall>) {
    let stream = agent.wire.open(&Message::Exec(Exec { record: true, ..exec_request(argv) }));
    let mut ended = agent.wire.finish(stream);
    let place = ended.messages.iter().position(|message| matches!(message, Message::Recorded(_)));
    match place.map(|place| ended.messages.remove(place)) {
        Some(Message::Recorded(recorded)) => (ended, recorded.calls),
        _ => panic!("nothing recorded: {ended:?}"),
    }
}

fn has(calls: &[RecordedCall], number: i64) -> bool {
    calls.iter().any(|call| i64::from(call.number) == number)
}

#[test]
fn calls_are_recorded_of_a_program_its_threads_and_its_children() {
    let mut agent = configured(Vec::new(), false);
    let place = directory("recorded");
    let (ended, calls) = recorded(&mut agent, &["/bin/sh", "-c", &format!("mkdir {place} && (rmdir {place}); exit 7")]);
    assert_eq!(ended.code(), 7);
    assert!(MKDIR.iter().any(|number| has(&calls, *number)), "{calls:?}");
    for number in [libc::SYS_execve, libc::SYS_exit_group, libc::SYS_mmap, libc::SYS_wait4] {
        assert!(has(&calls, number), "{number}: {calls:?}");
    }
    assert!(!has(&calls, libc::SYS_socket), "{calls:?}");
    // How the child hands its filter over is not the program's doing.
    assert!(!has(&calls, libc::SYS_sendmsg) && !has(&calls, libc::SYS_seccomp), "{calls:?}");
}

#[test]
fn families_are_recorded_and_a_program_under_load_of_signals_goes_on() {
    let mut agent = configured(Vec::new(), false);
    let script = "import signal,socket,threading\n\
        signal.signal(signal.SIGALRM, lambda *_: None)\n\
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)\n\
        t = [threading.Thread(target=socket.socket, args=(f,)) for f in (socket.AF_UNIX, socket.AF_INET)]\n\
        [x.start() for x in t]; [x.join() for x in t]; print('whole')";
    let (ended, calls) = recorded(&mut agent, &["python3", "-c", script]);
    assert_eq!(ended.text(), "whole\n", "{ended:?}");
    let families: Vec<u64> =
        calls.iter().filter(|call| i64::from(call.number) == libc::SYS_socket).map(|call| call.argument).collect();
    assert_eq!(families, [libc::AF_UNIX as u64, libc::AF_INET as u64]);
}

#[test]
fn what_a_filter_refuses_is_not_recorded() {
    let mut agent = configured(refusing(&MKDIR), false);
    let (ended, calls) = recorded(&mut agent, &["mkdir", &directory("refused")]);
    assert_eq!(ended.code(), 1);
    assert!(!MKDIR.iter().any(|number| has(&calls, *number)), "{calls:?}");
}

#[test]
fn a_program_that_is_not_there_fails_as_without_recording() {
    let mut agent = configured(Vec::new(), false);
    let request = Exec { record: true, ..exec_request(&["/no/such/program"]) };
    assert_eq!(agent.wire.ask(Message::Exec(request)).kind(), error_kind::COMMAND_NOT_FOUND);
    assert_eq!(agent.wire.run(&["/bin/true"]).code(), 0);
}

#[test]
fn whoever_connects_later_is_told_no_recording() {
    let mut agent = configured(Vec::new(), false);
    let request = Exec { record: true, kill_on_cancel: false, ..exec_request(&["/bin/sh", "-c", "sleep 1; exit 3"]) };
    let stream = agent.wire.open(&Message::Exec(request));
    let Received::Message(_, _, Message::Started(started)) = agent.wire.next_on(stream) else { panic!("no start") };
    agent.wire.send(stream, 0, &Message::Cancel(Cancel {}));
    agent.wire.finish(stream);
    let ended = agent.wire.ask(Message::Connect(Connect { pid: started.pid }));
    assert_eq!(ended.code(), 3);
    assert!(matches!(ended.messages[..], [Message::Started(_)]), "{ended:?}");
}
