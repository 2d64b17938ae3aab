//! The host's helper for images: unpacks one layer, puts layers together, packs a writable layer. It reads hostile bytes, so
//! it gives up what it does not need before the first of them.

mod args;
mod compose;
mod failure;
mod filter;
mod jail;
mod limits;
mod names;
mod pack;
mod progress;
mod record;
mod stream;
mod sys;
mod tar;
mod tree;
mod unpack;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags};
use serde_json::{json, Value};

use args::Command;
use compose::Layer;
use failure::{Failure, Kind, Result};
use jail::EndsWith;
use pack::Ids;

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
            for path in [&into, &into.join("tree")] {
                rustix::fs::mkdir(path, Mode::RWXU).map_err(|error| io(path, error))?;
            }
            let directory = jail::enter(&into)?;
            jail::give_up_rights(jail::TO_WRITE, Some(&limits), EndsWith::Parent)?;
            unpack::unpack(std::io::stdin().lock(), directory, limits, &expected)
        }
        Command::Compose { into, layers } => {
            let directory = open_directory(&into)?;
            let layers = layers
                .iter()
                .map(|path| Ok(Layer { directory: open_directory(path)?, path: path.display().to_string() }))
                .collect::<Result<Vec<_>>>()?;
            // No root of its own: a link is only made between two paths of the same mount.
            jail::give_up_rights(jail::TO_WRITE, None, EndsWith::Parent)?;
            compose::compose(directory, &layers)
        }
        Command::Pack { from, id_base, out } => {
            let upper = open_directory(&from)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::open(&out, flags, Mode::RUSR | Mode::WUSR).map_err(|error| io(&out, error))?;
            jail::give_up_rights(jail::TO_READ, None, EndsWith::Parent)?;
            pack::pack(upper, Ids::of_sandbox(id_base), file.into())
        }
        Command::PackDevice { device } => {
            let archive = sys::take_stdout()?;
            let layer = sys::mount_device(&device).map_err(|error| io(&device, error))?;
            // Whoever wrote the disk has chosen what is there under that name.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let upper = rustix::fs::openat(&layer, "data", flags, Mode::empty());
            let upper = upper.map_err(|error| io(Path::new("data"), error))?;
            jail::give_up_rights(jail::TO_READ, None, EndsWith::Kernel)?;
            pack::pack(upper, Ids::ALL, archive)
        }
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| io(path, error))
}

fn io(path: &Path, error: rustix::io::Errno) -> Failure {
    Failure::new(Kind::Io, format!("{}: {error}", path.display()))
}
