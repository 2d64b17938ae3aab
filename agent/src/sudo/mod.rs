//! The caller's end of sudo: this program under that name, for sandboxes whose kernel ignores set-user-id bits. It has no
//! rights of its own; it says to the agent what is to run, lends its streams, passes signals on, and ends as the command.

mod environment;
mod options;
mod session;
mod terminal;

use crate::elevation::Request;
use crate::failure::{shown, Failure};
use crate::sys::{identity, process, start};
use crate::users::{Databases, User};
use crate::wire::generated::error_kind as kind;
use environment::{environment, Caller, Variables};
use options::{Mode, Options, USAGE};
use session::Ending;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

/// Whatever sudo itself has to complain about.
const REFUSED: u8 = 1;

/// Ends as the command ended; a signal that ended it ends us.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<Vec<u8>> = arguments.map(OsStringExt::into_vec).collect();
    let options = match Options::parse(&arguments) {
        Ok(options) => options,
        Err(message) => {
            eprint!("sudo: {message}\n{USAGE}");
            return ExitCode::from(REFUSED);
        }
    };
    match carry_out(&options) {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("sudo: {message}");
            ExitCode::from(REFUSED)
        }
    }
}

fn carry_out(options: &Options) -> Result<u8, String> {
    let databases = Databases::default();
    match options.mode {
        Mode::Help => print!("{USAGE}"),
        Mode::Version => println!("sudo of bulkhead-agent {}", env!("CARGO_PKG_VERSION")),
        Mode::Forget => {}
        Mode::Validate => ask()?,
        Mode::List => list(options, &databases)?,
        Mode::Run => return start_command(options, &databases),
    }
    Ok(0)
}

fn ask() -> Result<(), String> {
    match session::run(&Request { only_ask: true, ..Request::default() })? {
        Ending::Failed(failure) => Err(failure.message),
        _ => Ok(()),
    }
}

fn list(options: &Options, databases: &Databases) -> Result<(), String> {
    ask()?;
    if let Some(command) = options.command.first() {
        let found = find(&candidates(command)).ok_or_else(|| not_found(command))?;
        let words: Vec<String> = std::iter::once(&found).chain(&options.command[1..]).map(|word| shown(word)).collect();
        println!("{}", words.join(" "));
        return Ok(());
    }
    println!("User {} may run here, without a password:\n    (ALL : ALL) NOPASSWD: ALL", own_name(databases));
    Ok(())
}

fn not_found(command: &[u8]) -> String {
    format!("{}: command not found", shown(command))
}

fn own_name(databases: &Databases) -> String {
    let uid = identity::own_uid();
    let name = databases.passwd().name_of(uid);
    if name.is_empty() {
        uid.to_string()
    } else {
        name
    }
}

/// `#1000` is a number; a name must be known, also one of digits.
fn target(options: &Options, databases: &Databases) -> Result<User, String> {
    let spec = match (&options.user, &options.group) {
        (Some(user), _) => shown(user),
        (None, Some(_)) => format!("#{}", identity::own_uid()),
        (None, None) => "#0".to_string(),
    };
    let number = spec.strip_prefix('#').filter(|number| number.parse::<u32>().is_ok());
    if spec.contains(':') || (number.is_none() && !databases.passwd().has_name(&spec)) {
        return Err(format!("unknown user {spec}"));
    }
    let mut user =
        crate::users::resolve(number.unwrap_or(&spec), "", databases).map_err(|_| format!("unknown user {spec}"))?;
    if user.uid == 0 && !databases.passwd().has_name(&user.name) {
        user.name = "root".into();
    }
    if let Some(group) = &options.group {
        let spec = shown(group);
        let gid = match spec.strip_prefix('#') {
            Some(number) => number.parse().ok(),
            None => databases.group().id_of(&spec).filter(|_| databases.group().has_name(&spec)),
        };
        user.gid = gid.ok_or_else(|| format!("unknown group {spec}"))?;
        if !user.groups.contains(&user.gid) {
            user.groups.push(user.gid);
        }
    }
    if options.preserve_groups {
        user.groups = identity::groups().map_err(|errno| format!("cannot read the own groups: {errno}"))?;
    }
    Ok(user)
}

/// What is to be executed: the paths to try, and the arguments from the program's name on.
struct Command {
    candidates: Vec<Vec<u8>>,
    argv: Vec<Vec<u8>>,
}

fn candidates(command: &[u8]) -> Vec<Vec<u8>> {
    if command.contains(&b'/') {
        return vec![command.to_vec()];
    }
    let directories = crate::exec::DEFAULT_PATH.split(':');
    directories.map(|directory| [directory.as_bytes(), b"/", command].concat()).collect()
}

