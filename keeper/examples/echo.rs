//! A process 1 for tests of the raw start: says READY, repeats each line, ends with the code in `exit <code>`, and ends
//! with 0 at the end of its input.

use std::io::{self, BufRead, Write};

fn main() {
    let mut out = io::stdout();
    let mut say = |text: &str| {
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    };
    say("READY\n");
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        if let Some(code) = line.strip_prefix("exit ") {
            eprintln!("ending as told");
            std::process::exit(code.parse().unwrap_or(99));
        }
        if let Some(path) = line.strip_prefix("read ") {
            say(&format!(
                "{}\n",
                std::fs::read_to_string(path)
                    .unwrap_or_else(|error| error.to_string())
                    .trim()
            ));
            continue;
        }
        say(&format!("{line}\n"));
    }
}
