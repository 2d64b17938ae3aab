//! The task that starts a process: user, environment, search of PATH, streams.

use crate::failure::{shown, Doing, Failure, Outcome};
use crate::process::Started;
use crate::recording::Recording;
use crate::sys::filter::Filter;
use crate::sys::spawn::{spawn, Limit, Program, Step};
use crate::sys::{fd, identity, tty, Errno};
use crate::users::{resolve, Databases, User};
use crate::wire::generated::{error_kind as kind, stdin_mode, Exec};
use crate::workers::{Input, Next, Output, Task};
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What every terminal library knows; a program at a terminal of no kind draws nothing.
const DEFAULT_TERM: &str = "xterm-256color";
pub const DEFAULT_UMASK: u32 = 0o022;
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Directories of PATH that are searched.
const SEARCHED_MAX: usize = 64;
const RLIMIT_NOFILE: u32 = libc::RLIMIT_NOFILE;

/// What the agent knows and every start needs.
#[derive(Clone, Default)]
pub struct Surroundings {
    pub default_user: String,
    pub env: Vec<Vec<u8>>,
    pub allow_setuid: bool,
    pub descriptor_limit: (u64, u64),
    pub reset_oom_score: bool,
    pub bounding_set: u64,
    /// Put on every program before it is executed.
    pub filter: Filter,
    pub databases: Arc<Databases>,
}

pub struct Start {
    pub request: Exec,
    pub surroundings: Surroundings,
}

impl Task for Start {
    fn starts_process(&self) -> bool {
        true
    }

    fn step(&mut self, _input: Input) -> Result<Output, Failure> {
        let request = &self.request;
        check(request)?;
        let user = resolve(&request.user, &self.surroundings.default_user, &self.surroundings.databases)?;
        let env = environment(&user, &self.surroundings.env, &request.env, request.pty)?;
        let cwd = match request.cwd.as_slice() {
            [] => user.home.clone(),
            [b'/', ..] => request.cwd.clone(),
            relative => [user.home.as_slice(), b"/", relative].concat(),
        };
        let (ours, theirs) = streams(request, &user)?;
        let (recording, record) = match request.record {
            true => Recording::begin().doing(|| "cannot record a program's calls").map(|(r, h)| (Some(r), Some(h)))?,
            false => (None, None),
        };
        let mut program = Program {
            candidates: candidates(&request.argv[0], &env)?,
            argv: strings(&request.argv, "argument")?,
            env: strings(&env, "environment variable")?,
            cwd: c_string(&cwd, "working directory")?,
            cwd_is_given: false,
            umask: DEFAULT_UMASK,
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
            change_user: user.uid != identity::own_uid() || user.gid != identity::own_gid(),
            limits: self.limits()?,
            allow_setuid: self.surroundings.allow_setuid,
            stdin: theirs.input,
            stdout: theirs.out,
            stderr: theirs.err,
            terminal: request.pty,
            reset_oom_score: self.surroundings.reset_oom_score,
            bounding_set: self.surroundings.bounding_set,
            filter: self.surroundings.filter.clone(),
            record,
        };
        let mut result = spawn(&program);
        if request.cwd.is_empty() && matches!(result, Err((Step::Directory, _))) {
            // The user's home is a default, not a wish: one that is not there must not keep a program from starting.
            program.cwd = c"/".to_owned();
            result = spawn(&program);
        }
        let pid = result.map_err(|(step, errno)| explain(step, errno, &request.argv[0], &user, &cwd))?;
        let started = Started {
            pid,
            pty: request.pty,
            kill_on_cancel: request.kill_on_cancel,
            input: ours.input,
            out: ours.out,
            err: ours.err,
            recording,
        };
        Ok(Output { messages: Vec::new(), data: Vec::new(), next: Next::Process(Box::new(started)) })
    }
}

