//! What only process 1 of a virtual machine asks of the kernel.

use crate::guest::GuestError;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::OnceLock;

pub fn c_string(text: &str) -> Result<CString, GuestError> {
    CString::new(text).map_err(|_| GuestError::new(format!("{text:?} holds a zero byte"), libc::EINVAL))
}

pub fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong, data: &str) -> Result<(), GuestError> {
    let (source_c, target_c) = (c_string(source)?, c_string(target)?);
    let (kind_c, data_c) = (c_string(kind)?, c_string(data)?);
    // SAFETY: all four are zero-terminated and outlive the call.
    let rc =
        unsafe { libc::mount(source_c.as_ptr(), target_c.as_ptr(), kind_c.as_ptr(), flags, data_c.as_ptr().cast()) };
    if rc == 0 {
        return Ok(());
    }
    Err(GuestError::last(format!("mounting {source} ({kind}) on {target}")))
}

/// Shows one file in the place of another.
pub fn bind_read_only(source: &str, target: &str) -> Result<(), GuestError> {
    mount(source, target, "", libc::MS_BIND, "")?;
    // A bind takes its flags only when it is there.
    mount("", target, "", libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY, "")
}

/// At once for everybody, and for good when its last user is gone.
pub fn unmount(target: &str) -> Result<(), GuestError> {
    let target_c = c_string(target)?;
    // SAFETY: zero-terminated and outlives the call.
    if unsafe { libc::umount2(target_c.as_ptr(), libc::MNT_DETACH) } == 0 {
        return Ok(());
    }
    Err(GuestError::last(format!("unmounting {target}")))
}

pub fn make_directory(path: &str) -> Result<(), GuestError> {
    match std::fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(GuestError::new(format!("making directory {path}"), error.raw_os_error().unwrap_or(0))),
    }
}

pub fn write_file(path: &str, contents: &str) -> Result<(), GuestError> {
    std::fs::write(path, contents)
        .map_err(|error| GuestError::new(format!("writing {path}"), error.raw_os_error().unwrap_or(0)))
}

/// A link in the image that leads elsewhere is replaced, not followed.
pub fn replace_file(path: &str, contents: &str) -> Result<(), GuestError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(GuestError::new(format!("replacing {path}"), error.raw_os_error().unwrap_or(0)))
        }
        _ => write_file(path, contents),
    }
}

/// As `replace_file`, but a plain file of that length keeps its place, which takes a file system far less than a new one.
pub fn overwrite_file(path: &str, contents: &str) -> Result<(), GuestError> {
    let same = |file: &File| {
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.nlink() == 1 && meta.len() == contents.len() as u64)
    };
    match OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(mut file) if same(&file) => file
            .write_all(contents.as_bytes())
            .map_err(|error| GuestError::new(format!("writing {path}"), error.raw_os_error().unwrap_or(0))),
        _ => replace_file(path, contents),
    }
}

/// A plain file as memory: what is written there is in the file, without a call. It stays mapped.
pub struct Mapped {
    at: NonNull<u8>,
    length: usize,
}

// SAFETY: nothing else in this process knows where it is.
unsafe impl Send for Mapped {}

impl Mapped {
    /// All of a short file, written once so that the next time even the kernel has nothing left to do.
    pub fn whole(path: &str) -> Result<Self, GuestError> {
        const SHORT: u64 = 4096;
        let failed = || GuestError::last(format!("mapping {path}"));
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).map_err(|_| failed())?;
        let meta = file.metadata().map_err(|_| failed())?;
        if !meta.is_file() || meta.len() == 0 || meta.len() > SHORT {
            return Err(GuestError::new(format!("{path} is no short file"), libc::EINVAL));
        }
        let length = meta.len() as usize;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a mapping of our own, at a place that the kernel chooses.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        let at = NonNull::new(at.cast::<u8>()).filter(|_| at != libc::MAP_FAILED).ok_or_else(failed)?;
        // SAFETY: the mapping is at least one byte long.
        unsafe { at.write_volatile(at.read_volatile()) };
        Ok(Self { at, length })
    }

    /// Refuses what is not as long as the file was. Of a file that nobody has shortened since it was mapped.
    pub fn write(&mut self, contents: &[u8]) -> bool {
        if contents.len() != self.length {
            return false;
        }
        // SAFETY: as long as the mapping, which never ends.
        unsafe { self.at.copy_from_nonoverlapping(NonNull::from(contents).cast(), self.length) };
        true
    }
}

/// One that is there already is fine.
pub fn load_module(file: &File, name: &str) -> Result<(), GuestError> {
    // SAFETY: the descriptor is open, the parameters are an empty string.
    if unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) } == 0 {
        return Ok(());
    }
    let error = GuestError::last(format!("loading module {name}"));
    if error.errno == libc::EEXIST {
        Ok(())
    } else {
        Err(error)
    }
}

/// For reading, without waiting; links lead nowhere outside the root file system, where opening alone may do something.
pub fn open_within_root(path: &Path) -> std::io::Result<File> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: plain numbers, of which the kernel knows all that is 0.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK) as u64;
    how.resolve = libc::RESOLVE_NO_XDEV | libc::RESOLVE_NO_MAGICLINKS;
    let size = std::mem::size_of::<libc::open_how>();
    // SAFETY: a live string and a structure of that size; gives a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, path.as_ptr(), &raw const how, size);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(File::from_raw_fd(fd as i32))
    }
}

