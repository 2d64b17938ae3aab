//! A small host: one agent as an ordinary process over two pipes.
#![allow(dead_code)]

use bulkhead_agent::wire::codec::{Reader, Writer};
use bulkhead_agent::wire::generated::*;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

pub const TAG: u32 = 0x5a5b_5c5d;
/// Longer than anything here takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    Message(u32, u8, Message),
    Data(u32, u8, Vec<u8>),
}

/// Both ends of a channel, whatever they are.
pub struct Wire {
    pub tag: u32,
    to: Box<dyn Write>,
    from: Box<dyn Read>,
    from_fd: RawFd,
    buffer: Vec<u8>,
    at: usize,
    next: u32,
    queue: HashMap<u32, Vec<Received>>,
    /// Returns credit for each data frame at once.
    pub returns_credit: bool,
}

pub fn frame(tag: u32, stream: u32, kind: u8, lane: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&stream.to_le_bytes());
    bytes.extend_from_slice(&[kind, lane, 0, 0]);
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(&tag.to_le_bytes());
    bytes
}

impl Wire {
    pub fn new(to: impl Write + 'static, from: impl Read + AsRawFd + 'static) -> Self {
        let from_fd = from.as_raw_fd();
        Self {
            tag: TAG,
            to: Box::new(to),
            from: Box::new(from),
            from_fd,
            buffer: Vec::new(),
            at: 0,
            next: 1,
            queue: HashMap::new(),
            returns_credit: true,
        }
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.to.write_all(bytes).expect("the agent takes bytes");
        self.to.flush().unwrap();
    }

    /// Attaches and gives the Hello.
    pub fn attach(&mut self, tag: u32, zeros: bool) -> Hello {
        self.tag = tag;
        let nonce: Vec<u8> = (0..16).map(|i| (tag >> (i % 4 * 8)) as u8 ^ i as u8).collect();
        let mut bytes = if zeros { vec![0u8; MAX_PAYLOAD_BYTES + 16] } else { Vec::new() };
        bytes.extend_from_slice(&MAGIC_ATTACH);
        bytes.extend_from_slice(&[GENERATION, GENERATION, 0, 0]);
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&nonce);
        self.raw(&bytes);
        let answer = [&MAGIC_ATTACHED[..], &[GENERATION, 0, 0, 0], &nonce].concat();
        let deadline = Instant::now() + PATIENCE;
        self.queue.clear();
        loop {
            self.buffer.drain(..self.at);
            self.at = 0;
            if let Some(at) = self.buffer.windows(answer.len()).position(|w| w == answer) {
                self.buffer.drain(..at + answer.len());
                break;
            }
            assert!(self.fill(deadline), "no answer to the attach");
        }
        match self.receive().expect("Hello") {
            Received::Message(0, _, Message::Hello(hello)) => hello,
            other => panic!("{other:?} instead of Hello"),
        }
    }

    fn fill(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis() as i32;
        let mut item = libc::pollfd { fd: self.from_fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one live item.
        if unsafe { libc::poll(&mut item, 1, left) } <= 0 {
            return false;
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        let before = self.buffer.len();
        self.buffer.resize(before + 128 * 1024, 0);
        let count = self.from.read(&mut self.buffer[before..]).unwrap_or(0);
        self.buffer.truncate(before + count);
        count > 0
    }

    pub fn send(&mut self, stream: u32, lane: u8, message: &Message) {
        let mut writer = Writer::default();
        message.write(&mut writer);
        let bytes = frame(self.tag, stream, message.type_number(), lane, &writer.buffer);
        self.raw(&bytes);
    }

    pub fn open(&mut self, message: &Message) -> u32 {
        let id = self.next;
        self.next += 1;
        self.send(id, 0, message);
        id
    }

    pub fn data(&mut self, stream: u32, bytes: &[u8]) {
        let bytes = frame(self.tag, stream, message_type::DATA, 0, bytes);
        self.raw(&bytes);
    }

    pub fn end(&mut self, stream: u32) {
        self.send(stream, LANE_IN, &Message::End(End {}));
    }

    pub fn receive(&mut self) -> Option<Received> {
        self.receive_within(PATIENCE)
    }

    pub fn receive_within(&mut self, patience: Duration) -> Option<Received> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(received) = self.parse() {
                if let (Received::Data(stream, lane, bytes), true) = (&received, self.returns_credit) {
                    let credit = Message::Credit(Credit { bytes: bytes.len() as u32 });
                    let (stream, lane) = (*stream, *lane);
                    self.send(stream, lane, &credit);
                }
                return Some(received);
            }
            if !self.fill(deadline) {
                return None;
            }
        }
    }

    fn parse(&mut self) -> Option<Received> {
        let bytes = &self.buffer[self.at..];
        if bytes.len() < 12 {
            return None;
        }
        let length = u32::from_le_bytes(bytes[0..4].try_into().unwrap()) as usize;
        let stream = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
        assert!(length <= MAX_PAYLOAD_BYTES && bytes[10] == 0 && bytes[11] == 0, "a malformed frame from the agent");
        if bytes.len() < 16 + length {
            return None;
        }
        let tag = u32::from_le_bytes(bytes[12 + length..16 + length].try_into().unwrap());
        assert_eq!(tag, self.tag, "the agent's frame has another tag");
        let payload = &bytes[12..12 + length];
        let received = if bytes[8] == message_type::DATA {
            Received::Data(stream, bytes[9], payload.to_vec())
        } else {
            let mut reader = Reader::new(payload);
            let message = Message::read(bytes[8], &mut reader).expect("a message");
            reader.finish().expect("all of the message");
            Received::Message(stream, bytes[9], message)
        };
        self.at += 16 + length;
        Some(received)
    }

    /// The next thing on one stream; what comes for others is kept for them.
    pub fn next_on(&mut self, stream: u32) -> Received {
        if let Some(list) = self.queue.get_mut(&stream).filter(|list| !list.is_empty()) {
            return list.remove(0);
        }
        loop {
            let received = self.receive().unwrap_or_else(|| panic!("nothing more came on stream {stream}"));
            let (Received::Message(id, ..) | Received::Data(id, ..)) = received;
            if id == stream {
                return received;
            }
            self.queue.entry(id).or_default().push(received);
        }
    }

    /// Everything up to the stream's end.
    pub fn finish(&mut self, stream: u32) -> Ended {
        let mut ended = Ended::default();
        loop {
            match self.next_on(stream) {
                Received::Data(_, LANE_OUT, bytes) => ended.out.extend_from_slice(&bytes),
                Received::Data(_, _, bytes) => ended.err.extend_from_slice(&bytes),
                Received::Message(_, _, Message::Exited(exited)) => ended.exited = Some(exited),
                Received::Message(_, _, Message::Failed(failed)) => {
                    ended.failed = Some(failed);
                    return ended;
                }
                Received::Message(_, _, Message::Done(_)) => return ended,
                Received::Message(_, lane, Message::End(_)) => ended.lanes_ended.push(lane),
                Received::Message(_, _, Message::Credit(_)) => {}
                Received::Message(_, _, message) => ended.messages.push(message),
            }
        }
    }

    pub fn run(&mut self, argv: &[&str]) -> Ended {
        let stream = self.open(&exec(argv));
        self.finish(stream)
    }

    pub fn ask(&mut self, message: Message) -> Ended {
        let stream = self.open(&message);
        self.finish(stream)
    }
}

