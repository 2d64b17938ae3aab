//! The mounts of a guest: what the kernel offers, and the root file system made of an image and a writable layer.

use super::GuestError;
use crate::sys::guest::{chroot_here, forget_cached_blocks, make_directory, mount, write_file};
use libc::{MS_MOVE, MS_NOATIME, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY};

/// Holds process 1 and all that it starts: what limits the sandbox from inside is written there.
pub const GROUP: &str = "/sys/fs/cgroup/sandbox";
const LOWER: &str = "/lower";
const UPPER: &str = "/upper";
const ROOT: &str = "/root.new";
/// Moved from the first root into the image's as they are.
const KEPT: [&str; 3] = ["/dev", "/proc", "/sys"];
/// `/dev/shm` may take this share of the guest's memory; it is the kernel's default.
const SHARED_MEMORY_SHARE: &str = "50%";

/// Called once on the initial root, which holds this program and an empty `/dev`.
pub fn kernel_file_systems() -> Result<(), GuestError> {
    for path in KEPT {
        make_directory(path)?;
    }
    mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755")?;
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "")?;
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "")?;
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, "")?;
    for path in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        make_directory(path)?;
    }
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666")?;
    mount("mqueue", "/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, "")?;
    let shm = format!("mode=1777,size={SHARED_MEMORY_SHARE}");
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, &shm)?;
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        std::os::unix::fs::symlink(target, link)
            .map_err(|error| GuestError::new(format!("linking {link}"), error.raw_os_error().unwrap_or(0)))?;
    }
    // A thread of the kernel would look twice a second whether memory should be made whole in advance; some kernels have none.
    let _ = write_file("/proc/sys/vm/compaction_proactiveness", "0");
    Ok(())
}

/// Moving a process between groups waits for all processors: done before the template is taken, not in every clone.
pub fn join_group() -> Result<(), GuestError> {
    write_file("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +memory +pids +io")?;
    make_directory(GROUP)?;
    write_file(&format!("{GROUP}/cgroup.procs"), "0")
}

/// What is written goes to a device that holds an empty ext4, or to memory.
pub enum Upper<'a> {
    Device(&'a str),
    Memory { bytes: u64, inodes: u64 },
}

/// Makes the image on `device` the root of this process and of all that it starts.
pub fn switch_root(device: &str, upper: &Upper) -> Result<(), GuestError> {
    for path in [LOWER, UPPER, ROOT] {
        make_directory(path)?;
    }
    forget_cached_blocks(device)?;
    mount(device, LOWER, "erofs", MS_RDONLY | MS_NOATIME | MS_NODEV, "")?;
    match upper {
        Upper::Device(path) => {
            forget_cached_blocks(path)?;
            // Else the kernel reads all of its bitmaps some time after, in every clone.
            mount(path, UPPER, "ext4", MS_NOATIME | MS_NODEV, "no_prefetch_block_bitmaps")?;
        }
        Upper::Memory { bytes, inodes } => {
            let limits = format!("mode=0755,size={bytes},nr_inodes={inodes}");
            mount("tmpfs", UPPER, "tmpfs", MS_NOATIME | MS_NODEV, &limits)?;
        }
    }
    let (data, work) = (format!("{UPPER}/data"), format!("{UPPER}/work"));
    make_directory(&data)?;
    make_directory(&work)?;
    let layers = format!("lowerdir={LOWER},upperdir={data},workdir={work}");
    mount("overlay", ROOT, "overlay", MS_NODEV, &layers)?;
    for path in KEPT {
        let target = format!("{ROOT}{path}");
        make_directory(&target)?;
        mount(path, &target, "", MS_MOVE, "")?;
    }
    enter(ROOT)
}

/// An initial root file system cannot be pivoted away from: the new root is moved over it.
fn enter(root: &str) -> Result<(), GuestError> {
    std::env::set_current_dir(root)
        .map_err(|error| GuestError::new(format!("entering {root}"), error.raw_os_error().unwrap_or(0)))?;
    mount(".", "/", "", MS_MOVE, "")?;
    chroot_here()?;
    std::env::set_current_dir("/").map_err(|error| GuestError::new("entering /", error.raw_os_error().unwrap_or(0)))
}
