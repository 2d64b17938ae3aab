//! Processes and signals.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use super::{check, owned, poll_in};

/// From linux/capability.h.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// What the holder is told, and says: 0 while it works, 1 when the namespace is there, a negative errno otherwise.
struct Hold {
    owner: u32,
    state: AtomicI32,
}

/// Runs in the child, on its own stack in the keeper's memory.
extern "C" fn hold(arg: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the parent keeps `Hold` alive as long as the child; the calls below touch only this stack. The set-id calls
    // are raw, because libc's would change every thread of the keeper.
    unsafe {
        let order = &*arg.cast::<Hold>();
        let mut head = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
        let mut caps = [CapData::default(); 2];
        let unchanged: libc::c_long = -1;
        let mut done = libc::syscall(libc::SYS_setresuid, unchanged, order.owner, unchanged) == 0;
        // The change of uid has lowered the effective capabilities; some hosts want one for a new user namespace.
        done = done && libc::syscall(libc::SYS_capget, &mut head, caps.as_mut_ptr()) == 0;
        for set in &mut caps {
            set.effective = set.permitted;
        }
        done = done && libc::syscall(libc::SYS_capset, &mut head, caps.as_ptr()) == 0;
        done = done && libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER) == 0;
        let failed = -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        order.state.store(if done { 1 } else { failed }, Ordering::Release);
        loop {
            libc::pause();
        }
    }
}

/// A child that only holds a new user namespace. The namespace belongs to `owner`, not to root: the kernel charges
/// per-user quotas (inotify instances, for one) of a namespace to its owner, and a sandbox must not use up root's.
pub struct UsernsHolder {
    pub pid: libc::pid_t,
    pidfd: OwnedFd,
    /// Used by the child until it is dead.
    _stack: Box<[u128]>,
    _hold: Box<Hold>,
}

impl UsernsHolder {
    pub fn start(owner: u32) -> io::Result<UsernsHolder> {
        const STACK_BYTES: usize = 16 * 1024;
        // u128 gives the 16-byte alignment the ABI wants of a stack.
        let mut stack = vec![0u128; STACK_BYTES / 16].into_boxed_slice();
        let mut order = Box::new(Hold { owner, state: AtomicI32::new(0) });
        let flags = libc::CLONE_VM | libc::CLONE_PIDFD | libc::SIGCHLD;
        let mut pidfd: RawFd = -1;
        // SAFETY: CLONE_VM without CLONE_THREAD is what vfork does; the child touches nothing but its stack and `Hold`,
        // which outlive it (see drop). With CLONE_PIDFD the parent_tid argument receives the descriptor.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(stack.len()).cast();
            let arg: *mut Hold = &mut *order;
            libc::clone(hold, top, flags, arg.cast(), &mut pidfd as *mut RawFd)
        };
        check(pid.into())?;
        let holder = UsernsHolder { pid, pidfd: owned(pidfd.into())?, _stack: stack, _hold: order };
        // The child shares this thread's errno, so nothing here may look at it before the child is done: about 50 µs.
        loop {
            match holder._hold.state.load(Ordering::Acquire) {
                0 => std::thread::yield_now(),
                1 => return Ok(holder),
                error => return Err(io::Error::from_raw_os_error(-error)),
            }
        }
    }
}

impl Drop for UsernsHolder {
    fn drop(&mut self) {
        // A pidfd becomes readable when its process is dead; only then may the stack go.
        while pidfd_kill(self.pidfd.as_fd()).is_ok()
            && !matches!(poll_in(&[Some(self.pidfd.as_fd())], -1).as_deref(), Ok([true]))
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
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, none, 0) }).map(drop)
}

pub fn stop(pid: libc::pid_t) {
    // SAFETY: plain numbers; callers name a process whose parent cannot reap it meanwhile.
    unsafe { libc::kill(pid, libc::SIGSTOP) };
}

pub fn kill(pid: libc::pid_t) {
    // SAFETY: as above.
    unsafe { libc::kill(pid, libc::SIGKILL) };
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
    /// Further ones by their number in the child; the sources' own numbers are above all of these.
    pub extra: &'a [(i32, BorrowedFd<'a>)],
}

/// posix_spawn: no copy of the keeper's memory, and the child starts in the calling thread's mount namespace.
pub fn spawn(what: &Spawn<'_>) -> io::Result<libc::pid_t> {
    let pointers = |list: &[CString]| -> Vec<*mut libc::c_char> {
        let ends = std::iter::once(std::ptr::null_mut());
        list.iter().map(|text| text.as_ptr().cast_mut()).chain(ends).collect()
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
        for (target, fd) in what.extra {
            libc::posix_spawn_file_actions_adddup2(&mut actions, fd.as_raw_fd(), *target);
        }
        if let Some(cwd) = what.cwd {
            libc::posix_spawn_file_actions_addchdir_np(&mut actions, cwd.as_ptr());
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::posix_spawnattr_setsigmask(&mut attr, &set);
        libc::sigaddset(&mut set, libc::SIGPIPE);
        libc::posix_spawnattr_setsigdefault(&mut attr, &set);
        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF | i32::from(libc::POSIX_SPAWN_SETSID);
        libc::posix_spawnattr_setflags(&mut attr, flags as libc::c_short);
        let mut pid = 0;
        let path = argv[0];
        let code = libc::posix_spawn(&mut pid, path, &actions, &attr, argv.as_ptr(), env.as_ptr());
        libc::posix_spawn_file_actions_destroy(&mut actions);
        libc::posix_spawnattr_destroy(&mut attr);
        fail(code).map(|()| pid)
    }
}
