//! What makes a woken clone a sandbox of its own.

use super::held::hold;
use super::mounts::{switch_root, Upper, GROUP};
use super::warm::warm;
use super::{is_guest, GuestError, BOOTED, ROOTED, STAGE, WHOLE};
use crate::failure::Failure;
use crate::sys::guest::{make_directory, replace_file, reseed, set_clock, write_file};
use crate::sys::start::set_hostname;
use crate::wire::generated::{error_kind, PrepareGuest};
use std::sync::atomic::Ordering;

/// Bytes the host must give: 512 bits, twice what the kernel's generator holds.
const SEED_BYTES: usize = 64;
pub(super) const MACHINE_ID: &str = "/etc/machine-id";
const MACHINE_ID_CHARACTERS: usize = 32;

/// Works once. On failure the guest is of no use and the host ends it.
pub fn prepare(with: &PrepareGuest) -> Result<(), Failure> {
    if !is_guest() {
        return Err(Failure::new(error_kind::UNSUPPORTED, "this sandbox is no virtual machine"));
    }
    Ok(carry_out(with)?)
}

fn carry_out(with: &PrepareGuest) -> Result<(), GuestError> {
    check(with)?;
    let stage = if with.seed.is_empty() { ROOTED } else { WHOLE };
    if STAGE.compare_exchange(BOOTED, stage, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return Err(GuestError::new("this guest is prepared already", libc::EALREADY));
    }
    // Random numbers and time first: everything after may use them.
    if stage == WHOLE {
        reseed(&with.seed)?;
    }
    set_clock(with.realtime_ns)?;
    set_hostname(&with.hostname)
        .map_err(|errno| GuestError::new(format!("setting the host name {:?}", with.hostname), errno.0))?;
    limit_group(with)?;
    let upper = if with.upper_device.is_empty() {
        Upper::Memory { bytes: with.upper_bytes, inodes: with.upper_inodes }
    } else {
        Upper::Device(&with.upper_device)
    };
    switch_root(&with.root_device, &upper)?;
    write_identity(with)?;
    if stage == ROOTED {
        hold(MACHINE_ID)?;
        warm();
    }
    Ok(())
}

fn check(with: &PrepareGuest) -> Result<(), GuestError> {
    check_machine_id(&with.machine_id)?;
    if with.seed.is_empty() {
        return Ok(());
    }
    check_seed(&with.seed)
}

pub(super) fn check_machine_id(id: &str) -> Result<(), GuestError> {
    if id.len() == MACHINE_ID_CHARACTERS && id.bytes().all(is_hex) {
        return Ok(());
    }
    Err(GuestError::new(format!("machine id {id:?} is not 32 hexadecimal digits"), libc::EINVAL))
}

pub(super) fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

pub(super) fn check_seed(seed: &[u8]) -> Result<(), GuestError> {
    if seed.len() >= SEED_BYTES {
        return Ok(());
    }
    let what = format!("an entropy seed of {} bytes, at least {SEED_BYTES} needed", seed.len());
    Err(GuestError::new(what, libc::EINVAL))
}

fn limit_group(with: &PrepareGuest) -> Result<(), GuestError> {
    for (file, limit) in [("pids.max", with.pids), ("memory.max", with.memory_bytes)] {
        if limit > 0 {
            write_file(&format!("{GROUP}/{file}"), &limit.to_string())?;
        }
    }
    Ok(())
}

/// Without a way out no resolver is reachable: an empty file makes lookups fail at once instead of asking 127.0.0.1.
fn resolv_conf(resolver: &str) -> String {
    if resolver.is_empty() {
        String::new()
    } else {
        format!("nameserver {resolver}\n")
    }
}

fn write_identity(with: &PrepareGuest) -> Result<(), GuestError> {
    let name = &with.hostname;
    make_directory("/etc")?;
    for (path, text) in [
        (MACHINE_ID, format!("{}\n", with.machine_id)),
        ("/etc/hostname", format!("{name}\n")),
        ("/etc/hosts", format!("127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost ip6-loopback\n")),
        ("/etc/resolv.conf", resolv_conf(&with.resolver)),
    ] {
        replace_file(path, &text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{check, prepare};
    use crate::wire::generated::{error_kind, PrepareGuest};

    fn preparation(machine_id: &str, seed_bytes: usize) -> PrepareGuest {
        PrepareGuest { machine_id: machine_id.to_string(), seed: vec![7; seed_bytes], ..PrepareGuest::default() }
    }

    #[test]
    fn refuses_a_machine_id_that_is_none() {
        for id in ["", "ABCDEF0123456789ABCDEF0123456789", "0123", "../../../../../../../../etc/passw"] {
            assert!(check(&preparation(id, 64)).is_err(), "{id}");
        }
        assert!(check(&preparation("0123456789abcdef0123456789abcdef", 64)).is_ok());
    }

    #[test]
    fn refuses_a_short_seed() {
        assert!(check(&preparation("0123456789abcdef0123456789abcdef", 63)).is_err());
        assert!(check(&preparation("0123456789abcdef0123456789abcdef", 0)).is_ok());
    }

    #[test]
    fn an_agent_outside_a_virtual_machine_touches_nothing() {
        let refused = prepare(&preparation("0123456789abcdef0123456789abcdef", 64)).unwrap_err();
        assert_eq!(refused.kind, error_kind::UNSUPPORTED);
    }
}
