//! `cargo bench -p bulkhead-agent -- [COMMAND ...]`: how long a start takes and how much goes through, over the standard
//! streams of COMMAND (a runtime whose process 1 is the agent) or of the agent as an ordinary process.

#[path = "../tests/common/mod.rs"]
mod common;

use bulkhead_agent::wire::generated::*;
use common::*;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 200;

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort();
    times[(times.len() - 1) * percent / 100].as_secs_f64() * 1000.0
}

fn time(name: &str, mut once: impl FnMut()) {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            once();
            begun.elapsed()
        })
        .collect();
    let (half, most, least) = (percentile(&mut times, 50), percentile(&mut times, 95), percentile(&mut times, 0));
    println!("{name:<32} p50 {half:.3} ms  p95 {most:.3} ms  min {least:.3} ms");
}

fn through(wire: &mut Wire, name: &str, message: &Message, bytes: usize) {
    let begun = Instant::now();
    let stream = wire.open(message);
    let mut got = 0;
    loop {
        match wire.next_on(stream) {
            Received::Data(_, LANE_OUT, data) => got += data.len(),
            Received::Message(_, _, Message::Done(_)) => break,
            Received::Message(_, _, Message::Failed(failed)) => return println!("{name:<32} {}", failed.message),
            Received::Data(..) | Received::Message(..) => {}
        }
    }
    assert_eq!(got, bytes);
    println!("{name:<32} {:.0} MB/s", bytes as f64 / 1e6 / begun.elapsed().as_secs_f64());
}

fn main() {
    let command: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let program = command.first().map_or(env!("CARGO_BIN_EXE_bulkhead-agent"), String::as_str);
    let begun = Instant::now();
    let mut child = Command::new(program)
        .args(command.iter().skip(1))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut wire = Wire::new(child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let hello = wire.attach(TAG, false);
    println!(
        "ready after {:.1} ms, pid {} on {}",
        begun.elapsed().as_secs_f64() * 1000.0,
        hello.pid,
        hello.kernel_release
    );
    time("ping", || {
        wire.send(0, 0, &Message::Ping(Ping { token: 1 }));
        wire.receive();
    });
    time("exec /bin/true", || assert_eq!(wire.run(&["/bin/true"]).code(), 0));
    let nobody = Message::Exec(Exec { user: "65534:65534".into(), ..exec_request(&["/bin/true"]) });
    time("exec /bin/true as another user", || {
        wire.ask(nobody.clone()).ok();
    });
    time("stat", || {
        wire.ask(Message::Stat(Stat { path: b"/bin/true".to_vec(), ..Stat::default() })).ok();
    });
    const BYTES: usize = 512 << 20;
    let blocks = format!("count={}", BYTES >> 16);
    through(&mut wire, "stdout of dd, 64 KiB writes", &exec(&["/bin/dd", "if=/dev/zero", "bs=64k", &blocks]), BYTES);
    let write = Message::Exec(exec_request(&["/bin/sh", "-c", "head -c 134217728 /dev/zero > /tmp/bulkhead-measure"]));
    wire.ask(write);
    let read = ReadFile { path: b"/tmp/bulkhead-measure".to_vec(), length: u64::MAX, ..ReadFile::default() };
    through(&mut wire, "read of a file", &Message::ReadFile(read), 128 << 20);
    wire.ask(Message::Remove(Remove { path: b"/tmp/bulkhead-measure".to_vec(), ..Remove::default() }));
    std::thread::sleep(Duration::from_millis(4500));
    for message in wire.ask(Message::GetUsage(GetUsage {})).messages {
        println!("{message:?}");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", child.id())).unwrap_or_default();
    for line in status
        .lines()
        .filter(|line| ["Rss", "Pss:", "Private_Dirty", "Anonymous"].iter().any(|name| line.starts_with(name)))
    {
        println!("{line}");
    }
    wire.send(0, 0, &Message::Shutdown(Shutdown { grace_ms: 1000 }));
    let _ = child.wait();
}
