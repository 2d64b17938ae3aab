// Written by scripts/wire.ts from agent/wire/generation-1.json. Do not edit.
#![allow(dead_code, unused_parens, clippy::all)]
#![cfg_attr(rustfmt, rustfmt_skip)]
use crate::wire::codec::{Malformed, Reader, Writer};

pub const GENERATION: u8 = 1;
pub const MAGIC_ATTACH: [u8; 16] = [0x62, 0x75, 0x6c, 0x6b, 0x68, 0x65, 0x61, 0x64, 0x2e, 0x61, 0x74, 0x74, 0x61, 0x63, 0x68, 0x31];
pub const MAGIC_ATTACHED: [u8; 16] = [0x62, 0x75, 0x6c, 0x6b, 0x68, 0x65, 0x61, 0x64, 0x2e, 0x61, 0x74, 0x74, 0x61, 0x63, 0x68, 0x64];
pub const MAX_PAYLOAD_BYTES: usize = 65536;
pub const MAX_STREAMS: usize = 1024;
pub const INITIAL_CREDIT_BYTES: usize = 262144;
pub const MAX_LIST_ITEMS: usize = 4096;
pub const MAX_RECORD_BYTES: usize = 65536;
pub const MAX_CONNECTIONS: usize = 256;
pub const MAX_QUERIES: usize = 512;
pub const MAX_QUERY_BYTES: usize = 4096;
pub const MAX_DATAGRAM_BYTES: usize = 16336;
pub const LANE_IN: u8 = 0;
pub const LANE_OUT: u8 = 1;
pub const LANE_ERR: u8 = 2;

pub mod entry_kind {
    pub const FILE: u8 = 1;
    pub const DIRECTORY: u8 = 2;
    pub const SYMLINK: u8 = 3;
    pub const FIFO: u8 = 4;
    pub const SOCKET: u8 = 5;
    pub const BLOCK: u8 = 6;
    pub const CHARACTER: u8 = 7;
}
pub mod watch_kind {
    pub const CREATE: u8 = 1;
    pub const WRITE: u8 = 2;
    pub const REMOVE: u8 = 3;
    pub const RENAME: u8 = 4;
    pub const CHMOD: u8 = 5;
    pub const OVERFLOW: u8 = 6;
}
pub mod stdin_mode {
    pub const NULL: u8 = 0;
    pub const PIPE: u8 = 1;
}
pub mod host_gone {
    pub const EXIT: u8 = 0;
    pub const KEEP: u8 = 1;
}
pub mod limit_kind {
    pub const MEMORY: u8 = 1;
    pub const PIDS: u8 = 2;
    pub const DISK: u8 = 3;
}
pub mod write_mode {
    pub const TRUNCATE: u8 = 0;
    pub const APPEND: u8 = 1;
    pub const EXCLUSIVE: u8 = 2;
    pub const ATOMIC: u8 = 3;
}
pub mod egress_request_kind {
    pub const CONNECT: u8 = 1;
    pub const GONE: u8 = 2;
    pub const QUERY: u8 = 3;
    pub const DATAGRAM: u8 = 4;
}
pub mod egress_reply_kind {
    pub const REFUSE: u8 = 1;
    pub const ANSWER: u8 = 2;
    pub const DATAGRAM: u8 = 3;
    pub const REFUSE_DATAGRAM: u8 = 4;
}
pub mod refusal {
    pub const RESET: u8 = 1;
    pub const UNREACHABLE: u8 = 2;
    pub const PROHIBITED: u8 = 3;
}
pub mod error_kind {
    pub const INVALID: u16 = 1;
    pub const NOT_FOUND: u16 = 2;
    pub const EXISTS: u16 = 3;
    pub const NOT_DIRECTORY: u16 = 4;
    pub const IS_DIRECTORY: u16 = 5;
    pub const PERMISSION: u16 = 6;
    pub const NO_SPACE: u16 = 7;
    pub const IO: u16 = 8;
    pub const USER_NOT_FOUND: u16 = 9;
    pub const WORKDIR_NOT_FOUND: u16 = 10;
    pub const COMMAND_NOT_FOUND: u16 = 11;
    pub const COMMAND_NOT_EXECUTABLE: u16 = 12;
    pub const PROCESS_NOT_FOUND: u16 = 13;
    pub const REFUSED: u16 = 14;
    pub const LIMIT: u16 = 15;
    pub const UNSUPPORTED: u16 = 16;
    pub const NOT_EMPTY: u16 = 17;
}

