"""A sandbox that keeps nothing away, to show that the attacks work: the image is the root directory and that is all.

argv: root file system of the image, a directory of the test's own, how its root is made ("chroot", or "pivot", after which
namespaces can be made), the attack program, its configuration. Namespaces
are the host's but for mounts, every capability is there, no system call is filtered, a host directory is mounted, and a
descriptor and the working directory are left outside. Mounts vanish with the process, whichever way it ends.
"""

import ctypes
import os
import stat
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_MOUNTS, RECURSIVE, PRIVATE, BIND = 0x20000, 0x4000, 0x40000, 0x1000


def mount(source, target, kind, flags=0, data=None):
    text = [None if a is None else a.encode() for a in (source, target, kind, data)]
    if LIBC.mount(text[0], text[1], text[2], ctypes.c_ulong(flags), text[3]) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def enter(root, how):
    if how == "chroot":
        return os.chroot(root)
    os.mkdir(f"{root}/old")
    number = 155 if os.uname().machine == "x86_64" else 41
    if LIBC.syscall(ctypes.c_long(number), root.encode(), f"{root}/old".encode()) != 0:
        raise OSError(ctypes.get_errno(), "pivot_root")
    if LIBC.umount2(b"/old", 2) != 0:
        raise OSError(ctypes.get_errno(), "umount")


def main(image, base, how, program, config):
    if LIBC.unshare(NEW_MOUNTS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount(None, "/", None, RECURSIVE | PRIVATE)
    place = f"{base}/control-{how}"
    os.mkdir(place)
    mount("tmpfs", place, "tmpfs", 0, "size=64m")
    for name in ("upper", "work", "root"):
        os.mkdir(f"{place}/{name}")
    root = f"{place}/root"
    mount("overlay", root, "overlay", 0, f"lowerdir={image},upperdir={place}/upper,workdir={place}/work")
    for name in ("proc", "sys"):
        mount(f"/{name}", f"{root}/{name}", None, BIND | RECURSIVE)
    # Its own: what an attack makes in it must not stay in the host's.
    mount("tmpfs", f"{root}/dev", "tmpfs", 0, "mode=755")
    for name, number in (("null", (1, 3)), ("zero", (1, 5)), ("urandom", (1, 9))):
        os.mknod(f"{root}/dev/{name}", 0o666 | stat.S_IFCHR, os.makedev(*number))
    shown = f"{base}/shown"
    os.makedirs(f"{root}{shown}")
    mount(shown, f"{root}{shown}", None, BIND)
    with open(f"{root}/attack.py", "w") as file:
        file.write(program)
    os.set_inheritable(os.open(f"{base}/hidden", os.O_RDONLY), True)
    os.chdir(f"{base}/hidden")
    enter(root, how)
    os.execv("/usr/bin/python3", ["python3", "/attack.py", config])


main(*sys.argv[1:6])
