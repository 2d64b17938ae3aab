//! Landlock: what process 1 of a container gives up for good, with all that it starts, whatever rights they come to hold.
//!
//! One domain for the whole sandbox: programs reach each other as ever, and nothing outside it.

use super::{check, Errno, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

// linux/landlock.h
const CREATE_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;
const MAKE_CHARACTER_DEVICE: u64 = 1 << 6;
const MAKE_BLOCK_DEVICE: u64 = 1 << 11;
const REFER: u64 = 1 << 13;
const DEVICE_IOCTL: u64 = 1 << 15;
const SCOPE_ABSTRACT_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 1 << 1;

/// Before it, no file could be moved from one directory to another.
const FIRST_WITH_REFER: u32 = 2;
const FIRST_WITH_DEVICE_IOCTL: u32 = 5;
const FIRST_WITH_SCOPES: u32 = 6;

/// The devices that every sandbox has. Where /dev/ptmx is a link it leads into /dev/pts.
const OWN_DEVICES: [&std::ffi::CStr; 8] =
    [c"/dev/pts", c"/dev/ptmx", c"/dev/tty", c"/dev/null", c"/dev/zero", c"/dev/full", c"/dev/random", c"/dev/urandom"];

/// `struct landlock_ruleset_attr`
#[repr(C)]
struct Ruleset {
    handled_files: u64,
    handled_network: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    parent: i32,
}

/// Of the kernel's interface; 0 where the kernel has none or it is off.
pub fn version() -> u32 {
    // SAFETY: asks for a number; there is no structure to read.
    let found = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<Ruleset>(), 0usize, CREATE_VERSION)
    };
    u32::try_from(found).unwrap_or(0)
}

/// Gives up, in this thread and all that it starts: changing mounts, making device nodes, reaching processes outside; from
/// version 5 on requests to devices but terminals and the like, from 6 on signals and abstract sockets to the outside.
///
/// Needs no_new_privs or CAP_SYS_ADMIN, and version 2 at least, which the kernel must have.
pub fn restrict(wanted: u32) -> Result<()> {
    if wanted < FIRST_WITH_REFER || version() < wanted {
        return Err(Errno(libc::EOPNOTSUPP));
    }
    let ioctl = if wanted >= FIRST_WITH_DEVICE_IOCTL { DEVICE_IOCTL } else { 0 };
    let scoped = if wanted >= FIRST_WITH_SCOPES { SCOPE_ABSTRACT_SOCKET | SCOPE_SIGNAL } else { 0 };
    let attributes = Ruleset {
        // Moving between directories is refused wherever it is not allowed, handled or not.
        handled_files: MAKE_CHARACTER_DEVICE | MAKE_BLOCK_DEVICE | REFER | ioctl,
        // Ports have no addresses here: a rule would close the sandbox's own loopback too.
        handled_network: 0,
        scoped,
    };
    // SAFETY: the structure lives through the call; what a kernel does not know of it is 0 and so accepted.
    let ruleset = unsafe {
        let made = libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            std::mem::size_of::<Ruleset>(),
            0u32,
        );
        OwnedFd::from_raw_fd(check(made)? as i32)
    };
    allow(&ruleset, c"/", REFER)?;
    if ioctl != 0 {
        for path in OWN_DEVICES {
            match allow(&ruleset, path, ioctl) {
                Err(Errno(libc::ENOENT)) => {}
                other => other?,
            }
        }
    }
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) }).map(drop)
}

/// The rights on the file `path`, or on all below the directory.
fn allow(ruleset: &OwnedFd, path: &std::ffi::CStr, allowed: u64) -> Result<()> {
    // SAFETY: a live string; the descriptor is ours alone, and the rule lives through the call.
    unsafe {
        let opened = check(i64::from(libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC | libc::O_NOFOLLOW)))?;
        let parent = OwnedFd::from_raw_fd(opened as i32);
        let rule = Beneath { allowed, parent: parent.as_raw_fd() };
        let added =
            libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), RULE_PATH_BENEATH, &raw const rule, 0u32);
        check(added).map(drop)
    }
}
