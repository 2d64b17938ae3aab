"""Compiles profiles with the libseccomp of this machine, which the runtimes depend on.

In: JSON lines {"default": action, "rules": [{"number", "action", "args": [[index, op, a, b], ...]}, ...]}, numbers and
actions as the kernel has them. Out: a line of hex for each, struct sock_filter after struct sock_filter.
"""
import ctypes, json, os, sys, tempfile

lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)


class Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


lib.seccomp_init.restype = ctypes.c_void_p
lib.seccomp_init.argtypes = [ctypes.c_uint32]
lib.seccomp_rule_add_array.argtypes = [
    ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Compare),
]
lib.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
lib.seccomp_release.argtypes = [ctypes.c_void_p]
OPS = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}


def ok(result):
    if result < 0:
        raise SystemExit("libseccomp: " + os.strerror(-result))


for line in sys.stdin:
    profile = json.loads(line)
    context = lib.seccomp_init(profile["default"])
    for rule in profile["rules"]:
        # runc leaves out what the default says already, which libseccomp does not take.
        if rule["action"] == profile["default"]:
            continue
        args = (Compare * len(rule["args"]))()
        for place, (index, op, a, b) in zip(args, rule["args"]):
            place.arg, place.op, place.a, place.b = index, OPS[op], int(a), int(b)
        ok(lib.seccomp_rule_add_array(context, rule["action"], rule["number"], len(rule["args"]), args))
    with tempfile.TemporaryFile() as out:
        ok(lib.seccomp_export_bpf(context, out.fileno()))
        out.seek(0)
        print(out.read().hex())
    lib.seccomp_release(context)
