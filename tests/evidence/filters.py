"""How many of the host's system calls processes can reach, read from the kernel and from nothing they say.

Each thread of the processes named on the command line is stopped, asked for its seccomp filters (PTRACE_SECCOMP_GET_FILTER),
and let go. The filters are followed for every number and architecture with arguments that may be anything. Makes no
system call of the process's own. Prints JSON: by process, by architecture, how many calls get through always and how
many with some arguments; of several threads the one that reaches most counts.

Usage: filters.py '{"native": [ARCH, [NUMBER, ...]], ...}' PID...
"""

import ctypes
import json
import os
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
SEIZE, INTERRUPT, DETACH, GET_FILTER = 0x4206, 0x4207, 17, 0x420C
WALL = 0x40000000
ENOENT, EINVAL = 2, 22
# Actions after which the kernel makes the call: ALLOW, LOG, and those that somebody else decides.
THROUGH = {0x7FFF0000, 0x7FFC0000, 0x7FF00000, 0x7FC00000}
ACTION = 0xFFFF0000
LIBC.ptrace.restype = ctypes.c_long
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, pid, address=0, data=None):
    value = LIBC.ptrace(request, pid, address, data)
    if value < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return value


def filters_of(thread):
    """Programs of one thread, newest first, as bytes."""
    ptrace(SEIZE, thread)
    try:
        ptrace(INTERRUPT, thread)
        os.waitpid(thread, WALL)
        programs = []
        while True:
            try:
                length = ptrace(GET_FILTER, thread, len(programs))
            except OSError as error:
                # The first when there is no further one, the second when there is none at all.
                if error.errno in (ENOENT, EINVAL):
                    return tuple(programs)
                raise
            buffer = ctypes.create_string_buffer(8 * length)
            ptrace(GET_FILTER, thread, len(programs), ctypes.cast(buffer, ctypes.c_void_p))
            programs.append(buffer.raw)
    finally:
        ptrace(DETACH, thread)


def actions(program, number, arch):
    """Everything the program may answer to this call, whatever its arguments are."""
    known = {0: number, 4: arch}
    found, seen, todo = set(), set(), [(0, 0)]
    while todo:
        state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        at, value = state
        code, jt, jf, k = program[at]
        kind = code & 7
        if kind == 6:  # return
            found.add(k & ACTION if code & 0x18 == 0 else 0x7FFF0000)
        elif kind == 0:  # load
            todo.append((at + 1, known.get(k) if code == 0x20 else None))
        elif kind == 5:
            todo += [(at + 1 + jump, after) for jump, after in jumps(code, value, jt, jf, k)]
        elif code == 0x54:  # and
            todo.append((at + 1, None if value is None else value & k))
        else:
            todo.append((at + 1, value if kind in (2, 3) else None))
    return found


def jumps(code, value, jt, jf, k):
    operation = code & 0xF0
    if operation == 0x00:
        return [(k, value)]
    if value is None or code & 8:
        return [(jt, k if operation == 0x10 and not code & 8 else None), (jf, None)]
    holds = {0x10: value == k, 0x20: value > k, 0x30: value >= k, 0x40: value & k != 0}[operation]
    return [(jt if holds else jf, value)]


def reach(programs, arch, numbers):
    """(always, with some arguments)"""
    always = some = 0
    parsed = [list(struct.iter_unpack("<HBBI", program)) for program in programs]
    for number in numbers:
        answers = [actions(program, number, arch) for program in parsed]
        if all(answer & THROUGH for answer in answers):
            if all(answer <= THROUGH for answer in answers):
                always += 1
            else:
                some += 1
    return always, some


def main(asked, pids):
    known = {}
    told = {}
    for pid in pids:
        best = None
        for thread in map(int, os.listdir(f"/proc/{pid}/task")):
            programs = filters_of(thread)
            if programs not in known:
                known[programs] = {name: reach(programs, arch, numbers) for name, (arch, numbers) in asked.items()}
            one = {"filters": len(programs), **known[programs]}
            if best is None or sum(one["native"]) > sum(best["native"]):
                best = one
        told[pid] = best
    print(json.dumps(told))


main(json.loads(sys.argv[1]), [int(pid) for pid in sys.argv[2:]])
