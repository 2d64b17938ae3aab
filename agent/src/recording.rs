//! Which system calls a process and all that descend from it make.

use crate::sys::filter::{let_through, next_call, Handover};
use crate::sys::{local, Result};
use crate::wire::generated::{RecordedCall, MAX_LIST_ITEMS};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

const STACK_BYTES: usize = 128 * 1024;
/// Calls whose first argument a profile has conditions on: a family, a personality.
const BY_ARGUMENT: [i64; 2] = [libc::SYS_socket, libc::SYS_personality];

type Calls = BTreeSet<(u32, u64)>;

#[derive(Clone, Default)]
pub struct Recording(Arc<Mutex<Calls>>);

impl Recording {
    /// Begins one; the hand-over is the child's. The thread ends with the last process that it hears of.
    pub fn begin() -> Result<(Self, Handover)> {
        let (ours, theirs) = local::pair()?;
        let recording = Self::default();
        let calls = recording.clone();
        std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || calls.listen(&ours))
            .map_err(|error| crate::sys::Errno(error.raw_os_error().unwrap_or(libc::EAGAIN)))?;
        Ok((recording, Handover::new(theirs)))
    }

    fn listen(&self, from: &OwnedFd) {
        let mut byte = [0u8; 1];
        let Ok(received) = local::receive(from, &mut byte) else { return };
        let Some(listener) = received.descriptors.into_iter().next() else { return };
        while let Some(call) = next_call(&listener) {
            // Before it is let through: whoever hears of a process's end has all of its calls.
            self.note(call.number, call.argument);
            let_through(&listener, &call);
        }
    }

    fn note(&self, number: u32, argument: u64) {
        let argument = if BY_ARGUMENT.contains(&i64::from(number)) { argument & u64::from(u32::MAX) } else { 0 };
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A program can ask for as many families as there are numbers; nobody needs to know more than a list holds.
        if calls.len() < MAX_LIST_ITEMS {
            calls.insert((number, argument));
        }
    }

    pub fn calls(&self) -> Vec<RecordedCall> {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().map(|(number, argument)| RecordedCall { number: *number, argument: *argument }).collect()
    }
}
