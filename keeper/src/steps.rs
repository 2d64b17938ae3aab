//! Carrying out the steps of one sandbox, in its own mount namespace.
//!
//! Mounts need no undo of their own: each sandbox's are made in a namespace of its own that is copied from the keeper's
//! clean one, and vanish with it. So no sandbox sees, holds or pays for the mounts of another.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::thread;

use crate::disk::{self, Layers};
use crate::ids::{self, Exchange, RANGE};
use crate::log::Log;
use crate::passage::Passage;
use crate::paths;
use crate::proto::Failure;
use crate::reaper::Reaper;
use crate::requests::{Idmap, Step, LAST_INHERITED};
use crate::run::{self, Streams};
use crate::sealed::Sealed;
use crate::sys;
use crate::volumes::{self, Attached, Use};

/// A process id and a line end.
const PID_FILE_BYTES: u64 = 64;

/// What the steps of one sandbox may touch, and what they have acquired so far.
pub struct Scope<'a> {
    pub reaper: &'a Reaper,
    pub sealed: &'a Sealed,
    pub layers: &'a Layers,
    pub passage: &'a Passage,
    pub cancelled: &'a AtomicBool,
    pub run_dir: &'a Path,
    pub dir: &'a Path,
    pub dir_fd: OwnedFd,
    pub id_base: u32,
    pub cgroup: &'a str,
    pub got: Acquired,
}

#[derive(Default)]
pub struct Acquired {
    /// Registered before the runtime makes them, so that a half-started sandbox is undone too.
    pub cgroups: Vec<String>,
    /// Ends of the channel held open until the engine has opened its own.
    pub helpers: Vec<OwnedFd>,
    /// Reading end of the sandbox's diagnostics.
    pub log: Option<Log>,
    pub init: Option<libc::pid_t>,
    /// What a program was given to map privately.
    pub memory: Option<Arc<File>>,
    /// What a program was given to write to.
    pub disk: Option<File>,
    /// Let go of when no other mount of them is left.
    pub volumes: Vec<Attached>,
    /// By what they exchange.
    userns: Vec<(Exchange, OwnedFd)>,
}

