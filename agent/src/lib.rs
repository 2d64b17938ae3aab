//! Process 1 of every sandbox: starts processes, moves files and bytes, and answers one host over one channel.
//! See `agent/wire/README.md` for the wire.
#![deny(unsafe_code)]

mod agent;
pub mod decoder;
mod egress;
mod elevation;
mod exec;
mod failure;
mod files;
pub mod guest;
mod input;
mod limits;
mod output;
mod process;
mod processes;
mod recording;
mod requests;
mod sink;
mod sockets;
mod streams;
pub mod sudo;
mod sys;
mod table;
mod tasks;
mod token;
mod usage;
mod users;
pub mod wire;
mod workers;

use std::process::ExitCode;

pub use sys::landlock::version as landlock_version;

/// Standard input and output are the channel. With a version of Landlock everything that serves is confined by it. 0: the
/// sandbox is over as it should be.
pub fn serve(landlock: Option<u32>) -> ExitCode {
    match start(landlock) {
        Ok(mut agent) => {
            agent.run();
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("bulkhead-agent: {message}");
            ExitCode::FAILURE
        }
    }
}

/// As `serve` in a virtual machine of its own, whose kernel ends with it.
pub fn serve_guest() -> ! {
    match guest::start() {
        Ok(()) => drop(serve(None)),
        Err(failure) => eprintln!("bulkhead-agent: {}", failure::Failure::from(failure).message),
    }
    guest::power_off()
}

fn start(landlock: Option<u32>) -> Result<agent::Agent, String> {
    let cannot_serve = |error| format!("cannot serve on standard input and output: {error}");
    sys::start::protect();
    let (input, output) = sys::start::take_channel().map_err(cannot_serve)?;
    if sys::process::own_pid() == 1 {
        sys::socket::loopback_up();
    }
    // Before anything reads what this process may do: it gives up the right that the loopback interface needed too.
    let device = egress::prepare().map_err(cannot_serve)?;
    // After the device, which it would refuse to set up; before there is a second thread, which it would not reach.
    if let Some(version) = landlock {
        sys::landlock::restrict(version)
            .map_err(|error| format!("this kernel does not take Landlock of version {version}: {error}"))?;
    }
    let surroundings = exec::Surroundings {
        descriptor_limit: sys::start::raise_descriptor_limit(),
        reset_oom_score: !matches!(table::first_line("/proc/self/oom_score_adj").as_str(), "" | "0"),
        bounding_set: sys::capabilities::bounding_set(),
        ..exec::Surroundings::default()
    };
    let agent = agent::Agent::new(input, output, surroundings, device).map_err(cannot_serve)?;
    if guest::is_guest() {
        agent.workers.keep_one();
    }
    Ok(agent)
}
