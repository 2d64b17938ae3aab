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
mod usage;
mod users;
pub mod wire;
mod workers;

use std::process::ExitCode;

/// Standard input and output are the channel. 0: the sandbox is over as it should be.
pub fn serve() -> ExitCode {
    match start() {
        Ok(mut agent) => {
            agent.run();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bulkhead-agent: cannot serve on standard input and output: {error}");
            ExitCode::FAILURE
        }
    }
}

/// As `serve` in a virtual machine of its own, whose kernel ends with it.
pub fn serve_guest() -> ! {
    match guest::start() {
        Ok(()) => drop(serve()),
        Err(failure) => eprintln!("bulkhead-agent: {}", failure::Failure::from(failure).message),
    }
    guest::power_off()
}

fn start() -> sys::Result<agent::Agent> {
    sys::start::protect();
    let (input, output) = sys::start::take_channel()?;
    if sys::process::own_pid() == 1 {
        sys::socket::loopback_up();
    }
    // Before anything reads what this process may do: it gives up the right that the loopback interface needed too.
    let device = egress::prepare()?;
    let surroundings = exec::Surroundings {
        descriptor_limit: sys::start::raise_descriptor_limit(),
        reset_oom_score: !matches!(table::first_line("/proc/self/oom_score_adj").as_str(), "" | "0"),
        bounding_set: sys::capabilities::bounding_set(),
        ..exec::Surroundings::default()
    };
    agent::Agent::new(input, output, surroundings, device)
}
