//! Host directories that the sandbox was given, served by the monitor over 9p.

use super::{is_guest, is_template};
use crate::failure::{shown, Doing, Failure, Outcome};
use crate::sys::files::{self, At};
use crate::sys::guest::{make_directory, mount, unmount};
use crate::sys::mount::{attach, detached_copy};
use crate::wire::generated::{error_kind, MountShared, SharedMount};
use libc::{MS_NODEV, MS_NOSUID};
use std::os::fd::OwnedFd;

/// All of what is served, while the mounts are taken out of it; where no image has a say.
const PLACE: &str = "/dev/.shared";
/// The kernel's own file systems are moved into the image's root: a link of the image's may lead there, a mount must not.
const KEPT: [&str; 3] = ["/dev", "/proc", "/sys"];
/// `msize` is the most that the kernel's ring takes at once. `mmap` caches no names, attributes or contents, so that what
/// changes outside is seen, but lets files be mapped for writing. The monitor is one user whoever asks, so one session does.
const OPTIONS: &str = "trans=virtio,version=9p2000.L,msize=512000,cache=mmap,access=any";

/// Works once: the kernel has one user of the device at a time, and the mounts stay.
pub fn mount_shared(with: &MountShared) -> Result<(), Failure> {
    if !is_guest() || is_template() {
        return Err(Failure::new(error_kind::UNSUPPORTED, "this sandbox is no virtual machine that was prepared"));
    }
    make_directory(PLACE)?;
    mount(&with.tag, PLACE, "9p", MS_NOSUID | MS_NODEV, OPTIONS)?;
    let done = with.mounts.iter().try_for_each(place);
    unmount(PLACE)?;
    files::unlink(At::HERE, PLACE.as_bytes(), true).doing(|| format!("removing {PLACE}"))?;
    done
}

fn place(one: &SharedMount) -> Outcome<()> {
    let source = format!("{PLACE}/{}", one.name);
    let tree = detached_copy(&source, one.read_only).doing(|| format!("mounting {}", shown(&one.target)))?;
    let directory = files::stat_open(&tree).doing(|| format!("looking at {}", shown(&one.target)))?.is_directory();
    let target = target(&one.target, directory)?;
    attach(&tree, &target).doing(|| format!("mounting on {}", shown(&one.target)))
}

/// What to mount on, made where it is missing. Links of the image are followed as any program inside would.
fn target(path: &[u8], directory: bool) -> Outcome<OwnedFd> {
    let doing = |what: &str| format!("{what} {}", shown(path));
    let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
    let mut here = files::open(At::HERE, b"/", libc::O_PATH, 0).doing(|| "opening /")?;
    while let Some(name) = names.next() {
        let wants_directory = directory || names.peek().is_some();
        let kind = if wants_directory { libc::O_DIRECTORY } else { 0 };
        let found = files::open(At::directory(&here), name, libc::O_PATH | kind, 0);
        here = match found {
            Err(error) if error.0 == libc::ENOENT => {
                make(&here, name, wants_directory).doing(|| doing("making mount target"))?;
                files::open(At::directory(&here), name, libc::O_PATH | libc::O_NOFOLLOW | kind, 0)
            }
            other => other,
        }
        .doing(|| doing("opening mount target"))?;
    }
    let real = files::path_of(&here).doing(|| doing("finding mount target"))?;
    if is_kept(&real) {
        let text = format!("mount target {} leads to {}", shown(path), shown(&real));
        return Err(Failure::with_kind(error_kind::INVALID, crate::sys::Errno(libc::ELOOP), text));
    }
    Ok(here)
}

fn make(here: &OwnedFd, name: &[u8], directory: bool) -> crate::sys::Result<()> {
    if directory {
        return files::make_directory(At::directory(here), name, 0o755);
    }
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    files::open(At::directory(here), name, flags, 0o644).map(drop)
}

fn is_kept(real: &[u8]) -> bool {
    real == b"/"
        || KEPT.iter().any(|kept| {
            real.strip_prefix(kept.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
        })
}

#[cfg(test)]
mod tests {
    use super::{is_kept, mount_shared};
    use crate::wire::generated::{error_kind, MountShared};

    #[test]
    fn an_agent_outside_a_virtual_machine_mounts_nothing() {
        let refused = mount_shared(&MountShared::default()).unwrap_err();
        assert_eq!(refused.kind, error_kind::UNSUPPORTED);
    }

    #[test]
    fn what_is_the_kernels_is_no_target_and_what_sounds_like_it_is() {
        for kept in ["/", "/proc", "/proc/1/root", "/sys/fs", "/dev", "/dev/shm"] {
            assert!(is_kept(kept.as_bytes()), "{kept}");
        }
        for free in ["/process", "/devel/x", "/mnt/proc", "/system"] {
            assert!(!is_kept(free.as_bytes()), "{free}");
        }
    }
}
