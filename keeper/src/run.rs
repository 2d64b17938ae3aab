//! One program, run to its end, with bounded output and time.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::proto::Failure;
use crate::reaper::{Ended, Reaper};
use crate::requests::Program;
use crate::sys;

/// Enough for any runtime's message; the rest of what a program says is read and dropped.
pub const STDERR_TAIL_BYTES: usize = 4096;
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How often a waiting thread looks whether its request was called off.
const CANCEL_POLL: Duration = Duration::from_millis(50);
/// A runtime that is called off is let finish: killed half-way, what it has forked into a session of its own goes on
/// making files and is in no control group yet. Ten times what the slowest start takes.
const CALLED_OFF_GRACE: Duration = Duration::from_secs(2);

pub struct Output {
    pub ended: Ended,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Standard streams given by the caller; absent ones are /dev/null for input and captured for output.
#[derive(Default)]
pub struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// Further descriptors by their number in the program.
    pub extra: Vec<(i32, OwnedFd)>,
}

struct Capture {
    end: Option<File>,
    kept: Vec<u8>,
    limit: usize,
}

impl Capture {
    fn new(limit: usize) -> io::Result<(Capture, OwnedFd)> {
        let (read, write) = sys::pipe()?;
        sys::set_nonblocking(read.as_fd())?;
        Ok((Capture { end: Some(read.into()), kept: Vec::new(), limit }, write))
    }

    fn none() -> Capture {
        Capture { end: None, kept: Vec::new(), limit: 0 }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.end.as_ref().map(AsFd::as_fd)
    }

    /// Reads what is there; keeps the last `limit` bytes.
    fn drain(&mut self) {
        let Some(file) = &mut self.end else { return };
        let mut chunk = [0; 16 * 1024];
        loop {
            match file.read(&mut chunk) {
                Ok(0) => break self.end = None,
                Ok(count) => {
                    self.kept.extend_from_slice(&chunk[..count]);
                    let extra = self.kept.len().saturating_sub(self.limit);
                    self.kept.drain(..extra);
                }
                Err(_) => break,
            }
        }
    }
}

fn environment(program: &Program) -> io::Result<Vec<CString>> {
    match &program.env {
        None => Ok(vec![sys::cstr(PATH)?]),
        Some(env) => env.iter().map(|(name, value)| sys::cstr(format!("{name}={value}"))).collect(),
    }
}

/// Starts `program` in the calling thread's mount namespace and waits for its end, its time, or `cancelled`.
pub fn run(
    reaper: &Reaper,
    program: &Program,
    given: Streams,
    max_stdout: usize,
    cancelled: &AtomicBool,
) -> Result<Output, Failure> {
    let argv: Vec<CString> = program.argv.iter().map(sys::cstr).collect::<io::Result<_>>()?;
    if !program.argv.first().is_some_and(|path| path.starts_with('/')) {
        return Err(Failure::new("a program is named by its absolute path"));
    }
    let name = &program.argv[0];
    let env = environment(program)?;
    let cwd = program.cwd.as_ref().map(sys::cstr).transpose()?;
    let null = || -> io::Result<OwnedFd> { Ok(File::options().read(true).write(true).open("/dev/null")?.into()) };
    let (mut out, mut err) = (Capture::none(), Capture::none());
    let stdin = given.stdin.map_or_else(null, Ok)?;
    let stdout = match given.stdout {
        Some(fd) => fd,
        None if max_stdout == 0 => null()?,
        None => Capture::new(max_stdout).map(|(capture, end)| (out = capture, end).1)?,
    };
    let stderr = match given.stderr {
        Some(fd) => fd,
        None => Capture::new(STDERR_TAIL_BYTES).map(|(capture, end)| (err = capture, end).1)?,
    };
    let stdio = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let extra: Vec<_> = given.extra.iter().map(|(number, fd)| (*number, fd.as_fd())).collect();
    let what = sys::Spawn { argv: &argv, env: &env, cwd: cwd.as_deref(), stdio, extra: &extra };
    let child = reaper.spawn(&what).map_err(|error| Failure::from(error).at(name))?;
    drop((stdin, stdout, stderr, given.extra));

    let deadline = Instant::now() + Duration::from_millis(program.timeout_ms);
    let mut called_off: Option<Instant> = None;
    let mut stopped = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = left.min(CANCEL_POLL).as_millis() as i32;
        let ready = sys::poll_in(&[Some(child.pidfd.as_fd()), out.fd(), err.fd()], wait.max(1))?;
        out.drain();
        err.drain();
        if ready[0] {
            // Not left to the thread that waits for signals: it would have to be woken, and then wake this one.
            reaper.reap_all();
            break;
        }
        if cancelled.load(Ordering::Relaxed) && called_off.is_none() {
            called_off = Some(Instant::now());
        }
        let out_of_grace = called_off.is_some_and(|since| since.elapsed() > CALLED_OFF_GRACE);
        if stopped.is_none() && (left.is_zero() || out_of_grace) {
            stopped = Some(if left.is_zero() { "took longer than it may" } else { "was called off" });
            kill_tree(child.pid);
        }
    }
    let ended = child.ended.recv().unwrap_or(Ended::UNKNOWN);
    match stopped {
        Some(why) => {
            let stderr = String::from_utf8_lossy(&err.kept).into_owned();
            let errno = Some("ETIMEDOUT".to_string()).filter(|_| !cancelled.load(Ordering::Relaxed));
            Err(Failure { errno, message: format!("{name} {why}"), stderr, ..Failure::default() })
        }
        None => Ok(Output { ended, stdout: out.kept, stderr: err.kept }),
    }
}

/// Kills a program that must not go on, with all it has started, also in sessions of their own: those are found through
/// their parents, as long as these live. Stopped first, so that none of them starts another meanwhile.
fn kill_tree(root: libc::pid_t) {
    /// A runtime starts a handful; more is not worth chasing through a list that changes.
    const MAX_PROCESSES: usize = 256;
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() && found.len() < MAX_PROCESSES {
        sys::stop(found[at]);
        let tasks = std::fs::read_dir(format!("/proc/{}/task", found[at]));
        for task in tasks.into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children"));
            let children = children.unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
        at += 1;
    }
    // Parents last: until then no child's id can be reaped and given to somebody else.
    for pid in found.iter().skip(1).rev() {
        sys::kill(*pid);
    }
    sys::kill_group(root);
}
