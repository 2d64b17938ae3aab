//! Extended headers: records of `LENGTH KEY=VALUE\n`.

use crate::failure::{Failure, Kind, Result};

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Time {
    pub seconds: i64,
    pub nanos: u32,
}

/// What a file's own header is overruled by.
#[derive(Default)]
pub struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<Time>,
    /// Name and value of each, in their order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: PaxSparse,
}

/// GNU's three ways to say that a file has holes.
#[derive(Default)]
pub struct PaxSparse {
    pub real_size: Option<u64>,
    /// The pieces are before the contents (format 1.0).
    pub in_data: bool,
    /// The name, where the header's own is made up.
    pub name: Option<Vec<u8>>,
    /// Offsets and lengths, one after the other (formats 0.0 and 0.1).
    pub numbers: Vec<u64>,
}

impl PaxSparse {
    pub fn is_some(&self) -> bool {
        self.real_size.is_some() || self.in_data || !self.numbers.is_empty()
    }
}

const XATTR: &[u8] = b"SCHILY.xattr.";

impl Pax {
    /// `data` is bounded by whoever read it.
    pub fn parse(data: &[u8]) -> Result<Pax> {
        let mut pax = Pax::default();
        records(data, |key, value| pax.take(key, value))?;
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(name) = key.strip_prefix(XATTR) {
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        // An empty value takes back what an earlier record said.
        let said = (!value.is_empty()).then_some(value);
        match key {
            b"path" => self.path = said.map(<[u8]>::to_vec),
            b"linkpath" => self.link = said.map(<[u8]>::to_vec),
            b"size" => self.size = said.map(decimal).transpose()?,
            b"uid" => self.uid = said.map(decimal).transpose()?,
            b"gid" => self.gid = said.map(decimal).transpose()?,
            b"mtime" => self.mtime = said.map(time).transpose()?,
            b"GNU.sparse.name" => self.sparse.name = said.map(<[u8]>::to_vec),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = Some(decimal(value)?),
            b"GNU.sparse.major" => self.sparse.in_data = decimal(value)? == 1,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.numbers.push(decimal(value)?),
            b"GNU.sparse.map" => {
                self.sparse.numbers = value.split(|byte| *byte == b',').map(decimal).collect::<Result<_>>()?;
            }
            // Times of access, names of owners, notes: nothing a layer keeps.
            _ => {}
        }
        Ok(())
    }
}

/// Fails when a header for all files after it says something about files: who reads on would see other files than who
/// passes over it.
pub fn check_global(data: &[u8]) -> Result<()> {
    records(data, |key, _| match key {
        b"comment" => Ok(()),
        _ => Err(Failure::new(Kind::BadTar, format!("a global header sets {:?}", String::from_utf8_lossy(key)))),
    })
}

fn records(mut data: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    while !data.is_empty() {
        let (key, value, rest) = record(data).ok_or_else(|| bad("record"))?;
        each(key, value)?;
        data = rest;
    }
    Ok(())
}

fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&data[..space]).ok()?).ok()?;
    if length <= space + 1 || length > data.len() {
        return None;
    }
    let (record, rest) = data.split_at(length);
    let (b'\n', body) = record[space + 1..].split_last()? else { return None };
    let equals = body.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, rest))
}

/// Digits and nothing else.
pub fn decimal(text: &[u8]) -> Result<u64> {
    if text.is_empty() {
        return Err(bad("number"));
    }
    text.iter().try_fold(0u64, |value, digit| {
        match digit {
            b'0'..=b'9' => value.checked_mul(10).and_then(|value| value.checked_add(u64::from(digit - b'0'))),
            _ => None,
        }
        .ok_or_else(|| bad("number"))
    })
}

/// Seconds with a fraction; digits beyond nanoseconds are dropped.
fn time(text: &[u8]) -> Result<Time> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let whole = i64::try_from(decimal(parts.next().unwrap_or_default())?).map_err(|_| bad("time"))?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad("time"));
    }
    let nanos = (0..9).fold(0, |nanos, at| nanos * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0')));
    match (negative, nanos) {
        (false, _) => Ok(Time { seconds: whole, nanos }),
        (true, 0) => Ok(Time { seconds: -whole, nanos }),
        // Nanoseconds count forwards from the second before.
        (true, _) => Ok(Time { seconds: -whole - 1, nanos: 1_000_000_000 - nanos }),
    }
}

fn bad(what: &str) -> Failure {
    Failure::new(Kind::BadTar, format!("an extended header has a malformed {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_exactly_their_length() {
        let pax = Pax::parse(b"12 path=a=b\n24 SCHILY.xattr.user.x=\n18 mtime=-1.25000\n").unwrap();
        assert_eq!(pax.path.unwrap(), b"a=b");
        assert_eq!(pax.xattrs, [(b"user.x".to_vec(), b"".to_vec())]);
        assert_eq!(pax.mtime.unwrap(), Time { seconds: -2, nanos: 750_000_000 });
        for bad in
            ["11 path=a=b\n", "13 path=a=b\n", "3 \n", "path=a\n", "8 pathx\n", "-1 path=a\n", "7 size=\n", "5 =a\n"]
        {
            let parsed = Pax::parse(bad.as_bytes());
            assert!(parsed.is_err() || bad.starts_with('7'), "{bad:?}");
        }
        assert!(Pax::parse(b"99999999999999999999999 path=a\n").is_err());
        assert!(Pax::parse(b"29 size=18446744073709551616\n").is_err());
    }

    #[test]
    fn times_at_their_ends() {
        assert_eq!(time(b"1.5").unwrap(), Time { seconds: 1, nanos: 500_000_000 });
        assert_eq!(time(b"0.1234567899").unwrap(), Time { seconds: 0, nanos: 123_456_789 });
        assert_eq!(time(b"-9223372036854775807.9").unwrap().seconds, i64::MIN);
        for bad in ["", "-", "1e5", "9223372036854775808", "1.x", "--1", "nan"] {
            assert!(time(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_global_header_says_nothing_about_files() {
        assert!(check_global(b"13 comment=x\n").is_ok());
        assert!(check_global(b"9 path=x\n").is_err());
    }
}
