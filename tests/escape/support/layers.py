"""Layers that attack whoever unpacks them, and somebody who falls to every one.

layers.py make ATTACK TRAP DIR      writes the attack's layers to DIR/0.tar, DIR/1.tar, ...
layers.py control ATTACK ROOT LAYER...
                                    unpacks them as a careless program does: by joined names, in the order they come
"""
import io
import os
import shutil
import sys
import tarfile

WRITTEN = b"overwritten\n"
BOMB_BYTES = 80 * 1024 * 1024
# One more than the limit that the test sets.
MANY_ENTRIES = 5001
ATTRIBUTE = "SCHILY.xattr."
# struct vfs_cap_data, revision 2, effective: CAP_DAC_OVERRIDE
CAPABILITY = "\x01\0\0\x02" + "\x02\0\0\0" + "\0" * 12
# One piece with something in it, and a hole up to the size.
SPARSE = {"GNU.sparse.size": str(BOMB_BYTES), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,512"}
# Unpacked to a file system that does not tell upper case from lower case.
FOLDED = ["names-that-fold"]


def member(name, kind=tarfile.REGTYPE, link="", data=b"", mode=0o644, device=(0, 0), pax=None):
    info = tarfile.TarInfo(name)
    info.pax_headers = pax or {}
    info.type, info.linkname, info.size, info.mode = kind, link, len(data), mode
    info.devmajor, info.devminor = device
    return info, data


def file(name, data=WRITTEN, **more):
    return member(name, data=data, **more)


def symlink(name, to):
    return member(name, tarfile.SYMTYPE, to)


def hardlink(name, to):
    return member(name, tarfile.LNKTYPE, to)


def directory(name, **more):
    return member(name, tarfile.DIRTYPE, mode=0o755, **more)


def climb(trap):
    return "../" * 20 + trap.lstrip("/")


# Each gives its layers, lowest first, as lists of members.
ATTACKS = {
    "climbing-path": lambda trap: [[file(climb(trap) + "/etc/passwd")]],
    "absolute-path": lambda trap: [[file(trap + "/etc/passwd")]],
    "through-link": lambda trap: [[symlink("a", trap + "/etc"), file("a/passwd")]],
    "through-climbing-link": lambda trap: [[directory("d"), symlink("d/a", climb(trap)), file("d/a/etc/passwd")]],
    "directory-becomes-link": lambda trap: [
        [directory("a"), file("a/x"), file("a/.wh.x", b""), symlink("a", trap + "/etc"), file("a/passwd")]
    ],
    "over-link": lambda trap: [[symlink("a", trap + "/etc/passwd"), file("a")]],
    "over-link-of-lower-layer": lambda trap: [[symlink("a", trap + "/etc/passwd")], [file("a")]],
    "through-link-of-lower-layer": lambda trap: [[symlink("a", trap + "/etc")], [file("a/passwd")]],
    "hard-link-out": lambda trap: [[hardlink("a", trap + "/etc/passwd")]],
    "climbing-hard-link": lambda trap: [[hardlink("a", climb(trap) + "/etc/passwd")]],
    "hard-link-through-link": lambda trap: [[symlink("d", trap + "/etc"), hardlink("a", "d/passwd")]],
    "over-hard-link": lambda trap: [[hardlink("a", trap + "/etc/passwd"), file("a")]],
    "climbing-whiteout": lambda trap: [[file(climb(trap) + "/.wh.etc", b"")]],
    "whiteout-through-link": lambda trap: [[symlink("a", trap)], [file("a/.wh.etc", b"")]],
    "opaque-through-link": lambda trap: [[symlink("a", trap)], [file("a/.wh..wh..opq", b"")]],
    "device-node": lambda trap: [[member("disk", tarfile.BLKTYPE, mode=0o666, device=(7, 0))]],
    "set-user-id": lambda trap: [[file("su", b"#!/bin/sh\n", mode=0o4755)]],
    "file-capability": lambda trap: [
        [file("able", b"#!/bin/sh\n", mode=0o755, pax={ATTRIBUTE + "security.capability": CAPABILITY})]
    ],
    "overlay-attribute": lambda trap: [[directory("etc", pax={ATTRIBUTE + "trusted.overlay.redirect": "/root"})]],
    "names-that-fold": lambda trap: [[symlink("A", trap + "/etc"), file("a/passwd")]],
    "bomb": lambda trap: [[file("zeros", bytes(BOMB_BYTES))]],
    "sparse-bomb": lambda trap: [[file("zeros", bytes(512), pax=SPARSE)]],
    "larger-than-fits": lambda trap: [[file("zeros", bytes(BOMB_BYTES))]],
    "too-many-entries": lambda trap: [[directory("many")] + [file(f"many/{n}", b"") for n in range(MANY_ENTRIES)]],
}


def make(attack, trap, to):
    for number, members in enumerate(ATTACKS[attack](trap)):
        with tarfile.open(f"{to}/{number}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            for info, data in members:
                tar.addfile(info, io.BytesIO(data))


def remove(path):
    if os.path.islink(path) or not os.path.isdir(path):
        os.remove(path)
    else:
        shutil.rmtree(path)


def unpack(tar, root, is_folded):
    for info in tar:
        path = os.path.join(root, info.name.lower() if is_folded else info.name)
        above, name = os.path.split(path)
        if name == ".wh..wh..opq":
            for below in os.listdir(above):
                remove(os.path.join(above, below))
        elif name.startswith(".wh."):
            remove(os.path.join(above, name[4:]))
        elif info.isdir():
            os.makedirs(path, exist_ok=True)
        elif info.issym():
            if os.path.isdir(path):
                os.rmdir(path)
            os.symlink(info.linkname, path)
        elif info.islnk():
            os.link(os.path.join(root, info.linkname), path)
        elif info.isblk():
            os.mknod(path, 0o60666, os.makedev(info.devmajor, info.devminor))
        else:
            with open(path, "wb") as out:
                shutil.copyfileobj(tar.extractfile(info), out)
            os.chmod(path, info.mode)
        for key, value in info.pax_headers.items():
            if key.startswith(ATTRIBUTE):
                os.setxattr(path, key[len(ATTRIBUTE) :], value.encode())


if sys.argv[1] == "make":
    make(*sys.argv[2:])
else:
    for path in sys.argv[4:]:
        with tarfile.open(path) as layer:
            unpack(layer, sys.argv[3], sys.argv[2] in FOLDED)
