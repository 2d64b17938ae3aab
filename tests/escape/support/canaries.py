"""Plants on the host what attacks are after, each with a secret of its own, and keeps it there until its input ends.

argv[1]: a directory of the test's own. Prints one line of JSON, {"config": what an attacker may know, "secrets": [...]},
and then one line for each signal that arrives. Runs in a network namespace of the test's own: the addresses it takes are
the metadata service's and the host's in there. What the kernel keeps (a key, a loop device) it keeps only as long as
this process lives, or for ten minutes.
"""

import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import struct
import sys
import threading

LIBC = ctypes.CDLL(None, use_errno=True)
ADDRESS, METADATA = "198.51.100.7", "169.254.169.254"
KEY_SECONDS = 600
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK, IFF_UP = 0x8913, 0x8914, 0x8916, 0x891C, 1
SECRETS = {}
HELD = []


def secret(name):
    SECRETS[name] = f"{name}-{secrets.token_hex(16)}"
    return SECRETS[name]


def checked(result, what):
    if result == -1:
        raise OSError(ctypes.get_errno(), what)
    return result


def optional(plant):
    """What this kernel cannot have is not there, and the attacks on it are told apart by their control."""
    try:
        return plant()
    except OSError as error:
        print(f"not planted: {plant.__name__}: {error}", file=sys.stderr)
        return None


def files(base):
    for place in ("shown", "hidden"):
        os.mkdir(f"{base}/{place}", 0o755)
        with open(f"{base}/{place}/secret", "w") as file:
            file.write(secret(place))
    os.mkdir(f"{base}/shared", 0o755)
    shutil.copy("/bin/sleep", f"{base}/shown/program")


def serve(family, address):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(16)
    word = secret(f"listener-{len(HELD)}").encode()
    HELD.append(listener)

    def answer():
        while True:
            client, _ = listener.accept()
            with client:
                try:
                    client.sendall(word)
                except OSError:
                    pass
    threading.Thread(target=answer, daemon=True).start()
    return listener.getsockname()


def network():
    with socket.socket() as control:
        def ask(request, name, value):
            return fcntl.ioctl(control, request, struct.pack("16s24s", name, value))
        flags = struct.unpack_from("16xH", ask(SIOCGIFFLAGS, b"lo", b""))[0]
        if flags & IFF_UP:
            raise SystemExit("the canaries take addresses, and this is no fresh network namespace: its loopback is up")
        ask(SIOCSIFFLAGS, b"lo", struct.pack("H", flags | IFF_UP))
        for label, address in ((b"lo:1", ADDRESS), (b"lo:2", METADATA)):
            for request, text in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, "255.255.255.255")):
                ask(request, label, struct.pack("HH4s", socket.AF_INET, 0, socket.inet_aton(text)))
    port = serve(socket.AF_INET, ("0.0.0.0", 0))[1]
    serve(socket.AF_INET, (METADATA, 80))
    name = f"escape-canary-{secrets.token_hex(6)}"
    serve(socket.AF_UNIX, f"\0{name}")
    return {"port": port, "address": ADDRESS, "abstract": name}


def shared_memory():
    """Marked for removal at once: it goes with this process, and by its number it can be attached until then."""
    LIBC.shmat.restype = ctypes.c_void_p
    number = checked(LIBC.shmget(0, ctypes.c_size_t(4096), 0o1644), "shmget")
    at = LIBC.shmat(number, None, 0)
    checked(LIBC.shmctl(number, 0, None), "shmctl")
    ctypes.memmove(at, secret("shared").encode() + b"\0", 80)
    return number


def message_queue():
    library = ctypes.CDLL("librt.so.1", use_errno=True)
    name = f"/escape-canary-{secrets.token_hex(6)}"
    queue = checked(library.mq_open(name.encode(), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644, None), "mq_open")
    word = secret("queue").encode()
    checked(library.mq_send(queue, word, len(word), 0), "mq_send")
    HELD.append(lambda: library.mq_unlink(name.encode()))
    return name


