//! Every child of the keeper, its own and those it inherits as subreaper, is reaped here and nowhere else.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::Mutex;

use crate::sys;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

impl Ended {
    pub const UNKNOWN: Ended = Ended { code: None, signal: None };

    fn from_status(status: i32) -> Ended {
        if libc::WIFEXITED(status) {
            Ended { code: Some(libc::WEXITSTATUS(status)), signal: None }
        } else {
            Ended { code: None, signal: Some(libc::WTERMSIG(status)) }
        }
    }
}

/// Orphans that ended before anybody asked for them; only the latest matter, because a caller asks right after start.
const ORPHANS_KEPT: usize = 1024;

#[derive(Default)]
struct Table {
    waiting: HashMap<libc::pid_t, Sender<Ended>>,
    orphans: VecDeque<(libc::pid_t, Ended)>,
}

/// Reaping happens under this lock, so that between "does it live" and "tell me when it ends" nothing can be missed, and
/// so that a pid read under the lock cannot have been given to another process.
#[derive(Default)]
pub struct Reaper {
    table: Mutex<Table>,
}

pub struct Child {
    pub pid: libc::pid_t,
    /// Readable once the child has ended.
    pub pidfd: OwnedFd,
    pub ended: Receiver<Ended>,
}

impl Reaper {
    pub fn spawn(&self, what: &sys::Spawn<'_>) -> io::Result<Child> {
        let mut table = self.table.lock().unwrap();
        let pid = sys::spawn(what)?;
        let pidfd = sys::pidfd_open(pid)?;
        let (send, ended) = mpsc::channel();
        table.waiting.insert(pid, send);
        Ok(Child { pid, pidfd, ended })
    }

    /// Follows a process that has become, or is about to become, a child of the keeper's.
    pub fn follow(&self, pid: libc::pid_t) -> (Option<OwnedFd>, Receiver<Ended>) {
        let mut table = self.table.lock().unwrap();
        let (send, ended) = mpsc::channel();
        if sys::alive(pid) {
            let pidfd = sys::pidfd_open(pid).ok();
            table.waiting.insert(pid, send);
            return (pidfd, ended);
        }
        let known = table.orphans.iter().rev().find(|(orphan, _)| *orphan == pid);
        // The receiver is on this stack, so sending cannot fail.
        let _ = send.send(known.map_or(Ended::UNKNOWN, |(_, how)| *how));
        (None, ended)
    }

    pub fn reap_all(&self) {
        loop {
            let mut table = self.table.lock().unwrap();
            let Some(pid) = sys::peek_child() else { return };
            let Some(status) = sys::reap(pid) else { return };
            let how = Ended::from_status(status);
            match table.waiting.remove(&pid) {
                // A waiter that has given up has dropped its end.
                Some(waiter) => drop(waiter.send(how)),
                None => {
                    if table.orphans.len() == ORPHANS_KEPT {
                        table.orphans.pop_front();
                    }
                    table.orphans.push_back((pid, how));
                }
            }
        }
    }
}
