//! What makes a guest that goes on from saved memory another than the one it was saved from. Its processes keep what they
//! have drawn and read before.

use super::held;
use super::prepare::{check_machine_id, check_seed, is_hex, MACHINE_ID};
use super::{is_guest, GuestError, BOOTED, STAGE, WHOLE};
use crate::failure::Failure;
use crate::sys::guest::{bind_read_only, overwrite_file, replace_file, reseed, set_clock, unmount, write_file};
use crate::sys::start::set_hostname;
use crate::wire::generated::{error_kind, RefreshGuest};
use std::sync::atomic::Ordering;

/// Made by the kernel once and never again: another one can only be put over it.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Loses its name as soon as it is mounted.
const BOOT_ID_SOURCE: &str = "/dev/.bulkhead-boot-id";
/// Where a boot id has its dashes.
const DASHES: [usize; 4] = [8, 13, 18, 23];
const BOOT_ID_CHARACTERS: usize = 36;

/// What is empty stays as it is. One that was prepared without a seed differs from its clones once it has a seed and a machine
/// id; its kernel makes a boot id when it is first asked for one. May be asked for at any time after `prepare`, and again.
pub fn refresh(with: &RefreshGuest) -> Result<(), Failure> {
    if !is_guest() || STAGE.load(Ordering::Acquire) == BOOTED {
        return Err(Failure::new(
            error_kind::UNSUPPORTED,
            "this sandbox is no virtual machine with a root file system",
        ));
    }
    Ok(carry_out(with)?)
}

fn carry_out(with: &RefreshGuest) -> Result<(), GuestError> {
    check(with)?;
    // As in `prepare`: everything after may use random numbers and the time.
    if !with.seed.is_empty() {
        reseed(&with.seed)?;
    }
    set_clock(with.realtime_ns)?;
    if !with.boot_id.is_empty() {
        replace_boot_id(&with.boot_id)?;
    }
    if !with.machine_id.is_empty() {
        let text = format!("{}\n", with.machine_id);
        if !held::machine_id().is_some_and(|mut file| file.write(text.as_bytes())) {
            overwrite_file(MACHINE_ID, &text)?;
        }
    }
    if !with.hostname.is_empty() {
        rename(&with.hostname)?;
    }
    if !with.seed.is_empty() && !with.machine_id.is_empty() {
        STAGE.store(WHOLE, Ordering::Release);
    }
    Ok(())
}

fn check(with: &RefreshGuest) -> Result<(), GuestError> {
    if !with.seed.is_empty() {
        check_seed(&with.seed)?;
    }
    if !with.machine_id.is_empty() {
        check_machine_id(&with.machine_id)?;
    }
    let id = with.boot_id.as_bytes();
    let good = |(at, byte): (usize, &u8)| if DASHES.contains(&at) { *byte == b'-' } else { is_hex(*byte) };
    if id.is_empty() || (id.len() == BOOT_ID_CHARACTERS && id.iter().enumerate().all(good)) {
        return Ok(());
    }
    Err(GuestError::new(format!("boot id {:?} is none", with.boot_id), libc::EINVAL))
}

fn replace_boot_id(id: &str) -> Result<(), GuestError> {
    // One of an earlier refresh; the kernel's own is no mount.
    while unmount(BOOT_ID).is_ok() {}
    replace_file(BOOT_ID_SOURCE, &format!("{id}\n"))?;
    let mounted = bind_read_only(BOOT_ID_SOURCE, BOOT_ID);
    // It is in memory and goes with its last mount.
    let _ = std::fs::remove_file(BOOT_ID_SOURCE);
    mounted
}

/// What programs inside have added to /etc/hosts stays there.
fn rename(name: &str) -> Result<(), GuestError> {
    set_hostname(name).map_err(|errno| GuestError::new(format!("setting the host name {name:?}"), errno.0))?;
    replace_file("/etc/hostname", &format!("{name}\n"))?;
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let known = hosts.lines().any(|line| line.split_whitespace().skip(1).any(|word| word == name));
    if known {
        return Ok(());
    }
    write_file("/etc/hosts", &format!("127.0.0.1\t{name}\n{hosts}"))
}

#[cfg(test)]
mod tests {
    use super::{check, refresh};
    use crate::wire::generated::{error_kind, RefreshGuest};

    #[test]
    fn refuses_a_boot_id_that_is_none() {
        let with = |boot_id: &str| check(&RefreshGuest { boot_id: boot_id.to_string(), ..RefreshGuest::default() });
        assert!(with("").is_ok());
        assert!(with("01234567-89ab-cdef-0123-456789abcdef").is_ok());
        for id in ["x", "0123456789abcdef0123456789abcdef0123", "01234567-89AB-cdef-0123-456789abcdef", "../../etc"] {
            assert!(with(id).is_err(), "{id}");
        }
    }

    #[test]
    fn refuses_a_short_seed() {
        assert!(check(&RefreshGuest { seed: vec![7; 63], ..RefreshGuest::default() }).is_err());
    }

    #[test]
    fn an_agent_outside_a_virtual_machine_touches_nothing() {
        assert_eq!(refresh(&RefreshGuest::default()).unwrap_err().kind, error_kind::UNSUPPORTED);
    }
}
