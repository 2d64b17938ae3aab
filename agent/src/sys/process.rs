//! Signals to processes, and their ends.

use super::{check, Result};

/// How a process ended and what it used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exit {
    pub code: i32,
    pub signal: u8,
    pub core_dumped: bool,
    pub user_ms: u64,
    pub system_ms: u64,
    pub max_rss_bytes: u64,
}

pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::kill(pid, signal) } as i64).map(drop)
}

pub enum Reaped {
    Ended(u32, Exit),
    NoneYet,
    NoChildren,
}

fn milliseconds(time: libc::timeval) -> u64 {
    time.tv_sec as u64 * 1000 + time.tv_usec as u64 / 1000
}

/// Takes one child that has ended, whoever started it.
pub fn reap() -> Reaped {
    // SAFETY: the kernel fills plain data.
    unsafe {
        let mut status = 0;
        let mut usage: libc::rusage = std::mem::zeroed();
        let pid = libc::wait4(-1, &mut status, libc::WNOHANG | libc::__WALL, &mut usage);
        if pid < 0 {
            return Reaped::NoChildren;
        }
        if pid == 0 {
            return Reaped::NoneYet;
        }
        let signaled = libc::WIFSIGNALED(status);
        Reaped::Ended(
            pid as u32,
            Exit {
                code: if signaled { 0 } else { libc::WEXITSTATUS(status) },
                signal: if signaled { libc::WTERMSIG(status) as u8 } else { 0 },
                core_dumped: signaled && libc::WCOREDUMP(status),
                user_ms: milliseconds(usage.ru_utime),
                system_ms: milliseconds(usage.ru_stime),
                max_rss_bytes: usage.ru_maxrss as u64 * 1024,
            },
        )
    }
}

pub fn kernel_release() -> String {
    // SAFETY: the kernel fills plain data with NUL-terminated strings.
    unsafe {
        let mut names: libc::utsname = std::mem::zeroed();
        if libc::uname(&mut names) != 0 {
            return String::new();
        }
        std::ffi::CStr::from_ptr(names.release.as_ptr()).to_string_lossy().into_owned()
    }
}

/// Random bytes; zeros from a kernel that has none yet.
pub fn random() -> [u8; 16] {
    let mut bytes = [0u8; 16];
    // SAFETY: pointer and length of a live buffer.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    bytes
}

pub fn own_pid() -> u32 {
    std::process::id()
}

/// Processors this process may run on.
pub fn cpus() -> u32 {
    // SAFETY: the kernel fills plain data.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, std::mem::size_of_val(&set), &mut set) != 0 {
            return 1;
        }
        libc::CPU_COUNT(&set).max(1) as u32
    }
}

/// Bytes used and bytes in all of the file system at `/`.
pub fn root_disk() -> (u64, u64) {
    // SAFETY: a live string, and plain data for the kernel to fill.
    unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        if libc::statfs(c"/".as_ptr(), &mut stat) != 0 {
            return (0, 0);
        }
        let block = stat.f_bsize as u64;
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        (used.saturating_mul(block), stat.f_blocks.saturating_mul(block))
    }
}

/// Whether the root file system has no room left for another file or another byte of one.
pub fn root_disk_is_full() -> bool {
    /// ext4 takes room for a write in pieces as large as the write, up to this: what is left when one of them did not fit.
    const PIECE_BYTES: u64 = 2 * 1024 * 1024;
    /// Of a small disk that would be all of it.
    const SHARE: u64 = 16;
    // SAFETY: a live string, and plain data for the kernel to fill.
    unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        if libc::statfs(c"/".as_ptr(), &mut stat) != 0 {
            return false;
        }
        // File systems that count no files say 0 of 0.
        let piece = PIECE_BYTES / (stat.f_bsize as u64).max(1);
        stat.f_bavail < piece.min(stat.f_blocks / SHARE).max(1) || (stat.f_files > 0 && stat.f_ffree == 0)
    }
}

/// Clock ticks per second of the figures in /proc.
pub fn ticks_per_second() -> u64 {
    // SAFETY: integers only.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64
}

pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: the kernel fills plain data.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Gets `signal` as if nobody here cared for it, and blocks it again afterwards.
fn take(signal: i32) {
    // SAFETY: signal sets are plain data, filled before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}

/// Stops until somebody continues us; a session without a shell never stops.
pub fn stop() {
    take(libc::SIGTSTP);
}

/// Ends by `signal`, without another core file; returns when it ends nobody.
pub fn end_by(signal: i32) {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a live structure.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
    take(signal);
}
