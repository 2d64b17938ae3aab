//! Requests, as the engine writes them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::fields::{pairs, text, texts, u32, Fields, Wrong};
use crate::ids::Exchange;

/// What a one-off program may say and be heard; one answer must stay well under what the engine reads as a line.
const MAX_OUTPUT_BYTES: u64 = 1024 * 1024;

/// Standard streams come before, and what the keeper opens meanwhile is above.
const FIRST_INHERITED: i32 = 3;
pub const LAST_INHERITED: i32 = 31;

pub struct Request {
    pub id: u64,
    pub op: Op,
}

pub enum Op {
    Hello,
    Reserve,
    Acquire {
        instance: String,
        steps: Vec<Step>,
    },
    /// The engine has opened its ends of the FIFOs: the keeper closes the ends it held open meanwhile.
    Settled {
        instance: String,
    },
    /// Limits that were reached are told now, before the answer.
    Look {
        instance: String,
    },
    Release {
        instance: String,
    },
    /// Stops all that runs in a sandbox where it stands, or lets it go on.
    Freeze {
        instance: String,
        frozen: bool,
    },
    /// Writes what a stopped sandbox holds to new files in a directory of root's alone.
    Capture {
        instance: String,
        into: String,
    },
    /// Size and digest of a file.
    Digest {
        path: String,
    },
    Run {
        program: Program,
        max_output_bytes: usize,
    },
    /// How fast the processor's time stamp counter runs.
    Counter,
}

pub struct Program {
    pub argv: Vec<String>,
    pub cwd: Option<String>,
    pub env: Option<BTreeMap<String, String>>,
    pub timeout_ms: u64,
}

/// A descriptor above 2 that a program starts with.
pub struct Inherited {
    pub fd: i32,
    pub from: Source,
}

pub enum Source {
    /// A FIFO of the sandbox's own, opened without waiting for its other end; `content` is put into it first.
    Fifo { path: String, access: Access, content: Option<String> },
    /// A file of the host, for reading.
    File(String),
    /// A copy of a file in memory that nobody can change any more; made once for all that use it at a time, and kept until
    /// the keeper's end where that is asked for.
    Sealed { path: String, keep: bool },
    /// A nameless copy of a file, beside it, for reading and writing; gone with its last holder.
    Copy { path: String, max_bytes: u64 },
    /// A writable layer that is kept, for reading and writing; nobody else has it at the time.
    Kept { path: String, max_bytes: u64 },
}

#[derive(Clone, Copy)]
pub enum Access {
    Write,
    Both,
}

pub struct Idmap {
    pub id_base: u32,
    pub size: u32,
    pub exchange: Exchange,
}

