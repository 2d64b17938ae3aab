//! Threads for what may block: files, user databases, starting processes. A task runs in steps; between two steps it
//! waits in the loop and holds no thread, so slow readers cost none.

use crate::failure::Failure;
use crate::sys::fd;
use crate::wire::generated::Message;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Enough to hide a slow disk; each costs a few KB of stack while it lives.
const THREADS_MAX: usize = 16;
const STACK_BYTES: usize = 256 * 1024;
/// Steps waiting or running, those of streams that have been cancelled meanwhile included.
const STEPS_MAX: usize = 2048;
const IDLE_THREAD_LIVES: Duration = Duration::from_secs(3);

/// What the loop has for the next step.
#[derive(Default)]
pub struct Input {
    /// From lane in.
    pub data: Vec<u8>,
    /// Lane in has ended; nothing follows `data`.
    pub ended: bool,
    /// Bytes of output wanted at most.
    pub room: usize,
}

/// What must happen before the next step.
pub enum Next {
    /// Nothing follows.
    Done,
    /// Room on lane out.
    Room,
    /// Data or the end on lane in.
    Data,
    /// This descriptor is readable (a copy of the task's own).
    Readable(OwnedFd),
    /// As `Readable`, with the descriptor told before.
    ReadableAgain,
    /// The stream goes on as a socket.
    Socket(OwnedFd),
    /// The stream goes on as a process.
    Process(Box<crate::process::Started>),
    /// A process runs whose caller is inside.
    Elevated(u32),
}

pub struct Output {
    pub messages: Vec<Message>,
    pub data: Vec<u8>,
    pub next: Next,
}

impl Output {
    pub fn done() -> Self {
        Self { messages: Vec::new(), data: Vec::new(), next: Next::Done }
    }
    pub fn message(message: Message, next: Next) -> Self {
        Self { messages: vec![message], data: Vec::new(), next }
    }
}

pub trait Task: Send {
    fn step(&mut self, input: Input) -> Result<Output, Failure>;
    fn starts_process(&self) -> bool {
        false
    }
    /// The connection from inside that this is done for, instead of a stream of the host.
    fn caller(&self) -> Option<u32> {
        None
    }
    /// Undoes what is half done; runs in a worker when the stream ends early.
    fn cancel(&mut self) {}
}

pub struct Finished {
    pub stream: u32,
    pub session: u32,
    pub task: Box<dyn Task>,
    pub result: Result<Output, Failure>,
}

enum Step {
    Run { stream: u32, session: u32, task: Box<dyn Task>, input: Input },
    Cancel(Box<dyn Task>),
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Step>,
    finished: Vec<Finished>,
    threads: usize,
    idle: usize,
    running: usize,
    /// Threads that stay however long they are idle.
    kept: usize,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    wake: OwnedFd,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Workers {
    shared: Arc<Shared>,
}

/// No room for another step.
pub struct Full;

impl Workers {
    /// `wake` is raised whenever a step has finished.
    pub fn new(wake: OwnedFd) -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), wake }) }
    }

    /// Starts a thread that stays: a template's clones have it then, and need not run what makes one.
    pub fn keep_one(&self) {
        let mut state = self.shared.lock();
        state.kept = 1;
        if state.threads == 0 {
            // Without it the first step starts one.
            let _ = self.start(&mut state);
        }
    }

    fn start(&self, state: &mut State) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || serve(&shared))?;
        state.threads += 1;
        Ok(())
    }

    pub fn run(&self, stream: u32, session: u32, task: Box<dyn Task>, input: Input) -> Result<(), Full> {
        self.push(Step::Run { stream, session, task, input })
    }

    pub fn cancel(&self, task: Box<dyn Task>) {
        // With no room the task is dropped here, and what it left half done stays; the sandbox has far worse trouble then.
        let _ = self.push(Step::Cancel(task));
    }

    fn push(&self, step: Step) -> Result<(), Full> {
        let mut state = self.shared.lock();
        if state.waiting.len() + state.running >= STEPS_MAX {
            return Err(Full);
        }
        state.waiting.push_back(step);
        if state.idle >= state.waiting.len() {
            drop(state);
            self.shared.work.notify_one();
            return Ok(());
        }
        if state.threads < THREADS_MAX {
            let started = self.start(&mut state);
            if started.is_err() && state.threads == 0 {
                state.waiting.pop_back();
                return Err(Full);
            }
        }
        Ok(())
    }

    pub fn finished(&self) -> Vec<Finished> {
        let mut counter = [0u8; 8];
        let _ = fd::read(&self.shared.wake, &mut counter);
        std::mem::take(&mut self.shared.lock().finished)
    }

    pub fn wake_descriptor(&self) -> &OwnedFd {
        &self.shared.wake
    }
}

/// Says whether it was in vain.
fn wait<'a>(shared: &Shared, state: MutexGuard<'a, State>, stays: bool) -> (MutexGuard<'a, State>, bool) {
    if stays {
        let guard = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        return (guard, false);
    }
    let (guard, timeout) = shared.work.wait_timeout(state, IDLE_THREAD_LIVES).unwrap_or_else(PoisonError::into_inner);
    (guard, timeout.timed_out())
}

fn serve(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        let Some(step) = state.waiting.pop_front() else {
            state.idle += 1;
            let stays = state.threads <= state.kept;
            let (guard, late) = wait(shared, state, stays);
            state = guard;
            state.idle -= 1;
            if late && state.waiting.is_empty() && state.threads > state.kept {
                state.threads -= 1;
                return;
            }
            continue;
        };
        state.running += 1;
        drop(state);
        let finished = match step {
            Step::Cancel(mut task) => {
                task.cancel();
                None
            }
            Step::Run { stream, session, mut task, input } => {
                let result = task.step(input);
                Some(Finished { stream, session, task, result })
            }
        };
        state = shared.lock();
        state.running -= 1;
        if let Some(finished) = finished {
            state.finished.push(finished);
            let _ = fd::write(&shared.wake, &1u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Input, Output, Task, Workers};
    use crate::failure::Failure;
    use crate::sys::poll;

    struct Nothing;

    impl Task for Nothing {
        fn step(&mut self, _input: Input) -> Result<Output, Failure> {
            Ok(Output::done())
        }
    }

    #[test]
    fn a_kept_thread_is_there_once_and_works() {
        let workers = Workers::new(poll::event_counter().unwrap());
        workers.keep_one();
        workers.keep_one();
        assert_eq!(workers.shared.lock().threads, 1);
        assert!(workers.run(1, 1, Box::new(Nothing), Input::default()).is_ok());
        while workers.shared.lock().finished.is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(workers.finished().len(), 1);
    }
}
