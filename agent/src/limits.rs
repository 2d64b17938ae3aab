//! Telling the host that a limit was reached: what only the inside knows of it.

use crate::agent::Agent;
use crate::guest::GROUP;
use crate::sys::poll::{self, Epoll};
use crate::sys::process;
use crate::token::Token;
use crate::wire::generated::{limit_kind, LimitHit, Message};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// Programs refused a process may try again thousands of times a second; the host hears of it once in that time.
const PIDS_TOLD_EVERY_MS: u64 = 1000;
/// Victims named of one look; a kernel that kills faster than it is looked at is told of as far as this.
const VICTIMS_MAX: u64 = 16;
const COUNTS_BYTES_MAX: usize = 1024;
/// The kernel's own bound on one record of its log.
const RECORD_BYTES: usize = 8192;

/// A count that the kernel keeps in lines of `name count`, and how much of it was told.
struct Count {
    file: File,
    name: &'static str,
    told: u64,
}

impl Count {
    fn open(file: &str, name: &'static str) -> Option<Self> {
        let mut count = Self { file: File::open(format!("{GROUP}/{file}")).ok()?, name, told: 0 };
        count.told = count.now();
        Some(count)
    }

    fn now(&self) -> u64 {
        let mut bytes = [0; COUNTS_BYTES_MAX];
        // From the beginning: that is what makes the kernel tell of the next change.
        let length = self.file.read_at(&mut bytes, 0).unwrap_or(0);
        counted(&bytes[..length], self.name)
    }

    fn risen(&mut self) -> u64 {
        let now = self.now();
        let more = now.saturating_sub(self.told);
        self.told = now;
        more
    }
}

fn counted(text: &[u8], name: &str) -> u64 {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[derive(Default)]
pub struct Limits {
    /// Of a virtual machine's own group; elsewhere the host counts.
    kills: Option<Count>,
    refusals: Option<Count>,
    refusals_told_at: Option<u64>,
    kernel_log: Option<File>,
    disk_was_full: bool,
}

impl Limits {
    /// In a virtual machine that is prepared: its kernel's counts and log from now on.
    pub fn watch_group(&mut self, epoll: &Epoll) {
        self.kills = Count::open("memory.events", "oom_kill");
        self.refusals = Count::open("pids.events", "max");
        for (which, count) in [&self.kills, &self.refusals].into_iter().flatten().enumerate() {
            // Without news the counts are still looked at whenever a program fails.
            let _ = epoll.add(&count.file, Token::Limits(which as u32).pack(), poll::CHANGED);
        }
        let log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
        self.kernel_log = log.ok().filter(|mut log| log.seek(SeekFrom::End(0)).is_ok());
    }

    /// Whom the kernel says it has killed since the last look, at most as many as were.
    fn victims(&mut self, killed: u64) -> Vec<(u32, Vec<u8>)> {
        let mut found = Vec::new();
        let mut record = [0; RECORD_BYTES];
        while let Some(log) = &mut self.kernel_log {
            match log.read(&mut record) {
                Ok(length) => found.extend(victim(&record[..length])),
                // Older records than the log holds were lost; the next one is there.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => break,
            }
        }
        found.resize(killed.min(VICTIMS_MAX) as usize, (0, Vec::new()));
        found
    }

    fn hits(&mut self) -> Vec<LimitHit> {
        let mut hits = Vec::new();
        let killed = self.kills.as_mut().map_or(0, Count::risen);
        if killed > 0 {
            let victims = self.victims(killed).into_iter();
            hits.extend(victims.map(|(pid, command)| LimitHit { limit: limit_kind::MEMORY, pid, command }));
        }
        let now = poll::now_ms();
        let quiet = self.refusals_told_at.is_none_or(|at| now >= at + PIDS_TOLD_EVERY_MS);
        if quiet && self.refusals.as_mut().map_or(0, Count::risen) > 0 {
            self.refusals_told_at = Some(now);
            hits.push(LimitHit { limit: limit_kind::PIDS, pid: 0, command: Vec::new() });
        }
        let full = process::root_disk_is_full();
        if full && !self.disk_was_full {
            hits.push(LimitHit { limit: limit_kind::DISK, pid: 0, command: Vec::new() });
        }
        self.disk_was_full = full;
        hits
    }
}

/// `6,345,12345,-;oom-kill:constraint=…,task=python3,pid=12,uid=1000`, where the name may hold any character but a line's end.
fn victim(record: &[u8]) -> Option<(u32, Vec<u8>)> {
    let text = String::from_utf8_lossy(record);
    let line = text.lines().next()?.split_once(";oom-kill:")?.1;
    let (rest, _) = line.rsplit_once(",uid=")?;
    let (rest, pid) = rest.rsplit_once(",pid=")?;
    let (_, name) = rest.split_once(",task=")?;
    Some((pid.parse().ok()?, name.as_bytes().to_vec()))
}

impl Agent {
    /// Tells the host what was reached since the last look.
    pub(crate) fn look_at_limits(&mut self) {
        // Without a host, or with one that does not read, it waits for the next look.
        if !self.attached || self.output.is_crowded() {
            return;
        }
        for hit in self.limits.hits() {
            self.output.push(0, 0, &Message::LimitHit(hit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{counted, victim};

    #[test]
    fn counts_are_read_by_their_whole_name() {
        let text = b"low 0\nhigh 0\nmax 41\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(counted(text, "oom_kill"), 2);
        assert_eq!(counted(text, "max"), 41);
        assert_eq!(counted(text, "oom_k"), 0);
        assert_eq!(counted(b"", "max"), 0);
    }

    #[test]
    fn a_victim_is_read_from_the_kernels_line() {
        let line = b"6,345,12,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,\
            oom_memcg=/sandbox,task_memcg=/sandbox,task=a,pid=1,b,pid=77,uid=1000\n SUBSYSTEM=x\n";
        assert_eq!(victim(line), Some((77, b"a,pid=1,b".to_vec())));
        assert_eq!(victim(b"6,1,1,-;agent: started"), None);
        assert_eq!(victim(b"4,1,1,-;oom-kill:garbage"), None);
    }
}
