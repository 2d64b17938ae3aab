//! The host's helper for images: unpacks one layer, puts layers together, packs a writable layer. It reads hostile bytes, so
//! it gives up what it does not need before the first of them.

mod args;
mod compose;
mod failure;
mod jail;
mod limits;
mod names;
mod progress;
mod record;
mod stream;
mod sys;
mod tar;
mod tree;
mod unpack;

use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags};
use serde_json::{json, Value};

use args::Command;
use compose::Layer;
use failure::{Failure, Kind, Result};

fn main() -> ExitCode {
    // A bug that a hostile byte finds is told like any other failure.
    std::panic::set_hook(Box::new(|panic| {
        let _ = progress::say(&json!({ "error": { "kind": "internal", "what": panic.to_string() } }));
    }));
    match Command::parse(std::env::args_os().skip(1)).and_then(run) {
        Ok(line) => match progress::say(&line) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(failure) => {
            let _ = progress::say(&failure.to_json());
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<Value> {
    match command {
        Command::Unpack { into, limits, expected } => {
            let make = |path: &Path| rustix::fs::mkdir(path, Mode::RWXU).map_err(|error| io(path, error));
            make(&into)?;
            make(&into.join("tree"))?;
            let directory = jail::enter(&into)?;
            jail::give_up_rights(Some(&limits))?;
            unpack::unpack(std::io::stdin().lock(), directory, limits, &expected)
        }
        Command::Compose { into, layers } => {
            let open = |path: &Path| {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::open(path, flags, Mode::empty()).map_err(|error| io(path, error))
            };
            let directory = open(&into)?;
            let layers =
                layers.iter().map(|path| Ok(Layer { directory: open(path)?, path: path.display().to_string() }));
            let layers = layers.collect::<Result<Vec<_>>>()?;
            // No root of its own: a link is only made between two paths of the same mount.
            jail::give_up_rights(None)?;
            compose::compose(directory, &layers)
        }
    }
}

fn io(path: &Path, error: rustix::io::Errno) -> Failure {
    Failure::new(Kind::Io, format!("{}: {error}", path.display()))
}
