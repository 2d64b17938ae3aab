//! Control groups: finding, killing, counting and removing them, in every hierarchy of the host.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys;

/// All our groups are below this one, in each hierarchy.
pub const PREFIX: &str = "/bulkhead";
/// A killed process can be held in the kernel (a slow device); after this long the group is reported as left over.
const KILL_TIME: Duration = Duration::from_secs(10);
/// Tasks stop at their next return from the kernel; one that a slow device holds there keeps the group from being still.
const FREEZE_TIME: Duration = Duration::from_secs(10);
/// Nested groups deeper than this are not ours and not made by any runtime.
const MAX_DEPTH: u32 = 16;
/// In an engine's group.
const KERNEL_THREADS: &str = "kernel-threads";

/// What the limits of every sandbox rest on.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];

const UNIFIED: &CStr = c"/sys/fs/cgroup/unified";

/// Where v1 groups are used with a v2 hierarchy beside them, covers the latter in the calling thread's mount namespace:
/// crun refuses to run where it sees both. It also writes plain files there then, so each sandbox gets its own cover.
pub fn cover_unified() -> io::Result<()> {
    let point = Path::new(OsStr::from_bytes(UNIFIED.to_bytes()));
    if point.is_dir() {
        sys::mount(c"none", UNIFIED, c"tmpfs", 0, Some(c"size=64k,mode=555"))?;
    }
    Ok(())
}

/// The mounted hierarchies, as the keeper sees them.
#[derive(Clone)]
pub struct Hierarchies {
    roots: Vec<PathBuf>,
    pub unified_only: bool,
}

