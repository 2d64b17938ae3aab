//! What a process may do besides its user's own rights. Raw calls: they run between clone and exec too, and act on the
//! calling thread alone.

use super::{check, Errno, Result};

const HIGHEST_CAPABILITY: u32 = 63;
const CAP_SETPCAP: u32 = 8;
const CAP_SYS_ADMIN: u32 = 21;

/// Root inside keeps what the sandbox gave it, short of changing its own capability sets.
pub fn drop_bounding_set(held: u64, root: bool) -> Result<()> {
    let dropped = if root { held & 1 << CAP_SETPCAP } else { held };
    for capability in (0..=HIGHEST_CAPABILITY).filter(|capability| dropped >> capability & 1 == 1) {
        // SAFETY: integers only.
        match check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            // Without setpcap the set stays; no_new_privs still keeps every program from gaining from it.
            Ok(_) | Err(Errno(libc::EPERM)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Our own bounding set, which only ever shrinks: asked once, not at every start.
pub fn bounding_set() -> u64 {
    let mut held = 0;
    for capability in 0..=HIGHEST_CAPABILITY {
        // SAFETY: integers only.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) } {
            1 => held |= 1 << capability,
            0 => {}
            _ => break,
        }
    }
    held
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Root inside inherits none and keeps the rest; anyone else has none at all, or `admin` until it executes its program.
pub fn reduce(uid: u32, admin: bool) -> Result<()> {
    let mut words = if uid == 0 { held()? } else { Words::default() };
    for word in &mut words {
        word.inheritable = 0;
    }
    if admin {
        words[0].effective = 1 << CAP_SYS_ADMIN;
        words[0].permitted = 1 << CAP_SYS_ADMIN;
    }
    hold(&words)
}

type Words = [CapabilityWord; 2];

fn held() -> Result<Words> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut words = Words::default();
    // SAFETY: the header's version asks for exactly two words.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, words.as_mut_ptr()) })?;
    Ok(words)
}

fn hold(words: &Words) -> Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) }).map(drop)
}

/// In this thread.
pub fn has(capability: u32) -> Result<bool> {
    Ok(held()?[(capability / 32) as usize].effective >> (capability % 32) & 1 == 1)
}

/// Gives `capability` up for good, in this thread and all that it starts.
pub fn give_up(capability: u32) -> Result<()> {
    let mut words = held()?;
    let word = &mut words[(capability / 32) as usize];
    let kept = !(1 << (capability % 32));
    word.effective &= kept;
    word.permitted &= kept;
    word.inheritable &= kept;
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } as i64)?;
    hold(&words)
}