def keyctl(*arguments):
    number = 250 if os.uname().machine == "x86_64" else 219
    return checked(LIBC.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in arguments]), "keyctl")


def key():
    """One whose contents are the secret, and one whose name is, which only /proc/keys tells."""
    number = 248 if os.uname().machine == "x86_64" else 217
    name = f"escape-canary-{secrets.token_hex(6)}"
    serials = []
    for title, content in ((name, secret("key")), (secret("key-name"), "-")):
        made = LIBC.syscall(ctypes.c_long(number), b"user", title.encode(), content.encode(), len(content), ctypes.c_long(-4))
        checked(made, "add_key")
        keyctl(15, made, KEY_SECONDS)
        keyctl(5, made, 0x3F3F0000)
        serials.append(made)
    HELD.append(lambda: [keyctl(9, one, -4) for one in serials])
    return {"key": serials[0], "keyName": name}


def loop_disk(base):
    """A disk whose first sector is the secret. The kernel lets go of it with its last user."""
    path = f"{base}/disk"
    with open(path, "wb") as file:
        file.write(secret("disk").encode().ljust(1 << 20, b"\0"))
    backing = os.open(path, os.O_RDONLY)
    control = os.open("/dev/loop-control", os.O_RDWR)
    for _ in range(8):
        number = fcntl.ioctl(control, 0x4C82)
        device = os.open(f"/dev/loop{number}", os.O_RDONLY)
        # struct loop_config: descriptor, block size, loop_info64 with flags read-only (1) and autoclear (4).
        info = struct.pack("QQQQQIIII", 0, 0, 0, 0, 0, 0, 0, 0, 1 | 4).ljust(232, b"\0")
        try:
            fcntl.ioctl(device, 0x4C0A, struct.pack("II", backing, 512) + info + bytes(64))
        except OSError:
            os.close(device)
            continue
        HELD.append(device)
        return [os.major(os.fstat(device).st_rdev), os.minor(os.fstat(device).st_rdev)]
    raise OSError(0, "no loop device is free")


def handle(path):
    buffer = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount = ctypes.c_int()
    checked(LIBC.name_to_handle_at(-100, path.encode(), buffer, ctypes.byref(mount), 0), "name_to_handle_at")
    size, kind = struct.unpack_from("Ii", buffer.raw)
    return {"type": kind, "bytes": buffer.raw[8:8 + size].hex()}


def main(base):
    files(base)
    mark = f"escape-memory-{secrets.token_hex(6)}"
    memory = bytearray(f"{mark}:{secret('memory')}".encode() * 64)
    HELD.extend((memory, open(f"{base}/hidden/secret")))
    os.chdir(f"{base}/hidden")
    config = {
        "shown": f"{base}/shown/secret", "hidden": f"{base}/hidden/secret", "victim": os.getpid(), "memoryMark": mark,
        "mark": f"escape-written-{secrets.token_hex(12)}", **network(), **(optional(key) or {"key": 0, "keyName": "none"}),
        "shared": optional(shared_memory) or 0, "queue": optional(message_queue) or "/none",
        "disk": optional(lambda: loop_disk(base)) or [7, 255],
        "handle": optional(lambda: handle(f"{base}/hidden/secret")) or {"type": 1, "bytes": "0200000000000000"},
    }
    # Of the kernel: the id of its boot, and how it was started.
    kernel = [open("/proc/sys/kernel/random/boot_id").read().strip(), open("/proc/cmdline").read().strip()]
    signal.signal(signal.SIGUSR1, lambda *_: print(json.dumps({"signal": True}), flush=True))
    print(json.dumps({"config": config, "secrets": [*SECRETS.values(), *[w for w in kernel if len(w) > 12]]}), flush=True)
    sys.stdin.read()
    for one in HELD:
        if callable(one):
            one()


main(sys.argv[1])