impl Hierarchies {
    /// Reads the mount table; v1 and v2 roots alike.
    pub fn read() -> io::Result<Hierarchies> {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let mut roots: Vec<(PathBuf, &str)> = Vec::new();
        for line in table.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let kind = right.split(' ').next().unwrap_or("");
            let Some(point) = left.split(' ').nth(4) else {
                continue;
            };
            // What is mounted later on the same place covers what was there.
            roots.retain(|(root, _)| root != Path::new(point));
            // A hierarchy mounted somewhere else a second time is the same hierarchy.
            if matches!(kind, "cgroup" | "cgroup2") && point.starts_with("/sys/fs/cgroup") {
                roots.push((PathBuf::from(point), kind));
            }
        }
        let unified_only = roots.iter().all(|(_, kind)| *kind == "cgroup2");
        Ok(Hierarchies { roots: roots.into_iter().map(|(root, _)| root).collect(), unified_only })
    }

    /// The existing directories of `group` (which begins with `/`).
    pub fn dirs(&self, group: &str) -> Vec<PathBuf> {
        let inside = self.roots.iter().map(|root| root.join(&group[1..]));
        inside.filter(|dir| dir.is_dir()).collect()
    }

    /// How often the kernel's out-of-memory killer struck in `group`.
    pub fn oom_kills(&self, group: &str) -> u64 {
        self.counted(group, &["memory.events", "memory.oom_control"], "oom_kill ")
    }

    /// How often a program in `group` was refused a process.
    pub fn refusals(&self, group: &str) -> u64 {
        self.counted(group, &["pids.events"], "max ")
    }

    /// In how many periods the processors were taken away at the quota, and for how many microseconds in all.
    pub fn throttled(&self, group: &str) -> (u64, u64) {
        let count = |name| self.counted(group, &["cpu.stat"], name);
        // Version 1 counts nanoseconds and calls it time.
        (count("nr_throttled "), count("throttled_usec ").max(count("throttled_time ") / 1000))
    }

    /// The figure behind `name` at a line's beginning, in whichever of the files there is.
    fn counted(&self, group: &str, files: &[&str], name: &str) -> u64 {
        let texts = self.dirs(group).into_iter().flat_map(|dir| files.iter().map(move |file| dir.join(file)));
        let counts = texts.filter_map(|path| fs::read_to_string(path).ok()).map(|text| {
            let count = text.lines().find_map(|line| line.strip_prefix(name));
            count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
        });
        counts.max().unwrap_or(0)
    }

    /// Stops everything in `group` and below where it stands, or lets it go on. Returns when that is so; what cannot be
    /// stopped goes on as a whole.
    pub fn freeze(&self, group: &str, frozen: bool) -> io::Result<()> {
        let deadline = Instant::now() + FREEZE_TIME;
        let dirs = self.dirs(group);
        let freezer = dirs.iter().find_map(|dir| Freezer::of(dir)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::Unsupported, format!("nothing on this host freezes control group {group}"))
        })?;
        if let (Freezer::V2(dir), true) = (&freezer, frozen) {
            set_kernel_threads_apart(dir)?;
        }
        loop {
            // Version 1 makes progress only when it is asked again.
            freezer.set(frozen)?;
            if freezer.is(frozen)? {
                return Ok(());
            }
            if Instant::now() > deadline {
                freezer.set(false)?;
                let text = format!("control group {group} is not still after {} s", FREEZE_TIME.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills all that is in `group` and below, waits until it is empty, and removes it.
    pub fn destroy(&self, group: &str) -> io::Result<()> {
        let deadline = Instant::now() + KILL_TIME;
        let mut pause = Duration::from_micros(300);
        loop {
            let dirs = self.dirs(group);
            if dirs.is_empty() {
                return Ok(());
            }
            let mut failed = None;
            for dir in &dirs {
                failed = kill(dir).and_then(|()| remove(dir, 0)).err().or(failed);
            }
            let Some(error) = failed else { return Ok(()) };
            if Instant::now() > deadline {
                let text = format!("control group {group} cannot be emptied: {error}");
                return Err(io::Error::new(error.kind(), text));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Makes `group` in every hierarchy. An engine's group stands as long as the engine, so that the parent is never empty,
    /// and so never removed, while a runtime makes groups below it.
    pub fn make(&self, group: &str) -> io::Result<()> {
        const TRIES: u32 = 10;
        for root in &self.roots {
            let dir = root.join(&group[1..]);
            let make = || fs::create_dir_all(&dir).and_then(|()| delegate(root, &dir));
            // Another engine's end can remove the parent between its making and its use.
            let mut tries = (0..TRIES).map(|_| make());
            tries.find(Result::is_ok).unwrap_or_else(make)?;
        }
        Ok(())
    }

    /// Moves the calling thread to where its process is. The thread alone, so that a process which somebody moves at the
    /// same time stays where it was put.
    pub fn move_nowhere(&self) -> io::Result<()> {
        let path = self.own_threads().ok_or(io::ErrorKind::NotFound)?;
        let thread = fs::read_link("/proc/thread-self")?;
        write_existing(&path, &thread.file_name().unwrap_or_default().to_string_lossy())
    }

    /// The file that takes and lists the threads of this process's group, in one of the hierarchies.
    fn own_threads(&self) -> Option<PathBuf> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        groups.lines().find_map(|line| {
            let (names, group) = line.split_once(':')?.1.split_once(":/")?;
            let name = OsStr::new(names.strip_prefix("name=").unwrap_or(names));
            let v2 = names.is_empty();
            let is_here = |root: &&PathBuf| if v2 { self.unified_only } else { root.ends_with(name) };
            let root = self.roots.iter().find(is_here)?;
            let path = root.join(group).join(if v2 { "cgroup.threads" } else { "tasks" });
            path.exists().then_some(path)
        })
    }

    /// Removes an empty parent; leaves it when others still use it.
    pub fn remove_empty(&self, group: &str) {
        // A group whose children have just gone is busy for a moment.
        const TRIES: u32 = 50;
        const PAUSE: Duration = Duration::from_millis(2);
        for dir in self.dirs(group) {
            for _ in 0..TRIES {
                if fs::remove_dir(&dir).is_ok() || !subgroups(&dir).is_empty() {
                    break;
                }
                thread::sleep(PAUSE);
            }
        }
    }
}

/// v2: a group's children can be limited by what is passed on to them, on every level from the root down. A controller
/// that is not there is left to the runtime, which refuses what it cannot limit.
fn delegate(root: &Path, dir: &Path) -> io::Result<()> {
    let path: Vec<&Path> = dir.ancestors().take_while(|at| at.starts_with(root)).collect();
    for at in path.into_iter().rev() {
        let read = |file: &str| fs::read_to_string(at.join(file)).unwrap_or_default();
        let (there, passed) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
        let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
        let wanted = CONTROLLERS.into_iter().filter(|name| has(&there, name) && !has(&passed, name));
        // In one write: some of them alone would turn a group that holds processes into one that can never pass on the rest.
        let words: Vec<String> = wanted.map(|name| format!("+{name}")).collect();
        if !words.is_empty() {
            fs::write(at.join("cgroup.subtree_control"), words.join(" ")).map_err(|error| explain(at, &error))?;
        }
    }
    Ok(())
}

/// A group that is not the machine's own root either holds processes or has children with limits.
fn explain(dir: &Path, error: &io::Error) -> io::Error {
    let at = dir.display();
    let text = if error.raw_os_error() == Some(libc::EBUSY) {
        format!("{at} holds processes itself, so groups below it cannot be limited: move them into a group of their own, such as {at}/init")
    } else {
        format!("{at}/cgroup.subtree_control cannot be written: {error}")
    };
    io::Error::new(error.kind(), text)
}

/// What stops and starts one group as a whole.
enum Freezer {
    V1(PathBuf),
    V2(PathBuf),
}

impl Freezer {
    /// None where the group's processes are not in this hierarchy, or it has no freezer.
    fn of(dir: &Path) -> Option<Freezer> {
        if !has_members(dir, 0) {
            return None;
        }
        if dir.join("freezer.state").exists() {
            return Some(Freezer::V1(dir.join("freezer.state")));
        }
        dir.join("cgroup.freeze").exists().then(|| Freezer::V2(dir.to_path_buf()))
    }

    fn set(&self, frozen: bool) -> io::Result<()> {
        match self {
            Freezer::V1(state) => fs::write(state, if frozen { "FROZEN" } else { "THAWED" }),
            Freezer::V2(dir) => fs::write(dir.join("cgroup.freeze"), if frozen { "1" } else { "0" }),
        }
    }

    fn is(&self, frozen: bool) -> io::Result<bool> {
        match self {
            Freezer::V1(state) => Ok(fs::read_to_string(state)?.trim_end() == if frozen { "FROZEN" } else { "THAWED" }),
            Freezer::V2(dir) => {
                let line = if frozen { "frozen 1" } else { "frozen 0" };
                Ok(fs::read_to_string(dir.join("cgroup.events"))?.lines().any(|found| found == line))
            }
        }
    }
}

/// A v2 group is frozen when all its tasks are, and the kernel's own never are: before Linux 6.14 KVM has one in the group of
/// each virtual machine. They go to a group beside it, which ends with the engine's. When they leave is not looked at again,
/// so this comes before the freezing.
fn set_kernel_threads_apart(dir: &Path) -> io::Result<()> {
    let threads: Vec<libc::pid_t> = members_below(dir, 0).into_iter().filter(|pid| is_kernel_thread(*pid)).collect();
    let Some(parent) = dir.parent().filter(|_| !threads.is_empty()) else {
        return Ok(());
    };
    let apart = parent.join(KERNEL_THREADS);
    fs::create_dir_all(&apart)?;
    for pid in threads {
        match fs::write(apart.join("cgroup.procs"), pid.to_string()) {
            // It has ended with its machine.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            result => result?,
        }
    }
    Ok(())
}

fn members_below(dir: &Path, depth: u32) -> Vec<libc::pid_t> {
    let mut found = members(dir);
    if depth < MAX_DEPTH {
        found.extend(subgroups(dir).iter().flat_map(|name| members_below(&dir.join(name), depth + 1)));
    }
    found
}

/// By the flags in `/proc/PID/stat`, the seventh field behind the name, which may hold anything.
fn is_kernel_thread(pid: libc::pid_t) -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000;
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields);
    fields.split(' ').nth(6).and_then(|flags| flags.parse::<u32>().ok()).is_some_and(|flags| flags & PF_KTHREAD != 0)
}

fn has_members(dir: &Path, depth: u32) -> bool {
    let below = || subgroups(dir).iter().any(|name| has_members(&dir.join(name), depth + 1));
    !members(dir).is_empty() || (depth < MAX_DEPTH && below())
}

fn subgroups(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn kill(dir: &Path) -> io::Result<()> {
    // v2 from Linux 5.14: one write kills the whole tree and no fork escapes it.
    if dir.join("cgroup.kill").exists() {
        return gone_is_fine(fs::write(dir.join("cgroup.kill"), "1"));
    }
    let freezer = dir.join("freezer.state");
    // So that nothing forks away meanwhile.
    let _ = write_existing(&freezer, "FROZEN");
    let result = kill_members(dir, 0);
    thaw(dir, 0)?;
    result
}

/// A paused sandbox's group is frozen by itself, whatever the group above it is; what is killed ends when it is thawed.
fn thaw(dir: &Path, depth: u32) -> io::Result<()> {
    gone_is_fine(write_existing(&dir.join("freezer.state"), "THAWED"))?;
    if depth < MAX_DEPTH {
        for name in subgroups(dir) {
            thaw(&dir.join(name), depth + 1)?;
        }
    }
    Ok(())
}

/// Not every hierarchy has a freezer, and a file of that name must not be made where one is missing.
fn write_existing(path: &Path, text: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn members(dir: &Path) -> Vec<libc::pid_t> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

fn kill_members(dir: &Path, depth: u32) -> io::Result<()> {
    let listed = members(dir);
    if !listed.is_empty() {
        let held: Vec<(libc::pid_t, OwnedFd)> =
            listed.into_iter().filter_map(|pid| Some((pid, sys::pidfd_open(pid).ok()?))).collect();
        // A number can be reused between the listing and the opening. One still listed now is the one that is held.
        let still = members(dir);
        for (_, pidfd) in held.iter().filter(|(pid, _)| still.contains(pid)) {
            // Failure means it is already dead; whether the group is empty is what removal decides.
            let _ = sys::pidfd_kill(pidfd.as_fd());
        }
    }
    if depth < MAX_DEPTH {
        for name in subgroups(dir) {
            kill_members(&dir.join(name), depth + 1)?;
        }
    }
    Ok(())
}

fn remove(dir: &Path, depth: u32) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if depth == MAX_DEPTH => return Err(error),
        Err(_) => {}
    }
    for name in subgroups(dir) {
        remove(&dir.join(name), depth + 1)?;
    }
    gone_is_fine(fs::remove_dir(dir))
}
