//! Starting a process. The child shares our memory until it executes its program (as vfork does), because copying page
//! tables is what makes a start slow, most of all in gVisor. Until then it may only make raw calls and must not allocate.

use super::filter::{Filter, Handover, HANDOVER_FD};
use super::{capabilities, check, Errno};
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

/// What the child was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Step {
    Clone,
    Session,
    Terminal,
    Streams,
    Limits,
    Capabilities,
    Privileges,
    Groups,
    Group,
    User,
    Directory,
    Filter,
    Record,
    Execute,
}

pub struct Limit {
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

pub struct Program {
    /// Tried in this order.
    pub candidates: Vec<CString>,
    pub argv: Vec<CString>,
    pub env: Vec<CString>,
    pub cwd: CString,
    /// Enters the directory with the agent's own rights: its user has been there already.
    pub cwd_is_given: bool,
    pub umask: u32,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// The ids are another user's than the agent's own.
    pub change_user: bool,
    pub limits: Vec<Limit>,
    pub allow_setuid: bool,
    /// None is an empty input.
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub terminal: bool,
    pub reset_oom_score: bool,
    pub bounding_set: u64,
    pub filter: Filter,
    /// Hands over who is asked about the program's calls.
    pub record: Option<Handover>,
}

impl Program {
    fn filtered(&self) -> bool {
        !self.filter.is_empty() || self.record.is_some()
    }
}

/// Everything the child needs, as pointers made before it exists.
struct Plan<'a> {
    program: &'a Program,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    failed_step: Step,
    failed_errno: i32,
}

/// Room for the child's calls; execve copies no strings onto it.
const CHILD_STACK_BYTES: usize = 32 * 1024;

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
}

/// Gives the new process's id, or the step that failed.
pub fn spawn(program: &Program) -> std::result::Result<u32, (Step, Errno)> {
    let mut plan = Plan {
        program,
        argv: pointers(&program.argv),
        env: pointers(&program.env),
        failed_step: Step::Clone,
        failed_errno: 0,
    };
    let mut stack: Vec<u8> = Vec::with_capacity(CHILD_STACK_BYTES);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the child runs on its own stack, aligned at its end, and this thread sleeps until the child has executed
    // or ended, so `plan` and `stack` outlive every use.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(CHILD_STACK_BYTES);
        let top = top.sub(top as usize % 16);
        libc::clone(child, top.cast(), flags, (&raw mut plan).cast())
    };
    if pid < 0 {
        return Err((Step::Clone, Errno::last()));
    }
    // SAFETY: the child wrote through a raw pointer; a volatile read keeps the compiler from assuming the old value.
    let (step, errno) = unsafe {
        (std::ptr::read_volatile(&raw const plan.failed_step), std::ptr::read_volatile(&raw const plan.failed_errno))
    };
    if errno != 0 {
        return Err((step, Errno(errno)));
    }
    Ok(pid as u32)
}

extern "C" fn child(argument: *mut libc::c_void) -> i32 {
    // SAFETY: `argument` is the parent's plan; the parent sleeps while we use it.
    let plan = unsafe { &mut *argument.cast::<Plan>() };
    let (step, errno) = match become_program(plan) {
        Err(failure) => failure,
        Ok(()) => (Step::Execute, Errno(libc::ENOENT)),
    };
    // SAFETY: a raw exit runs nothing of the parent's.
    unsafe {
        std::ptr::write_volatile(&raw mut plan.failed_step, step);
        std::ptr::write_volatile(&raw mut plan.failed_errno, errno.0);
        libc::syscall(libc::SYS_exit, 127);
    }
    // Under a filter that refuses even that our parent would sleep for ever.
    crash()
}

/// Ends this process without a system call.
fn crash() -> ! {
    loop {
        // SAFETY: an instruction that no processor executes; the signal's handler is the default.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            std::arch::asm!("ud2");
            #[cfg(target_arch = "aarch64")]
            std::arch::asm!("udf #0");
        }
    }
}

type ChildResult = std::result::Result<(), (Step, Errno)>;

fn at(step: Step) -> impl Fn(Errno) -> (Step, Errno) {
    move |errno| (step, errno)
}

fn become_program(plan: &Plan) -> ChildResult {
    let program = plan.program;
    // SAFETY: raw calls on integers.
    unsafe { check(libc::syscall(libc::SYS_setsid)) }.map_err(at(Step::Session))?;
    streams(program)?;
    if program.reset_oom_score {
        reset_oom_score();
    }
    limits(program)?;
    if program.cwd_is_given {
        enter(program)?;
    }
    if !program.allow_setuid {
        capabilities::drop_bounding_set(program.bounding_set, program.uid == 0).map_err(at(Step::Capabilities))?;
    }
    become_user(program)?;
    if !program.allow_setuid {
        // SAFETY: integers only.
        unsafe { check(libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) }
            .map_err(at(Step::Privileges))?;
    }
    if !program.cwd_is_given {
        enter(program)?;
    }
    // SAFETY: an integer only.
    unsafe { libc::syscall(libc::SYS_umask, program.umask) };
    unblock_signals();
    // Last, so that a filter judges the program's calls and none of ours but execve.
    if !program.filter.is_empty() {
        program.filter.install().map_err(at(Step::Filter))?;
    }
    if let Some(record) = &program.record {
        record.install().map_err(at(Step::Record))?;
    }
    execute(plan)
}

