//! Egress with a real kernel: the agent in a network namespace of its own, the programs are threads that enter it.

mod common;
mod outside;

use bulkhead_agent::wire::generated::*;
use common::*;
use outside::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[test]
fn a_connection_carries_a_mebibyte_both_ways_with_both_ends() {
    let mut sandbox = Sandbox::start();
    for to in ["203.0.113.7:80", "8.8.8.8:443", "[2001:db8::7]:80"] {
        let (mut program, stream) = sandbox.connected(to);
        let writer = std::thread::spawn(move || {
            program.write_all(&pattern(1 << 20, 1)).unwrap();
            program.shutdown(std::net::Shutdown::Write).unwrap();
            let mut back = Vec::new();
            program.read_to_end(&mut back).unwrap();
            back
        });
        let mut got = Vec::new();
        loop {
            match sandbox.agent.wire.next_on(stream) {
                Received::Data(_, LANE_OUT, bytes) => got.extend_from_slice(&bytes),
                Received::Message(_, LANE_OUT, Message::End(_)) => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(got == pattern(1 << 20, 1));
        send_all(&mut sandbox.agent.wire, stream, &pattern(1 << 20, 2));
        sandbox.agent.wire.end(stream);
        assert!(writer.join().unwrap() == pattern(1 << 20, 2));
        assert!(sandbox.agent.wire.finish(stream).ok().lanes_ended.is_empty());
    }
}

#[test]
fn the_host_can_end_first() {
    let mut sandbox = Sandbox::start();
    let (mut program, stream) = sandbox.connected("203.0.113.7:80");
    sandbox.agent.wire.data(stream, b"bye");
    sandbox.agent.wire.end(stream);
    let mut text = String::new();
    program.read_to_string(&mut text).unwrap();
    assert_eq!(text, "bye");
    program.write_all(b"one word more").unwrap();
    drop(program);
    let ended = sandbox.agent.wire.finish(stream);
    assert_eq!((ended.ok().text().as_str(), ended.lanes_ended.len()), ("one word more", 1));
}

#[test]
fn a_refusal_is_heard_at_once_as_what_it_is() {
    let mut sandbox = Sandbox::start();
    let cases = [
        ("203.0.113.7:80", refusal::RESET, libc::ECONNREFUSED),
        ("203.0.113.7:80", refusal::UNREACHABLE, libc::EHOSTUNREACH),
        ("203.0.113.7:80", refusal::PROHIBITED, libc::EHOSTUNREACH),
        ("192.0.0.1:80", refusal::RESET, libc::ECONNREFUSED),
        ("[2001:db8::7]:80", refusal::RESET, libc::ECONNREFUSED),
        ("[2001:db8::7]:80", refusal::UNREACHABLE, libc::ENETUNREACH),
        ("[2001:db8::7]:80", refusal::PROHIBITED, libc::EACCES),
    ];
    for (to, how, errno) in cases {
        let connecting = sandbox.connect(to);
        let id = sandbox.asked(egress_request_kind::CONNECT).id;
        sandbox.refuse(id, how);
        let error = connecting.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(errno), "{to} {how}: {error}");
    }
}

#[test]
fn a_reset_goes_through_both_ways() {
    let mut sandbox = Sandbox::start();
    let (mut program, stream) = sandbox.connected("203.0.113.7:80");
    sandbox.agent.wire.send(stream, 0, &Message::Cancel(Cancel {}));
    sandbox.agent.wire.finish(stream).ok();
    assert_eq!(program.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);

    let (program, stream) = sandbox.connected("203.0.113.7:80");
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: a live structure with its size.
    let set = unsafe {
        let size = std::mem::size_of_val(&linger) as u32;
        libc::setsockopt(program.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size)
    };
    assert_eq!(set, 0);
    drop(program);
    assert_eq!(sandbox.agent.wire.finish(stream).kind(), error_kind::REFUSED);
}

#[test]
fn a_program_that_gives_up_is_told_of() {
    let mut sandbox = Sandbox::start();
    let to = outside("203.0.113.7:80");
    let connecting = sandbox.inside(move || TcpStream::connect_timeout(&to, Duration::from_millis(50)).is_err());
    let id = sandbox.asked(egress_request_kind::CONNECT).id;
    assert!(connecting.join().unwrap());
    assert_eq!(sandbox.asked(egress_request_kind::GONE).id, id);
    let stream = sandbox.agent.wire.open(&Message::TakeConnection(TakeConnection { id, window_bytes: WINDOW }));
    assert_eq!(sandbox.agent.wire.finish(stream).kind(), error_kind::NOT_FOUND);
}

#[test]
fn one_that_gave_up_unnoticed_cannot_be_taken() {
    let mut sandbox = Sandbox::start();
    let to = outside("203.0.113.7:80");
    let connecting = sandbox.inside(move || TcpStream::connect_timeout(&to, Duration::from_millis(50)).is_err());
    let id = sandbox.asked(egress_request_kind::CONNECT).id;
    assert!(connecting.join().unwrap());
    let stream = sandbox.agent.wire.open(&Message::TakeConnection(TakeConnection { id, window_bytes: WINDOW }));
    assert_eq!(sandbox.agent.wire.finish(stream).kind(), error_kind::REFUSED);
}

#[test]
fn a_slow_host_is_waited_for() {
    let mut sandbox = Sandbox::start();
    let connecting = sandbox.connect("203.0.113.7:80");
    let request = sandbox.asked(egress_request_kind::CONNECT);
    // Longer than a kernel waits before it repeats its first segment.
    std::thread::sleep(Duration::from_millis(3500));
    let take = TakeConnection { id: request.id, window_bytes: WINDOW };
    let stream = sandbox.agent.wire.open(&Message::TakeConnection(take));
    let mut program = connecting.join().unwrap().unwrap();
    sandbox.agent.wire.data(stream, b"x");
    program.read_exact(&mut [0]).unwrap();
}

#[test]
fn names_are_asked_of_the_resolver_and_nobody_else() {
    let mut sandbox = Sandbox::start();
    let asking = sandbox.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"far too shor", "192.0.0.1:53").unwrap();
        let mut answer = [0; 100];
        let (count, from) = socket.recv_from(&mut answer).unwrap();
        (answer[..count].to_vec(), from)
    });
    let query = sandbox.asked(egress_request_kind::QUERY);
    assert_eq!(query.payload, b"far too shor");
    let (id, payload) = (query.id, b"the answer".to_vec());
    sandbox.reply(&EgressReply { kind: egress_reply_kind::ANSWER, id, payload, ..EgressReply::default() });
    assert_eq!(asking.join().unwrap(), (b"the answer".to_vec(), outside("192.0.0.1:53")));
}