impl Start {
    fn limits(&self) -> Outcome<Vec<Limit>> {
        let (soft, hard) = self.surroundings.descriptor_limit;
        let mut limits = vec![Limit { resource: RLIMIT_NOFILE, soft, hard }];
        for limit in &self.request.rlimits {
            let resource = u32::from(limit.resource);
            // Where the kernel is the guest's own it would let us.
            if resource == RLIMIT_NOFILE && limit.hard > hard {
                let text = format!("{} open files are more than the sandbox's limit of {hard}", limit.hard);
                return Err(Failure::with_kind(kind::PERMISSION, Errno(libc::EPERM), text));
            }
            limits.push(Limit { resource, soft: limit.soft, hard: limit.hard });
        }
        Ok(limits)
    }
}

fn check(request: &Exec) -> Outcome<()> {
    if request.argv.first().is_none_or(Vec::is_empty) {
        return Err(Failure::new(kind::INVALID, "argv is empty: name a program to start"));
    }
    if request.stdin > stdin_mode::PIPE {
        return Err(Failure::new(kind::INVALID, format!("stdin mode {} is not known", request.stdin)));
    }
    Ok(())
}

pub fn c_string(bytes: &[u8], what: &str) -> Outcome<CString> {
    CString::new(bytes)
        .map_err(|_| Failure::new(kind::INVALID, format!("{what} \"{}\" holds a NUL byte", shown(bytes))))
}

pub fn strings(list: &[Vec<u8>], what: &str) -> Outcome<Vec<CString>> {
    list.iter().map(|bytes| c_string(bytes, what)).collect()
}

/// Later settings of a variable replace earlier ones.
fn environment(user: &User, configured: &[Vec<u8>], wanted: &[Vec<u8>], terminal: bool) -> Outcome<Vec<Vec<u8>>> {
    let named = |name: &str, value: &[u8]| [name.as_bytes(), b"=", value].concat();
    let mut env: Vec<Vec<u8>> = vec![
        named("PATH", DEFAULT_PATH.as_bytes()),
        named("HOME", &user.home),
        named("USER", user.name.as_bytes()),
        named("LOGNAME", user.name.as_bytes()),
    ];
    if terminal {
        env.push(named("TERM", DEFAULT_TERM.as_bytes()));
    }
    let mut place: std::collections::HashMap<Vec<u8>, usize> = std::collections::HashMap::new();
    for (index, variable) in env.iter().enumerate() {
        place.insert(key(variable).unwrap_or_default().to_vec(), index);
    }
    for variable in configured.iter().chain(wanted) {
        let Some(key) = key(variable) else {
            let message = format!("environment variable \"{}\" is not NAME=value", shown(variable));
            return Err(Failure::new(kind::INVALID, message));
        };
        match place.get(key) {
            Some(index) => env[*index] = variable.clone(),
            None => {
                place.insert(key.to_vec(), env.len());
                env.push(variable.clone());
            }
        }
    }
    Ok(env)
}

fn key(variable: &[u8]) -> Option<&[u8]> {
    let end = variable.iter().position(|b| *b == b'=')?;
    (end > 0).then(|| &variable[..end])
}

fn candidates(program: &[u8], env: &[Vec<u8>]) -> Outcome<Vec<CString>> {
    if program.contains(&b'/') {
        return Ok(vec![c_string(program, "program")?]);
    }
    let path = env.iter().find_map(|v| v.strip_prefix(b"PATH=")).unwrap_or_default();
    path.split(|b| *b == b':')
        .take(SEARCHED_MAX)
        .map(|directory| {
            let directory = if directory.is_empty() { b"." } else { directory };
            c_string(&[directory, b"/", program].concat(), "program")
        })
        .collect()
}

struct Ours {
    input: Option<OwnedFd>,
    out: OwnedFd,
    err: Option<OwnedFd>,
}

struct Theirs {
    input: Option<OwnedFd>,
    out: OwnedFd,
    err: OwnedFd,
}

