//! sudo's command line.

use crate::failure::shown;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Run,
    List,
    Validate,
    /// There is nothing remembered that could be forgotten.
    Forget,
    Version,
    Help,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub mode: Mode,
    pub user: Option<Vec<u8>>,
    pub group: Option<Vec<u8>>,
    pub login: bool,
    pub shell: bool,
    pub set_home: bool,
    pub preserve_all: bool,
    pub preserve: Vec<Vec<u8>>,
    pub preserve_groups: bool,
    pub background: bool,
    pub directory: Option<Vec<u8>>,
    pub assignments: Vec<Vec<u8>>,
    pub command: Vec<Vec<u8>>,
}

pub const USAGE: &str = "\
usage: sudo [-bEHnPS] [-D directory] [-g group] [-u user] [NAME=value]... [-i | -s] [command [argument]...]
       sudo -l [-u user] [command]    what may be run
       sudo -v | -k | -K | -V | -h    check, forget, version, this text
Commands run as root unless -u or -g says otherwise. No password is asked for, so -A, -B, -n, -p and -S change nothing.
";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
    /// Only by `--name=value`.
    MayTake,
}

const OPTIONS: &[(u8, &str, Takes)] = &[
    (b'A', "askpass", Takes::Nothing),
    (b'B', "bell", Takes::Nothing),
    (b'b', "background", Takes::Nothing),
    (b'C', "close-from", Takes::Value),
    (b'D', "chdir", Takes::Value),
    (b'E', "preserve-env", Takes::MayTake),
    (b'e', "edit", Takes::Nothing),
    (b'g', "group", Takes::Value),
    (b'H', "set-home", Takes::Nothing),
    (b'h', "help", Takes::Nothing),
    (b'i', "login", Takes::Nothing),
    (b'K', "remove-timestamp", Takes::Nothing),
    (b'k', "reset-timestamp", Takes::Nothing),
    (b'l', "list", Takes::Nothing),
    (b'N', "no-update", Takes::Nothing),
    (b'n', "non-interactive", Takes::Nothing),
    (b'P', "preserve-groups", Takes::Nothing),
    (b'p', "prompt", Takes::Value),
    (b'R', "chroot", Takes::Value),
    (b'r', "role", Takes::Value),
    (b'S', "stdin", Takes::Nothing),
    (b's', "shell", Takes::Nothing),
    (b'T', "command-timeout", Takes::Value),
    (b't', "type", Takes::Value),
    (b'U', "other-user", Takes::Value),
    (b'u', "user", Takes::Value),
    (b'V', "version", Takes::Nothing),
    (b'v', "validate", Takes::Nothing),
];

/// The exact name, or the only one that begins so.
fn by_name(name: &[u8]) -> Option<(u8, Takes)> {
    let begins: Vec<_> = OPTIONS.iter().filter(|(_, long, _)| long.as_bytes().starts_with(name)).collect();
    let exact = begins.iter().find(|(_, long, _)| long.len() == name.len());
    match (exact, begins.as_slice()) {
        (Some((short, _, takes)), _) | (None, [(short, _, takes)]) => Some((*short, *takes)),
        _ => None,
    }
}

