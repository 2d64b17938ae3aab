"""What every attack program shares. Runs inside the sandbox as root, under Python 3's standard library alone.

An attack is a function that returns text. What counts is decided outside: the attack has succeeded when its text, or a
mark it left on the host, holds a secret that only the host has. CFG is what an attacker could know or guess: places,
names, numbers of processes and ports. It holds no secret.
"""

import ctypes
import glob
import json
import mmap
import os
import platform
import select
import signal
import socket
import struct
import sys
import time

CFG = json.loads(sys.argv[1])
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
# An attack that waits for an answer nobody gives is ended, and the next one begins.
DEADLINE_S = 8
MOST_BYTES = 65536
X86 = platform.machine() == "x86_64"
# Numbers differ between architectures up to 300 and are the same above 423.
NUMBERS = {
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_setup": (206, 0), "add_key": (248, 217), "keyctl": (250, 219), "clone3": (435, 435), "syslog": (103, 116),
    "open_by_handle_at": (304, 265), "process_vm_readv": (310, 270), "unshare": (272, 97), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "kcmp": (312, 272),
}
ATTACKS = {}

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x2000000, 0x10000000, 0x20000000, 0x40000000
MS_REC, MS_PRIVATE, MS_BIND = 0x4000, 0x40000, 0x1000


def attack(name):
    def register(function):
        ATTACKS[name] = function
        return function
    return register


def call(name, *arguments):
    """A system call by name; raises OSError when the kernel refuses it."""
    number = NUMBERS[name][0 if X86 else 1]
    result = LIBC.syscall(ctypes.c_long(number), *[a if not isinstance(a, int) else ctypes.c_long(a) for a in arguments])
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


def libc(name, *arguments):
    result = getattr(LIBC, name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


def mount(source, target, kind, flags=0, data=None):
    text = [None if a is None else a.encode() for a in (source, target, kind, data)]
    libc("mount", text[0], text[1], text[2], ctypes.c_ulong(flags), text[3])


def first(*ways):
    """The text of the first way that gives any; what the others failed with is told."""
    told = []
    for way in ways:
        try:
            text = way()
            if text:
                return text
        except OSError as error:
            told.append(f"{getattr(way, '__name__', 'way')}: {error}")
    return "nothing: " + "; ".join(told)[:2000]


def read(path, size=MOST_BYTES):
    """Bytes as text. Never waits: what is opened may be a FIFO or a terminal."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(handle, size).decode("latin1")
    finally:
        os.close(handle)


def read_any(paths):
    """All that can be read of `paths`."""
    texts = []
    for path in paths:
        try:
            texts.append(read(path))
        except OSError:
            pass
    return "".join(texts)


def this_kernel():
    """The id that the kernel which answers made at its boot. The host's own is a secret of the host's."""
    return read("/proc/sys/kernel/random/boot_id", 64)


def held_open(path):
    """The kernel's id, read while a handle for writing to one of its settings is held. Nothing is written."""
    handle = os.open(path, os.O_WRONLY)
    try:
        return this_kernel()
    finally:
        os.close(handle)


def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def in_child(function):
    """The text of `function` in a process of its own, which may change its namespaces."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        try:
            text = function()
        except OSError as error:
            text = f"refused: {error}"
        except BaseException as error:
            text = f"broken: {error!r}"
        os.write(theirs, text.encode("latin1", "replace")[:4096])
        os._exit(0)
    os.close(theirs)
    try:
        with os.fdopen(ours, "rb") as stream:
            text = stream.read(MOST_BYTES).decode("latin1")
    finally:
        os.waitpid(child, 0)
    if text.startswith("broken: "):
        raise RuntimeError(text)
    if text.startswith("refused: "):
        raise OSError(0, text)
    return text


def collect(child, stream):
    """What a child writes until its end or its deadline, whichever comes first; then it and its own are gone."""
    data, end = b"", time.monotonic() + DEADLINE_S
    while len(data) < MOST_BYTES and (left := end - time.monotonic()) > 0:
        if not select.select([stream], [], [], left)[0]:
            break
        piece = os.read(stream, 4096)
        if not piece:
            break
        data += piece
    for end_it in (lambda: os.killpg(child, signal.SIGKILL), lambda: os.kill(child, signal.SIGKILL)):
        try:
            end_it()
        except OSError:
            pass
    os.waitpid(child, 0)
    return data.decode("latin1") or "no word: it was ended or died"


def run_all():
    told = {}
    for name, function in ATTACKS.items():
        if CFG["only"] not in ("all", name):
            continue
        ours, theirs = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.close(ours)
            try:
                os.setpgid(0, 0)
                text = str(function())
            except OSError as error:
                text = f"refused: {error}"
            except BaseException as error:
                text = f"broken: {error!r}"
            view = text.encode("latin1", "replace")[:MOST_BYTES]
            while view:
                view = view[os.write(theirs, view):]
            os._exit(0)
        os.close(theirs)
        told[name] = collect(child, ours)
        os.close(ours)
    print(json.dumps(told))