/// The first that this user sees and anybody may execute.
fn find(candidates: &[Vec<u8>]) -> Option<Vec<u8>> {
    let executable = |path: &&Vec<u8>| {
        let data = std::fs::metadata(std::ffi::OsStr::from_bytes(path));
        data.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    candidates.iter().find(executable).cloned()
}

/// One string for a shell that gives the words back.
fn quoted(words: &[Vec<u8>]) -> Vec<u8> {
    let quote = |word: &Vec<u8>| {
        let mut out = Vec::new();
        for byte in word {
            let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'$') || *byte >= 0x80;
            if !plain {
                out.push(b'\\');
            }
            out.push(*byte);
        }
        out
    };
    words.iter().map(quote).collect::<Vec<_>>().join(&b' ')
}

fn command(options: &Options, target: &User, databases: &Databases) -> Command {
    if !options.login && !options.shell {
        let argv = options.command.clone();
        return Command { candidates: candidates(&argv[0]), argv };
    }
    let own_shell = || {
        let own = crate::users::resolve(&identity::own_uid().to_string(), "", databases);
        own.map_or(b"/bin/sh".to_vec(), |user| user.shell)
    };
    let shell = match std::env::var_os("SHELL").filter(|shell| !shell.is_empty()) {
        _ if options.login => target.shell.clone(),
        Some(shell) => shell.into_vec(),
        None => own_shell(),
    };
    let base = shell.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let name = if options.login { [b"-", base].concat() } else { shell.clone() };
    let mut argv = vec![name];
    if !options.command.is_empty() {
        argv.extend([b"-c".to_vec(), quoted(&options.command)]);
    }
    Command { candidates: candidates(&shell), argv }
}

fn request(options: &Options, target: &User, command: &Command, databases: &Databases) -> Request {
    let own: Variables = std::env::vars_os().map(|(name, value)| (name.into_vec(), value.into_vec())).collect();
    let name = own_name(databases);
    let caller = Caller { name: &name, uid: identity::own_uid(), gid: identity::own_gid() };
    let path = find(&command.candidates).unwrap_or_else(|| command.argv[0].clone());
    let line: Vec<Vec<u8>> = std::iter::once(path).chain(command.argv.iter().skip(1).cloned()).collect();
    let home =
        Some(target.home.clone()).filter(|home| std::path::Path::new(std::ffi::OsStr::from_bytes(home)).is_dir());
    let (cwd, cwd_is_given) = match &options.directory {
        Some(directory) => (directory.clone(), false),
        None if options.login => (home.unwrap_or(b"/".to_vec()), true),
        // A directory that was removed under the caller has no path.
        None => (std::env::current_dir().map_or(b"/".to_vec(), |path| path.into_os_string().into_vec()), true),
    };
    Request {
        only_ask: false,
        background: options.background,
        terminal: false,
        candidates: command.candidates.clone(),
        argv: command.argv.clone(),
        env: environment(&own, options, target, &caller, &line.join(&b' ')),
        cwd,
        cwd_is_given,
        // As sudo does: no looser than its own default, no looser than the caller's.
        umask: start::umask() | crate::exec::DEFAULT_UMASK,
        user: target.name.clone(),
        uid: target.uid,
        gid: target.gid,
        groups: target.groups.clone(),
    }
}

fn start_command(options: &Options, databases: &Databases) -> Result<u8, String> {
    let target = target(options, databases)?;
    let command = command(options, &target, databases);
    let mut request = request(options, &target, &command, databases);
    let mut ending = session::run(&request)?;
    if let (Ending::Failed(Failure { errno, .. }), Some(path)) = (&ending, find(&command.candidates)) {
        if *errno == libc::ENOEXEC as u32 {
            // A script without a first line that names its interpreter.
            request.argv = [vec![b"sh".to_vec(), path], request.argv.split_off(1)].concat();
            request.candidates = vec![b"/bin/sh".to_vec()];
            ending = session::run(&request)?;
        }
    }
    match ending {
        Ending::Failed(failure) if failure.kind == kind::COMMAND_NOT_FOUND => Err(not_found(&command.argv[0])),
        Ending::Failed(failure) => Err(failure.message),
        Ending::Background => Ok(0),
        Ending::Exited { code, signal: 0 } => Ok(code as u8),
        Ending::Exited { signal, .. } => {
            process::end_by(i32::from(signal));
            Ok(128u8.wrapping_add(signal))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_gets_its_words_back() {
        let words: Vec<Vec<u8>> =
            [&b"a b"[..], b"$X", b"'q'", b"x;y", "\u{e9}".as_bytes()].map(<[u8]>::to_vec).to_vec();
        assert_eq!(shown(&quoted(&words)), "a\\ b $X \\'q\\' x\\;y \u{e9}");
    }
}
