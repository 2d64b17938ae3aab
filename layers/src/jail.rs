//! What this process gives up before it reads a hostile byte.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::mount::{
    mount_bind, mount_change, mount_remount, unmount, MountFlags, MountPropagationFlags, UnmountFlags,
};
use rustix::process::{self, Gid, Resource, Rlimit, Signal, Uid};
use rustix::thread::{self, CapabilitySet, CapabilitySets, UnshareFlags};

use crate::failure::{Failure, Kind, Result};
use crate::limits::{Limits, DESCRIPTORS};

/// Nobody: without rights over any process of the host's, root's least of all.
const NOBODY: u32 = 65_534;
/// What it takes to read anybody's files, and the overlay's own attributes, which are shown to nobody with less.
pub const TO_READ: CapabilitySet = CapabilitySet::DAC_READ_SEARCH.union(CapabilitySet::SYS_ADMIN);
/// What it takes to give files to anybody with any mode, in a directory that is root's.
pub const TO_WRITE: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETFCAP);
/// Twice what the largest window of zstd and all that may be remembered take.
const MEMORY_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Makes `directory` all there is: its own mount namespace, of which it is the root. Anything already open stays so.
pub fn enter(directory: &Path) -> Result<OwnedFd> {
    let step = |what: &'static str| move |error: rustix::io::Errno| Failure::new(Kind::Io, format!("{what}: {error}"));
    crate::sys::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS)
        .map_err(step("namespaces of its own"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(step("a private mount namespace"))?;
    mount_bind(directory, directory).map_err(step("a mount of the directory"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(directory, MountFlags::BIND | flags, "").map_err(step("a mount without programs and devices"))?;
    process::chdir(directory).map_err(step("the directory"))?;
    // The old root is put under the new one's own place and taken away from there.
    process::pivot_root(".", ".").map_err(step("a root of its own"))?;
    unmount(".", UnmountFlags::DETACH).map_err(step("the old root"))?;
    process::chdir("/").map_err(step("the directory"))?;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open("/", flags, rustix::fs::Mode::empty()).map_err(step("the directory"))
}

/// What ends this process besides its work.
#[derive(Clone, Copy, PartialEq)]
pub enum EndsWith {
    /// What started it, by whose thread the kernel goes.
    Parent,
    /// The kernel it runs on: there a thread that is idle ends, and its process does not.
    Kernel,
}

/// Becomes nobody, with the capabilities of `kept` and the calls that files need alone. `limits` bound what one file may hold.
pub fn give_up_rights(kept: CapabilitySet, limits: Option<&Limits>, ends_with: EndsWith) -> Result<()> {
    let step = |what: &'static str| move |error: rustix::io::Errno| Failure::new(Kind::Io, format!("{what}: {error}"));
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match thread::remove_capability_from_bounding_set(one) {
            // Beyond the last that this kernel has.
            Err(rustix::io::Errno::INVAL) => break,
            other => other.map_err(step("the bounding set"))?,
        }
    }
    thread::set_keep_capabilities(true).map_err(step("the capabilities to keep"))?;
    crate::sys::set_groups_to_none().map_err(step("the groups"))?;
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    crate::sys::set_gid(gid).map_err(step("the group"))?;
    crate::sys::set_uid(uid).map_err(step("the user"))?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    thread::set_capabilities(None, sets).map_err(step("the capabilities"))?;
    thread::set_no_new_privs(true).map_err(step("no new privileges"))?;
    if ends_with == EndsWith::Parent {
        // After the change of user, which takes it back.
        process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(step("the end with its parent"))?;
    }
    let descriptors = process::getrlimit(Resource::Nofile).maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    let limit = Rlimit { current: Some(descriptors), maximum: Some(descriptors) };
    process::setrlimit(Resource::Nofile, limit).map_err(step("a limit"))?;
    let lower = |resource, most| {
        let limit = process::getrlimit(resource);
        let most = limit.maximum.map_or(most, |maximum: u64| maximum.min(most));
        process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }).map_err(step("a limit"))
    };
    lower(Resource::Core, 0)?;
    lower(Resource::Nproc, 0)?;
    lower(Resource::Data, MEMORY_BYTES_MAX)?;
    limits.map_or(Ok(()), |limits| lower(Resource::Fsize, limits.max_bytes))?;
    // Last: what made all this is not among the calls that are left.
    crate::filter::put_on()
}
