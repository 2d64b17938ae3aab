//! Thin safe wrappers over raw system calls: the only home of `unsafe` in this crate.
#![allow(unsafe_code)]

pub mod capabilities;
pub mod fd;
pub mod files;
pub mod filter;
pub mod guest;
pub mod identity;
pub mod landlock;
pub mod local;
pub mod mount;
pub mod poll;
pub mod process;
pub mod socket;
pub mod spawn;
pub mod start;
pub mod tty;
pub mod tun;

use std::fmt;

/// A system call's error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

pub type Result<T> = std::result::Result<T, Errno>;

impl Errno {
    pub fn last() -> Self {
        Self(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        f.write_str(text.split(" (os error").next().unwrap_or(""))
    }
}

/// Turns the -1 of a libc call into its error number.
fn check(value: i64) -> Result<i64> {
    if value < 0 {
        Err(Errno::last())
    } else {
        Ok(value)
    }
}

/// Repeats a call for as long as it is interrupted.
fn retry(mut call: impl FnMut() -> i64) -> Result<i64> {
    loop {
        match check(call()) {
            Err(Errno(libc::EINTR)) => {}
            other => return other,
        }
    }
}

/// A path or name for the kernel; a NUL inside is refused as the kernel would refuse an unknown name.
fn c_string(bytes: &[u8]) -> Result<std::ffi::CString> {
    std::ffi::CString::new(bytes).map_err(|_| Errno(libc::EINVAL))
}
