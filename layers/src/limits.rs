//! What a layer may cost, as the caller says it.

use serde_json::Value;

use crate::failure::{Failure, Kind, Result};

/// Of the kernel, with the zero at the end.
pub const PATH_MAX: u64 = 4096;
/// Each directory on the way down is an open descriptor, two of them when layers are put together.
pub const DEPTH_MAX: u64 = 1024;
pub const DESCRIPTORS: u64 = 2 * DEPTH_MAX + 64;
/// Below this much a layer may be as dense as it likes: a log file of zeros is no attack.
pub const RATIO_FLOOR_BYTES: u64 = 64 * 1024 * 1024;
/// Paths that have to be remembered to the end: whiteouts, links to lower layers, directories that were not listed.
pub const REMEMBERED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a path that is kept costs besides its own bytes.
pub const PATH_COST_BYTES: usize = 100;
/// Names of one directory, which are put in order at once.
pub const LISTED_BYTES_MAX: usize = 256 * 1024 * 1024;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of the archive unpacked, and of the files in it with their holes.
    pub max_bytes: u64,
    /// Directories that are made because a path needs them count too.
    pub max_entries: u64,
    /// Bytes out for each byte in, beyond `RATIO_FLOOR_BYTES`.
    pub max_ratio: u64,
    pub max_path_bytes: u64,
    /// Of one entry, names and values.
    pub max_xattr_bytes: u64,
    /// Components of a path.
    pub max_depth: u64,
}

impl Limits {
    /// Every limit has to be there: what is not said is not unlimited.
    pub fn parse(text: &str) -> Result<Limits> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| usage(format!("--limits is no JSON: {error}")))?;
        // What nothing could use is as good as the most that can be.
        let number = |name: &str, most: u64| match value[name].as_u64() {
            Some(number) if number > 0 => Ok(number.min(most)),
            _ => Err(usage(format!("--limits has {name} {}, not a whole number above 0", value[name]))),
        };
        Ok(Limits {
            max_bytes: number("maxBytes", i64::MAX as u64)?,
            max_entries: number("maxEntries", u64::MAX)?,
            max_ratio: number("maxRatio", u64::MAX)?,
            max_path_bytes: number("maxPathBytes", PATH_MAX - 1)?,
            max_xattr_bytes: number("maxXattrBytes", u64::MAX)?,
            max_depth: number("maxDepth", DEPTH_MAX)?,
        })
    }
}

fn usage(what: String) -> Failure {
    Failure::new(Kind::Usage, what)
}
