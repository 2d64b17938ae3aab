use std::process::ExitCode;

fn main() -> ExitCode {
    if bulkhead_agent::guest::is_guest() {
        bulkhead_agent::serve_guest();
    }
    match std::env::args_os().nth(1) {
        None => bulkhead_agent::serve(),
        Some(argument) if argument == "--version" => {
            println!(
                "bulkhead-agent {} (wire {})",
                env!("CARGO_PKG_VERSION"),
                bulkhead_agent::wire::generated::GENERATION
            );
            ExitCode::SUCCESS
        }
        Some(argument) => {
            let argument = argument.to_string_lossy();
            eprintln!("bulkhead-agent: unknown argument \"{argument}\"; it takes none but --version");
            ExitCode::from(2)
        }
    }
}
