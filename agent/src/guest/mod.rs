//! The agent as process 1 of its own kernel: what the host does for a container, done from inside a virtual machine.
//!
//! `start` knows no image, so that one booted guest can be the template of every sandbox. `prepare` runs in the woken
//! clone, once, before any other process: from then on the guest differs from all others and has its root file system.
//! Without a seed it has only the latter: it is a template still, of clones that `refresh` makes differ.
//! `refresh` does what can be done for a guest that was saved later, with processes in it.

mod elf;
mod held;
mod modules;
mod mounts;
mod port;
mod prepare;
mod refresh;
mod shared;
mod warm;

pub use mounts::GROUP;
pub use prepare::prepare;
pub use refresh::refresh;
pub use shared::mount_shared;

use crate::failure::Failure;
use crate::sys::{guest as sys, Errno};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::OnceLock;

/// On the kernel's command line, which hands what it does not know to init; after ` -- ` QEMU's own additions would be lost.
const GUEST_ARGUMENT: &str = "--guest";

/// How far this guest has come, one of the following.
static STAGE: AtomicU8 = AtomicU8::new(BOOTED);
const BOOTED: u8 = 0;
/// It has a root file system, but is no other than its clones.
const ROOTED: u8 = 1;
const WHOLE: u8 = 2;

/// What failed and the system's reason, 0 where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestError {
    pub what: String,
    pub errno: i32,
}

impl GuestError {
    pub(crate) fn new(what: impl Into<String>, errno: i32) -> Self {
        Self { what: what.into(), errno }
    }

    pub(crate) fn last(what: impl Into<String>) -> Self {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        Self::new(what, errno)
    }
}

impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        Failure::of(Errno(error.errno), error.what)
    }
}

/// True in process 1 of a virtual machine that was told so on the kernel's command line.
pub fn is_guest() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| std::process::id() == 1 && std::env::args().any(|argument| argument == GUEST_ARGUMENT))
}

/// True as long as clones may be made of a guest: what must differ between them (boot id, random numbers) is not read, and
/// nothing is started.
pub fn is_template() -> bool {
    is_guest() && STAGE.load(Ordering::Acquire) != WHOLE
}

/// Loads the modules it was given, mounts what the kernel offers, and puts the channel on file descriptors 0 and 1, the kernel's log on 2.
/// The kernel's killer never takes process 1 of its own, so there is no score to set, and none for programs to set back.
pub fn start() -> Result<(), GuestError> {
    modules::load()?;
    mounts::kernel_file_systems()?;
    sys::log_to_kernel()?;
    mounts::join_group()?;
    port::open_as_stdio()
}

pub use sys::power_off;
