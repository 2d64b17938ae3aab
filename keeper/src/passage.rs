//! A wait in the kernel that is over before a runtime gets to it.
//!
//! Moving a process between control groups takes a lock that every fork takes too. To keep that cheap for forks, the first
//! to move something after a quiet time waits until all processors have noticed, some 10 ms; who comes while it waits, or
//! within about as long after it, waits no longer than it does. A runtime moves what it starts some 20 ms after a start is
//! announced, so the keeper moves something at the announcement. Meanwhile forks go on, and making and removing groups
//! waits, as it does for a runtime's own first move. Where the kernel keeps the lock ready (`favordynmods`) it is over at
//! once.

use std::io;
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use crate::cgroup::Hierarchies;
use crate::keeper::STACK_BYTES;

/// One thread for all, made in the keeper's own mount namespace: one of a sandbox's would hold its mounts.
pub struct Passage(SyncSender<()>);

impl Passage {
    pub fn new(hierarchies: Hierarchies) -> io::Result<Passage> {
        // One more that is asked for while one is under way lets the passage stay open for longer. Further ones add nothing.
        let (ask, asked) = mpsc::sync_channel(1);
        thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            while asked.recv().is_ok() {
                // Without it a start takes longer, and is the same.
                let _ = hierarchies.move_nowhere();
            }
        })?;
        Ok(Passage(ask))
    }

    /// Returns at once.
    pub fn open(&self) {
        let _ = self.0.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_move_is_a_real_one_and_ends_where_it_began() {
        let place = || fs::read_to_string("/proc/thread-self/cgroup").unwrap();
        let before = place();
        match Hierarchies::read().unwrap().move_nowhere() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => eprintln!("SKIPPED: needs root"),
            result => result.unwrap(),
        }
        assert_eq!(place(), before);
    }
}
