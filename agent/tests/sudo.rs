//! sudo by the agent, as an ordinary process of root's with a socket of its own.

mod common;

use bulkhead_agent::wire::generated::*;
use common::*;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const NOBODY: &str = "65534";

struct Place {
    directory: PathBuf,
}

impl Place {
    fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }
    fn sudo(&self) -> String {
        self.directory.join("sudo").to_str().unwrap().into()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// None, loudly, where this is not root.
fn start(name: &str, elevate: bool) -> Option<(Agent, Place)> {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: changing users needs root here");
        return None;
    }
    let directory = std::env::temp_dir().join(format!("bulkhead-sudo-{}-{name}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let place = Place { directory };
    // Where every user may execute it.
    let program = place.directory.join("agent");
    std::fs::copy(env!("CARGO_BIN_EXE_bulkhead-agent"), &program).unwrap();
    std::fs::set_permissions(&place.directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink(&program, place.directory.join("sudo")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead-agent"));
    command.env("BULKHEAD_SUDO_SOCKET", place.socket());
    let mut agent = Agent::start_command(command);
    agent.wire.attach(TAG, false);
    let env = vec![[b"BULKHEAD_SUDO_SOCKET=", place.socket().to_str().unwrap().as_bytes()].concat()];
    let configure = Configure { default_user: NOBODY.into(), env, elevate, ..Configure::default() };
    agent.wire.send(0, 0, &Message::Configure(configure));
    Some((agent, place))
}

fn script(place: &Place, text: &str) -> Message {
    let text = text.replace("sudo ", &format!("{} ", place.sudo()));
    Message::Exec(Exec { stdin: stdin_mode::PIPE, ..exec_request(&["/bin/sh", "-c", &text]) })
}

fn run(agent: &mut Agent, place: &Place, text: &str) -> Ended {
    agent.wire.ask(script(place, text))
}

#[test]
fn the_default_user_becomes_root_and_others() {
    let Some((mut agent, place)) = start("users", true) else { return };
    let ended = run(
        &mut agent,
        &place,
        "id -u; sudo id -u; sudo -u '#12345' id -u; sudo --preserve-env=BULKHEAD_SUDO_SOCKET sudo -n id -u",
    );
    assert_eq!(ended.text(), "65534\n0\n12345\n0\n", "{ended:?}");
}

#[test]
fn codes_signals_and_streams_come_through() {
    let Some((mut agent, place)) = start("codes", true) else { return };
    let text =
        "sudo sh -c 'exit 7'; echo $?; sudo sh -c 'kill -TERM $$'; echo $?; sudo nope; echo $?; sudo -z; echo $?";
    let ended = run(&mut agent, &place, text);
    assert_eq!(ended.text(), "7\n143\n1\n1\n");
    assert!(String::from_utf8_lossy(&ended.err).contains("sudo: nope: command not found\n"), "{ended:?}");
    let stream = agent.wire.open(&script(&place, "sudo sh -c 'cat; echo e >&2'"));
    agent.wire.data(stream, b"through");
    agent.wire.end(stream);
    let ended = agent.wire.finish(stream);
    assert_eq!((ended.out.as_slice(), ended.err.as_slice()), (&b"through"[..], &b"e\n"[..]));
}

#[test]
fn no_descriptor_but_the_three_comes_along() {
    let Some((mut agent, place)) = start("descriptors", true) else { return };
    let ended = run(&mut agent, &place, "exec 7</etc/passwd; sudo sh -c 'echo /proc/self/fd/*'");
    // The shell has its own directory open while it reads it.
    assert!(!ended.text().contains("/fd/7"), "{}", ended.text());
}

#[test]
fn another_user_and_an_agent_that_does_not_listen_are_refused_in_words() {
    let Some((mut agent, place)) = start("refused", true) else { return };
    let other = Exec { user: "12345".into(), ..exec_request(&[&place.sudo(), "id"]) };
    let ended = agent.wire.ask(Message::Exec(other));
    assert_eq!((ended.code(), ended.text()), (1, String::new()));
    assert!(String::from_utf8_lossy(&ended.err).starts_with("sudo: user 12345 may not"), "{ended:?}");
    let Some((mut agent, place)) = start("silent", false) else { return };
    let ended = run(&mut agent, &place, "sudo id; echo $?");
    assert_eq!(ended.text(), "1\n");
    assert!(String::from_utf8_lossy(&ended.err).contains("does not listen"), "{ended:?}");
}

#[test]
fn the_command_gets_its_callers_signals_and_ends_after_it() {
    let Some((mut agent, place)) = start("signals", true) else { return };
    let ended = run(&mut agent, &place, "timeout 1 sudo sleep 98; echo $?");
    assert_eq!(ended.text(), "124\n");
    let ended = run(
        &mut agent,
        &place,
        "sudo sh -c 'trap \"echo hup; exit\" HUP; echo $$; sleep 97 & wait' & sleep 1; kill -9 $!; wait $!; sleep 0.5",
    );
    assert!(ended.text().ends_with("hup\n"), "{ended:?}");
    // One that does not heed the word.
    let ended =
        run(&mut agent, &place, "sudo sh -c 'trap \"\" HUP TERM; echo $$; exec sleep 96' & sleep 1; kill -9 $!");
    let pid: u32 = ended.text().trim().parse().unwrap();
    wait_until("the end of the command", || !Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_caller_that_is_stopped_stops_its_command() {
    let Some((mut agent, place)) = start("stopped", true) else { return };
    let text = "set -m; sudo sh -c 'echo $$; exec sleep 95' & sleep 1; kill -TSTP $!; sleep 0.5; ps -o stat= -C sleep,sudo | sort; \
        kill -CONT $!; sleep 0.5; ps -o stat= -p $!; kill -INT $!; wait $!; echo $?";
    let text = text.replace("sudo sh", &format!("{} sh", place.sudo()));
    let ended = agent.wire.ask(exec(&["/bin/bash", "-c", &text]));
    let pid: u32 = ended.text().lines().next().unwrap().parse().unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(ended.text().ends_with("130\n"), "{ended:?}");
    assert!(ended.text().matches('T').count() >= 2, "{ended:?}");
}

#[test]
fn at_a_terminal_the_command_has_one_of_its_own_and_the_callers_stays_as_it_was() {
    let Some((mut agent, place)) = start("terminal", true) else { return };
    let text = "tty; sudo sh -c 'tty </dev/tty; stty size; stty -echo; exit 9'; echo $?; sudo nope; stty -a";
    let text = text.replace("sudo ", &format!("{} ", place.sudo()));
    let request = Exec { pty: true, rows: 33, cols: 101, ..exec_request(&["/bin/sh", "-c", &text]) };
    let ended = agent.wire.ask(Message::Exec(request));
    let text = ended.text();
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert!(lines[0] != lines[1] && lines[1].starts_with("/dev/"), "{text}");
    assert_eq!(lines[2..5], ["33 101", "9", "sudo: nope: command not found"], "{text}");
    assert!(!["-icanon", "-echo ", "-opost"].iter().any(|off| text.contains(off)), "{text}");
}

#[test]
fn in_the_background_the_command_outlives_its_caller() {
    let Some((mut agent, place)) = start("background", true) else { return };
    let ended = run(&mut agent, &place, "sudo -b sh -c 'sleep 0.5; echo after'; echo before");
    assert_eq!(ended.text(), "before\nafter\n");
}

/// Neither a flood nor nonsense nor silence keeps the agent from its work.
#[test]
fn hostile_connections_harm_nobody_else() {
    let Some((mut agent, place)) = start("hostile", true) else { return };
    agent.wire.ask(Message::GetUsage(GetUsage {})).ok();
    let silent: Vec<UnixStream> = (0..200).map(|_| UnixStream::connect(place.socket()).unwrap()).collect();
    // They are young yet, and so may be honest.
    let ended = run(&mut agent, &place, "sudo echo works");
    assert!(String::from_utf8_lossy(&ended.err).contains("end one first"), "{ended:?}");
    std::thread::sleep(Duration::from_millis(1200));
    let mut plain = UnixStream::connect(place.socket()).unwrap();
    // Without descriptors, and with a length nobody has.
    let _ = plain.write_all(&[0xff; 100]);
    plain.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(String::from_utf8_lossy(&answer).contains("standard streams are missing"), "{answer:?}");
    let ended = run(&mut agent, &place, "sudo echo works");
    assert_eq!(ended.text(), "works\n", "{ended:?}");
    drop(silent);
    for seed in 0..200u32 {
        let mut one = UnixStream::connect(place.socket()).unwrap();
        one.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut ready = [0u8; 5];
        one.read_exact(&mut ready).unwrap();
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let mut bytes: Vec<u8> = (0..64)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state as u8
            })
            .collect();
        bytes[..4].copy_from_slice(&60u32.to_le_bytes());
        send_with_descriptors(&one, &bytes);
        let mut rest = Vec::new();
        let _ = one.read_to_end(&mut rest);
        assert!(!rest.is_empty());
    }
    assert_eq!(run(&mut agent, &place, "sudo echo still").text(), "still\n");
}

fn send_with_descriptors(stream: &UnixStream, bytes: &[u8]) {
    let mut control = [0u64; 8];
    // SAFETY: the control buffer is larger than one header and three descriptors.
    unsafe {
        let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(12) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(12) as _;
        std::ptr::copy_nonoverlapping([0i32, 1, 2].as_ptr().cast::<u8>(), libc::CMSG_DATA(header), 12);
        assert!(libc::sendmsg(stream.as_raw_fd(), &raw const message, 0) > 0);
    }
}