fn enter(program: &Program) -> ChildResult {
    // SAFETY: a live NUL-terminated string.
    unsafe { check(libc::syscall(libc::SYS_chdir, program.cwd.as_ptr())) }.map(drop).map_err(at(Step::Directory))
}

fn streams(program: &Program) -> ChildResult {
    let fail = at(Step::Streams);
    let out = program.stdout.as_raw_fd();
    let input = program.stdin.as_ref().map(AsRawFd::as_raw_fd);
    // SAFETY: descriptors are numbers of our own copy of the table; all of them are above 2.
    unsafe {
        if program.terminal {
            check(libc::syscall(libc::SYS_ioctl, out, libc::TIOCSCTTY, 0)).map_err(at(Step::Terminal))?;
        }
        // Without an input the agent's own descriptor 0 stays, which is /dev/null.
        if let Some(input) = input {
            check(libc::dup2(input, 0) as i64).map_err(&fail)?;
        }
        check(libc::dup2(out, 1) as i64).map_err(&fail)?;
        check(libc::dup2(program.stderr.as_raw_fd(), 2) as i64).map_err(&fail)?;
        let mut from = 3;
        if let Some(record) = &program.record {
            if record.socket() != HANDOVER_FD {
                check(i64::from(libc::dup3(record.socket(), HANDOVER_FD, libc::O_CLOEXEC)))
                    .map_err(at(Step::Record))?;
            }
            from = HANDOVER_FD as u32 + 1;
        }
        // Every other descriptor closes on exec already; this holds even if one should not.
        libc::syscall(libc::SYS_close_range, from, u32::MAX, 0u32);
    }
    Ok(())
}

fn reset_oom_score() {
    // SAFETY: live strings; failing leaves the agent's own score, which harms nobody else.
    unsafe {
        let path = c"/proc/self/oom_score_adj";
        let fd = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_WRONLY);
        if fd >= 0 {
            libc::syscall(libc::SYS_write, fd, c"0".as_ptr(), 1);
            libc::syscall(libc::SYS_close, fd);
        }
    }
}

fn limits(program: &Program) -> ChildResult {
    for limit in &program.limits {
        let value = libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard };
        // SAFETY: `value` lives through the call.
        unsafe {
            check(libc::syscall(libc::SYS_prlimit64, 0, limit.resource, &raw const value, 0))
                .map_err(at(Step::Limits))?;
        }
    }
    Ok(())
}

fn become_user(program: &Program) -> ChildResult {
    // SAFETY: pointers and lengths of live data; raw calls act on this process alone.
    unsafe {
        match check(libc::syscall(libc::SYS_setgroups, program.groups.len(), program.groups.as_ptr())) {
            // Without the right to change groups the agent's own user still has the agent's own groups.
            Err(Errno(libc::EPERM)) if !program.change_user => {}
            other => other.map(drop).map_err(at(Step::Groups))?,
        }
        if program.change_user {
            check(libc::syscall(libc::SYS_setresgid, program.gid, program.gid, program.gid))
                .map_err(at(Step::Group))?;
        }
        libc::syscall(libc::SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        if keeps_admin(program) {
            check(libc::syscall(libc::SYS_prctl, libc::PR_SET_KEEPCAPS, 1, 0, 0, 0)).map_err(at(Step::Filter))?;
        }
        if program.change_user {
            check(libc::syscall(libc::SYS_setresuid, program.uid, program.uid, program.uid)).map_err(at(Step::User))?;
        }
    }
    capabilities::reduce(program.uid, keeps_admin(program)).map_err(at(Step::Capabilities))
}

/// A filter needs no_new_privs or this capability, which goes by itself when another user than root executes a program.
fn keeps_admin(program: &Program) -> bool {
    program.filtered() && program.allow_setuid && program.uid != 0
}

fn unblock_signals() {
    let none = 0u64;
    // SAFETY: the mask is the kernel's 64 bits.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0, 8) };
}

fn execute(plan: &Plan) -> ChildResult {
    let mut denied = None;
    let mut last = Errno(libc::ENOENT);
    // SAFETY: all strings and arrays live in the sleeping parent.
    unsafe {
        for candidate in &plan.program.candidates {
            libc::syscall(libc::SYS_execve, candidate.as_ptr(), plan.argv.as_ptr(), plan.env.as_ptr());
            last = Errno::last();
            match last.0 {
                libc::EACCES => denied = Some(last),
                libc::ENOENT | libc::ENOTDIR => {}
                _ => return Err((Step::Execute, last)),
            }
        }
    }
    Err((Step::Execute, denied.unwrap_or(last)))
}
