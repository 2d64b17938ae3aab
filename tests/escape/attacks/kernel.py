"""The kernel's own doors: helpers it starts on the host, settings, control groups, what masks hide."""


def door(name, *paths):
    attack(name)(lambda: first(*[lambda path=path: held_open(path) for path in paths]))


door("core-pattern", "/proc/sys/kernel/core_pattern")
door("modprobe-path", "/proc/sys/kernel/modprobe")
door("uevent-helper", "/sys/kernel/uevent_helper", "/proc/sys/kernel/hotplug")
door("sysrq", "/proc/sysrq-trigger", "/proc/sys/kernel/sysrq")
door("binfmt-misc", "/proc/sys/fs/binfmt_misc/register")
door("kernel-settings", "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/panic", "/proc/sys/fs/file-max")


def release_agents():
    """Opens a release_agent for writing below a version 1 hierarchy that is mounted for it."""
    # Only what is mounted already: a new hierarchy would show in the control groups of every process of the host.
    rows = [line.split() for line in open("/proc/cgroups") if not line.startswith("#")]
    controllers = [row[0] for row in rows if row[1] != "0"]
    place = "/tmp/hierarchy"
    os.makedirs(place, exist_ok=True)

    def below(controller):
        mount("none", place, "cgroup", 0, controller)
        try:
            return held_open(f"{place}/release_agent")
        finally:
            LIBC.umount2(place.encode(), 2)
    return first(*[lambda c=c: below(c) for c in controllers])


@attack("release-agent")
def release_agent():
    """CVE-2022-0492: the program a control group starts on the host as root when it empties."""
    def mounted():
        libc("unshare", CLONE_NEWNS)
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        return release_agents()

    def as_root_of_a_namespace():
        libc("unshare", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWCGROUP)
        return release_agents()
    present = glob.glob("/sys/fs/cgroup/*/release_agent")
    return first(*[lambda p=p: held_open(p) for p in present], lambda: in_child(mounted), release_agents,
                 lambda: in_child(as_root_of_a_namespace))


@attack("cgroup-limits")
def cgroup_limits():
    """The limits of our own control group, and the list of devices it may use."""
    names = ("devices.allow", "memory.limit_in_bytes", "memory.max", "pids.max", "cgroup.procs")
    found = [path for name in names for path in glob.glob(f"/sys/fs/cgroup/{name}") + glob.glob(f"/sys/fs/cgroup/*/{name}")]
    return first(*[lambda p=p: held_open(p) for p in found])


@attack("fresh-proc")
def fresh_proc():
    """CVE-2019-19921, CVE-2025-52881: another /proc without masks, mounted by us or as root of a namespace."""
    def here():
        os.makedirs("/tmp/proc", exist_ok=True)
        mount("proc", "/tmp/proc", "proc")
        try:
            return held_open("/tmp/proc/sys/kernel/core_pattern")
        finally:
            LIBC.umount2(b"/tmp/proc", 2)

    def private(flags):
        libc("unshare", flags)
        if flags & CLONE_NEWPID:
            return in_child(here)
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        return here()

    def new_interface():
        context = call("fsopen", b"proc", 0)
        call("fsconfig", context, 6, None, None, 0)
        tree = call("fsmount", context, 0, 0)
        return held_open(f"/proc/self/fd/{tree}/sys/kernel/core_pattern")
    return first(lambda: in_child(lambda: private(CLONE_NEWNS)), new_interface, here,
                 lambda: in_child(lambda: private(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID)))


@attack("masks")
def masks():
    """CVE-2025-31133, CVE-2025-52565: what masks hide, read as it is and with every mask and mount above it taken off."""
    wanted = ("/proc/keys", "/proc/key-users")

    def bare():
        libc("unshare", CLONE_NEWNS)
        return stripped()

    def stripped():
        for path in wanted:
            libc("umount2", path.encode(), 2)
        return read_any(wanted)
    return read_any(wanted) + first(lambda: in_child(bare), lambda: in_child(stripped))


@attack("kernel-layout")
def kernel_layout():
    """What an exploit wants to know of the host's kernel: its command line, types, symbols and configuration."""
    told = read_any(["/proc/cmdline"])
    for path in ("/sys/kernel/btf/vmlinux", "/proc/config.gz", "/proc/kallsyms"):
        try:
            if read(path, 16):
                told += f" {path} of {this_kernel()}"
        except OSError:
            pass
    return told


@attack("kernel-log")
def kernel_log():
    """The kernel's log, by the call and by its device."""
    def by_call():
        log = ctypes.create_string_buffer(65536)
        size = call("syslog", 3, log, len(log))
        return log.raw[:size].decode("latin1") and this_kernel()
    return first(by_call, lambda: held_open("/dev/kmsg"))


@attack("mem-device")
def mem_device():
    """Physical memory, kernel memory, port space and model-specific registers as devices we make."""
    def through(kind, major, minor):
        path = f"/tmp/device-{major}-{minor}"
        try:
            os.mknod(path, 0o600 | kind, os.makedev(major, minor))
        except FileExistsError:
            pass
        try:
            return held_open(path)
        finally:
            os.unlink(path)
    import stat
    numbers = [(1, 1), (1, 2), (1, 4), (1, 11), (10, 232), (202, 0)]
    return first(*[lambda a=a, b=b: through(stat.S_IFCHR, a, b) for a, b in numbers])


@attack("block-device")
def block_device():
    """A disk of the host by its number, as a node we make in every place we can write to."""
    import stat
    number = os.makedev(*CFG["disk"])

    def below(place):
        path = f"{place}/disk-node"
        os.mknod(path, 0o600 | stat.S_IFBLK, number)
        try:
            return read(path, 4096)
        finally:
            os.unlink(path)
    places = ["/", "/tmp", "/var/tmp", "/dev", "/dev/shm", "/run", "/home/user"]
    name = f"/dev/loop{CFG['disk'][1]}"
    return first(lambda: read(name, 4096), *[lambda p=p: below(p) for p in places])
