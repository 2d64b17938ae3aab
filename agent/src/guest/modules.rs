//! Kernel modules for a kernel that is not our own: without them there is no channel and no root file system.

use super::GuestError;
use crate::sys::guest::load_module;
use std::fs::File;

/// Put there by the host, with a list of file names in the order of loading; an own kernel has everything built in.
const DIRECTORY: &str = "/modules";
const LIST: &str = "load";

/// Loads what the list names, and removes the files, which would stay in the guest's memory. Needs no mount.
pub fn load() -> Result<(), GuestError> {
    let list = match std::fs::read_to_string(format!("{DIRECTORY}/{LIST}")) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("reading", LIST, &error)),
    };
    for name in names(&list) {
        let file = File::open(format!("{DIRECTORY}/{name}")).map_err(|error| failed("opening", name, &error))?;
        load_module(&file, name)?;
    }
    std::fs::remove_dir_all(DIRECTORY).map_err(|error| failed("removing", "", &error))
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines().map(str::trim).filter(|name| !name.is_empty())
}

fn failed(doing: &str, name: &str, error: &std::io::Error) -> GuestError {
    GuestError::new(format!("{doing} {DIRECTORY}/{name}"), error.raw_os_error().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn keeps_the_order_of_the_list() {
        assert_eq!(names("virtio_ring.ko\nvirtio.ko\n\n").collect::<Vec<_>>(), ["virtio_ring.ko", "virtio.ko"]);
        assert_eq!(names("").count(), 0);
    }
}
