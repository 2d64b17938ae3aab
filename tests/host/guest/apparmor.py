"""What AppArmor's profile for containers denies to the host's own root, where no other wall stands. Prints one line for each
attempt: what came of it without the profile, and with it.

Usage: apparmor.py PROFILE
"""

import ctypes
import errno
import json
import os
import subprocess
import sys
import tempfile

LIBC = ctypes.CDLL(None, use_errno=True)
SEIZE, DETACH = 0x4206, 17


def called(value):
    if value < 0:
        raise OSError(ctypes.get_errno(), "")


def mount(_):
    place = tempfile.mkdtemp()
    try:
        called(LIBC.mount(b"none", place.encode(), b"tmpfs", 0, None))
        called(LIBC.umount(place.encode()))
    finally:
        os.rmdir(place)


def writes(path):
    return lambda _: os.close(os.open(path, os.O_WRONLY))


def trace(outside):
    called(LIBC.ptrace(SEIZE, outside, None, None))
    os._exit(0)


ATTEMPTS = {
    "mount": mount,
    "sysrq": writes("/proc/sysrq-trigger"),
    "setting of the kernel": writes("/proc/sys/kernel/core_pattern"),
    "file in sysfs": writes("/sys/block/vda/uevent"),
    "signal to the outside": lambda outside: os.kill(outside, 0),
    "tracing of the outside": trace,
    "capability of no container": lambda _: os.chroot("/"),
}


def attempt(name, outside):
    """In a child, which may have to end for what it tried."""
    child = os.fork()
    if child == 0:
        try:
            ATTEMPTS[name](outside)
            os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "had" if number == 0 else errno.errorcode.get(number, str(number))


def all_attempts(outside):
    return {name: attempt(name, outside) for name in ATTEMPTS}


if sys.argv[1] == "--confined":
    print(json.dumps(all_attempts(int(sys.argv[2]))))
else:
    outside = subprocess.Popen(["sleep", "1000"])
    try:
        free = all_attempts(outside.pid)
        argv = ["aa-exec", "-p", sys.argv[1], "--", sys.executable, __file__, "--confined", str(outside.pid)]
        held = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
        for name in ATTEMPTS:
            print(f"{name}: {free[name]} without, {held[name]} with")
    finally:
        outside.kill()
