//! What the sandbox uses, as far as it can be seen from inside.

use crate::failure::Failure;
use crate::guest::GROUP;
use crate::sys::{poll, process};
use crate::table::{first_line, pids, read_some, stat};
use crate::wire::generated::{Message, Usage};
use crate::workers::{Input, Next, Output, Task};

const PAGE_BYTES: u64 = 4096;
const MEMINFO_BYTES_MAX: usize = 4096;
const CPU_STAT_BYTES_MAX: usize = 4096;

pub struct UsageTask {
    pub started_ms: u64,
}

impl Task for UsageTask {
    fn step(&mut self, _input: Input) -> Result<Output, Failure> {
        let pids = pids();
        let (memory_used_bytes, memory_total_bytes) = memory(&pids);
        let (disk_used_bytes, disk_total_bytes) = process::root_disk();
        let usage = Usage {
            processes: pids.len() as u32,
            memory_used_bytes,
            memory_total_bytes,
            cpus: process::cpus(),
            cpu_ms: cpu_ms(&pids),
            uptime_ms: poll::clock_ms(libc::CLOCK_BOOTTIME).saturating_sub(self.started_ms),
            disk_used_bytes,
            disk_total_bytes,
            agent_rss_bytes: own_rss(),
        };
        Ok(Output::message(Message::Usage(usage), Next::Done))
    }
}

fn number(path: &str) -> Option<u64> {
    first_line(path).trim().parse().ok()
}

/// Value of `name` in lines of `name value`, without the unit.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split([' ', ':']).next() == Some(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Bytes used and bytes there are: the control group's where it is shown inside, else the kernel's.
fn memory(pids: &[u32]) -> (u64, u64) {
    let text = read_some("/proc/meminfo", MEMINFO_BYTES_MAX).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let total = field(&text, "MemTotal").unwrap_or(0) * 1024;
    let available = field(&text, "MemAvailable").or_else(|| field(&text, "MemFree")).unwrap_or(0) * 1024;
    if let Some(used) = number(&format!("{GROUP}/memory.current")) {
        return (used, number(&format!("{GROUP}/memory.max")).unwrap_or(total).min(total));
    }
    if available < total {
        return (total - available, total);
    }
    // A limit in the figures' place says nothing of what is used.
    let pages: u64 = pids.iter().filter_map(|pid| stat(*pid)).map(|stat| stat.rss_pages).sum();
    (pages * PAGE_BYTES, total)
}

fn cpu_ms(pids: &[u32]) -> u64 {
    let text = read_some("/sys/fs/cgroup/cpu.stat", CPU_STAT_BYTES_MAX).unwrap_or_default();
    if let Some(microseconds) = field(&String::from_utf8_lossy(&text), "usage_usec") {
        return microseconds / 1000;
    }
    if let Some(nanoseconds) = number("/sys/fs/cgroup/cpuacct/cpuacct.usage") {
        return nanoseconds / 1_000_000;
    }
    let ticks: u64 = pids.iter().filter_map(|pid| stat(*pid)).map(|stat| stat.cpu_ticks).sum();
    ticks * 1000 / process::ticks_per_second()
}

fn own_rss() -> u64 {
    let line = first_line("/proc/self/statm");
    line.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE_BYTES
}
