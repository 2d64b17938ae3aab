//! The environment of a command run by sudo, as Debian's configuration has it: a new one, with a few of the caller's
//! variables.

use super::options::Options;
use crate::exec::DEFAULT_PATH;
use crate::users::User;

pub type Variables = Vec<(Vec<u8>, Vec<u8>)>;

/// Kept when their values are plain words; `*` ends a beginning.
const CHECKED: &[&str] = &["COLORTERM", "LANG", "LANGUAGE", "LC_*", "LINGUAS", "TERM"];
const KEPT: &[&str] = &[
    "COLORS",
    "DISPLAY",
    "HOSTNAME",
    "KRB5CCNAME",
    "LS_COLORS",
    "PS1",
    "PS2",
    "XAUTHORITY",
    "XAUTHORIZATION",
    "XDG_CURRENT_DESKTOP",
];
/// Taken out also where the caller keeps its environment: each makes some program load or run what it names.
const DANGEROUS: &[&str] = &[
    "BASHOPTS",
    "BASH_ENV",
    "CDPATH",
    "ENV",
    "FPATH",
    "GLOBIGNORE",
    "HOSTALIASES",
    "IFS",
    "JAVA_TOOL_OPTIONS",
    "LD_*",
    "LOCALDOMAIN",
    "NLSPATH",
    "NULLCMD",
    "PATH_LOCALE",
    "PERL5DB",
    "PERL5LIB",
    "PERL5OPT",
    "PERLIO_DEBUG",
    "PERLLIB",
    "PS4",
    "PYTHONHOME",
    "PYTHONINSPECT",
    "PYTHONPATH",
    "PYTHONUSERBASE",
    "READNULLCMD",
    "RES_OPTIONS",
    "RUBYLIB",
    "RUBYOPT",
    "SHELLOPTS",
    "TERMCAP",
    "TERMINFO",
    "TERMINFO_DIRS",
    "TERMPATH",
    "TMPPREFIX",
    "ZDOTDIR",
    "_RLD*",
];
/// sudo cuts it here too.
const COMMAND_BYTES_MAX: usize = 4096;

fn named(list: &[&str], name: &[u8]) -> bool {
    list.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning.as_bytes()),
        None => pattern.as_bytes() == name,
    })
}

fn is_plain(value: &[u8]) -> bool {
    !value.iter().any(|b| *b == b'/' || *b == b'%')
}

fn is_safe_zone(value: &[u8]) -> bool {
    let inside = value.strip_prefix(b":").unwrap_or(value);
    let relative = inside.strip_prefix(b"/usr/share/zoneinfo/").unwrap_or(inside);
    !relative.starts_with(b"/") && !relative.windows(2).any(|pair| pair == b"..")
}

fn is_kept(options: &Options, name: &[u8], value: &[u8]) -> bool {
    if value.starts_with(b"()") {
        return false;
    }
    if options.preserve.iter().any(|wanted| wanted == name) {
        return true;
    }
    let plain = !named(CHECKED, name) || is_plain(value);
    let zone = name != b"TZ" || is_safe_zone(value);
    if options.preserve_all {
        return plain && zone && !named(DANGEROUS, name);
    }
    plain && zone && (named(CHECKED, name) || named(KEPT, name) || name == b"TZ")
}

struct Building<'a> {
    variables: Variables,
    options: &'a Options,
}

impl Building<'_> {
    fn set(&mut self, name: &[u8], value: &[u8]) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_vec(), value.to_vec()));
    }

    /// Unless the caller asked to keep its own by name.
    fn set_unless_kept(&mut self, name: &[u8], value: &[u8]) {
        let wanted = self.options.preserve.iter().any(|kept| kept == name);
        if !wanted || !self.variables.iter().any(|(known, _)| known == name) {
            self.set(name, value);
        }
    }
}

pub struct Caller<'a> {
    pub name: &'a str,
    pub uid: u32,
    pub gid: u32,
}

