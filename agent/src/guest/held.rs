//! What a template that has its root holds ready, so that its clones become others with fewest of the kernel's code: most of
//! that runs for the first time there, which under emulation is what a start takes.

use super::GuestError;
use crate::sys::guest::{random_device, Mapped};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// None also where the image has something else in that place.
static MACHINE_ID: Mutex<Option<Mapped>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<Mapped>> {
    MACHINE_ID.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Called once the files that name the guest are written.
pub fn hold(machine_id: &str) -> Result<(), GuestError> {
    random_device()?;
    *lock() = Mapped::whole(machine_id).ok();
    Ok(())
}

/// For the first refresh alone: later ones find whatever programs have made of the file.
pub fn machine_id() -> Option<Mapped> {
    lock().take()
}
