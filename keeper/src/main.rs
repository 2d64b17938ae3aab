//! bulkhead-keeper: the host side's helper, one per engine process. It does what a garbage-collected runtime cannot:
//! makes mounts, starts runtimes without copying a large process, reaps what they leave, and outlives its engine just
//! long enough to undo everything.
//!
//! Started as `bulkhead-keeper --run <dir>` with one end of a socket pair as descriptor 3.

mod capture;
mod cgroup;
mod descriptors;
mod digest;
mod disk;
mod fields;
mod ids;
mod keeper;
mod limits;
mod log;
mod passage;
mod paths;
mod proto;
mod reaper;
mod requests;
mod run;
mod sealed;
mod steps;
mod sweep;
mod sys;
mod volumes;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use cgroup::Hierarchies;
use keeper::{Keeper, STACK_BYTES};
use proto::{Failure, Lines, Sender, GENERATION};
use requests::{Op, Request};
use serde_json::{json, Value};

const CONTROL_FD: i32 = 3;
/// Requests being worked on at once; more wait in the socket. Each has its own bound in time, so the queue moves.
const MAX_AT_ONCE: usize = 128;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_dir() -> io::Result<PathBuf> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [flag, dir] if flag == "--run" && dir.starts_with('/') => Ok(PathBuf::from(dir)),
        _ => Err(io::Error::other("usage: bulkhead-keeper --run <absolute directory>, control socket as fd 3")),
    }
}

/// The keeper's own view of mounts, clean of any sandbox's.
fn private_mounts() -> io::Result<()> {
    sys::unshare_mounts()?;
    sys::mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_SLAVE, None)?;
    cgroup::cover_unified()?;
    Ok(())
}

fn start() -> io::Result<()> {
    let run_dir = run_dir()?;
    let control = File::from(sys::adopt(CONTROL_FD)?);
    sys::block_signals();
    sys::clear_umask();
    sys::become_subreaper()?;
    private_mounts()?;
    let hierarchies = Hierarchies::read()?;
    let (engine, lock) = sweep::found(&run_dir)?;
    hierarchies.make(&format!("{}/{engine}", cgroup::PREFIX))?;
    let run_dir = run_dir.canonicalize()?;
    let sender = Sender::new(control.try_clone()?);
    let keeper = Arc::new(Keeper::new(engine, run_dir, hierarchies, sender)?);

    let signals = (keeper.clone(), control.try_clone()?);
    spawn(move || watch_signals(&signals.0, &signals.1))?;
    let sweeper = keeper.clone();
    spawn(move || sweep::sweep(&sweeper.run_dir, &sweeper.hierarchies))?;
    serve(&keeper, Lines::new(control))?;
    keeper.end(lock);
    Ok(())
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().stack_size(STACK_BYTES).spawn(work).map(drop)
}

fn watch_signals(keeper: &Keeper, control: &File) {
    loop {
        match sys::wait_signal() {
            libc::SIGCHLD => keeper.reaper.reap_all(),
            libc::SIGTERM | libc::SIGINT | libc::SIGHUP => sys::shut_reading(control.as_fd()),
            _ => {}
        }
    }
}

/// Counts the requests being worked on.
#[derive(Default)]
struct Gate {
    busy: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    fn wait_below(&self, limit: usize) -> std::sync::MutexGuard<'_, usize> {
        self.changed.wait_while(self.busy.lock().unwrap(), |busy| *busy >= limit).unwrap()
    }

    fn leave(&self) {
        *self.busy.lock().unwrap() -= 1;
        self.changed.notify_all();
    }
}

fn serve(keeper: &Arc<Keeper>, mut lines: Lines) -> io::Result<()> {
    let gate = Arc::new(Gate::default());
    while let Some(line) = lines.next() {
        let request = match Request::parse(&line) {
            Ok(request) => request,
            // The engine is ours; a line it cannot have written means that the two do not belong together.
            Err(error) => {
                eprintln!("bulkhead-keeper: unreadable request: {error}");
                break;
            }
        };
        let id = request.id;
        // These are quick and must keep their order with what follows them.
        if matches!(request.op, Op::Hello | Op::Reserve | Op::Settled { .. } | Op::Look { .. }) {
            keeper.sender.reply(id, answer(keeper, &request.op));
            continue;
        }
        *gate.wait_below(MAX_AT_ONCE) += 1;
        let (worker, done) = (keeper.clone(), gate.clone());
        let started = spawn(move || {
            worker.sender.reply(id, answer(&worker, &request.op));
            done.leave();
        });
        if let Err(error) = started {
            keeper.sender.reply(id, Err(Failure::from(error)));
            gate.leave();
        }
    }
    Ok(())
}

fn answer(keeper: &Arc<Keeper>, op: &Op) -> Result<Value, Failure> {
    match op {
        Op::Hello => Ok(json!({
            "version": env!("CARGO_PKG_VERSION"), "generation": GENERATION, "engine": keeper.engine,
            "pid": std::process::id(), "cgroup": if keeper.hierarchies.unified_only { "v2" } else { "v1" },
        })),
        Op::Reserve => keeper.reserve(),
        Op::Acquire { instance, steps } => keeper.acquire(instance, steps),
        Op::Settled { instance } => keeper.settled(instance),
        Op::Look { instance } => keeper.look_for(instance),
        Op::Release { instance } => keeper.release(instance),
        Op::Freeze { instance, frozen } => keeper.freeze(instance, *frozen),
        Op::Capture { instance, into } => keeper.capture(instance, into),
        Op::Digest { path } => digest::of(path).map_err(|error| Failure::from(error).at(path)),
        Op::Counter => Ok(json!({ "khz": sys::counter_khz().ok_or_else(|| Failure::new("no time stamp counter"))? })),
        Op::Run { program, max_output_bytes } => keeper.run(program, *max_output_bytes),
    }
}