impl Scope<'_> {
    pub fn carry_out(&mut self, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Dir { path, mode, uid, gid } => self.dir(path, *mode, self.owner(*uid, *gid)?)?,
            Step::File { path, mode, content, uid, gid } => {
                let owner = self.owner(*uid, *gid)?;
                let fd = self.create(path, *mode, owner)?;
                File::from(fd).write_all(content.as_bytes())?;
            }
            Step::Fifo { path, mode, uid, gid } => {
                let (uid, gid) = self.owner(*uid, *gid)?;
                let (parent, name) = self.parent(path)?;
                sys::mkfifoat(parent.as_fd(), &name, *mode)?;
                sys::chownat(parent.as_fd(), &name, uid, gid)?;
            }
            Step::Tmpfs { target, size_bytes, inodes, mode, uid, gid } => {
                self.owner(Some(*uid), Some(*gid))?;
                let data = format!("size={size_bytes},nr_inodes={inodes},mode={mode:o},uid={uid},gid={gid}");
                let target = self.open(target, libc::O_PATH | libc::O_DIRECTORY)?;
                self.mount(c"tmpfs", &target, &data)?;
            }
            Step::Bind { source, target, read_only, inert, idmap } => {
                let set = sys::mount_attributes(*read_only, *inert);
                self.bind(Path::new(source), target, set, idmap.as_ref())?;
            }
            Step::Volume { source, target, read_only, shared, inert, idmap } => {
                let wanted = Use { read_only: *read_only, shared: *shared };
                let set = sys::mount_attributes(*read_only, *inert) | sys::MOUNT_ATTR_NOSUID;
                self.volume(Path::new(source), target, wanted, set, idmap.as_ref())?;
            }
            Step::Userns { target } => self.show_userns(target)?,
            Step::Tun { target } => self.tun(target)?,
            Step::Disk { target, path, max_bytes, keep } => self.disk(target, path, *max_bytes, *keep)?,
            Step::Overlay { target, lower, upper, work, volatile } => {
                self.overlay(target, lower, (upper.as_str(), work.as_str()), *volatile)?
            }
            Step::Cgroup { path } => {
                if path != self.cgroup {
                    return Err(Failure::new(format!("control group {path:?} is not this sandbox's")));
                }
                self.got.cgroups.push(path.clone());
            }
            Step::Run { .. } => self.run(step)?,
        }
        Ok(())
    }

    fn rest(&self, path: &str) -> io::Result<PathBuf> {
        paths::relative(self.dir, path)
    }

    pub fn open(&self, path: &str, flags: i32) -> io::Result<OwnedFd> {
        sys::open_beneath(self.dir_fd.as_fd(), &self.rest(path)?, flags, 0, 0)
    }

    fn parent(&self, path: &str) -> io::Result<(OwnedFd, std::ffi::CString)> {
        paths::parent(self.dir_fd.as_fd(), &self.rest(path)?)
    }

    /// Files belong to root or to the sandbox's own range, never to anybody else on the host.
    fn owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<(u32, u32), Failure> {
        for id in [uid, gid].into_iter().flatten() {
            if id != 0 && !(self.id_base..self.id_base + RANGE).contains(&id) {
                return Err(Failure::new(format!("owner {id} is outside the sandbox's range of ids")));
            }
        }
        Ok((uid.unwrap_or(0), gid.unwrap_or(0)))
    }

    fn dir(&self, path: &str, mode: u32, owner: (u32, u32)) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        sys::mkdirat(parent.as_fd(), &name, mode)?;
        sys::chownat(parent.as_fd(), &name, owner.0, owner.1)
    }

    fn create(&self, path: &str, mode: u32, owner: (u32, u32)) -> io::Result<OwnedFd> {
        let (parent, name) = self.parent(path)?;
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_NOFOLLOW;
        let file = Path::new(name.to_str().unwrap_or_default());
        let fd = sys::open_beneath(parent.as_fd(), file, flags, mode & 0o7777, 0)?;
        sys::chownat(parent.as_fd(), &name, owner.0, owner.1)?;
        Ok(fd)
    }

    fn mount(&self, kind: &std::ffi::CStr, target: &OwnedFd, data: &str) -> io::Result<()> {
        let flags = libc::MS_NODEV | if kind == c"tmpfs" { libc::MS_NOSUID } else { 0 };
        let target = sys::cstr(sys::fd_path(target))?;
        sys::mount(c"bulkhead", &target, kind, flags, Some(&sys::cstr(data)?))
    }

    fn bind(&mut self, source: &Path, target: &str, set: u64, idmap: Option<&Idmap>) -> Result<(), Failure> {
        if !source.is_absolute() {
            return Err(Failure::new(format!("bind source {source:?} is not absolute")));
        }
        let tree = self.source(source).map_err(|failure| failure.at(&source.to_string_lossy()))?;
        self.show(&tree, source, target, set, idmap)
    }

    fn volume(
        &mut self,
        dir: &Path,
        target: &str,
        wanted: Use,
        set: u64,
        idmap: Option<&Idmap>,
    ) -> Result<(), Failure> {
        let volume = Attached::new(dir, volumes::open(dir, wanted)?, wanted);
        let shown = self.show(volume.tree(), dir, target, set, idmap);
        self.got.volumes.push(volume);
        shown
    }

    /// Puts a detached mount on `target`, which is made.
    fn show(
        &mut self,
        tree: &OwnedFd,
        source: &Path,
        target: &str,
        set: u64,
        idmap: Option<&Idmap>,
    ) -> Result<(), Failure> {
        let is_dir = sys::fstat(tree.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let userns = match idmap {
            Some(map) if map.id_base == self.id_base && map.size == RANGE => Some(self.userns(map.exchange)?),
            Some(map) => {
                return Err(Failure::new(format!("ids {}+{} are not this sandbox's range", map.id_base, map.size)))
            }
            None => None,
        };
        sys::set_mount(tree.as_fd(), set, userns).map_err(|error| {
            let text = format!("{} cannot be mounted with shifted ids", source.display());
            Failure::from(error).at(if idmap.is_some() { &text } else { "mount attributes" })
        })?;
        let made = if is_dir { self.dir(target, 0o755, (0, 0)) } else { self.create(target, 0o644, (0, 0)).map(drop) };
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let place = self.open(target, libc::O_PATH | if is_dir { libc::O_DIRECTORY } else { 0 })?;
        Ok(sys::attach(tree.as_fd(), place.as_fd())?)
    }

    /// A copy of the mount at `path`. The engine has judged what was there: a link that has taken its place or that of a
    /// directory above since then is not followed, and what is judged here is what is mounted.
    fn source(&self, path: &Path) -> Result<OwnedFd, Failure> {
        let found = sys::open_real(path).map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => Failure::new("a part of the path has become a symbolic link since it was checked"),
            _ => Failure::from(error),
        })?;
        self.refuse_neighbours(&fs::read_link(sys::fd_path(&found))?)?;
        Ok(sys::clone_tree(found.as_fd())?)
    }

    /// A sandbox is never given another sandbox's directory, nor the keeper's.
    fn refuse_neighbours(&self, real: &Path) -> Result<(), Failure> {
        let run_dir = fs::canonicalize(self.run_dir)?;
        let own = real.starts_with(self.dir);
        if !own && (real.starts_with(&run_dir) || run_dir.starts_with(real)) {
            return Err(Failure::new(format!("{} holds the sandboxes' run directory", real.display())));
        }
        Ok(())
    }

    /// A user namespace that describes a shift of ids, made when first needed.
    fn userns(&mut self, exchange: Exchange) -> io::Result<BorrowedFd<'_>> {
        let at = match self.got.userns.iter().position(|(made, _)| *made == exchange) {
            Some(at) => at,
            None => {
                let holder = sys::UsernsHolder::start(self.id_base)?;
                for (file, pair) in [("uid_map", exchange.uid), ("gid_map", exchange.gid)] {
                    fs::write(format!("/proc/{}/{file}", holder.pid), ids::map(self.id_base, pair)?)?;
                }
                let namespace = File::open(format!("/proc/{}/ns/user", holder.pid))?;
                self.got.userns.push((exchange, namespace.into()));
                self.got.userns.len() - 1
            }
        };
        Ok(self.got.userns[at].1.as_fd())
    }

    /// Puts the user namespace where a runtime can join it by path.
    fn show_userns(&mut self, target: &str) -> Result<(), Failure> {
        let tree = sys::clone_tree(self.userns(Exchange::default())?)?;
        self.create(target, 0o444, (0, 0))?;
        let place = self.open(target, libc::O_PATH)?;
        Ok(sys::attach(tree.as_fd(), place.as_fd())?)
    }

    /// A directory with one node in it, of the device that makes interfaces, which only the sandbox's root may open. The host's
    /// own node is its root's alone on some hosts, and anybody's on others.
    fn tun(&self, target: &str) -> io::Result<()> {
        const TUN: (u32, u32) = (10, 200);
        self.dir(target, 0o755, (0, 0))?;
        let place = self.open(target, libc::O_PATH | libc::O_DIRECTORY)?;
        let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
        // The directory and the node.
        sys::mount(
            c"bulkhead",
            &sys::cstr(sys::fd_path(&place))?,
            c"tmpfs",
            flags,
            Some(c"size=4k,nr_inodes=2,mode=755"),
        )?;
        let (parent, name) = self.parent(&format!("{target}/tun"))?;
        sys::mknodat(parent.as_fd(), &name, libc::S_IFCHR | 0o600, libc::makedev(TUN.0, TUN.1))?;
        sys::chownat(parent.as_fd(), &name, self.id_base, self.id_base)
    }

    /// Layers are named by descriptor: it keeps host paths out of the sandbox's mount table, and no `:` or `,` in a path
    /// can be taken for an option.
    ///
    /// What the overlay makes for itself it makes as the sandbox's root: in a layer with shifted ids there is no other.
    /// A volatile one writes nothing back for a program's sake: nobody reads it after the end. One that is kept holds all that
    /// was written, and no word that a directory is what a lower layer has elsewhere: to move one, programs copy it.
    fn overlay(&self, target: &str, lower: &[String], (upper, work): (&str, &str), volatile: bool) -> io::Result<()> {
        let directory = libc::O_PATH | libc::O_DIRECTORY;
        let layers = lower.iter().map(|path| self.open(path, directory)).collect::<io::Result<Vec<_>>>()?;
        let (upper, work) = (self.open(upper, directory)?, self.open(work, directory)?);
        let names: Vec<String> = layers.iter().map(sys::fd_path).collect();
        let (upper, work) = (sys::fd_path(&upper), sys::fd_path(&work));
        let fate = if volatile { "redirect_dir=on,volatile" } else { "redirect_dir=off" };
        let data = format!("lowerdir={},upperdir={upper},workdir={work},xino=off,{fate}", names.join(":"));
        let target = self.open(target, directory)?;
        // A thread of its own, whose other name ends with it.
        thread::scope(|scope| {
            let mounting = scope.spawn(|| {
                sys::make_files_as(self.id_base)?;
                self.mount(c"overlay", &target, &data)
            });
            mounting.join().unwrap_or_else(|_| Err(io::Error::other("mounting the overlay did not end")))
        })
    }

    /// The ids in it are the sandbox's own, from 0: another sandbox, of another range, may go on with it.
    fn disk(&mut self, target: &str, path: &str, max_bytes: u64, keep: bool) -> Result<(), Failure> {
        let mount =
            if keep { disk::mount(&disk::open_kept(path, max_bytes)?)? } else { self.layers.take(path, max_bytes)? };
        let userns = self.userns(Exchange::default())?;
        sys::set_mount(mount.as_fd(), 0, Some(userns))
            .map_err(|error| Failure::from(error).at("the writable layer cannot be mounted with shifted ids"))?;
        let place = self.open(target, libc::O_PATH | libc::O_DIRECTORY)?;
        Ok(sys::attach(mount.as_fd(), place.as_fd())?)
    }

    fn run(&mut self, step: &Step) -> Result<(), Failure> {
        let Step::Run { program, stdin, stdout, stderr, fds, pid_file } = step else {
            return Ok(());
        };
        let mut streams = Streams::default();
        if let Some(path) = stdin {
            streams.stdin = Some(self.channel_end(path, libc::O_RDONLY)?);
        }
        if let Some(path) = stdout {
            streams.stdout = Some(self.channel_end(path, libc::O_WRONLY)?);
        }
        if let Some(path) = stderr {
            // The writer must not be able to stall for want of a reader: what does not fit in the pipe is dropped.
            let reader = self.fifo(path, libc::O_RDONLY | libc::O_NONBLOCK)?;
            streams.stderr = Some(self.fifo(path, libc::O_WRONLY | libc::O_NONBLOCK)?);
            self.got.log = Some(Log::new(reader.into()));
        }
        for one in fds {
            let opened = self.inherited(&one.from)?;
            // Above all targets, or taking one place could overwrite what is to take another.
            streams.extra.push((one.fd, sys::duplicate_above(opened.as_fd(), LAST_INHERITED)?));
        }
        // Again: the steps before it may have taken long.
        self.passage.open();
        let output = run::run(self.reaper, program, streams, 0, self.cancelled).map_err(|mut failure| {
            failure.stderr += &self.log_tail();
            failure
        })?;
        if output.ended.code != Some(0) {
            let how = match output.ended.code {
                Some(code) => format!("ended with code {code}"),
                None => format!("was ended by signal {}", output.ended.signal.unwrap_or(0)),
            };
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned() + &self.log_tail();
            return Err(Failure { stderr, ..Failure::new(format!("{} {how}", program.argv[0])) });
        }
        if let Some(path) = pid_file {
            let file = File::from(self.open(path, libc::O_RDONLY)?);
            let text = io::read_to_string(io::Read::take(file, PID_FILE_BYTES))?;
            let pid = text.trim().parse().ok().filter(|pid| *pid > 1);
            self.got.init = Some(pid.ok_or_else(|| Failure::new(format!("{path} holds no process id")))?);
        }
        Ok(())
    }

    fn log_tail(&mut self) -> String {
        self.got.log.as_mut().map(Log::tail).unwrap_or_default()
    }
}
