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
        None => bulkhead_agent::serve(None),
        Some(argument) if argument == "--landlock" => serve_confined(arguments.next()),
        Some(argument) if argument == "--landlock-version" => {
            println!("{}", bulkhead_agent::landlock_version());
            ExitCode::SUCCESS
        }
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
            eprintln!("bulkhead-agent: unknown argument \"{argument}\"; it takes --landlock VERSION, --landlock-version, --version");
            ExitCode::from(2)
        }
    }
}

fn serve_confined(version: Option<std::ffi::OsString>) -> ExitCode {
    match version.and_then(|text| text.to_str()?.parse().ok()) {
        Some(version) => bulkhead_agent::serve(Some(version)),
        None => {
            eprintln!("bulkhead-agent: --landlock needs a version, as --landlock-version prints it");
            ExitCode::from(2)
        }
    }
}