impl Options {
    /// `arguments` without the program's own name; the error is for people.
    pub fn parse(arguments: &[Vec<u8>]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        let mut forget = false;
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().cloned();
            match argument.as_slice() {
                b"--" => break,
                [b'-', b'-', long @ ..] => options.long(long, &mut value, &mut forget)?,
                [b'-', cluster @ ..] if !cluster.is_empty() => options.short(cluster, &mut value, &mut forget)?,
                [first, ..] if *first != b'/' && *first != b'=' && argument.contains(&b'=') => {
                    options.assignments.push(argument.clone());
                }
                _ => {
                    options.command.push(argument.clone());
                    break;
                }
            }
        }
        options.command.extend(rest.cloned());
        options.settle(forget)
    }

    fn long(
        &mut self,
        argument: &[u8],
        next: &mut dyn FnMut() -> Option<Vec<u8>>,
        forget: &mut bool,
    ) -> Result<(), String> {
        let (name, given) = match argument.iter().position(|b| *b == b'=') {
            Some(at) => (&argument[..at], Some(argument[at + 1..].to_vec())),
            None => (argument, None),
        };
        let unknown = || format!("unknown option \"--{}\"", shown(name));
        let (option, takes) = by_name(name).ok_or_else(unknown)?;
        let value = match (takes, given) {
            (Takes::Nothing, Some(_)) => return Err(format!("option \"--{}\" takes no value", shown(name))),
            (Takes::Value, None) => Some(next().ok_or_else(|| format!("option \"--{}\" needs a value", shown(name)))?),
            (_, given) => given,
        };
        self.apply(option, value, forget)
    }

    fn short(
        &mut self,
        cluster: &[u8],
        next: &mut dyn FnMut() -> Option<Vec<u8>>,
        forget: &mut bool,
    ) -> Result<(), String> {
        for (index, letter) in cluster.iter().enumerate() {
            let known = OPTIONS.iter().find(|(short, ..)| short == letter);
            let Some((option, _, takes)) = known else {
                return Err(format!("unknown option \"-{}\"", shown(&[*letter])));
            };
            if *takes == Takes::Value {
                let attached = &cluster[index + 1..];
                let value = if attached.is_empty() { next() } else { Some(attached.to_vec()) };
                let value = value.ok_or_else(|| format!("option \"-{}\" needs a value", shown(&[*letter])))?;
                return self.apply(*option, Some(value), forget);
            }
            self.apply(*option, None, forget)?;
        }
        Ok(())
    }

    fn apply(&mut self, option: u8, value: Option<Vec<u8>>, forget: &mut bool) -> Result<(), String> {
        match option {
            b'b' => self.background = true,
            b'D' => self.directory = value,
            b'E' => match value {
                None => self.preserve_all = true,
                Some(list) => self.preserve.extend(list.split(|b| *b == b',').map(<[u8]>::to_vec)),
            },
            b'g' => self.group = value,
            b'H' => self.set_home = true,
            b'h' => self.mode = Mode::Help,
            b'i' => self.login = true,
            b'K' | b'k' => *forget = true,
            b'l' => self.mode = Mode::List,
            b'P' => self.preserve_groups = true,
            b's' => self.shell = true,
            b'u' => self.user = value,
            b'V' => self.mode = Mode::Version,
            b'v' => self.mode = Mode::Validate,
            b'e' | b'R' | b'r' | b'T' | b't' => {
                return Err(format!("option \"-{}\" is not to be had in this sandbox", char::from(option)));
            }
            // No password is asked for and no terminal needed; descriptors from 3 on are closed always.
            _ => {}
        }
        Ok(())
    }

    fn settle(mut self, forget: bool) -> Result<Self, String> {
        if self.login && self.shell {
            return Err("\"-i\" and \"-s\" exclude each other".into());
        }
        let starts = self.login || self.shell || !self.command.is_empty();
        if self.mode == Mode::Run && !starts {
            if !forget {
                return Err("no command was named".into());
            }
            self.mode = Mode::Forget;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>())
    }

    fn command(line: &str) -> String {
        let words: Vec<String> = parse(line).unwrap().command.iter().map(|word| shown(word)).collect();
        words.join(" ")
    }

    #[test]
    fn options_end_at_the_command() {
        assert_eq!(command("-n id -u"), "id -u");
        assert_eq!(command("-nEH -- -x A=1"), "-x A=1");
        assert_eq!(command("/opt/a=b c"), "/opt/a=b c");
    }

    #[test]
    fn values_are_attached_or_follow() {
        for line in ["-u bob id", "-ubob id", "-nubob id", "--user=bob id", "--user bob id", "--us bob id"] {
            let options = parse(line).unwrap();
            assert_eq!((options.user.as_deref(), options.command.len()), (Some(&b"bob"[..]), 1), "{line}");
        }
        assert!(parse("-u").is_err() && parse("--user").is_err() && parse("--login=x id").is_err());
    }

    #[test]
    fn variables_stand_among_the_options() {
        let options = parse("A=1 -E B= --preserve-env=X,Y -p prompt id C=3").unwrap();
        assert_eq!(options.assignments, [b"A=1".to_vec(), b"B=".to_vec()]);
        assert_eq!(options.preserve, [b"X".to_vec(), b"Y".to_vec()]);
        assert!(options.preserve_all && options.command.len() == 2);
    }

    #[test]
    fn modes() {
        assert_eq!(parse("-k").unwrap().mode, Mode::Forget);
        assert_eq!(parse("-K").unwrap().mode, Mode::Forget);
        assert_eq!(parse("-k id").unwrap().mode, Mode::Run);
        assert_eq!(parse("-nv").unwrap().mode, Mode::Validate);
        assert_eq!(parse("-n -l").unwrap().mode, Mode::List);
        assert!(parse("-i").unwrap().login && parse("-s").unwrap().shell);
    }

    #[test]
    fn what_is_not_known_or_not_to_be_had_is_refused() {
        for line in ["", "-n", "-z id", "--no-such id", "-e f", "-R /x id", "-T 5 id", "-i -s", "--pre id"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
