//! What a layer is besides its files: what it takes away from the layers below, and what it needs of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Bound;

use serde_json::{json, Value};

use crate::failure::{Failure, Kind, Result};
use crate::limits::{PATH_COST_BYTES, REMEMBERED_BYTES_MAX};
use crate::names::{from_latin1, to_latin1};

const VERSION: u64 = 1;
/// Of the file: every remembered byte can be six (`\u00ff`), and there is punctuation.
const FILE_BYTES_MAX: u64 = 8 * REMEMBERED_BYTES_MAX as u64;

#[derive(Default)]
pub struct Record {
    pub diff_id: String,
    pub entries: u64,
    pub bytes: u64,
    /// Devices and sockets, which are nothing that a sandbox could open.
    pub left_out: u64,
    /// What lower layers have at these paths is gone.
    pub whiteouts: BTreeSet<Vec<u8>>,
    /// What lower layers have in these directories is gone.
    pub opaque: BTreeSet<Vec<u8>>,
    /// Directories that are there because a path needed them: where a lower layer has one, that one's description counts.
    pub implied: BTreeSet<Vec<u8>>,
    /// Hard links to files of lower layers, by their own path.
    pub links: BTreeMap<Vec<u8>, Vec<u8>>,
    remembered: usize,
}

impl Record {
    /// Counts a path that is to be kept.
    pub fn remember(&mut self, path: &[u8]) -> Result<()> {
        self.remembered += path.len() + PATH_COST_BYTES;
        if self.remembered <= REMEMBERED_BYTES_MAX {
            return Ok(());
        }
        let what = "the layer's whiteouts, links and unlisted directories have names too long together";
        Err(Failure::new(Kind::TooManyEntries, what).at(path).limit(REMEMBERED_BYTES_MAX as u64))
    }

    /// Something else is at `path` now, and nothing below it.
    pub fn replaced(&mut self, path: &[u8]) {
        self.links.remove(path);
        self.implied.remove(path);
        // All that begins with the path and a slash; the next byte after the slash is the zero.
        let from = [path, b"/"].concat();
        let to = [path, b"0"].concat();
        let below = (Bound::Included(from), Bound::Excluded(to));
        let gone: Vec<_> = self.implied.range(below.clone()).cloned().collect();
        for path in gone {
            self.implied.remove(&path);
        }
        let gone: Vec<_> = self.links.range(below).map(|(path, _)| path.clone()).collect();
        for path in gone {
            self.links.remove(&path);
        }
    }

    pub fn write(&self, mut file: File) -> Result<()> {
        let paths = |set: &BTreeSet<Vec<u8>>| set.iter().map(|path| to_latin1(path)).collect::<Vec<_>>();
        let links: Vec<_> = self.links.iter().map(|(path, to)| [to_latin1(path), to_latin1(to)]).collect();
        let text = json!({
            "version": VERSION,
            "diffId": self.diff_id,
            "entries": self.entries,
            "bytes": self.bytes,
            "leftOut": self.left_out,
            "whiteouts": paths(&self.whiteouts),
            "opaque": paths(&self.opaque),
            "implied": paths(&self.implied),
            "links": links,
        });
        Ok(writeln!(file, "{text}")?)
    }

    /// Reads what `write` wrote.
    pub fn read(file: File) -> Result<Record> {
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        let value: Value = serde_json::from_str(&text).map_err(|error| damaged(&error.to_string()))?;
        if value["version"] != VERSION {
            return Err(damaged(&format!("it has version {}", value["version"])));
        }
        let mut links = BTreeMap::new();
        for pair in value["links"].as_array().ok_or_else(|| damaged("links is no list"))? {
            links.insert(path(&pair[0])?, path(&pair[1])?);
        }
        Ok(Record {
            bytes: value["bytes"].as_u64().ok_or_else(|| damaged("bytes is no number"))?,
            whiteouts: paths(&value["whiteouts"])?,
            opaque: paths(&value["opaque"])?,
            implied: paths(&value["implied"])?,
            links,
            ..Record::default()
        })
    }
}

fn paths(list: &Value) -> Result<BTreeSet<Vec<u8>>> {
    list.as_array().ok_or_else(|| damaged("a list of paths is none"))?.iter().map(path).collect()
}

fn path(value: &Value) -> Result<Vec<u8>> {
    value.as_str().and_then(from_latin1).ok_or_else(|| damaged("a path is none"))
}

fn damaged(why: &str) -> Failure {
    Failure::new(Kind::Io, format!("a layer's layer.json cannot be read: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_replaced_takes_along_what_is_below_and_nothing_beside() {
        let mut record = Record::default();
        for path in ["a", "a/b", "a/b/c", "a.b", "a0", "ab"] {
            record.implied.insert(path.into());
            record.links.insert(path.into(), b"to".to_vec());
        }
        record.replaced(b"a");
        let left: Vec<_> = record.implied.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
        assert_eq!(left, ["a.b", "a0", "ab"]);
        assert_eq!(record.links.len(), 3);
    }

    #[test]
    fn what_is_remembered_has_an_end() {
        let mut record = Record::default();
        let path = vec![b'x'; 4000];
        let count = (0..).take_while(|_| record.remember(&path).is_ok()).count();
        assert_eq!(count, REMEMBERED_BYTES_MAX / (4000 + PATH_COST_BYTES));
    }
}
