//! Processes and signals.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::{check, owned, poll_in};

extern "C" fn idle(_: *mut libc::c_void) -> libc::c_int {
    loop {
        // SAFETY: async-signal-safe, touches no memory of the parent.
        unsafe { libc::pause() };
    }
}

/// A child that only holds a new user namespace. It runs on `_stack` in the keeper's memory, so the stack is kept until
/// the child is dead.
pub struct UsernsHolder {
    pub pid: libc::pid_t,
    pidfd: OwnedFd,
    _stack: Box<[u128]>,
}

impl UsernsHolder {
    pub fn start() -> io::Result<UsernsHolder> {
        const STACK_BYTES: usize = 16 * 1024;
        // u128 gives the 16-byte alignment the ABI wants of a stack.
        let mut stack = vec![0u128; STACK_BYTES / 16].into_boxed_slice();
        let flags = libc::CLONE_NEWUSER | libc::CLONE_VM | libc::CLONE_PIDFD | libc::SIGCHLD;
        let mut pidfd: RawFd = -1;
        // SAFETY: CLONE_VM without CLONE_THREAD is what vfork does; the child touches nothing but its stack, which
        // outlives it (see drop). With CLONE_PIDFD the parent_tid argument receives the descriptor.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(stack.len()).cast();
            libc::clone(
                idle,
                top,
                flags,
                std::ptr::null_mut(),
                &mut pidfd as *mut RawFd,
            )
        };
        check(pid.into())?;
        let pidfd = owned(pidfd.into())?;
        Ok(UsernsHolder {
            pid,
            pidfd,
            _stack: stack,
        })
    }
}

impl Drop for UsernsHolder {
    fn drop(&mut self) {
        // A pidfd becomes readable when its process is dead; only then may the stack go.
        while pidfd_kill(self.pidfd.as_fd()).is_ok()
            && !matches!(
                poll_in(&[Some(self.pidfd.as_fd())], -1).as_deref(),
                Ok([true])
            )
        {}
    }
}

pub fn pidfd_open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

pub fn pidfd_kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: plain numbers and a null siginfo.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            none,
            0,
        )
    })
    .map(drop)
}

pub fn kill_group(leader: libc::pid_t) {
    // SAFETY: plain numbers. The group of a child that is not yet reaped cannot be anybody else's.
    unsafe { libc::kill(-leader, libc::SIGKILL) };
}

/// The signals the keeper waits for in one thread; blocked in all of them.
fn awaited() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data, initialised by sigemptyset.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

pub fn block_signals() {
    // SAFETY: plain calls, before any other thread exists.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::pthread_sigmask(libc::SIG_BLOCK, &awaited(), std::ptr::null_mut());
    }
}

pub fn wait_signal() -> i32 {
    // SAFETY: waits for a blocked signal; no siginfo wanted.
    unsafe { libc::sigwaitinfo(&awaited(), std::ptr::null_mut()) }
}

/// The next ended child, left unreaped.
pub fn peek_child() -> Option<libc::pid_t> {
    // SAFETY: siginfo is plain data; si_pid is read only after the kernel has filled it (zero when there is none).
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
        let got = libc::waitid(libc::P_ALL, 0, &mut info, flags);
        (got == 0 && info.si_pid() != 0).then(|| info.si_pid())
    }
}

pub fn reap(pid: libc::pid_t) -> Option<i32> {
    let mut status = 0;
    // SAFETY: status lives across the call.
    let got = unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG | libc::__WALL) };
    (got == pid).then_some(status)
}

pub fn alive(pid: libc::pid_t) -> bool {
    // SAFETY: signal 0 sends nothing.
    unsafe { libc::kill(pid, 0) == 0 }
}

pub struct Spawn<'a> {
    pub argv: &'a [CString],
    pub env: &'a [CString],
    pub cwd: Option<&'a CStr>,
    pub stdio: [BorrowedFd<'a>; 3],
}

/// posix_spawn: no copy of the keeper's memory, and the child starts in the calling thread's mount namespace.
pub fn spawn(what: &Spawn<'_>) -> io::Result<libc::pid_t> {
    let pointers = |list: &[CString]| -> Vec<*mut libc::c_char> {
        let ends = std::iter::once(std::ptr::null_mut());
        list.iter()
            .map(|text| text.as_ptr().cast_mut())
            .chain(ends)
            .collect()
    };
    let (argv, env) = (pointers(what.argv), pointers(what.env));
    let fail = |code: i32| {
        if code == 0 {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(code))
        }
    };
    // SAFETY: both objects are initialised before use and destroyed after; all pointers live across the call.
    unsafe {
        let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
        let mut attr: libc::posix_spawnattr_t = std::mem::zeroed();
        fail(libc::posix_spawn_file_actions_init(&mut actions))?;
        fail(libc::posix_spawnattr_init(&mut attr))?;
        for (target, fd) in what.stdio.iter().enumerate() {
            libc::posix_spawn_file_actions_adddup2(&mut actions, fd.as_raw_fd(), target as i32);
        }
        if let Some(cwd) = what.cwd {
            libc::posix_spawn_file_actions_addchdir_np(&mut actions, cwd.as_ptr());
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::posix_spawnattr_setsigmask(&mut attr, &set);
        libc::sigaddset(&mut set, libc::SIGPIPE);
        libc::posix_spawnattr_setsigdefault(&mut attr, &set);
        let flags = libc::POSIX_SPAWN_SETSIGMASK
            | libc::POSIX_SPAWN_SETSIGDEF
            | i32::from(libc::POSIX_SPAWN_SETSID);
        libc::posix_spawnattr_setflags(&mut attr, flags as libc::c_short);
        let mut pid = 0;
        let path = argv[0];
        let code = libc::posix_spawn(&mut pid, path, &actions, &attr, argv.as_ptr(), env.as_ptr());
        libc::posix_spawn_file_actions_destroy(&mut actions);
        libc::posix_spawnattr_destroy(&mut attr);
        fail(code).map(|()| pid)
    }
}
