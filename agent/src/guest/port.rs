//! The channel: a virtio-serial port, found by the name the host gave it.

use super::GuestError;
use crate::sys::guest::{hung_up, replace_descriptor};
use std::fs::{File, OpenOptions};
use std::time::{Duration, Instant};

const PORT_NAME: &str = "bulkhead.agent";
const CLASS: &str = "/sys/class/virtio-ports";
/// The device names its ports in messages of its own after it was found; on a busy host under emulation that takes time.
const DEADLINE: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_millis(1);

pub fn open_as_stdio() -> Result<(), GuestError> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(port) = find().and_then(|name| open(&name)) {
            // A read before the host's end is known to be open gives end of file, which would mean that the host is gone.
            if !hung_up(&port) {
                replace_descriptor(&port, 0)?;
                return replace_descriptor(&port, 1);
            }
        }
        if Instant::now() >= deadline {
            let what = format!("waiting for a virtio-serial port named {PORT_NAME}");
            return Err(GuestError::new(what, libc::ETIMEDOUT));
        }
        std::thread::sleep(RETRY);
    }
}

fn find() -> Option<String> {
    for entry in std::fs::read_dir(CLASS).ok()?.flatten() {
        let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == PORT_NAME {
            return entry.file_name().into_string().ok();
        }
    }
    None
}

/// None while the device file is there but its port is not ready (ENXIO).
fn open(name: &str) -> Option<File> {
    OpenOptions::new().read(true).write(true).open(format!("/dev/{name}")).ok()
}
