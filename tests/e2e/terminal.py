"""Runs a program at a terminal of its own and plays a script against it.

Usage: terminal.py SCRIPT ARGV...   SCRIPT is JSON: {"rows", "cols", "steps": [["expect", text] | ["send", text] |
["resize", rows, cols] | ["signal", number]], "timeout": seconds}. Prints JSON: {"output", "code", "restored"}.
"""
import fcntl, json, os, pty, select, signal, struct, sys, termios, time


def size(fd, rows, cols):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def main():
    script, argv = json.loads(sys.argv[1]), sys.argv[2:]
    master, slave = pty.openpty()
    size(master, script["rows"], script["cols"])
    before = termios.tcgetattr(slave)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for fd in (0, 1, 2):
            os.dup2(slave, fd)
        os.execvp(argv[0], argv)
    deadline = time.monotonic() + script["timeout"]
    seen, start, steps, status = "", 0, list(script["steps"]), None
    while status is None and time.monotonic() < deadline:
        ready, _, _ = select.select([master], [], [], 0.05)
        if ready:
            seen += os.read(master, 65536).decode("utf8", "replace")
        while steps:
            kind, *rest = steps[0]
            if kind == "expect":
                at = seen.find(rest[0], start)
                if at < 0:
                    break
                start = at + len(rest[0])
            elif kind == "send":
                os.write(master, rest[0].encode())
            elif kind == "resize":
                size(master, *rest)
            elif kind == "signal":
                os.kill(pid, rest[0])
            steps.pop(0)
        done, how = os.waitpid(pid, os.WNOHANG)
        status = how if done else None
    while select.select([master], [], [], 0.2)[0]:
        seen += os.read(master, 65536).decode("utf8", "replace")
    if status is None:
        os.kill(pid, signal.SIGKILL)
    restored = termios.tcgetattr(slave) == before
    code = None if status is None else os.waitstatus_to_exitcode(status)
    print(json.dumps({"output": seen, "code": code, "restored": restored, "left": steps}))


main()