#[test]
fn datagrams_go_and_come() {
    let mut sandbox = Sandbox::start();
    for (from, to) in [("0.0.0.0:0", "203.0.113.7:5000"), ("[::]:0", "[2001:db8::7]:5000")] {
        let program = sandbox.inside(move || {
            let socket = UdpSocket::bind(from).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send(&pattern(5000, 3)).unwrap();
            let mut bytes = [0; 20_000];
            let count = socket.recv(&mut bytes).unwrap();
            assert!(bytes[..count] == pattern(9000, 4));
            socket.send(b"again").unwrap();
            socket.recv(&mut bytes).unwrap_err().kind()
        });
        let request = sandbox.asked(egress_request_kind::DATAGRAM);
        let at = outside(to);
        assert_eq!((request.address.clone(), request.port), (octets(at.ip()), at.port()));
        assert!(request.payload == pattern(5000, 3));
        let reply = EgressReply {
            kind: egress_reply_kind::DATAGRAM,
            address: request.address,
            port: request.port,
            source_port: request.source_port,
            payload: pattern(9000, 4),
            ..EgressReply::default()
        };
        sandbox.reply(&reply);
        sandbox.asked(egress_request_kind::DATAGRAM);
        let (kind, refusal) = (egress_reply_kind::REFUSE_DATAGRAM, refusal::RESET);
        sandbox.reply(&EgressReply { kind, refusal, payload: Vec::new(), ..reply });
        assert_eq!(program.join().unwrap(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_host_that_gives_no_credit_stalls_that_program_alone() {
    let mut sandbox = Sandbox::start();
    let (mut program, stalled) = sandbox.connected("203.0.113.7:80");
    program.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    sandbox.agent.wire.returns_credit = false;
    let mut sent = 0;
    while let Ok(count) = program.write(&pattern(64 * 1024, 0)) {
        sent += count;
    }
    // The host's window, the agent's, and what the kernel itself keeps for a socket.
    assert!(sent < 16 << 20, "{sent} bytes went to a host that reads none");
    let (mut other, stream) = sandbox.connected("203.0.113.8:80");
    other.write_all(b"hello").unwrap();
    assert!(matches!(sandbox.agent.wire.next_on(stream), Received::Data(_, LANE_OUT, bytes) if bytes == b"hello"));
    let mut waiting = 0;
    while let Some(Received::Data(id, _, bytes)) = sandbox.agent.wire.receive_within(Duration::from_millis(300)) {
        assert_eq!(id, stalled);
        waiting += bytes.len();
    }
    assert!(waiting <= WINDOW as usize);
}

#[test]
fn a_program_that_reads_nothing_stalls_the_host_within_its_window() {
    let mut sandbox = Sandbox::start();
    let (mut program, stream) = sandbox.connected("203.0.113.7:80");
    let (bytes, mut credit, mut sent) = (pattern(16 * 1024, 9), WINDOW as usize, 0);
    while credit >= bytes.len() {
        sandbox.agent.wire.data(stream, &bytes);
        (credit, sent) = (credit - bytes.len(), sent + bytes.len());
        while let Some(received) = sandbox.agent.wire.receive_within(Duration::from_millis(200)) {
            let Received::Message(_, 0, Message::Credit(more)) = received else { panic!("{received:?}") };
            credit += more.bytes as usize;
        }
    }
    assert!(sent < 16 << 20, "{sent} bytes went to a program that reads none");
    sandbox.agent.wire.end(stream);
    let reading = std::thread::spawn(move || program.read_to_end(&mut Vec::new()).unwrap());
    assert_eq!(reading.join().unwrap(), sent);
}

#[test]
fn two_hundred_connections_at_once_do_not_mix() {
    const COUNT: usize = 200;
    let mut sandbox = Sandbox::start();
    let programs = sandbox.inside(|| {
        let ends: Vec<JoinHandle<bool>> = (0..COUNT)
            .map(|index| {
                std::thread::spawn(move || {
                    let to = outside(&format!("203.0.113.7:{}", 1000 + index));
                    let mut program = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
                    program.write_all(&pattern(20_000, index as u8)).unwrap();
                    program.shutdown(std::net::Shutdown::Write).unwrap();
                    let mut back = Vec::new();
                    program.read_to_end(&mut back).unwrap();
                    back == pattern(20_000, index as u8)
                })
            })
            .collect();
        ends.into_iter().all(|end| end.join().unwrap())
    });
    let streams: Vec<(u32, u16)> = (0..COUNT)
        .map(|_| {
            let request = sandbox.asked(egress_request_kind::CONNECT);
            let take = TakeConnection { id: request.id, window_bytes: WINDOW };
            (sandbox.agent.wire.open(&Message::TakeConnection(take)), request.port)
        })
        .collect();
    for (stream, port) in streams {
        let mut got = Vec::new();
        loop {
            match sandbox.agent.wire.next_on(stream) {
                Received::Data(_, _, bytes) => got.extend_from_slice(&bytes),
                Received::Message(_, LANE_OUT, Message::End(_)) => break,
                Received::Message(_, _, Message::Opened(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(got == pattern(20_000, (port - 1000) as u8));
        sandbox.agent.wire.data(stream, &got);
        sandbox.agent.wire.end(stream);
        sandbox.agent.wire.finish(stream).ok();
    }
    assert!(programs.join().unwrap());
}

#[test]
fn a_flood_of_connections_is_bounded_and_slows_nothing_else() {
    let mut sandbox = Sandbox::start();
    let begun = Instant::now();
    let flood = sandbox.inside(move || {
        let mut sockets = Vec::new();
        while begun.elapsed() < Duration::from_secs(3) {
            let to = outside(&format!("203.0.113.{}:{}", sockets.len() % 250 + 1, 1 + sockets.len() % 60_000));
            // SAFETY: a new descriptor that nobody else owns, and an address with its size.
            unsafe {
                let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
                let SocketAddr::V4(v4) = to else { unreachable!() };
                let mut raw: libc::sockaddr_in = std::mem::zeroed();
                raw.sin_family = libc::AF_INET as u16;
                raw.sin_port = v4.port().to_be();
                raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                libc::connect(fd, (&raw const raw).cast(), std::mem::size_of_val(&raw) as u32);
                sockets.push(fd);
            }
            if sockets.len() > 500 {
                sockets.drain(..).for_each(|fd| {
                    // SAFETY: ours, and not used again.
                    unsafe { libc::close(fd) };
                });
            }
        }
    });
    // It has begun.
    sandbox.asked(egress_request_kind::CONNECT);
    for token in 0..20 {
        sandbox.agent.wire.send(0, 0, &Message::Ping(Ping { token }));
        loop {
            match sandbox.agent.wire.receive().expect("an answer to a ping") {
                Received::Message(0, _, Message::Pong(pong)) => {
                    assert_eq!(pong.token, token);
                    break;
                }
                Received::Data(_, LANE_OUT, _) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(sandbox.agent.wire.run(&["/bin/sh", "-c", "exit 7"]).code(), 7);
    }
    flood.join().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", sandbox.agent.child.id())).unwrap();
    let rss: u64 =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().split(' ').next()?.parse().ok()).unwrap();
    assert!(rss < 16 * 1024, "the agent holds {rss} kB");
}

#[test]
fn a_new_host_finds_no_connection_and_opens_egress_again() {
    let mut sandbox = Sandbox::start();
    let (mut program, _) = sandbox.connected("203.0.113.7:80");
    let waiting = sandbox.connect("203.0.113.9:80");
    sandbox.asked(egress_request_kind::CONNECT);
    assert!(sandbox.agent.wire.attach(TAG + 1, true).reattached);
    assert_eq!(program.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    sandbox.egress = open(&mut sandbox.agent.wire);
    let (mut program, stream) = sandbox.connected("203.0.113.7:80");
    sandbox.agent.wire.data(stream, b"x");
    program.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_reply_that_is_none_ends_the_session_and_not_the_agent() {
    let mut sandbox = Sandbox::start();
    for bad in [
        EgressReply { kind: 9, ..EgressReply::default() },
        EgressReply { kind: egress_reply_kind::DATAGRAM, address: vec![1; 5], ..EgressReply::default() },
        EgressReply {
            kind: egress_reply_kind::DATAGRAM,
            address: vec![1; 4],
            payload: vec![0; MAX_DATAGRAM_BYTES + 1],
            ..EgressReply::default()
        },
    ] {
        sandbox.reply(&bad);
        assert!(sandbox.agent.wire.attach(TAG, true).reattached);
        sandbox.egress = open(&mut sandbox.agent.wire);
    }
}