pub mod message_type {
    pub const HELLO: u8 = 1;
    pub const PING: u8 = 2;
    pub const PONG: u8 = 3;
    pub const CONFIGURE: u8 = 4;
    pub const SHUTDOWN: u8 = 5;
    pub const LIMIT_HIT: u8 = 6;
    pub const DATA: u8 = 16;
    pub const END: u8 = 17;
    pub const CREDIT: u8 = 18;
    pub const CANCEL: u8 = 19;
    pub const FAILED: u8 = 20;
    pub const DONE: u8 = 21;
    pub const EXEC: u8 = 32;
    pub const CONNECT: u8 = 33;
    pub const STARTED: u8 = 34;
    pub const SIGNAL: u8 = 35;
    pub const RESIZE: u8 = 36;
    pub const EXITED: u8 = 37;
    pub const SIGNAL_PROCESS: u8 = 38;
    pub const LIST_PROCESSES: u8 = 39;
    pub const GET_USAGE: u8 = 40;
    pub const USAGE: u8 = 41;
    pub const PREPARE_GUEST: u8 = 42;
    pub const READ_FILE: u8 = 48;
    pub const WRITE_FILE: u8 = 49;
    pub const STAT: u8 = 50;
    pub const STAT_RESULT: u8 = 51;
    pub const LIST_DIRECTORY: u8 = 52;
    pub const MAKE_DIRECTORY: u8 = 53;
    pub const MOVE: u8 = 54;
    pub const REMOVE: u8 = 55;
    pub const CHANGE_MODE: u8 = 56;
    pub const CHANGE_OWNER: u8 = 57;
    pub const WATCH: u8 = 58;
    pub const OPENED: u8 = 59;
    pub const WRITTEN: u8 = 60;
    pub const MAKE_SYMLINK: u8 = 61;
    pub const CHANGE_TIME: u8 = 62;
    pub const DIAL_TCP: u8 = 64;
    pub const DIAL_UNIX: u8 = 65;
    pub const MOUNT_SHARED: u8 = 80;
    pub const REFRESH_GUEST: u8 = 90;
    pub const OPEN_EGRESS: u8 = 100;
    pub const TAKE_CONNECTION: u8 = 101;
    pub const RECORDED: u8 = 120;
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rlimit {
    pub resource: u8,
    pub soft: u64,
    pub hard: u64,
}

impl Rlimit {
    pub fn write(&self, w: &mut Writer) {
        w.u8(*&self.resource);
        w.u64(*&self.soft);
        w.u64(*&self.hard);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            resource: r.u8()?,
            soft: r.u64()?,
            hard: r.u64()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("resource".into(), (*(&self.resource)).into());
        map.insert("soft".into(), (&self.soft).to_string().into());
        map.insert("hard".into(), (&self.hard).to_string().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    pub path: Vec<u8>,
    pub kind: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub owner: String,
    pub group: String,
    pub size: u64,
    pub mtime_ns: i64,
    pub target: Vec<u8>,
}

impl Entry {
    pub fn write(&self, w: &mut Writer) {
        w.bytes(&self.path);
        w.u8(*&self.kind);
        w.u32(*&self.mode);
        w.u32(*&self.uid);
        w.u32(*&self.gid);
        w.str(&self.owner);
        w.str(&self.group);
        w.u64(*&self.size);
        w.i64(*&self.mtime_ns);
        w.bytes(&self.target);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            path: r.bytes()?,
            kind: r.u8()?,
            mode: r.u32()?,
            uid: r.u32()?,
            gid: r.u32()?,
            owner: r.str()?,
            group: r.str()?,
            size: r.u64()?,
            mtime_ns: r.i64()?,
            target: r.bytes()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("path".into(), crate::wire::hex((&self.path)).into());
        map.insert("kind".into(), (*(&self.kind)).into());
        map.insert("mode".into(), (*(&self.mode)).into());
        map.insert("uid".into(), (*(&self.uid)).into());
        map.insert("gid".into(), (*(&self.gid)).into());
        map.insert("owner".into(), (&self.owner).clone().into());
        map.insert("group".into(), (&self.group).clone().into());
        map.insert("size".into(), (&self.size).to_string().into());
        map.insert("mtimeNs".into(), (&self.mtime_ns).to_string().into());
        map.insert("target".into(), crate::wire::hex((&self.target)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchEvent {
    pub kind: u8,
    pub path: Vec<u8>,
    pub is_directory: bool,
}

impl WatchEvent {
    pub fn write(&self, w: &mut Writer) {
        w.u8(*&self.kind);
        w.bytes(&self.path);
        w.bool(*&self.is_directory);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            kind: r.u8()?,
            path: r.bytes()?,
            is_directory: r.bool()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("kind".into(), (*(&self.kind)).into());
        map.insert("path".into(), crate::wire::hex((&self.path)).into());
        map.insert("isDirectory".into(), (*(&self.is_directory)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SharedMount {
    pub name: String,
    pub target: Vec<u8>,
    pub read_only: bool,
}

impl SharedMount {
    pub fn write(&self, w: &mut Writer) {
        w.str(&self.name);
        w.bytes(&self.target);
        w.bool(*&self.read_only);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            name: r.str()?,
            target: r.bytes()?,
            read_only: r.bool()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("name".into(), (&self.name).clone().into());
        map.insert("target".into(), crate::wire::hex((&self.target)).into());
        map.insert("readOnly".into(), (*(&self.read_only)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordedCall {
    pub number: u32,
    pub argument: u64,
}

impl RecordedCall {
    pub fn write(&self, w: &mut Writer) {
        w.u32(*&self.number);
        w.u64(*&self.argument);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            number: r.u32()?,
            argument: r.u64()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("number".into(), (*(&self.number)).into());
        map.insert("argument".into(), (&self.argument).to_string().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    pub pid: u32,
    pub ppid: u32,
    pub uid: u32,
    pub state: u8,
    pub rss_bytes: u64,
    pub cpu_ms: u64,
    pub started_ms: u64,
    pub managed: bool,
    pub command: Vec<u8>,
}

impl Process {
    pub fn write(&self, w: &mut Writer) {
        w.u32(*&self.pid);
        w.u32(*&self.ppid);
        w.u32(*&self.uid);
        w.u8(*&self.state);
        w.u64(*&self.rss_bytes);
        w.u64(*&self.cpu_ms);
        w.u64(*&self.started_ms);
        w.bool(*&self.managed);
        w.bytes(&self.command);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            pid: r.u32()?,
            ppid: r.u32()?,
            uid: r.u32()?,
            state: r.u8()?,
            rss_bytes: r.u64()?,
            cpu_ms: r.u64()?,
            started_ms: r.u64()?,
            managed: r.bool()?,
            command: r.bytes()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("pid".into(), (*(&self.pid)).into());
        map.insert("ppid".into(), (*(&self.ppid)).into());
        map.insert("uid".into(), (*(&self.uid)).into());
        map.insert("state".into(), (*(&self.state)).into());
        map.insert("rssBytes".into(), (&self.rss_bytes).to_string().into());
        map.insert("cpuMs".into(), (&self.cpu_ms).to_string().into());
        map.insert("startedMs".into(), (&self.started_ms).to_string().into());
        map.insert("managed".into(), (*(&self.managed)).into());
        map.insert("command".into(), crate::wire::hex((&self.command)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EgressRequest {
    pub kind: u8,
    pub id: u32,
    pub address: Vec<u8>,
    pub port: u16,
    pub source_port: u16,
    pub payload: Vec<u8>,
}

impl EgressRequest {
    pub fn write(&self, w: &mut Writer) {
        w.u8(*&self.kind);
        w.u32(*&self.id);
        w.bytes(&self.address);
        w.u16(*&self.port);
        w.u16(*&self.source_port);
        w.bytes(&self.payload);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            kind: r.u8()?,
            id: r.u32()?,
            address: r.bytes()?,
            port: r.u16()?,
            source_port: r.u16()?,
            payload: r.bytes()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("kind".into(), (*(&self.kind)).into());
        map.insert("id".into(), (*(&self.id)).into());
        map.insert("address".into(), crate::wire::hex((&self.address)).into());
        map.insert("port".into(), (*(&self.port)).into());
        map.insert("sourcePort".into(), (*(&self.source_port)).into());
        map.insert("payload".into(), crate::wire::hex((&self.payload)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EgressReply {
    pub kind: u8,
    pub id: u32,
    pub refusal: u8,
    pub address: Vec<u8>,
    pub port: u16,
    pub source_port: u16,
    pub payload: Vec<u8>,
}

impl EgressReply {
    pub fn write(&self, w: &mut Writer) {
        w.u8(*&self.kind);
        w.u32(*&self.id);
        w.u8(*&self.refusal);
        w.bytes(&self.address);
        w.u16(*&self.port);
        w.u16(*&self.source_port);
        w.bytes(&self.payload);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            kind: r.u8()?,
            id: r.u32()?,
            refusal: r.u8()?,
            address: r.bytes()?,
            port: r.u16()?,
            source_port: r.u16()?,
            payload: r.bytes()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("kind".into(), (*(&self.kind)).into());
        map.insert("id".into(), (*(&self.id)).into());
        map.insert("refusal".into(), (*(&self.refusal)).into());
        map.insert("address".into(), crate::wire::hex((&self.address)).into());
        map.insert("port".into(), (*(&self.port)).into());
        map.insert("sourcePort".into(), (*(&self.source_port)).into());
        map.insert("payload".into(), crate::wire::hex((&self.payload)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    pub agent_version: String,
    pub kernel_release: String,
    pub boot_id: String,
    pub pid: u32,
    pub reattached: bool,
}

impl Hello {
    pub fn write(&self, w: &mut Writer) {
        w.str(&self.agent_version);
        w.str(&self.kernel_release);
        w.str(&self.boot_id);
        w.u32(*&self.pid);
        w.bool(*&self.reattached);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            agent_version: r.str()?,
            kernel_release: r.str()?,
            boot_id: r.str()?,
            pid: r.u32()?,
            reattached: r.bool()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("agentVersion".into(), (&self.agent_version).clone().into());
        map.insert("kernelRelease".into(), (&self.kernel_release).clone().into());
        map.insert("bootId".into(), (&self.boot_id).clone().into());
        map.insert("pid".into(), (*(&self.pid)).into());
        map.insert("reattached".into(), (*(&self.reattached)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ping {
    pub token: u64,
}

impl Ping {
    pub fn write(&self, w: &mut Writer) {
        w.u64(*&self.token);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            token: r.u64()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("token".into(), (&self.token).to_string().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pong {
    pub token: u64,
}

impl Pong {
    pub fn write(&self, w: &mut Writer) {
        w.u64(*&self.token);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            token: r.u64()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("token".into(), (&self.token).to_string().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configure {
    pub host_gone: u8,
    pub default_user: String,
    pub allow_setuid: bool,
    pub env: Vec<Vec<u8>>,
    pub hostname: String,
    pub elevate: bool,
    pub open_files: u64,
    pub filter: Vec<u8>,
}

impl Configure {
    pub fn write(&self, w: &mut Writer) {
        w.u8(*&self.host_gone);
        w.str(&self.default_user);
        w.bool(*&self.allow_setuid);
        w.list(&self.env, |w, v| w.bytes(v));
        w.str(&self.hostname);
        w.bool(*&self.elevate);
        w.u64(*&self.open_files);
        w.bytes(&self.filter);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            host_gone: r.u8()?,
            default_user: r.str()?,
            allow_setuid: r.bool()?,
            env: r.list(|r| r.bytes())?,
            hostname: r.str()?,
            elevate: r.bool()?,
            open_files: r.u64()?,
            filter: r.bytes()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("hostGone".into(), (*(&self.host_gone)).into());
        map.insert("defaultUser".into(), (&self.default_user).clone().into());
        map.insert("allowSetuid".into(), (*(&self.allow_setuid)).into());
        map.insert("env".into(), serde_json::Value::Array((&self.env).iter().map(|v| crate::wire::hex(v).into()).collect()));
        map.insert("hostname".into(), (&self.hostname).clone().into());
        map.insert("elevate".into(), (*(&self.elevate)).into());
        map.insert("openFiles".into(), (&self.open_files).to_string().into());
        map.insert("filter".into(), crate::wire::hex((&self.filter)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shutdown {
    pub grace_ms: u32,
}

impl Shutdown {
    pub fn write(&self, w: &mut Writer) {
        w.u32(*&self.grace_ms);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            grace_ms: r.u32()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("graceMs".into(), (*(&self.grace_ms)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LimitHit {
    pub limit: u8,
    pub pid: u32,
    pub command: Vec<u8>,
}

impl LimitHit {
    pub fn write(&self, w: &mut Writer) {
        w.u8(*&self.limit);
        w.u32(*&self.pid);
        w.bytes(&self.command);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            limit: r.u8()?,
            pid: r.u32()?,
            command: r.bytes()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("limit".into(), (*(&self.limit)).into());
        map.insert("pid".into(), (*(&self.pid)).into());
        map.insert("command".into(), crate::wire::hex((&self.command)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct End {
}

impl End {
    pub fn write(&self, _w: &mut Writer) {
    }

    pub fn read(_r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credit {
    pub bytes: u32,
}

impl Credit {
    pub fn write(&self, w: &mut Writer) {
        w.u32(*&self.bytes);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            bytes: r.u32()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("bytes".into(), (*(&self.bytes)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cancel {
}

impl Cancel {
    pub fn write(&self, _w: &mut Writer) {
    }

    pub fn read(_r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Failed {
    pub kind: u16,
    pub errno: u32,
    pub message: String,
}

impl Failed {
    pub fn write(&self, w: &mut Writer) {
        w.u16(*&self.kind);
        w.u32(*&self.errno);
        w.str(&self.message);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            kind: r.u16()?,
            errno: r.u32()?,
            message: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("kind".into(), (*(&self.kind)).into());
        map.insert("errno".into(), (*(&self.errno)).into());
        map.insert("message".into(), (&self.message).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Done {
}

impl Done {
    pub fn write(&self, _w: &mut Writer) {
    }

    pub fn read(_r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exec {
    pub argv: Vec<Vec<u8>>,
    pub env: Vec<Vec<u8>>,
    pub cwd: Vec<u8>,
    pub user: String,
    pub stdin: u8,
    pub pty: bool,
    pub rows: u16,
    pub cols: u16,
    pub rlimits: Vec<Rlimit>,
    pub kill_on_cancel: bool,
    pub record: bool,
}

impl Exec {
    pub fn write(&self, w: &mut Writer) {
        w.list(&self.argv, |w, v| w.bytes(v));
        w.list(&self.env, |w, v| w.bytes(v));
        w.bytes(&self.cwd);
        w.str(&self.user);
        w.u8(*&self.stdin);
        w.bool(*&self.pty);
        w.u16(*&self.rows);
        w.u16(*&self.cols);
        w.list(&self.rlimits, |w, v| (v).write(w));
        w.bool(*&self.kill_on_cancel);
        w.bool(*&self.record);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            argv: r.list(|r| r.bytes())?,
            env: r.list(|r| r.bytes())?,
            cwd: r.bytes()?,
            user: r.str()?,
            stdin: r.u8()?,
            pty: r.bool()?,
            rows: r.u16()?,
            cols: r.u16()?,
            rlimits: r.list(|r| Rlimit::read(r))?,
            kill_on_cancel: r.bool()?,
            record: r.bool()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("argv".into(), serde_json::Value::Array((&self.argv).iter().map(|v| crate::wire::hex(v).into()).collect()));
        map.insert("env".into(), serde_json::Value::Array((&self.env).iter().map(|v| crate::wire::hex(v).into()).collect()));
        map.insert("cwd".into(), crate::wire::hex((&self.cwd)).into());
        map.insert("user".into(), (&self.user).clone().into());
        map.insert("stdin".into(), (*(&self.stdin)).into());
        map.insert("pty".into(), (*(&self.pty)).into());
        map.insert("rows".into(), (*(&self.rows)).into());
        map.insert("cols".into(), (*(&self.cols)).into());
        map.insert("rlimits".into(), serde_json::Value::Array((&self.rlimits).iter().map(|v| v.json()).collect()));
        map.insert("killOnCancel".into(), (*(&self.kill_on_cancel)).into());
        map.insert("record".into(), (*(&self.record)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connect {
    pub pid: u32,
}

impl Connect {
    pub fn write(&self, w: &mut Writer) {
        w.u32(*&self.pid);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            pid: r.u32()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("pid".into(), (*(&self.pid)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Started {
    pub pid: u32,
    pub stdout_offset: u64,
    pub stderr_offset: u64,
}

impl Started {
    pub fn write(&self, w: &mut Writer) {
        w.u32(*&self.pid);
        w.u64(*&self.stdout_offset);
        w.u64(*&self.stderr_offset);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            pid: r.u32()?,
            stdout_offset: r.u64()?,
            stderr_offset: r.u64()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("pid".into(), (*(&self.pid)).into());
        map.insert("stdoutOffset".into(), (&self.stdout_offset).to_string().into());
        map.insert("stderrOffset".into(), (&self.stderr_offset).to_string().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signal {
    pub signal: u8,
    pub group: bool,
}

impl Signal {
    pub fn write(&self, w: &mut Writer) {
        w.u8(*&self.signal);
        w.bool(*&self.group);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            signal: r.u8()?,
            group: r.bool()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("signal".into(), (*(&self.signal)).into());
        map.insert("group".into(), (*(&self.group)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resize {
    pub rows: u16,
    pub cols: u16,
}

impl Resize {
    pub fn write(&self, w: &mut Writer) {
        w.u16(*&self.rows);
        w.u16(*&self.cols);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            rows: r.u16()?,
            cols: r.u16()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("rows".into(), (*(&self.rows)).into());
        map.insert("cols".into(), (*(&self.cols)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exited {
    pub code: i32,
    pub signal: u8,
    pub core_dumped: bool,
    pub user_ms: u64,
    pub system_ms: u64,
    pub max_rss_bytes: u64,
}

impl Exited {
    pub fn write(&self, w: &mut Writer) {
        w.i32(*&self.code);
        w.u8(*&self.signal);
        w.bool(*&self.core_dumped);
        w.u64(*&self.user_ms);
        w.u64(*&self.system_ms);
        w.u64(*&self.max_rss_bytes);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            code: r.i32()?,
            signal: r.u8()?,
            core_dumped: r.bool()?,
            user_ms: r.u64()?,
            system_ms: r.u64()?,
            max_rss_bytes: r.u64()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("code".into(), (*(&self.code)).into());
        map.insert("signal".into(), (*(&self.signal)).into());
        map.insert("coreDumped".into(), (*(&self.core_dumped)).into());
        map.insert("userMs".into(), (&self.user_ms).to_string().into());
        map.insert("systemMs".into(), (&self.system_ms).to_string().into());
        map.insert("maxRssBytes".into(), (&self.max_rss_bytes).to_string().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SignalProcess {
    pub pid: u32,
    pub signal: u8,
    pub group: bool,
}

impl SignalProcess {
    pub fn write(&self, w: &mut Writer) {
        w.u32(*&self.pid);
        w.u8(*&self.signal);
        w.bool(*&self.group);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            pid: r.u32()?,
            signal: r.u8()?,
            group: r.bool()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("pid".into(), (*(&self.pid)).into());
        map.insert("signal".into(), (*(&self.signal)).into());
        map.insert("group".into(), (*(&self.group)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListProcesses {
}

impl ListProcesses {
    pub fn write(&self, _w: &mut Writer) {
    }

    pub fn read(_r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GetUsage {
}

impl GetUsage {
    pub fn write(&self, _w: &mut Writer) {
    }

    pub fn read(_r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    pub processes: u32,
    pub memory_used_bytes: u64,
    pub memory_total_bytes: u64,
    pub cpus: u32,
    pub cpu_ms: u64,
    pub uptime_ms: u64,
    pub disk_used_bytes: u64,
    pub disk_total_bytes: u64,
    pub agent_rss_bytes: u64,
}

impl Usage {
    pub fn write(&self, w: &mut Writer) {
        w.u32(*&self.processes);
        w.u64(*&self.memory_used_bytes);
        w.u64(*&self.memory_total_bytes);
        w.u32(*&self.cpus);
        w.u64(*&self.cpu_ms);
        w.u64(*&self.uptime_ms);
        w.u64(*&self.disk_used_bytes);
        w.u64(*&self.disk_total_bytes);
        w.u64(*&self.agent_rss_bytes);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            processes: r.u32()?,
            memory_used_bytes: r.u64()?,
            memory_total_bytes: r.u64()?,
            cpus: r.u32()?,
            cpu_ms: r.u64()?,
            uptime_ms: r.u64()?,
            disk_used_bytes: r.u64()?,
            disk_total_bytes: r.u64()?,
            agent_rss_bytes: r.u64()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("processes".into(), (*(&self.processes)).into());
        map.insert("memoryUsedBytes".into(), (&self.memory_used_bytes).to_string().into());
        map.insert("memoryTotalBytes".into(), (&self.memory_total_bytes).to_string().into());
        map.insert("cpus".into(), (*(&self.cpus)).into());
        map.insert("cpuMs".into(), (&self.cpu_ms).to_string().into());
        map.insert("uptimeMs".into(), (&self.uptime_ms).to_string().into());
        map.insert("diskUsedBytes".into(), (&self.disk_used_bytes).to_string().into());
        map.insert("diskTotalBytes".into(), (&self.disk_total_bytes).to_string().into());
        map.insert("agentRssBytes".into(), (&self.agent_rss_bytes).to_string().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PrepareGuest {
    pub root_device: String,
    pub upper_device: String,
    pub upper_bytes: u64,
    pub upper_inodes: u64,
    pub hostname: String,
    pub machine_id: String,
    pub seed: Vec<u8>,
    pub realtime_ns: i64,
    pub pids: u64,
    pub memory_bytes: u64,
    pub resolver: String,
}

impl PrepareGuest {
    pub fn write(&self, w: &mut Writer) {
        w.str(&self.root_device);
        w.str(&self.upper_device);
        w.u64(*&self.upper_bytes);
        w.u64(*&self.upper_inodes);
        w.str(&self.hostname);
        w.str(&self.machine_id);
        w.bytes(&self.seed);
        w.i64(*&self.realtime_ns);
        w.u64(*&self.pids);
        w.u64(*&self.memory_bytes);
        w.str(&self.resolver);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            root_device: r.str()?,
            upper_device: r.str()?,
            upper_bytes: r.u64()?,
            upper_inodes: r.u64()?,
            hostname: r.str()?,
            machine_id: r.str()?,
            seed: r.bytes()?,
            realtime_ns: r.i64()?,
            pids: r.u64()?,
            memory_bytes: r.u64()?,
            resolver: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("rootDevice".into(), (&self.root_device).clone().into());
        map.insert("upperDevice".into(), (&self.upper_device).clone().into());
        map.insert("upperBytes".into(), (&self.upper_bytes).to_string().into());
        map.insert("upperInodes".into(), (&self.upper_inodes).to_string().into());
        map.insert("hostname".into(), (&self.hostname).clone().into());
        map.insert("machineId".into(), (&self.machine_id).clone().into());
        map.insert("seed".into(), crate::wire::hex((&self.seed)).into());
        map.insert("realtimeNs".into(), (&self.realtime_ns).to_string().into());
        map.insert("pids".into(), (&self.pids).to_string().into());
        map.insert("memoryBytes".into(), (&self.memory_bytes).to_string().into());
        map.insert("resolver".into(), (&self.resolver).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadFile {
    pub path: Vec<u8>,
    pub offset: u64,
    pub length: u64,
    pub user: String,
}

impl ReadFile {
    pub fn write(&self, w: &mut Writer) {
        w.bytes(&self.path);
        w.u64(*&self.offset);
        w.u64(*&self.length);
        w.str(&self.user);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            path: r.bytes()?,
            offset: r.u64()?,
            length: r.u64()?,
            user: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("path".into(), crate::wire::hex((&self.path)).into());
        map.insert("offset".into(), (&self.offset).to_string().into());
        map.insert("length".into(), (&self.length).to_string().into());
        map.insert("user".into(), (&self.user).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteFile {
    pub path: Vec<u8>,
    pub mode: u32,
    pub how: u8,
    pub make_parents: bool,
    pub user: String,
}

impl WriteFile {
    pub fn write(&self, w: &mut Writer) {
        w.bytes(&self.path);
        w.u32(*&self.mode);
        w.u8(*&self.how);
        w.bool(*&self.make_parents);
        w.str(&self.user);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            path: r.bytes()?,
            mode: r.u32()?,
            how: r.u8()?,
            make_parents: r.bool()?,
            user: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("path".into(), crate::wire::hex((&self.path)).into());
        map.insert("mode".into(), (*(&self.mode)).into());
        map.insert("how".into(), (*(&self.how)).into());
        map.insert("makeParents".into(), (*(&self.make_parents)).into());
        map.insert("user".into(), (&self.user).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stat {
    pub path: Vec<u8>,
    pub follow: bool,
    pub user: String,
}

impl Stat {
    pub fn write(&self, w: &mut Writer) {
        w.bytes(&self.path);
        w.bool(*&self.follow);
        w.str(&self.user);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            path: r.bytes()?,
            follow: r.bool()?,
            user: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("path".into(), crate::wire::hex((&self.path)).into());
        map.insert("follow".into(), (*(&self.follow)).into());
        map.insert("user".into(), (&self.user).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StatResult {
    pub entry: Entry,
}

impl StatResult {
    pub fn write(&self, w: &mut Writer) {
        (&self.entry).write(w);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            entry: Entry::read(r)?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("entry".into(), (&self.entry).json());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListDirectory {
    pub path: Vec<u8>,
    pub depth: u16,
    pub user: String,
}

impl ListDirectory {
    pub fn write(&self, w: &mut Writer) {
        w.bytes(&self.path);
        w.u16(*&self.depth);
        w.str(&self.user);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            path: r.bytes()?,
            depth: r.u16()?,
            user: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("path".into(), crate::wire::hex((&self.path)).into());
        map.insert("depth".into(), (*(&self.depth)).into());
        map.insert("user".into(), (&self.user).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MakeDirectory {
    pub path: Vec<u8>,
    pub mode: u32,
    pub parents: bool,
    pub user: String,
}

impl MakeDirectory {
    pub fn write(&self, w: &mut Writer) {
        w.bytes(&self.path);
        w.u32(*&self.mode);
        w.bool(*&self.parents);
        w.str(&self.user);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            path: r.bytes()?,
            mode: r.u32()?,
            parents: r.bool()?,
            user: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("path".into(), crate::wire::hex((&self.path)).into());
        map.insert("mode".into(), (*(&self.mode)).into());
        map.insert("parents".into(), (*(&self.parents)).into());
        map.insert("user".into(), (&self.user).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Move {
    pub from: Vec<u8>,
    pub to: Vec<u8>,
    pub overwrite: bool,
    pub user: String,
}

impl Move {
    pub fn write(&self, w: &mut Writer) {
        w.bytes(&self.from);
        w.bytes(&self.to);
        w.bool(*&self.overwrite);
        w.str(&self.user);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            from: r.bytes()?,
            to: r.bytes()?,
            overwrite: r.bool()?,
            user: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("from".into(), crate::wire::hex((&self.from)).into());
        map.insert("to".into(), crate::wire::hex((&self.to)).into());
        map.insert("overwrite".into(), (*(&self.overwrite)).into());
        map.insert("user".into(), (&self.user).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remove {
    pub path: Vec<u8>,
    pub recursive: bool,
    pub user: String,
}

impl Remove {
    pub fn write(&self, w: &mut Writer) {
        w.bytes(&self.path);
        w.bool(*&self.recursive);
        w.str(&self.user);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            path: r.bytes()?,
            recursive: r.bool()?,
            user: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("path".into(), crate::wire::hex((&self.path)).into());
        map.insert("recursive".into(), (*(&self.recursive)).into());
        map.insert("user".into(), (&self.user).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangeMode {
    pub path: Vec<u8>,
    pub mode: u32,
    pub user: String,
}

impl ChangeMode {
    pub fn write(&self, w: &mut Writer) {
        w.bytes(&self.path);
        w.u32(*&self.mode);
        w.str(&self.user);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            path: r.bytes()?,
            mode: r.u32()?,
            user: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("path".into(), crate::wire::hex((&self.path)).into());
        map.insert("mode".into(), (*(&self.mode)).into());
        map.insert("user".into(), (&self.user).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangeOwner {
    pub path: Vec<u8>,
    pub owner: String,
    pub group: String,
    pub user: String,
}

impl ChangeOwner {
    pub fn write(&self, w: &mut Writer) {
        w.bytes(&self.path);
        w.str(&self.owner);
        w.str(&self.group);
        w.str(&self.user);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            path: r.bytes()?,
            owner: r.str()?,
            group: r.str()?,
            user: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("path".into(), crate::wire::hex((&self.path)).into());
        map.insert("owner".into(), (&self.owner).clone().into());
        map.insert("group".into(), (&self.group).clone().into());
        map.insert("user".into(), (&self.user).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Watch {
    pub path: Vec<u8>,
    pub recursive: bool,
    pub user: String,
}

impl Watch {
    pub fn write(&self, w: &mut Writer) {
        w.bytes(&self.path);
        w.bool(*&self.recursive);
        w.str(&self.user);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            path: r.bytes()?,
            recursive: r.bool()?,
            user: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("path".into(), crate::wire::hex((&self.path)).into());
        map.insert("recursive".into(), (*(&self.recursive)).into());
        map.insert("user".into(), (&self.user).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opened {
}

impl Opened {
    pub fn write(&self, _w: &mut Writer) {
    }

    pub fn read(_r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    pub bytes: u64,
}

impl Written {
    pub fn write(&self, w: &mut Writer) {
        w.u64(*&self.bytes);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            bytes: r.u64()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("bytes".into(), (&self.bytes).to_string().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MakeSymlink {
    pub path: Vec<u8>,
    pub target: Vec<u8>,
    pub user: String,
}

impl MakeSymlink {
    pub fn write(&self, w: &mut Writer) {
        w.bytes(&self.path);
        w.bytes(&self.target);
        w.str(&self.user);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            path: r.bytes()?,
            target: r.bytes()?,
            user: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("path".into(), crate::wire::hex((&self.path)).into());
        map.insert("target".into(), crate::wire::hex((&self.target)).into());
        map.insert("user".into(), (&self.user).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangeTime {
    pub path: Vec<u8>,
    pub mtime_ns: i64,
    pub user: String,
}

impl ChangeTime {
    pub fn write(&self, w: &mut Writer) {
        w.bytes(&self.path);
        w.i64(*&self.mtime_ns);
        w.str(&self.user);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            path: r.bytes()?,
            mtime_ns: r.i64()?,
            user: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("path".into(), crate::wire::hex((&self.path)).into());
        map.insert("mtimeNs".into(), (&self.mtime_ns).to_string().into());
        map.insert("user".into(), (&self.user).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DialTcp {
    pub address: String,
    pub port: u16,
}

impl DialTcp {
    pub fn write(&self, w: &mut Writer) {
        w.str(&self.address);
        w.u16(*&self.port);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            address: r.str()?,
            port: r.u16()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("address".into(), (&self.address).clone().into());
        map.insert("port".into(), (*(&self.port)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DialUnix {
    pub path: Vec<u8>,
    pub user: String,
}

impl DialUnix {
    pub fn write(&self, w: &mut Writer) {
        w.bytes(&self.path);
        w.str(&self.user);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            path: r.bytes()?,
            user: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("path".into(), crate::wire::hex((&self.path)).into());
        map.insert("user".into(), (&self.user).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountShared {
    pub tag: String,
    pub mounts: Vec<SharedMount>,
}

impl MountShared {
    pub fn write(&self, w: &mut Writer) {
        w.str(&self.tag);
        w.list(&self.mounts, |w, v| (v).write(w));
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            tag: r.str()?,
            mounts: r.list(|r| SharedMount::read(r))?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("tag".into(), (&self.tag).clone().into());
        map.insert("mounts".into(), serde_json::Value::Array((&self.mounts).iter().map(|v| v.json()).collect()));
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RefreshGuest {
    pub realtime_ns: i64,
    pub seed: Vec<u8>,
    pub hostname: String,
    pub machine_id: String,
    pub boot_id: String,
}

impl RefreshGuest {
    pub fn write(&self, w: &mut Writer) {
        w.i64(*&self.realtime_ns);
        w.bytes(&self.seed);
        w.str(&self.hostname);
        w.str(&self.machine_id);
        w.str(&self.boot_id);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            realtime_ns: r.i64()?,
            seed: r.bytes()?,
            hostname: r.str()?,
            machine_id: r.str()?,
            boot_id: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("realtimeNs".into(), (&self.realtime_ns).to_string().into());
        map.insert("seed".into(), crate::wire::hex((&self.seed)).into());
        map.insert("hostname".into(), (&self.hostname).clone().into());
        map.insert("machineId".into(), (&self.machine_id).clone().into());
        map.insert("bootId".into(), (&self.boot_id).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenEgress {
    pub resolver: String,
}

impl OpenEgress {
    pub fn write(&self, w: &mut Writer) {
        w.str(&self.resolver);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            resolver: r.str()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("resolver".into(), (&self.resolver).clone().into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TakeConnection {
    pub id: u32,
    pub window_bytes: u32,
}

impl TakeConnection {
    pub fn write(&self, w: &mut Writer) {
        w.u32(*&self.id);
        w.u32(*&self.window_bytes);
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            id: r.u32()?,
            window_bytes: r.u32()?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("id".into(), (*(&self.id)).into());
        map.insert("windowBytes".into(), (*(&self.window_bytes)).into());
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recorded {
    pub calls: Vec<RecordedCall>,
}

impl Recorded {
    pub fn write(&self, w: &mut Writer) {
        w.list(&self.calls, |w, v| (v).write(w));
    }

    pub fn read(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self {
            calls: r.list(|r| RecordedCall::read(r))?,
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        #[allow(unused_mut)]
        let mut map = serde_json::Map::new();
        map.insert("calls".into(), serde_json::Value::Array((&self.calls).iter().map(|v| v.json()).collect()));
        serde_json::Value::Object(map)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Hello(Hello),
    Ping(Ping),
    Pong(Pong),
    Configure(Configure),
    Shutdown(Shutdown),
    LimitHit(LimitHit),
    End(End),
    Credit(Credit),
    Cancel(Cancel),
    Failed(Failed),
    Done(Done),
    Exec(Exec),
    Connect(Connect),
    Started(Started),
    Signal(Signal),
    Resize(Resize),
    Exited(Exited),
    SignalProcess(SignalProcess),
    ListProcesses(ListProcesses),
    GetUsage(GetUsage),
    Usage(Usage),
    PrepareGuest(PrepareGuest),
    ReadFile(ReadFile),
    WriteFile(WriteFile),
    Stat(Stat),
    StatResult(StatResult),
    ListDirectory(ListDirectory),
    MakeDirectory(MakeDirectory),
    Move(Move),
    Remove(Remove),
    ChangeMode(ChangeMode),
    ChangeOwner(ChangeOwner),
    Watch(Watch),
    Opened(Opened),
    Written(Written),
    MakeSymlink(MakeSymlink),
    ChangeTime(ChangeTime),
    DialTcp(DialTcp),
    DialUnix(DialUnix),
    MountShared(MountShared),
    RefreshGuest(RefreshGuest),
    OpenEgress(OpenEgress),
    TakeConnection(TakeConnection),
    Recorded(Recorded),
}

impl Message {
    pub fn type_number(&self) -> u8 {
        match self {
            Message::Hello(_) => 1,
            Message::Ping(_) => 2,
            Message::Pong(_) => 3,
            Message::Configure(_) => 4,
            Message::Shutdown(_) => 5,
            Message::LimitHit(_) => 6,
            Message::End(_) => 17,
            Message::Credit(_) => 18,
            Message::Cancel(_) => 19,
            Message::Failed(_) => 20,
            Message::Done(_) => 21,
            Message::Exec(_) => 32,
            Message::Connect(_) => 33,
            Message::Started(_) => 34,
            Message::Signal(_) => 35,
            Message::Resize(_) => 36,
            Message::Exited(_) => 37,
            Message::SignalProcess(_) => 38,
            Message::ListProcesses(_) => 39,
            Message::GetUsage(_) => 40,
            Message::Usage(_) => 41,
            Message::PrepareGuest(_) => 42,
            Message::ReadFile(_) => 48,
            Message::WriteFile(_) => 49,
            Message::Stat(_) => 50,
            Message::StatResult(_) => 51,
            Message::ListDirectory(_) => 52,
            Message::MakeDirectory(_) => 53,
            Message::Move(_) => 54,
            Message::Remove(_) => 55,
            Message::ChangeMode(_) => 56,
            Message::ChangeOwner(_) => 57,
            Message::Watch(_) => 58,
            Message::Opened(_) => 59,
            Message::Written(_) => 60,
            Message::MakeSymlink(_) => 61,
            Message::ChangeTime(_) => 62,
            Message::DialTcp(_) => 64,
            Message::DialUnix(_) => 65,
            Message::MountShared(_) => 80,
            Message::RefreshGuest(_) => 90,
            Message::OpenEgress(_) => 100,
            Message::TakeConnection(_) => 101,
            Message::Recorded(_) => 120,
        }
    }

    pub fn write(&self, w: &mut Writer) {
        match self {
            Message::Hello(m) => m.write(w),
            Message::Ping(m) => m.write(w),
            Message::Pong(m) => m.write(w),
            Message::Configure(m) => m.write(w),
            Message::Shutdown(m) => m.write(w),
            Message::LimitHit(m) => m.write(w),
            Message::End(m) => m.write(w),
            Message::Credit(m) => m.write(w),
            Message::Cancel(m) => m.write(w),
            Message::Failed(m) => m.write(w),
            Message::Done(m) => m.write(w),
            Message::Exec(m) => m.write(w),
            Message::Connect(m) => m.write(w),
            Message::Started(m) => m.write(w),
            Message::Signal(m) => m.write(w),
            Message::Resize(m) => m.write(w),
            Message::Exited(m) => m.write(w),
            Message::SignalProcess(m) => m.write(w),
            Message::ListProcesses(m) => m.write(w),
            Message::GetUsage(m) => m.write(w),
            Message::Usage(m) => m.write(w),
            Message::PrepareGuest(m) => m.write(w),
            Message::ReadFile(m) => m.write(w),
            Message::WriteFile(m) => m.write(w),
            Message::Stat(m) => m.write(w),
            Message::StatResult(m) => m.write(w),
            Message::ListDirectory(m) => m.write(w),
            Message::MakeDirectory(m) => m.write(w),
            Message::Move(m) => m.write(w),
            Message::Remove(m) => m.write(w),
            Message::ChangeMode(m) => m.write(w),
            Message::ChangeOwner(m) => m.write(w),
            Message::Watch(m) => m.write(w),
            Message::Opened(m) => m.write(w),
            Message::Written(m) => m.write(w),
            Message::MakeSymlink(m) => m.write(w),
            Message::ChangeTime(m) => m.write(w),
            Message::DialTcp(m) => m.write(w),
            Message::DialUnix(m) => m.write(w),
            Message::MountShared(m) => m.write(w),
            Message::RefreshGuest(m) => m.write(w),
            Message::OpenEgress(m) => m.write(w),
            Message::TakeConnection(m) => m.write(w),
            Message::Recorded(m) => m.write(w),
        }
    }

    /// Malformed for a type this generation does not know.
    pub fn read(type_number: u8, r: &mut Reader) -> Result<Self, Malformed> {
        Ok(match type_number {
            1 => Message::Hello(Hello::read(r)?),
            2 => Message::Ping(Ping::read(r)?),
            3 => Message::Pong(Pong::read(r)?),
            4 => Message::Configure(Configure::read(r)?),
            5 => Message::Shutdown(Shutdown::read(r)?),
            6 => Message::LimitHit(LimitHit::read(r)?),
            17 => Message::End(End::read(r)?),
            18 => Message::Credit(Credit::read(r)?),
            19 => Message::Cancel(Cancel::read(r)?),
            20 => Message::Failed(Failed::read(r)?),
            21 => Message::Done(Done::read(r)?),
            32 => Message::Exec(Exec::read(r)?),
            33 => Message::Connect(Connect::read(r)?),
            34 => Message::Started(Started::read(r)?),
            35 => Message::Signal(Signal::read(r)?),
            36 => Message::Resize(Resize::read(r)?),
            37 => Message::Exited(Exited::read(r)?),
            38 => Message::SignalProcess(SignalProcess::read(r)?),
            39 => Message::ListProcesses(ListProcesses::read(r)?),
            40 => Message::GetUsage(GetUsage::read(r)?),
            41 => Message::Usage(Usage::read(r)?),
            42 => Message::PrepareGuest(PrepareGuest::read(r)?),
            48 => Message::ReadFile(ReadFile::read(r)?),
            49 => Message::WriteFile(WriteFile::read(r)?),
            50 => Message::Stat(Stat::read(r)?),
            51 => Message::StatResult(StatResult::read(r)?),
            52 => Message::ListDirectory(ListDirectory::read(r)?),
            53 => Message::MakeDirectory(MakeDirectory::read(r)?),
            54 => Message::Move(Move::read(r)?),
            55 => Message::Remove(Remove::read(r)?),
            56 => Message::ChangeMode(ChangeMode::read(r)?),
            57 => Message::ChangeOwner(ChangeOwner::read(r)?),
            58 => Message::Watch(Watch::read(r)?),
            59 => Message::Opened(Opened::read(r)?),
            60 => Message::Written(Written::read(r)?),
            61 => Message::MakeSymlink(MakeSymlink::read(r)?),
            62 => Message::ChangeTime(ChangeTime::read(r)?),
            64 => Message::DialTcp(DialTcp::read(r)?),
            65 => Message::DialUnix(DialUnix::read(r)?),
            80 => Message::MountShared(MountShared::read(r)?),
            90 => Message::RefreshGuest(RefreshGuest::read(r)?),
            100 => Message::OpenEgress(OpenEgress::read(r)?),
            101 => Message::TakeConnection(TakeConnection::read(r)?),
            120 => Message::Recorded(Recorded::read(r)?),
            _ => return Err(Malformed("unknown message type")),
        })
    }

    #[cfg(test)]
    pub fn json(&self) -> (&'static str, serde_json::Value) {
        match self {
            Message::Hello(m) => ("Hello", m.json()),
            Message::Ping(m) => ("Ping", m.json()),
            Message::Pong(m) => ("Pong", m.json()),
            Message::Configure(m) => ("Configure", m.json()),
            Message::Shutdown(m) => ("Shutdown", m.json()),
            Message::LimitHit(m) => ("LimitHit", m.json()),
            Message::End(m) => ("End", m.json()),
            Message::Credit(m) => ("Credit", m.json()),
            Message::Cancel(m) => ("Cancel", m.json()),
            Message::Failed(m) => ("Failed", m.json()),
            Message::Done(m) => ("Done", m.json()),
            Message::Exec(m) => ("Exec", m.json()),
            Message::Connect(m) => ("Connect", m.json()),
            Message::Started(m) => ("Started", m.json()),
            Message::Signal(m) => ("Signal", m.json()),
            Message::Resize(m) => ("Resize", m.json()),
            Message::Exited(m) => ("Exited", m.json()),
            Message::SignalProcess(m) => ("SignalProcess", m.json()),
            Message::ListProcesses(m) => ("ListProcesses", m.json()),
            Message::GetUsage(m) => ("GetUsage", m.json()),
            Message::Usage(m) => ("Usage", m.json()),
            Message::PrepareGuest(m) => ("PrepareGuest", m.json()),
            Message::ReadFile(m) => ("ReadFile", m.json()),
            Message::WriteFile(m) => ("WriteFile", m.json()),
            Message::Stat(m) => ("Stat", m.json()),
            Message::StatResult(m) => ("StatResult", m.json()),
            Message::ListDirectory(m) => ("ListDirectory", m.json()),
            Message::MakeDirectory(m) => ("MakeDirectory", m.json()),
            Message::Move(m) => ("Move", m.json()),
            Message::Remove(m) => ("Remove", m.json()),
            Message::ChangeMode(m) => ("ChangeMode", m.json()),
            Message::ChangeOwner(m) => ("ChangeOwner", m.json()),
            Message::Watch(m) => ("Watch", m.json()),
            Message::Opened(m) => ("Opened", m.json()),
            Message::Written(m) => ("Written", m.json()),
            Message::MakeSymlink(m) => ("MakeSymlink", m.json()),
            Message::ChangeTime(m) => ("ChangeTime", m.json()),
            Message::DialTcp(m) => ("DialTcp", m.json()),
            Message::DialUnix(m) => ("DialUnix", m.json()),
            Message::MountShared(m) => ("MountShared", m.json()),
            Message::RefreshGuest(m) => ("RefreshGuest", m.json()),
            Message::OpenEgress(m) => ("OpenEgress", m.json()),
            Message::TakeConnection(m) => ("TakeConnection", m.json()),
            Message::Recorded(m) => ("Recorded", m.json()),
        }
    }
}
