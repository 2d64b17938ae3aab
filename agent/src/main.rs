use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let called = std::path::Path::new(&name).file_name().unwrap_or_default();
    if called == "sudo" {
        return bulkhead_agent::sudo::run(arguments);
    }
    if called == "sudoedit" {
        return bulkhead_agent::sudo::run(std::iter::once("-e".into()).chain(arguments));
    }
    if bulkhead_agent::guest::is_guest() {
        bulkhead_agent::serve_guest();
    }
    match arguments.next() {
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