/// Drops what is cached of a block device: behind it may be another file than when the template was made.
pub fn forget_cached_blocks(device: &str) -> Result<(), GuestError> {
    const BLKFLSBUF: libc::Ioctl = 0x1261;
    let file = File::open(device)
        .map_err(|error| GuestError::new(format!("opening {device}"), error.raw_os_error().unwrap_or(0)))?;
    // SAFETY: the request takes no argument.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKFLSBUF, 0) } == 0 {
        return Ok(());
    }
    Err(GuestError::last(format!("dropping the cache of {device}")))
}

/// The kernel's random number generator, opened once and kept.
pub fn random_device() -> Result<&'static File, GuestError> {
    static DEVICE: OnceLock<File> = OnceLock::new();
    if let Some(device) = DEVICE.get() {
        return Ok(device);
    }
    let device = OpenOptions::new()
        .write(true)
        .open("/dev/urandom")
        .map_err(|error| GuestError::new("opening /dev/urandom", error.raw_os_error().unwrap_or(0)))?;
    Ok(DEVICE.get_or_init(|| device))
}

/// Mixes `seed` into the kernel's generator and makes it start anew from that.
pub fn reseed(seed: &[u8]) -> Result<(), GuestError> {
    const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
    const RNDRESEEDCRNG: libc::Ioctl = 0x5207;
    const CAPACITY: usize = 512;
    #[repr(C)]
    struct PoolInfo {
        entropy_bits: libc::c_int,
        bytes: libc::c_int,
        buffer: [u8; CAPACITY],
    }
    if seed.is_empty() || seed.len() > CAPACITY {
        return Err(GuestError::new("the entropy seed has no usable length", libc::EINVAL));
    }
    let random = random_device()?;
    let mut info = PoolInfo {
        entropy_bits: (seed.len() * 8) as libc::c_int,
        bytes: seed.len() as libc::c_int,
        buffer: [0; CAPACITY],
    };
    info.buffer[..seed.len()].copy_from_slice(seed);
    // SAFETY: the kernel reads `bytes` bytes of the buffer, which has CAPACITY.
    let added = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &info) };
    // SAFETY: the request takes no argument.
    if added != 0 || unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG, 0) } != 0 {
        return Err(GuestError::last("reseeding the random number generator"));
    }
    Ok(())
}

pub fn set_clock(realtime_ns: i64) -> Result<(), GuestError> {
    const NS_PER_SECOND: i64 = 1_000_000_000;
    let time = libc::timespec {
        tv_sec: realtime_ns.div_euclid(NS_PER_SECOND),
        tv_nsec: realtime_ns.rem_euclid(NS_PER_SECOND),
    };
    // SAFETY: `time` outlives the call.
    if unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &time) } == 0 {
        return Ok(());
    }
    Err(GuestError::last("setting the clock"))
}

pub fn log_to_kernel() -> Result<(), GuestError> {
    let mut log = OpenOptions::new()
        .write(true)
        .open("/dev/kmsg")
        .map_err(|error| GuestError::new("opening /dev/kmsg", error.raw_os_error().unwrap_or(0)))?;
    // A failed first line shows nothing that the next one would not.
    let _ = log.write_all(b"<6>agent: started\n");
    replace_descriptor(&log, 2)
}

/// Puts `file` on descriptor `number`, whatever is there now, and keeps it across exec.
pub fn replace_descriptor(file: &File, number: i32) -> Result<(), GuestError> {
    if file.as_raw_fd() == number {
        // SAFETY: the descriptor is open; only its flag changes.
        unsafe { libc::fcntl(number, libc::F_SETFD, 0) };
        return Ok(());
    }
    // SAFETY: both are descriptors of this process; the old one is closed by the kernel.
    if unsafe { libc::dup2(file.as_raw_fd(), number) } == number {
        return Ok(());
    }
    Err(GuestError::last(format!("moving a file to descriptor {number}")))
}

pub fn chroot_here() -> Result<(), GuestError> {
    // SAFETY: the path is a literal.
    if unsafe { libc::chroot(c".".as_ptr()) } == 0 {
        return Ok(());
    }
    Err(GuestError::last("changing the root directory"))
}

/// True while the other end of a port or pipe is not open.
pub fn hung_up(file: &File) -> bool {
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one initialised entry.
    let rc = unsafe { libc::poll(&mut poll, 1, 0) };
    rc < 0 || poll.revents & libc::POLLHUP != 0
}

/// Ends the virtual machine. Without ACPI there is no power-off: QEMU runs with `-no-reboot` and ends at a reset.
pub fn power_off() -> ! {
    // SAFETY: no memory is passed.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_AUTOBOOT);
    }
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::open_within_root;
    use std::path::Path;

    #[test]
    fn nothing_outside_the_root_file_system_is_opened() {
        assert!(open_within_root(Path::new("/etc/passwd")).is_ok());
        for path in ["/proc/version", "/proc/self/exe", "/dev/null", "/sys/kernel/uevent_seqnum"] {
            let error = open_within_root(Path::new(path)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EXDEV), "{path}");
        }
    }
}
