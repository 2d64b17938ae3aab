//! The process table, from /proc.

use crate::failure::Failure;
use crate::sys::{poll, process};
use crate::wire::codec::Writer;
use crate::wire::generated::Process;
use crate::workers::{Input, Next, Output, Task};
use std::collections::HashSet;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

/// A command line longer than this is cut.
const COMMAND_BYTES_MAX: usize = 4096;
const STAT_BYTES_MAX: usize = 1024;
const PAGE_BYTES: u64 = 4096;

/// At most `most` bytes of a file of the kernel's.
pub fn read_some(path: &str, most: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(most as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

pub fn first_line(path: &str) -> String {
    let bytes = read_some(path, STAT_BYTES_MAX).unwrap_or_default();
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(line).into_owned()
}

pub fn pids() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<u32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// The figures of /proc/<pid>/stat that are used here.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stat {
    pub ppid: u32,
    pub state: u8,
    pub name: Vec<u8>,
    pub cpu_ticks: u64,
    pub start_ticks: u64,
    pub rss_pages: u64,
}

/// The name stands in parentheses and may hold any byte, parentheses and spaces included.
pub fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|b| *b == b'(')?;
    let close = bytes.iter().rposition(|b| *b == b')')?;
    let name = bytes.get(open + 1..close)?.to_vec();
    let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Some(Stat {
        ppid: number(1) as u32,
        state: *fields.first()?.as_bytes().first()?,
        name,
        cpu_ticks: number(11) + number(12),
        start_ticks: number(19),
        rss_pages: number(21),
    })
}

pub fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&read_some(&format!("/proc/{pid}/stat"), STAT_BYTES_MAX)?)
}

/// Every process of the sandbox but the agent; where the agent is not process 1, all that descend from it.
pub fn signal_everyone(signal: i32) {
    if process::own_pid() == 1 {
        let _ = process::kill(-1, signal);
        return;
    }
    let mut ours = HashSet::from([process::own_pid()]);
    let parents: Vec<(u32, u32)> = pids().into_iter().filter_map(|pid| Some((pid, stat(pid)?.ppid))).collect();
    loop {
        let before = ours.len();
        ours.extend(
            parents.iter().filter(|(_, parent)| ours.contains(parent)).map(|(pid, _)| *pid).collect::<Vec<_>>(),
        );
        if ours.len() == before {
            break;
        }
    }
    ours.remove(&process::own_pid());
    for pid in ours {
        let _ = process::kill(pid as i32, signal);
    }
}

/// `ListProcesses`: a record for each, in the order of their ids.
pub struct ListTask {
    managed: HashSet<u32>,
    left: Option<std::vec::IntoIter<u32>>,
    ticks: u64,
    boot_ms: u64,
}

impl ListTask {
    pub fn new(managed: Vec<u32>) -> Self {
        let boot_ms = poll::clock_ms(libc::CLOCK_REALTIME).saturating_sub(poll::clock_ms(libc::CLOCK_BOOTTIME));
        Self { managed: managed.into_iter().collect(), left: None, ticks: process::ticks_per_second(), boot_ms }
    }

    fn process(&self, pid: u32) -> Option<Process> {
        let stat = stat(pid)?;
        let uid = std::fs::metadata(format!("/proc/{pid}")).ok().map_or(0, |data| data.uid());
        let line = read_some(&format!("/proc/{pid}/cmdline"), COMMAND_BYTES_MAX).unwrap_or_default();
        let mut command: Vec<u8> = line.iter().map(|b| if *b == 0 { b' ' } else { *b }).collect();
        if command.last() == Some(&b' ') {
            command.pop();
        }
        if command.is_empty() {
            command = [b"[", stat.name.as_slice(), b"]"].concat();
        }
        Some(Process {
            pid,
            ppid: stat.ppid,
            uid,
            state: stat.state,
            rss_bytes: stat.rss_pages * PAGE_BYTES,
            cpu_ms: stat.cpu_ticks * 1000 / self.ticks,
            started_ms: self.boot_ms + stat.start_ticks * 1000 / self.ticks,
            managed: self.managed.contains(&pid),
            command,
        })
    }
}

/// Appends one record: its length, then itself.
pub fn record(to: &mut Vec<u8>, write: impl FnOnce(&mut Writer)) {
    let start = to.len();
    let mut writer = Writer { buffer: std::mem::take(to) };
    writer.u32(0);
    write(&mut writer);
    *to = writer.buffer;
    let length = (to.len() - start - 4) as u32;
    to[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

impl Task for ListTask {
    fn step(&mut self, input: Input) -> Result<Output, Failure> {
        let mut left = self.left.take().unwrap_or_else(|| pids().into_iter());
        let mut output = Output::done();
        for pid in left.by_ref() {
            if let Some(process) = self.process(pid) {
                record(&mut output.data, |writer| process.write(writer));
            }
            if output.data.len() + COMMAND_BYTES_MAX >= input.room {
                break;
            }
        }
        if left.len() > 0 {
            output.next = Next::Room;
        }
        self.left = Some(left);
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_parentheses_and_spaces() {
        let line = b"42 (a) R (b) S 7 1 1 0 -1 4 0 0 0 0 11 13 0 0 20 0 1 0 555 1000 99 18446744073709551615";
        let stat = parse_stat(line).unwrap();
        assert_eq!(stat.name, b"a) R (b");
        assert_eq!((stat.ppid, stat.state, stat.cpu_ticks, stat.start_ticks, stat.rss_pages), (7, b'S', 24, 555, 99));
    }

    #[test]
    fn nonsense_is_no_process() {
        for line in [&b""[..], b")(", b"1 (x", b"1 (x)", b"1 (x) "] {
            assert_eq!(parse_stat(line), None);
        }
    }
}
