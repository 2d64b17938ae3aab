//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::failure::{Failure, Kind, Result};
use crate::limits::Limits;
use crate::unpack::Expected;

pub enum Command {
    /// The blob is standard input.
    Unpack { into: PathBuf, limits: Limits, expected: Expected },
    /// Layers bottom first.
    Compose { into: PathBuf, layers: Vec<PathBuf> },
    /// An overlay's upper directory, whose owners are `id_base` and up, to a new file.
    Pack { from: PathBuf, id_base: u32, out: PathBuf },
    /// The same of a layer that is a disk, with owners as they are, to standard output. For a kernel that may be lost.
    PackDevice { device: PathBuf },
}

#[derive(Default)]
struct Options {
    into: Option<PathBuf>,
    from: Option<PathBuf>,
    device: Option<PathBuf>,
    out: Option<PathBuf>,
    id_base: Option<u32>,
    limits: Option<String>,
    expected: Expected,
    rest: Vec<PathBuf>,
}

impl Command {
    pub fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Command> {
        let verb = words.next().unwrap_or_default();
        let options = Options::parse(words)?;
        let into = || options.into.clone().ok_or_else(|| usage("--into DIR is missing"));
        match verb.to_str() {
            Some("unpack") => {
                let limits = options.limits.as_deref().ok_or_else(|| usage("--limits JSON is missing"))?;
                let limits = Limits::parse(limits)?;
                match options.rest.first() {
                    Some(word) => Err(usage(&format!("unpack takes no {}", word.display()))),
                    None => Ok(Command::Unpack { into: into()?, limits, expected: options.expected }),
                }
            }
            Some("compose") if options.rest.is_empty() => Err(usage("compose is given no layers")),
            Some("compose") => Ok(Command::Compose { into: into()?, layers: options.rest }),
            Some("pack-device") => {
                Ok(Command::PackDevice { device: options.device.ok_or_else(|| usage("--device DEVICE is missing"))? })
            }
            Some("pack") => Ok(Command::Pack {
                from: options.from.ok_or_else(|| usage("--from DIR is missing"))?,
                id_base: options.id_base.ok_or_else(|| usage("--id-base NUMBER is missing"))?,
                out: options.out.ok_or_else(|| usage("--out FILE is missing"))?,
            }),
            _ => Err(usage("the command is one of unpack, compose, pack, pack-device")),
        }
    }
}

impl Options {
    fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Options> {
        let mut options = Options::default();
        while let Some(word) = words.next() {
            let option = match word.to_str() {
                Some(option) if option.starts_with("--") => option.to_string(),
                _ => {
                    options.rest.push(word.into());
                    continue;
                }
            };
            let value = words.next().ok_or_else(|| usage(&format!("{option} has no value")))?;
            let text = || value.to_str().map(str::to_string).ok_or_else(|| usage(&format!("{option} is no text")));
            match option.as_str() {
                "--into" => options.into = Some(value.into()),
                "--from" => options.from = Some(value.into()),
                "--device" => options.device = Some(value.into()),
                "--out" => options.out = Some(value.into()),
                "--id-base" => {
                    let number = text()?.parse().map_err(|_| usage("--id-base is no id"))?;
                    options.id_base = Some(number);
                }
                "--limits" => options.limits = Some(text()?),
                "--digest" => options.expected.digest = Some(text()?),
                "--diff-id" => options.expected.diff_id = Some(text()?),
                _ => return Err(usage(&format!("there is no {option}"))),
            }
        }
        Ok(options)
    }
}

fn usage(what: &str) -> Failure {
    Failure::new(Kind::Usage, what)
}
