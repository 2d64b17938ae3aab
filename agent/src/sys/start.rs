//! What the agent makes of its own process before it serves.

use super::{check, fd, Result};
use std::os::fd::OwnedFd;

/// Blocks from this size on are mapped by themselves and so go back to the system when freed.
const MAP_FROM_BYTES: i32 = 32 * 1024;

/// A dead process's children come to us; nobody may trace us or read our memory.
pub fn protect() {
    // SAFETY: integers only; each call is a hardening of its own.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        if libc::getpid() != 1 {
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        }
        // One heap for all threads: each further one would keep pages of its own.
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_FROM_BYTES);
        libc::umask(0);
        // Nothing that we start writes a core: on the host it would be handed to whoever collects them there.
        let none = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit64(libc::RLIMIT_CORE, &none);
        let default = [0u64; 4];
        for signal in 1..=64i64 {
            // An ignored signal would stay ignored in every process we start; libc's own call leaves out 32 and 33.
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0, 8);
        }
    }
}

/// The channel's two ends, from standard input and output, which become /dev/null; everything above 2 is closed.
pub fn take_channel() -> Result<(OwnedFd, OwnedFd)> {
    // SAFETY: nothing in this program has opened a descriptor yet.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) != 0 {
            const CLOSED_BY_HAND: i32 = 1024;
            for number in 3..CLOSED_BY_HAND {
                libc::close(number);
            }
        }
    }
    let input = fd::duplicate(0)?;
    let output = fd::duplicate(1)?;
    let null = null_device()?;
    fd::replace(&null, 0)?;
    fd::replace(&null, 1)?;
    if fd::duplicate(2).is_err() {
        fd::replace(&null, 2)?;
    }
    Ok((input, output))
}

/// /dev/null, or where a root directory has none, a pipe whose other end is closed.
fn null_device() -> Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let opened = std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/null");
    match opened {
        Ok(file) => Ok(OwnedFd::from(file)),
        Err(_) => fd::pipe().map(|(read, _)| read),
    }
}

/// Raises our own limit on descriptors to the hard one; gives what it was, for the processes we start.
pub fn raise_descriptor_limit() -> (u64, u64) {
    // SAFETY: plain data.
    unsafe {
        let mut limit: libc::rlimit64 = std::mem::zeroed();
        if libc::getrlimit64(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return (1024, 4096);
        }
        let before = (limit.rlim_cur, limit.rlim_max);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit64(libc::RLIMIT_NOFILE, &limit);
        before
    }
}

/// The mask of this process's new files.
pub fn umask() -> u32 {
    // SAFETY: integers only; set back at once, before there is another thread.
    unsafe {
        let mask = libc::umask(0o077);
        libc::umask(mask);
        mask
    }
}

pub fn set_hostname(name: &str) -> Result<()> {
    // SAFETY: pointer and length of a live string.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) } as i64).map(drop)
}

extern "C" {
    static __executable_start: u8;
    static etext: u8;
}

/// Gives free memory back to the system, and the program's own pages, of which the kernel maps many around each that is
/// used; those needed again come from the page cache.
pub fn trim_memory() {
    const PAGE: usize = 4096;
    // SAFETY: frees only the allocator's free pages; the range is the linker's, read-only and backed by our file.
    unsafe {
        libc::malloc_trim(0);
        let start = (&raw const __executable_start as usize).next_multiple_of(PAGE);
        let end = &raw const etext as usize / PAGE * PAGE;
        if start < end {
            libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
        }
    }
}
