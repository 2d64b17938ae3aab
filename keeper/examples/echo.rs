//! A process 1 for tests of the raw start. It says READY, then repeats each line, except: `exit <code>` ends it,
//! `read <path>` says the file's content, `inotify` takes inotify instances until there are no more and keeps them. It
//! ends with 0 at the end of its input.

use std::io::{self, BufRead, Write};

fn main() {
    // As an agent would say that Landlock is not to be used.
    if std::env::args().nth(1).as_deref() == Some("--landlock-version") {
        return println!("0");
    }
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
            say(&format!("{}\n", std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string()).trim()));
            continue;
        }
        if line == "inotify" {
            let mut count = 0;
            // SAFETY: plain call; the descriptors are kept on purpose.
            while unsafe { libc::inotify_init1(0) } >= 0 {
                count += 1;
            }
            let full = std::io::Error::last_os_error().raw_os_error() == Some(libc::EMFILE);
            say(&format!("{count}\n{}\n", if full { "EMFILE" } else { "another error" }));
            continue;
        }
        say(&format!("{line}\n"));
    }
}