/// The steps of packages/contract/src/plan.ts.
pub enum Step {
    Dir {
        path: String,
        mode: u32,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    File {
        path: String,
        mode: u32,
        content: String,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    Fifo {
        path: String,
        mode: u32,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    Tmpfs {
        target: String,
        size_bytes: u64,
        inodes: u64,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Disk {
        target: String,
        path: String,
        max_bytes: u64,
        keep: bool,
    },
    Bind {
        source: String,
        target: String,
        read_only: bool,
        inert: bool,
        idmap: Option<Idmap>,
    },
    /// The volume in the directory `source`, as a bind of it would be.
    Volume {
        source: String,
        target: String,
        read_only: bool,
        shared: bool,
        inert: bool,
        idmap: Option<Idmap>,
    },
    Userns {
        target: String,
    },
    Tun {
        target: String,
    },
    Overlay {
        target: String,
        lower: Vec<String>,
        upper: String,
        work: String,
        volatile: bool,
    },
    Cgroup {
        path: String,
    },
    Run {
        program: Program,
        stdin: Option<String>,
        stdout: Option<String>,
        stderr: Option<String>,
        fds: Vec<Inherited>,
        pid_file: Option<String>,
    },
}

fn idmap(value: &Value) -> Option<Idmap> {
    let pair = |name: &str| match value.get(name) {
        None => Some(None),
        Some(pair) => Some(Some((u32(pair.get("file")?)?, u32(pair.get("seen")?)?))),
    };
    let exchange = Exchange { uid: pair("uid")?, gid: pair("gid")? };
    Some(Idmap { id_base: u32(value.get("idBase")?)?, size: u32(value.get("size")?)?, exchange })
}

fn inherited(value: &Value) -> Option<Vec<Inherited>> {
    value.as_array()?.iter().map(|one| Inherited::read(one.clone()).ok()).collect()
}

impl Inherited {
    fn read(value: Value) -> Result<Inherited, Wrong> {
        let mut from = Fields::of(value)?;
        let fd = from.must("fd", u32)?;
        let source = match from.must("from", text)?.as_str() {
            "fifo" => Source::Fifo {
                path: from.must("path", text)?,
                access: match from.must("access", text)?.as_str() {
                    "write" => Access::Write,
                    "both" => Access::Both,
                    other => return Err(format!("access {other:?} is unknown")),
                },
                content: from.maybe("content", text)?,
            },
            "file" => Source::File(from.must("path", text)?),
            "sealed" => Source::Sealed { path: from.must("path", text)?, keep: from.must("keep", Value::as_bool)? },
            "kept" => Source::Kept { path: from.must("path", text)?, max_bytes: from.must("maxBytes", Value::as_u64)? },
            "copy" => Source::Copy { path: from.must("path", text)?, max_bytes: from.must("maxBytes", Value::as_u64)? },
            other => return Err(format!("descriptor from {other:?} is unknown")),
        };
        from.end()?;
        let fd = i32::try_from(fd).ok().filter(|fd| (FIRST_INHERITED..=LAST_INHERITED).contains(fd));
        Ok(Inherited { fd: fd.ok_or("a descriptor's number is out of range")?, from: source })
    }
}

impl Program {
    fn read(from: &mut Fields) -> Result<Program, Wrong> {
        Ok(Program {
            argv: from.must("argv", texts)?,
            cwd: from.maybe("cwd", text)?,
            env: from.maybe("env", pairs)?,
            timeout_ms: from.must("timeoutMs", Value::as_u64)?,
        })
    }
}

impl Request {
    pub fn parse(line: &[u8]) -> Result<Request, Wrong> {
        let value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let mut from = Fields::of(value)?;
        let id = from.must("id", Value::as_u64)?;
        let op = match from.must("op", text)?.as_str() {
            "hello" => Op::Hello,
            "reserve" => Op::Reserve,
            "counter" => Op::Counter,
            "settled" => Op::Settled { instance: from.must("instance", text)? },
            "look" => Op::Look { instance: from.must("instance", text)? },
            "release" => Op::Release { instance: from.must("instance", text)? },
            "freeze" => {
                Op::Freeze { instance: from.must("instance", text)?, frozen: from.must("frozen", Value::as_bool)? }
            }
            "capture" => Op::Capture { instance: from.must("instance", text)?, into: from.must("into", text)? },
            "digest" => Op::Digest { path: from.must("path", text)? },
            "acquire" => {
                let instance = from.must("instance", text)?;
                let steps = from.must("steps", |value| value.as_array().cloned())?;
                Op::Acquire { instance, steps: steps.into_iter().map(Step::read).collect::<Result<_, _>>()? }
            }
            "run" => {
                let program = Program::read(&mut from)?;
                let limit = from.maybe("maxOutputBytes", Value::as_u64)?.unwrap_or(0);
                Op::Run { program, max_output_bytes: limit.min(MAX_OUTPUT_BYTES) as usize }
            }
            other => return Err(format!("operation {other:?} is unknown")),
        };
        from.end()?;
        Ok(Request { id, op })
    }
}

impl Step {
    fn read(value: Value) -> Result<Step, Wrong> {
        let mut from = Fields::of(value)?;
        let step = match from.must("op", text)?.as_str() {
            "dir" => Step::Dir {
                path: from.must("path", text)?,
                mode: from.must("mode", u32)?,
                uid: from.maybe("uid", u32)?,
                gid: from.maybe("gid", u32)?,
            },
            "file" => Step::File {
                path: from.must("path", text)?,
                mode: from.must("mode", u32)?,
                content: from.must("content", text)?,
                uid: from.maybe("uid", u32)?,
                gid: from.maybe("gid", u32)?,
            },
            "fifo" => Step::Fifo {
                path: from.must("path", text)?,
                mode: from.must("mode", u32)?,
                uid: from.maybe("uid", u32)?,
                gid: from.maybe("gid", u32)?,
            },
            "tmpfs" => Step::Tmpfs {
                target: from.must("target", text)?,
                size_bytes: from.must("sizeBytes", Value::as_u64)?,
                inodes: from.must("inodes", Value::as_u64)?,
                mode: from.must("mode", u32)?,
                uid: from.must("uid", u32)?,
                gid: from.must("gid", u32)?,
            },
            "disk" => Step::Disk {
                target: from.must("target", text)?,
                path: from.must("path", text)?,
                max_bytes: from.must("maxBytes", Value::as_u64)?,
                keep: from.must("keep", Value::as_bool)?,
            },
            "bind" => Step::Bind {
                source: from.must("source", text)?,
                target: from.must("target", text)?,
                read_only: from.must("readOnly", Value::as_bool)?,
                inert: from.maybe("inert", Value::as_bool)?.unwrap_or(false),
                idmap: from.maybe("idmap", idmap)?,
            },
            "volume" => Step::Volume {
                source: from.must("source", text)?,
                target: from.must("target", text)?,
                read_only: from.must("readOnly", Value::as_bool)?,
                shared: from.must("shared", Value::as_bool)?,
                inert: from.maybe("inert", Value::as_bool)?.unwrap_or(false),
                idmap: from.maybe("idmap", idmap)?,
            },
            "userns" => Step::Userns { target: from.must("target", text)? },
            "tun" => Step::Tun { target: from.must("target", text)? },
            "overlay" => Step::Overlay {
                target: from.must("target", text)?,
                lower: from.must("lower", texts)?,
                upper: from.must("upper", text)?,
                work: from.must("work", text)?,
                volatile: from.maybe("volatile", Value::as_bool)?.unwrap_or(false),
            },
            "cgroup" => Step::Cgroup { path: from.must("path", text)? },
            "run" => Step::Run {
                program: Program::read(&mut from)?,
                stdin: from.maybe("stdin", text)?,
                stdout: from.maybe("stdout", text)?,
                stderr: from.maybe("stderr", text)?,
                fds: from.maybe("fds", inherited)?.unwrap_or_default(),
                pid_file: from.maybe("pidFile", text)?,
            },
            other => return Err(format!("step {other:?} is unknown")),
        };
        from.end()?;
        Ok(step)
    }

    /// What the step makes, or runs.
    pub fn subject(&self) -> &str {
        match self {
            Step::Dir { path, .. } | Step::File { path, .. } | Step::Fifo { path, .. } | Step::Cgroup { path } => path,
            Step::Disk { target, .. } => target,
            Step::Tmpfs { target, .. } | Step::Bind { target, .. } | Step::Overlay { target, .. } => target,
            Step::Userns { target } | Step::Tun { target } => target,
            Step::Volume { source, .. } => source.rsplit('/').next().unwrap_or(source),
            Step::Run { program, .. } => program.argv.first().map_or("", String::as_str),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Step::Dir { .. } => "dir",
            Step::File { .. } => "file",
            Step::Fifo { .. } => "fifo",
            Step::Tmpfs { .. } => "tmpfs",
            Step::Disk { .. } => "disk",
            Step::Bind { .. } => "bind",
            Step::Volume { .. } => "volume",
            Step::Userns { .. } => "userns",
            Step::Tun { .. } => "tun",
            Step::Overlay { .. } => "overlay",
            Step::Cgroup { .. } => "cgroup",
            Step::Run { .. } => "run",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_the_contract_writes_them() {
        let text = r#"{"id":7,"op":"acquire","instance":"s1","steps":[
            {"op":"tmpfs","target":"/a","sizeBytes":1,"inodes":2,"mode":448,"uid":1,"gid":2},
            {"op":"bind","source":"/a","target":"/b","readOnly":true,"idmap":{"idBase":1,"size":2,"uid":{"file":0,"seen":3}}},
            {"op":"run","argv":["/bin/true"],"timeoutMs":5,"stdin":"/x/in","pidFile":"/x/pid"}]}"#;
        let request = Request::parse(text.as_bytes()).unwrap();
        assert_eq!(request.id, 7);
        let Op::Acquire { steps, .. } = request.op else { panic!("not an acquire") };
        assert_eq!(steps.iter().map(Step::name).collect::<Vec<_>>(), ["tmpfs", "bind", "run"]);
    }

    #[test]
    fn unknown_operations_are_refused() {
        let bad = [
            r#"{"id":1,"op":"umount"}"#,
            r#"{"op":"hello"}"#,
            r#"{"id":1,"op":"hello","extra":1}"#,
            r#"{"id":-1,"op":"hello"}"#,
            r#"{"id":1,"op":"acquire","instance":"s","steps":[{"op":"fifo","path":"/a","mode":1,"Mode":2}]}"#,
            r#"{"id":1,"op":"acquire","instance":"s","steps":[{"op":"fifo","path":"/a"}]}"#,
            "[]",
            "",
        ];
        for line in bad {
            assert!(Request::parse(line.as_bytes()).is_err(), "{line} was accepted");
        }
    }
}