/// The records of a lane: a length before each.
pub fn records<T>(mut bytes: &[u8], read: impl Fn(&mut Reader) -> T) -> Vec<T> {
    let mut list = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        let mut reader = Reader::new(&bytes[4..4 + length]);
        list.push(read(&mut reader));
        reader.finish().unwrap();
        bytes = &bytes[4 + length..];
    }
    list
}

#[derive(Debug, Default)]
pub struct Ended {
    pub out: Vec<u8>,
    pub err: Vec<u8>,
    pub exited: Option<Exited>,
    pub failed: Option<Failed>,
    pub lanes_ended: Vec<u8>,
    pub messages: Vec<Message>,
}

impl Ended {
    pub fn code(&self) -> i32 {
        let exited = self.exited.as_ref().unwrap_or_else(|| panic!("no exit: {self:?}"));
        assert_eq!(exited.signal, 0, "{self:?}");
        exited.code
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
    pub fn kind(&self) -> u16 {
        self.failed.as_ref().unwrap_or_else(|| panic!("did not fail: {self:?}")).kind
    }
    pub fn ok(&self) -> &Self {
        assert!(self.failed.is_none(), "{:?}", self.failed);
        self
    }
}

pub fn exec_request(argv: &[&str]) -> Exec {
    Exec {
        argv: argv.iter().map(|a| a.as_bytes().to_vec()).collect(),
        cwd: b"/".to_vec(),
        kill_on_cancel: true,
        ..Exec::default()
    }
}

pub fn exec(argv: &[&str]) -> Message {
    Message::Exec(exec_request(argv))
}

pub fn exec_with_stdin(argv: &[&str]) -> Message {
    Message::Exec(Exec { stdin: stdin_mode::PIPE, ..exec_request(argv) })
}

/// An agent that this test started.
pub struct Agent {
    pub child: Child,
    input_fd: RawFd,
    pub wire: Wire,
}

impl Agent {
    pub fn start() -> Self {
        let mut agent = Self::start_unattached();
        let hello = agent.wire.attach(TAG, false);
        assert_eq!(hello.pid, agent.child.id());
        agent
    }

    pub fn start_unattached() -> Self {
        Self::start_command(Command::new(env!("CARGO_BIN_EXE_bulkhead-agent")))
    }

    pub fn start_command(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the agent starts");
        let to: ChildStdin = child.stdin.take().unwrap();
        let from: ChildStdout = child.stdout.take().unwrap();
        Self { child, input_fd: to.as_raw_fd(), wire: Wire::new(to, from) }
    }
}

impl Agent {
    /// Another handle on the way to the agent.
    pub fn child_input(&self) -> std::fs::File {
        std::fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", self.input_fd)).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // SAFETY: a signal to a child of ours that has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}
