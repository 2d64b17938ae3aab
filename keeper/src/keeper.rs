//! The sandboxes of one engine, from reservation to nothing.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use serde_json::{json, Value};

use crate::capture;
use crate::cgroup::{self, Hierarchies, PREFIX};
use crate::disk::Layers;
use crate::ids::Ranges;
use crate::limits::{Told, Watch};
use crate::log::Log;
use crate::passage::Passage;
use crate::proto::{Failure, Sender};
use crate::reaper::{Ended, Reaper};
use crate::requests::{Program, Step};
use crate::run::{self, Streams};
use crate::sealed::Sealed;
use crate::steps::{Acquired, Scope};
use crate::volumes::Attached;
use crate::{paths, sys};

/// Waiting for a sandbox's end needs next to no stack; the default would reserve 8 MiB for each.
pub const STACK_BYTES: usize = 256 * 1024;

/// Runtimes put their own files beside ours; only the owner may look into a sandbox's directory, but a runtime that has
/// already become the sandbox's root must be able to pass through to the root file system.
const DIR_MODE: u32 = 0o711;
/// Where an engine listens for other processes of the host, in its own directory.
const CONTROL: &str = "control";

struct Live {
    got: Acquired,
    /// Keeps the sandbox's mounts.
    namespace: Option<OwnedFd>,
    init: Option<OwnedFd>,
}

struct Instance {
    id: String,
    dir: PathBuf,
    id_base: u32,
    cgroup: String,
    /// Set when release is asked for; an acquire under way stops at its next step or kills what it runs.
    cancelled: AtomicBool,
    told: Mutex<Told>,
    /// Process id of the sandbox's first process, 0 until there is one.
    first: AtomicI32,
    /// Held during acquire and release, so that a release waits for the acquire it has called off.
    live: Mutex<Live>,
}

pub struct Keeper {
    pub engine: String,
    pub run_dir: PathBuf,
    pub engine_dir: PathBuf,
    pub hierarchies: Hierarchies,
    pub reaper: Reaper,
    pub sender: Sender,
    ranges: Ranges,
    sealed: Sealed,
    layers: Layers,
    passage: Passage,
    instances: Mutex<HashMap<String, Arc<Instance>>>,
}

impl Instance {
    /// Volumes that have no room left, each once until it has.
    fn newly_full(&self) -> Vec<Value> {
        // A release holds all of it until nothing is left.
        if self.cancelled.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut live = self.live.lock().unwrap();
        let full = live.got.volumes.iter_mut().filter_map(Attached::newly_full);
        full.map(|(name, bytes)| json!({ "volume": name, "bytes": bytes })).collect()
    }

    /// Until the sandbox has ended keeps its diagnostics flowing, at a rate that costs the host nothing worth having, and
    /// calls `look` when it may have reached a limit.
    fn attend_until(&self, ended: &OwnedFd, watches: &[Watch], look: impl Fn()) {
        const PAUSE_MS: i32 = 50;
        let mut log = self.live.lock().unwrap().got.log.as_ref().and_then(|log| log.fd().try_clone_to_owned().ok());
        let mut pause = -1;
        loop {
            let mut set = vec![(Some(ended.as_fd()), libc::POLLIN), (log.as_ref().map(AsFd::as_fd), libc::POLLIN)];
            set.extend(watches.iter().map(Watch::wanted).map(|(fd, events)| (Some(fd), events)));
            let Ok(came) = sys::poll_any(&set, pause) else { return };
            // A release takes what is left of the log itself.
            if came[0] || self.cancelled.load(Ordering::Relaxed) {
                return;
            }
            let alarmed = came[2..].contains(&true);
            if alarmed || pause >= 0 {
                watches.iter().for_each(Watch::rearm);
                look();
            }
            // What an alarm announces is counted a moment later.
            pause = if alarmed { PAUSE_MS } else { -1 };
            // Without a writer it would be reported as readable for ever.
            if came[1] && !self.live.lock().unwrap().got.log.as_mut().is_some_and(Log::drain) {
                log = None;
            }
            if alarmed || came[1] {
                // An end is noticed at once all the same.
                let _ = sys::poll_in(&[Some(ended.as_fd())], PAUSE_MS);
            }
        }
    }
}