/// `command` is what SUDO_COMMAND says.
pub fn environment(own: &Variables, options: &Options, target: &User, caller: &Caller, command: &[u8]) -> Vec<Vec<u8>> {
    let kept = own.iter().filter(|(name, value)| is_kept(options, name, value)).cloned().collect();
    let mut env = Building { variables: kept, options };
    env.set(b"PATH", DEFAULT_PATH.as_bytes());
    let name = target.name.as_bytes();
    if options.login {
        env.set(b"HOME", &target.home);
        env.set(b"SHELL", &target.shell);
    } else if !options.preserve_all {
        env.set_unless_kept(b"HOME", &target.home);
        env.set_unless_kept(b"SHELL", &target.shell);
    }
    if options.set_home {
        env.set(b"HOME", &target.home);
    }
    if options.login || !options.preserve_all {
        env.set_unless_kept(b"MAIL", &[b"/var/mail/", name].concat());
        if !env.variables.iter().any(|(name, _)| name == b"TERM") {
            env.set(b"TERM", b"unknown");
        }
    }
    env.set_unless_kept(b"LOGNAME", name);
    env.set_unless_kept(b"USER", name);
    env.set(b"SUDO_COMMAND", &command[..command.len().min(COMMAND_BYTES_MAX)]);
    env.set(b"SUDO_USER", caller.name.as_bytes());
    env.set(b"SUDO_UID", caller.uid.to_string().as_bytes());
    env.set(b"SUDO_GID", caller.gid.to_string().as_bytes());
    for assignment in &options.assignments {
        if let Some(at) = assignment.iter().position(|b| *b == b'=') {
            env.set(&assignment[..at], &assignment[at + 1..]);
        }
    }
    env.variables.into_iter().map(|(name, value)| [name.as_slice(), b"=", &value].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::shown;

    fn made(line: &str) -> Vec<String> {
        let own = [
            ("LANG", "C.UTF-8"),
            ("LC_ALL", "a/b"),
            ("TERM", "xterm"),
            ("TZ", "/etc/passwd"),
            ("HOME", "/home/bob"),
            ("USER", "bob"),
            ("SECRET", "1"),
            ("LD_PRELOAD", "/x.so"),
            ("BASH_FUNC_a%%", "() { :; }"),
            ("PATH", "/evil"),
        ];
        let own = own.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
        let words: Vec<Vec<u8>> = line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
        let target =
            User { name: "root".into(), home: b"/root".to_vec(), shell: b"/bin/sh".to_vec(), ..User::default() };
        let caller = Caller { name: "bob", uid: 1000, gid: 100 };
        let options = Options::parse(&words).unwrap();
        let mut env: Vec<String> =
            environment(&own, &options, &target, &caller, b"/usr/bin/id").iter().map(|v| shown(v)).collect();
        env.sort();
        env
    }

    #[test]
    fn a_new_environment_with_little_of_the_callers() {
        let path = format!("PATH={DEFAULT_PATH}");
        let expected = [
            "HOME=/root",
            "LANG=C.UTF-8",
            "LOGNAME=root",
            "MAIL=/var/mail/root",
            path.as_str(),
            "SHELL=/bin/sh",
            "SUDO_COMMAND=/usr/bin/id",
            "SUDO_GID=100",
            "SUDO_UID=1000",
            "SUDO_USER=bob",
            "TERM=xterm",
            "USER=root",
        ];
        assert_eq!(made("id"), expected);
    }

    #[test]
    fn the_callers_own_where_it_is_asked_for() {
        let all = made("-E id");
        assert!(all.contains(&"SECRET=1".into()) && all.contains(&"HOME=/home/bob".into()));
        assert!(all.contains(&"USER=root".into()) && all.contains(&format!("PATH={DEFAULT_PATH}")));
        assert!(!all.iter().any(|v| v.starts_with("LD_") || v.starts_with("BASH_FUNC") || v.starts_with("TZ=")));
        let some = made("--preserve-env=SECRET,HOME id");
        assert!(some.contains(&"SECRET=1".into()) && some.contains(&"HOME=/home/bob".into()));
        assert!(made("-EH id").contains(&"HOME=/root".into()));
        assert!(made("-Ei").contains(&"HOME=/root".into()));
    }

    #[test]
    fn assignments_come_last() {
        let env = made("PATH=/mine A=b=c id");
        assert!(env.contains(&"PATH=/mine".into()) && env.contains(&"A=b=c".into()));
    }
}
