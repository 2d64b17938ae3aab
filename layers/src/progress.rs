//! What the caller reads on standard output: lines of JSON.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::failure::Result;

const INTERVAL: Duration = Duration::from_millis(200);

pub struct Progress {
    told: Instant,
}

impl Progress {
    pub fn new() -> Progress {
        Progress { told: Instant::now() }
    }

    /// Tells what `line` makes, unless it has just told something.
    pub fn tell(&mut self, line: impl FnOnce() -> Value) -> Result<()> {
        let now = Instant::now();
        if now - self.told < INTERVAL {
            return Ok(());
        }
        self.told = now;
        say(&line())
    }
}

pub fn say(line: &Value) -> Result<()> {
    Ok(writeln!(io::stdout().lock(), "{line}")?)
}
