//! Telling the engine that a sandbox reached a limit that the host's kernel holds it to.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use crate::cgroup::Hierarchies;
use crate::sys;

/// Programs refused a process may try again thousands of times a second; the engine hears of it once in that time.
const REFUSALS_TOLD_EVERY: Duration = Duration::from_secs(1);
/// Victims named at once; a kernel that kills faster than it is looked at is told of as far as this.
const VICTIMS_MAX: usize = 16;
/// The kernel's own bound on one record of its log.
const RECORD_BYTES: usize = 8192;

/// What makes the kernel say that a count has changed.
pub enum Watch {
    /// A file of counts that wakes who polls it.
    Counts(File),
    /// Version 1 wakes through a counter when a group is out of memory, a moment before it kills and counts.
    Alarm { counter: OwnedFd, _control: File },
}

impl Watch {
    /// All there are for a group; a host without them is asked when a program has failed.
    pub fn of(hierarchies: &Hierarchies, group: &str) -> Vec<Watch> {
        let mut found = Vec::new();
        for dir in hierarchies.dirs(group) {
            let counts =
                ["memory.events", "pids.events"].into_iter().filter_map(|name| File::open(dir.join(name)).ok());
            found.extend(counts.map(Watch::Counts));
            found.extend(Watch::alarm(&dir));
        }
        for watch in &found {
            watch.rearm();
        }
        found
    }

    fn alarm(dir: &Path) -> Option<Watch> {
        let control = File::open(dir.join("memory.oom_control")).ok()?;
        let counter = sys::event_counter().ok()?;
        let order = format!("{} {}", sys::number(&counter), sys::number(&control));
        std::fs::write(dir.join("cgroup.event_control"), order).ok()?;
        Some(Watch::Alarm { counter, _control: control })
    }

    pub fn wanted(&self) -> (BorrowedFd<'_>, i16) {
        match self {
            Watch::Counts(file) => (file.as_fd(), libc::POLLPRI),
            Watch::Alarm { counter, .. } => (counter.as_fd(), libc::POLLIN),
        }
    }

    /// What was read is what the kernel tells changes of.
    pub fn rearm(&self) {
        let mut bytes = [0; 64];
        match self {
            Watch::Counts(file) => drop(file.read_at(&mut bytes, 0)),
            Watch::Alarm { counter, .. } => sys::drain(counter.as_fd()),
        }
    }
}

/// How much of a sandbox's counts was told.
#[derive(Default)]
pub struct Told {
    kills: u64,
    refusals: u64,
    refusals_at: Option<Instant>,
}

impl Told {
    /// The event for what has been counted since, None when there is nothing new. Asked for, refusals are told at once.
    pub fn news(&mut self, hierarchies: &Hierarchies, group: &str, init: i32, asked: bool) -> Option<Value> {
        let kills = hierarchies.oom_kills(group);
        let killed = kills.saturating_sub(self.kills);
        let quiet = asked || self.refusals_at.is_none_or(|at| at.elapsed() >= REFUSALS_TOLD_EVERY);
        let refusals = if quiet { hierarchies.refusals(group) } else { self.refusals };
        let refused = refusals > self.refusals;
        if killed == 0 && !refused {
            return None;
        }
        (self.kills, self.refusals) = (kills, refusals);
        if refused {
            self.refusals_at = Some(Instant::now());
        }
        let named = if killed > 0 { victims(group, killed) } else { Vec::new() };
        let victims: Vec<Value> = named
            .into_iter()
            .map(|found| match found {
                Some((pid, command)) => json!({ "pid": pid, "command": command, "isFirst": pid == init }),
                None => json!({ "pid": null, "command": null, "isFirst": false }),
            })
            .collect();
        Some(json!({ "killed": victims, "refused": refused }))
    }
}

/// The last `count` processes the kernel says it has killed in `group`; those it does not name are None.
fn victims(group: &str, count: u64) -> Vec<Option<(i32, String)>> {
    let mut found = Vec::new();
    let log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
    let mut record = [0; RECORD_BYTES];
    while let Ok(log) = &mut log.as_ref() {
        match log.read(&mut record) {
            Ok(length) => found.extend(victim(&record[..length], group)),
            // Records that were overwritten meanwhile; the next one is there.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => break,
        }
    }
    let wanted = usize::try_from(count).unwrap_or(VICTIMS_MAX).min(VICTIMS_MAX);
    let named = found.split_off(found.len().saturating_sub(wanted));
    let unnamed = wanted - named.len();
    named.into_iter().map(Some).chain((0..unnamed).map(|_| None)).collect()
}

/// `6,345,12345,-;oom-kill:constraint=…,oom_memcg=/a/b,task_memcg=/a/b,task=python3,pid=12,uid=1000`. The name may hold any
/// character but a line's end, what stands before it only what the kernel and we chose.
fn victim(record: &[u8], group: &str) -> Option<(i32, String)> {
    let text = String::from_utf8_lossy(record);
    let line = text.lines().next()?.split_once(";oom-kill:")?.1;
    let (before, after) = line.split_once(",task=")?;
    let limited = before.split_once("oom_memcg=")?.1.split(',').next()?;
    // Seen from another control group's namespace a path has more in front.
    if !limited.ends_with(group) {
        return None;
    }
    let (rest, _) = after.rsplit_once(",uid=")?;
    let (name, pid) = rest.rsplit_once(",pid=")?;
    Some((pid.parse().ok()?, name.to_string()))
}

#[cfg(test)]
mod tests {
    use super::victim;

    const LINE: &str = "6,345,12,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,\
        oom_memcg=/bulkhead/e1/s2,task_memcg=/bulkhead/e1/s2,task=a,pid=1,b,pid=77,uid=268500992\n SUBSYSTEM=x\n";

    #[test]
    fn a_victim_is_read_from_the_kernels_line() {
        assert_eq!(victim(LINE.as_bytes(), "/bulkhead/e1/s2"), Some((77, "a,pid=1,b".to_string())));
        let nested = LINE.replace("/bulkhead", "/docker/abc/bulkhead");
        assert_eq!(victim(nested.as_bytes(), "/bulkhead/e1/s2"), Some((77, "a,pid=1,b".to_string())));
    }

    #[test]
    fn another_groups_victim_is_not_ours() {
        assert_eq!(victim(LINE.as_bytes(), "/bulkhead/e1/s3"), None);
        // A program may call itself what it likes.
        let forged = "6,1,1,-;oom-kill:oom_memcg=/x,task=oom_memcg=/bulkhead/e1/s3,pid=5,uid=0\n";
        assert_eq!(victim(forged.as_bytes(), "/bulkhead/e1/s3"), None);
        assert_eq!(victim(b"6,1,1,-;agent: started", "/x"), None);
    }
}
