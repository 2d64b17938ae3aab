"""What control groups do not count, taken until there is no more. Prints how many of each were had, as JSON.

take N    at most N of each, given back at the end
hold N    the same, kept until standard input ends
control   two neighbours who share what they are counted by, and one who does not: the second gets nothing, the third does.
          In namespaces and under user ids of its own, with limits lowered there: nobody else is touched.
"""
import ctypes, errno, fcntl, json, os, sys

libc = ctypes.CDLL(None, use_errno=True)
F_SETPIPE_SZ = 1031
MIB = 1 << 20
ADD_KEY, UNSHARE_USER, UNSHARE_IPC = 248, 0x10000000, 0x08000000
PROCESS_KEYRING = -2
held = []


def called(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def inotify():
    held.append(called(libc.inotify_init1(0)))


def pipe():
    ends = os.pipe()
    held.extend(ends)
    fcntl.fcntl(ends[0], F_SETPIPE_SZ, MIB)


def terminal():
    held.extend(os.openpty())


def key(count=[0]):
    count[0] += 1
    name = b"k%d" % count[0]
    called(libc.syscall(ADD_KEY, b"user", name, b"x", 1, PROCESS_KEYRING))


def segment():
    number = called(libc.shmget(0, 4096, 0o600))
    # Gone with its last user, which the attachment makes this process.
    libc.shmat.restype = ctypes.c_void_p
    libc.shmat(number, None, 0)
    called(libc.shmctl(number, 0, None))


def queue():
    # Nameless from the start: nothing stays behind, however this ends.
    name = b"/neighbour-%d" % os.getpid()
    held.append(called(libc.mq_open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600, None)))
    called(libc.mq_unlink(name))


KINDS = {"inotify": inotify, "pipe": pipe, "terminal": terminal, "key": key, "segment": segment, "queue": queue}
# Refused altogether, by a filter, a namespace or a kernel that has no such thing: nobody's to exhaust.
REFUSED = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOENT}


def take(most, kinds=KINDS):
    got = {}
    for name, one in kinds.items():
        got[name] = 0
        try:
            for _ in range(most):
                one()
                got[name] += 1
        except OSError as error:
            # Of pipes it says that the user's pages are used up.
            if got[name] == 0 and error.errno in REFUSED and name != "pipe":
                got[name] = None
    return got


def give_back():
    for fd in held:
        os.close(fd)
    held.clear()


def child(work):
    """Runs work in a child that stays until told; gives its answer and the way to end it."""
    (answer, theirs), (wait, ours) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        os.close(answer)
        try:
            os.write(theirs, json.dumps(work()).encode())
        except BaseException as error:
            os.write(theirs, json.dumps({"error": repr(error)}).encode())
        os.close(theirs)
        os.read(wait, 1)
        os._exit(0)
    os.close(theirs)
    os.close(wait)

    def end():
        os.close(ours)
        os.waitpid(pid, 0)

    return json.loads(os.read(answer, 65536)), end


def become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def three(first, second, third):
    """Takes all as first; then what second and third still get."""
    got, end = child(first)
    try:
        rest = []
        for work in (second, third):
            answer, over = child(work)
            over()
            rest.append(answer)
        return [got, *rest]
    finally:
        end()


def as_user(uid, kind, most):
    def work():
        become(uid)
        return take(most, {kind: KINDS[kind]})[kind]
    return work


def in_user_namespace(kind, most, owner):
    """In a user namespace that `owner` of the present one makes."""
    def work():
        os.setresuid(-1, owner, -1)
        called(libc.unshare(UNSHARE_USER))
        return take(most, {kind: KINDS[kind]})[kind]
    return work


def inotify_control():
    """In a user namespace whose own limit is 8: what its root makes namespaces of shares that, another owner does not."""
    (unshared, tell), (mapped, go), (answer, say) = os.pipe(), os.pipe(), os.pipe()

    def inside():
        # What the namespace uses up is its creator's and nobody else's.
        os.setresuid(-1, OWN_UID, -1)
        called(libc.unshare(UNSHARE_USER))
        os.write(tell, b"x")
        os.read(mapped, 1)
        become(0)
        with open("/proc/sys/user/max_inotify_instances", "w") as file:
            file.write("8")
        return three(*(in_user_namespace("inotify", 20, owner) for owner in (0, 0, 1)))

    pid = os.fork()
    if pid == 0:
        try:
            os.write(say, json.dumps(inside()).encode())
        except BaseException as error:
            os.write(say, json.dumps(repr(error)).encode())
        os._exit(0)
    for fd in (tell, mapped, say):
        os.close(fd)
    # By its end of file a child that could not is noticed too.
    if os.read(unshared, 1):
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write(f"0 {OWN_UID} 16")
        os.write(go, b"x")
    result = json.loads(os.read(answer, 65536))
    os.waitpid(pid, 0)
    return result


def segment_control():
    """Of one IPC namespace all share the number, which is lowered there; another namespace has its own."""
    def taken():
        return take(20, {"segment": segment})["segment"]

    def elsewhere():
        called(libc.unshare(UNSHARE_IPC))
        return taken()

    def inside():
        called(libc.unshare(UNSHARE_IPC))
        with open("/proc/sys/kernel/shmmni", "w") as file:
            file.write("8")
        return three(taken, taken, elsewhere)

    result, end = child(inside)
    end()
    return result


# Above what any distribution or this project hands out, below 2^31.
OWN_UID = 0x7FFF0100


def control():
    result = {"pipe": three(*(as_user(OWN_UID + n, "pipe", 100) for n in (16, 16, 17)))}
    result["key"] = three(*(as_user(OWN_UID + n, "key", 1000) for n in (18, 18, 19)))
    result["segment"] = segment_control()
    result["inotify"] = inotify_control()
    return result


if sys.argv[1] == "control":
    print(json.dumps(control()))
else:
    print(json.dumps(take(int(sys.argv[2]))), flush=True)
    if sys.argv[1] == "hold":
        sys.stdin.read()
    give_back()