fn streams(request: &Exec, user: &User) -> Outcome<(Ours, Theirs)> {
    let failed = || "cannot make the streams of a process";
    if request.pty {
        let (master, slave) = tty::pair(request.rows, request.cols, user.uid).map_err(|errno| {
            Failure::with_kind(kind::UNSUPPORTED, errno, "the sandbox has no terminal to give (/dev/ptmx)")
        })?;
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|_| Errno(libc::EMFILE)).doing(failed);
        let input = copy(&master)?;
        let theirs = Theirs { input: Some(copy(&slave)?), err: copy(&slave)?, out: slave };
        return Ok((Ours { input: Some(input), out: master, err: None }, theirs));
    }
    let (out, their_out) = fd::pipe().doing(failed)?;
    let (err, their_err) = fd::pipe().doing(failed)?;
    let (mut input, mut their_input) = (None, None);
    if request.stdin == stdin_mode::PIPE {
        let (read, write) = fd::pipe().doing(failed)?;
        (input, their_input) = (Some(write), Some(read));
    }
    if user.uid != identity::own_uid() {
        // /dev/stdout and /dev/stdin are opened anew by some programs, which the owner alone may do.
        for end in [Some(&their_out), Some(&their_err), their_input.as_ref()].into_iter().flatten() {
            let _ = fd::chown(end, user.uid, user.gid);
        }
    }
    Ok((Ours { input, out, err: Some(err) }, Theirs { input: their_input, out: their_out, err: their_err }))
}

pub fn explain(step: Step, errno: Errno, command: &[u8], user: &User, cwd: &[u8]) -> Failure {
    let command = shown(command);
    let (name, uid) = (&user.name, user.uid);
    match step {
        Step::Execute => explain_execute(errno, &command),
        Step::Directory => {
            let which = if errno.0 == libc::EACCES { kind::PERMISSION } else { kind::WORKDIR_NOT_FOUND };
            let directory = shown(cwd);
            Failure::with_kind(which, errno, format!("cannot work in directory \"{directory}\" as user \"{name}\""))
        }
        Step::User | Step::Group | Step::Groups => {
            Failure::of(errno, format!("cannot start \"{command}\" as user \"{name}\" (uid {uid})"))
        }
        Step::Limits => {
            Failure::of(errno, format!("cannot set a resource limit of \"{command}\"; the sandbox allows less"))
        }
        Step::Clone => Failure::of(errno, format!("cannot start \"{command}\": no room for another process")),
        Step::Filter => Failure::with_kind(
            kind::UNSUPPORTED,
            errno,
            format!("cannot start \"{command}\": the sandbox's kernel does not take the seccomp profile given"),
        ),
        Step::Record => Failure::with_kind(
            kind::UNSUPPORTED,
            errno,
            format!("cannot start \"{command}\": the sandbox's kernel does not tell which calls a program makes"),
        ),
        other => Failure::of(errno, format!("cannot start \"{command}\" (step {other:?})")),
    }
}

fn explain_execute(errno: Errno, command: &str) -> Failure {
    match errno.0 {
        libc::ENOENT | libc::ENOTDIR if command.contains('/') && std::fs::metadata(command).is_ok() => {
            let text = format!("command \"{command}\" needs an interpreter or loader that is not in the sandbox");
            Failure::with_kind(kind::COMMAND_NOT_EXECUTABLE, errno, text)
        }
        libc::ENOENT | libc::ENOTDIR => {
            let place = if command.contains('/') { "the sandbox" } else { "PATH of the sandbox" };
            Failure::with_kind(kind::COMMAND_NOT_FOUND, errno, format!("command \"{command}\" is not in {place}"))
        }
        libc::EACCES | libc::ENOEXEC | libc::EPERM | libc::EISDIR | libc::ELIBBAD | libc::ETXTBSY => {
            Failure::with_kind(kind::COMMAND_NOT_EXECUTABLE, errno, format!("command \"{command}\" cannot be executed"))
        }
        _ => Failure::of(errno, format!("cannot execute \"{command}\"")),
    }
}