impl Keeper {
    pub fn new(engine: String, run_dir: PathBuf, hierarchies: Hierarchies, sender: Sender) -> std::io::Result<Keeper> {
        Ok(Keeper {
            engine_dir: run_dir.join(&engine),
            engine,
            run_dir,
            passage: Passage::new(hierarchies.clone())?,
            hierarchies,
            reaper: Reaper::default(),
            sender,
            ranges: Ranges::open()?,
            sealed: Sealed::default(),
            layers: Layers::default(),
            instances: Mutex::default(),
        })
    }

    fn instance(&self, id: &str) -> Result<Arc<Instance>, Failure> {
        let found = self.instances.lock().unwrap().get(id).cloned();
        found.ok_or_else(|| Failure::new(format!("sandbox {id:?} is not held by this keeper")))
    }

    pub fn reserve(&self) -> Result<Value, Failure> {
        self.passage.open();
        let id = paths::new_name('s')?;
        let dir = self.engine_dir.join(&id);
        let id_base = self.ranges.take()?;
        if let Err(error) = std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), DIR_MODE).create(&dir) {
            self.ranges.give_back(id_base);
            return Err(Failure::from(error).at(&dir.to_string_lossy()));
        }
        let cgroup = format!("{PREFIX}/{}/{id}", self.engine);
        let live = Live { got: Acquired::default(), namespace: None, init: None };
        let answer = json!({ "id": id, "dir": dir, "idBase": id_base, "cgroup": cgroup });
        let cancelled = AtomicBool::new(false);
        let (told, first) = (Mutex::default(), AtomicI32::new(0));
        let instance =
            Instance { id: id.clone(), dir, id_base, cgroup, cancelled, told, first, live: Mutex::new(live) };
        self.instances.lock().unwrap().insert(id, Arc::new(instance));
        Ok(answer)
    }

    /// Carries the steps out, on a thread of its own: the thread's mount namespace becomes the sandbox's.
    pub fn acquire(self: &Arc<Self>, id: &str, steps: &[Step]) -> Result<Value, Failure> {
        let instance = self.instance(id)?;
        let mut live = instance.live.lock().unwrap();
        if live.namespace.is_some() {
            return Err(Failure::new(format!("sandbox {id} is already acquired")));
        }
        let mut done_at = Vec::with_capacity(steps.len());
        let result = self.carry_out(&instance, &mut live, steps, &mut done_at);
        drop(live);
        let pid = result.inspect_err(|_| {
            // The caller needs the first failure; what cannot be undone now is undone when the keeper ends.
            let _ = self.release(id);
        })?;
        // When each step was done, in microseconds from the start: the answer to "where did the time go".
        Ok(json!({ "pid": pid, "doneAtUs": done_at }))
    }

    fn carry_out(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        live: &mut Live,
        steps: &[Step],
        done_at: &mut Vec<u64>,
    ) -> Result<Option<libc::pid_t>, Failure> {
        let begin = Instant::now();
        let prepared = sys::unshare_mounts().and_then(|()| cgroup::cover_unified());
        prepared.map_err(|error| Failure::from(error).at("the sandbox's mount namespace"))?;
        live.namespace = Some(sys::mount_namespace()?);
        let mut scope = Scope {
            reaper: &self.reaper,
            sealed: &self.sealed,
            layers: &self.layers,
            passage: &self.passage,
            cancelled: &instance.cancelled,
            run_dir: &self.run_dir,
            dir: &instance.dir,
            // Opened after the namespace was made: mounts can be put only on a directory of the caller's own.
            dir_fd: sys::open_dir(&instance.dir)?,
            id_base: instance.id_base,
            cgroup: &instance.cgroup,
            got: Acquired::default(),
        };
        let mut result = Ok(());
        for (index, step) in steps.iter().enumerate() {
            if instance.cancelled.load(Ordering::Relaxed) {
                result = Err(Failure::new("the start was called off"));
            } else {
                result = scope.carry_out(step);
            }
            if let Err(mut failure) = result {
                (failure.step, failure.op) = (Some(index), Some(step.name()));
                // The system's own words name nothing.
                let named = failure.errno.is_none() || failure.message.contains(step.subject());
                result = Err(if named { failure } else { failure.at(step.subject()) });
                break;
            }
            done_at.push(begin.elapsed().as_micros() as u64);
        }
        live.got = scope.got;
        result?;
        if let Some(pid) = live.got.init {
            instance.first.store(pid, Ordering::Relaxed);
            live.init = self.follow(instance, pid)?;
        }
        Ok(live.got.init)
    }

    /// Reports the sandbox's end when it comes.
    fn follow(self: &Arc<Self>, instance: &Arc<Instance>, pid: libc::pid_t) -> Result<Option<OwnedFd>, Failure> {
        let (pidfd, ended) = self.reaper.follow(pid);
        let (keeper, instance) = (self.clone(), instance.clone());
        let watched = pidfd.as_ref().map(OwnedFd::try_clone).transpose()?;
        thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            if let Some(pidfd) = watched {
                let watches = Watch::of(&keeper.hierarchies, &instance.cgroup);
                instance.attend_until(&pidfd, &watches, || keeper.look(&instance, false));
            }
            let how = ended.recv().unwrap_or(Ended::UNKNOWN);
            keeper.report_end(&instance, how);
        })?;
        Ok(pidfd)
    }

    fn report_end(&self, instance: &Instance, how: Ended) {
        // A release counts and removes the groups itself; nobody waits for the event of a sandbox that is being released.
        if instance.cancelled.load(Ordering::Relaxed) {
            return;
        }
        self.look(instance, true);
        let oom_killed = self.hierarchies.oom_kills(&instance.cgroup) > 0;
        let log = instance.live.lock().unwrap().got.log.as_mut().map(Log::tail);
        self.sender.send(&json!({
            "event": "ended", "instance": instance.id, "code": how.code, "signal": how.signal,
            "oomKilled": oom_killed, "log": log.unwrap_or_default(),
        }));
    }

    /// Tells what limits were reached since the last look.
    fn look(&self, instance: &Instance, asked: bool) {
        // Held while it is sent: what was told first is heard first.
        let mut told = instance.told.lock().unwrap();
        let first = instance.first.load(Ordering::Relaxed);
        let full = if asked { instance.newly_full() } else { Vec::new() };
        let news = told.news(&self.hierarchies, &instance.cgroup, first, asked);
        if news.is_none() && full.is_empty() {
            return;
        }
        let mut news = news.unwrap_or_else(|| json!({ "killed": [], "refused": false }));
        news["full"] = json!(full);
        news["event"] = json!("limit");
        news["instance"] = json!(instance.id);
        self.sender.send(&news);
    }

    pub fn look_for(&self, id: &str) -> Result<Value, Failure> {
        let instance = self.instance(id)?;
        self.look(&instance, true);
        let (periods, micros) = self.hierarchies.throttled(&instance.cgroup);
        Ok(json!({ "throttledPeriods": periods, "throttledUs": micros }))
    }

    pub fn settled(self: &Arc<Self>, id: &str) -> Result<Value, Failure> {
        self.instance(id)?.live.lock().unwrap().got.helpers.clear();
        if self.layers.wants_one() {
            let keeper = self.clone();
            thread::Builder::new().stack_size(STACK_BYTES).spawn(move || keeper.layers.prepare())?;
        }
        Ok(json!({}))
    }

    /// Stops all that runs in the sandbox where it stands, or lets it go on.
    pub fn freeze(&self, id: &str, frozen: bool) -> Result<Value, Failure> {
        let instance = self.instance(id)?;
        // A release thaws what it kills; freezing beside it would hold it up.
        if instance.cancelled.load(Ordering::Relaxed) {
            return Err(Failure::new(format!("sandbox {id} is being removed")));
        }
        self.hierarchies.freeze(&instance.cgroup, frozen)?;
        Ok(json!({}))
    }

    /// Writes the memory and the disk of a sandbox whose first process has stopped its machine to `into/memory` and
    /// `into/disk`. A release calls it off.
    pub fn capture(&self, id: &str, into: &str) -> Result<Value, Failure> {
        let instance = self.instance(id)?;
        // Not held while copying: a release must not wait for a disk.
        let holdings = {
            let live = instance.live.lock().unwrap();
            capture::Holdings::of(&live.got, live.init.as_ref())?
        };
        holdings.write(into, &instance.cancelled)?;
        Ok(json!({}))
    }

    /// Undoes everything, last acquired first. On failure the sandbox stays known (and its ids taken), so that asking
    /// again tries again.
    pub fn release(&self, id: &str) -> Result<Value, Failure> {
        let instance = self.instance(id)?;
        instance.cancelled.store(true, Ordering::Relaxed);
        let mut live = instance.live.lock().unwrap();
        if let Some(pidfd) = live.init.take() {
            // ESRCH: it has ended already.
            let _ = sys::pidfd_kill(std::os::fd::AsFd::as_fd(&pidfd));
        }
        let mut result = Ok(());
        for group in live.got.cgroups.iter().rev() {
            result = result.and(self.hierarchies.destroy(group));
        }
        live.got.helpers.clear();
        live.namespace = None;
        live.got.volumes.clear();
        let removed = remove_patiently(&self.engine_dir, id);
        result.and(removed).map_err(|error| Failure::from(error).at(&format!("sandbox {id} is not fully removed")))?;
        drop(live);
        if self.instances.lock().unwrap().remove(id).is_some() {
            self.ranges.give_back(instance.id_base);
        }
        Ok(json!({}))
    }

    pub fn run(&self, program: &Program, max_output_bytes: usize) -> Result<Value, Failure> {
        let cancelled = AtomicBool::new(false);
        let output = run::run(&self.reaper, program, Streams::default(), max_output_bytes, &cancelled)?;
        Ok(json!({
            "code": output.ended.code, "signal": output.ended.signal,
            "stdout": String::from_utf8_lossy(&output.stdout), "stderr": String::from_utf8_lossy(&output.stderr),
        }))
    }

    /// Releases every sandbox, then removes what the engine itself had.
    pub fn end(&self, lock: File) {
        let ids: Vec<String> = self.instances.lock().unwrap().keys().cloned().collect();
        // A release mostly waits for the kernel, so that a few at a time keep both sides busy.
        const AT_ONCE: usize = 8;
        let next = Mutex::new(ids.into_iter());
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| loop {
                    let Some(id) = next.lock().unwrap().next() else {
                        break;
                    };
                    if let Err(failure) = self.release(&id) {
                        eprintln!("bulkhead-keeper: {}", failure.message);
                    }
                });
            }
        });
        // A group whose children have just gone can be busy for a moment, so that one try is not enough.
        let group = format!("{PREFIX}/{}", self.engine);
        if let Err(error) = self.hierarchies.destroy(&group) {
            eprintln!("bulkhead-keeper: {error}");
        }
        self.hierarchies.remove_empty(PREFIX);
        self.reaper.reap_all();
        // An engine that was killed has not closed its control socket.
        if let Err(error) = paths::remove_tree(&self.engine_dir, CONTROL) {
            eprintln!("bulkhead-keeper: {CONTROL}: {error}");
        }
        // Anything a failed release has left keeps the directory, for the next start's sweep.
        let _ = fs::remove_file(self.engine_dir.join(crate::sweep::LOCK));
        if fs::remove_dir(&self.engine_dir).is_err() {
            eprintln!("bulkhead-keeper: {} is not empty", self.engine_dir.display());
        }
        drop(lock);
    }
}

/// A runtime that had to be killed may leave a process that makes one more file while its directory is being removed.
fn remove_patiently(above: &std::path::Path, name: &str) -> std::io::Result<()> {
    const TRIES: u32 = 50;
    const BETWEEN: std::time::Duration = std::time::Duration::from_millis(20);
    for _ in 1..TRIES {
        match paths::remove_tree(above, name) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTEMPTY) => thread::sleep(BETWEEN),
            result => return result,
        }
    }
    paths::remove_tree(above, name)
}
