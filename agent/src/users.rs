//! Users and groups from /etc/passwd and /etc/group, without libc's lookups: a static program cannot load their modules.
//! Both files are the sandbox's own and may hold anything.

use crate::failure::{Failure, Outcome};
use crate::sys::files::{self, At, Status};
use crate::sys::{fd, identity, poll};
use crate::wire::generated::error_kind as kind;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex};

/// More than any system's user database; the rest of a longer file is not read.
const DATABASE_BYTES_MAX: usize = 1024 * 1024;
const DEFAULT_SHELL: &[u8] = b"/bin/sh";
const GROUPS_MAX: usize = 256;
/// Larger ones are read each time rather than kept.
const KEPT_BYTES_MAX: usize = 16 * 1024;
const SETTLED_NS: i64 = 2_000_000_000;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: Vec<u8>,
    pub shell: Vec<u8>,
}

/// Fields of the lines of a database.
pub struct Database {
    text: Vec<u8>,
}

/// Both databases, read again only when they have changed.
#[derive(Default)]
pub struct Databases {
    passwd: Mutex<Option<Known>>,
    group: Mutex<Option<Known>>,
}

struct Known {
    status: Status,
    database: Arc<Database>,
}

impl Databases {
    pub fn passwd(&self) -> Arc<Database> {
        known(&self.passwd, "/etc/passwd")
    }
    pub fn group(&self) -> Arc<Database> {
        known(&self.group, "/etc/group")
    }
}

fn known(kept: &Mutex<Option<Known>>, path: &str) -> Arc<Database> {
    let Ok(mut kept) = kept.lock() else { return Arc::new(Database { text: read_regular(path) }) };
    let status = files::stat(At::HERE, path.as_bytes(), true).ok();
    if let (Some(known), Some(status)) = (&*kept, &status) {
        if known.status == *status {
            return Arc::clone(&known.database);
        }
    }
    let database = Arc::new(Database { text: read_regular(path) });
    let now_ns = poll::clock_ms(libc::CLOCK_REALTIME) as i64 * 1_000_000;
    // One just written may change again within the same tick of the clock that dates it.
    let settled = |status: &Status| now_ns - status.mtime_ns.max(status.ctime_ns) > SETTLED_NS;
    *kept = status
        .filter(|status| settled(status) && database.text.len() <= KEPT_BYTES_MAX)
        .map(|status| Known { status, database: Arc::clone(&database) });
    database
}

impl Database {
    fn lines(&self) -> impl Iterator<Item = Vec<&[u8]>> {
        self.text.split(|b| *b == b'\n').map(|line| line.split(|b| *b == b':').take(8).collect())
    }

    /// The first entry whose field `field` is `value`.
    fn find(&self, field: usize, value: &[u8]) -> Option<Vec<&[u8]>> {
        self.lines().find(|fields| fields.len() > 2 && fields.get(field) == Some(&value))
    }

    pub fn has_name(&self, name: &str) -> bool {
        self.find(0, name.as_bytes()).is_some()
    }

    /// The name of an id in either file, or nothing.
    pub fn name_of(&self, id: u32) -> String {
        self.find(2, id.to_string().as_bytes())
            .map(|fields| String::from_utf8_lossy(fields[0]).into_owned())
            .unwrap_or_default()
    }

    /// The id that a name has in either file; a number stands for itself.
    pub fn id_of(&self, name: &str) -> Option<u32> {
        match self.find(0, name.as_bytes()) {
            Some(fields) => number(fields[2]),
            None => number(name.as_bytes()),
        }
    }
}

fn read_regular(path: &str) -> Vec<u8> {
    let mut text = Vec::new();
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let Ok(file) = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path) else { return text };
    let Ok(data) = file.metadata() else { return text };
    if !data.is_file() {
        return text;
    }
    let guess = (data.len() as usize).clamp(512, DATABASE_BYTES_MAX) + 1;
    while text.len() < DATABASE_BYTES_MAX {
        match fd::read_append(&file, &mut text, guess.min(DATABASE_BYTES_MAX)) {
            Ok(fd::Moved::Bytes(count)) if count > 0 => {}
            _ => break,
        }
    }
    text
}

fn number(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?;
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // The last id means "leave it" to the kernel.
    text.parse().ok().filter(|id| *id != u32::MAX)
}

fn not_found(what: &str, name: &str, file: &str) -> Failure {
    Failure::new(
        kind::USER_NOT_FOUND,
        format!("{what} \"{name}\" is not in {file} of the sandbox; use one that is, or a number"),
    )
}

/// `name`, `uid`, `name:group` or `uid:gid`; empty is `default`, and if that is empty too, the agent's own user.
pub fn resolve(wanted: &str, default: &str, databases: &Databases) -> Outcome<User> {
    let own = identity::own_uid().to_string();
    let spec = [wanted, default, &own].into_iter().find(|s| !s.is_empty()).unwrap_or("0");
    let (name, group) = match spec.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (spec, None),
    };
    let passwd = databases.passwd();
    let entry = passwd.find(0, name.as_bytes()).or_else(|| {
        let id = number(name.as_bytes())?;
        passwd.find(2, id.to_string().as_bytes())
    });
    let mut user = match entry {
        Some(fields) => User {
            name: String::from_utf8_lossy(fields[0]).into_owned(),
            uid: number(fields[2]).ok_or_else(|| not_found("user", name, "/etc/passwd"))?,
            gid: fields.get(3).and_then(|gid| number(gid)).unwrap_or(0),
            groups: Vec::new(),
            home: fields
                .get(5)
                .map(|home| home.to_vec())
                .filter(|home| home.starts_with(b"/"))
                .unwrap_or(b"/".to_vec()),
            shell: fields
                .get(6)
                .map(|shell| shell.to_vec())
                .filter(|shell| shell.starts_with(b"/"))
                .unwrap_or(DEFAULT_SHELL.to_vec()),
        },
        None => {
            let uid = number(name.as_bytes()).ok_or_else(|| not_found("user", name, "/etc/passwd"))?;
            let gid = if uid == identity::own_uid() { identity::own_gid() } else { 0 };
            User {
                name: name.to_string(),
                uid,
                gid,
                groups: Vec::new(),
                home: b"/".to_vec(),
                shell: DEFAULT_SHELL.to_vec(),
            }
        }
    };
    match group {
        Some(group) => {
            user.gid = databases.group().id_of(group).ok_or_else(|| not_found("group", group, "/etc/group"))?;
            user.groups = vec![user.gid];
        }
        None => user.groups = groups_of(&user, &databases.group()),
    }
    Ok(user)
}

fn groups_of(user: &User, database: &Database) -> Vec<u32> {
    let mut groups = vec![user.gid];
    for fields in database.lines() {
        let Some(members) = fields.get(3) else { continue };
        if !members.split(|b| *b == b',').any(|member| member == user.name.as_bytes()) {
            continue;
        }
        if let Some(gid) = number(fields[2]).filter(|gid| !groups.contains(gid)) {
            groups.push(gid);
        }
        if groups.len() == GROUPS_MAX {
            break;
        }
    }
    groups
}

impl User {
    /// Acts as this user in the calling thread for as long as the result lives.
    pub fn act(&self) -> Outcome<Option<identity::Acting>> {
        identity::Acting::start(self.uid, self.gid, &self.groups)
            .map_err(|errno| Failure::of(errno, format!("cannot act as user \"{}\" (uid {})", self.name, self.uid)))
    }
}
