"""A worker for the tests of runtimes: does the one thing that `job.json` names.

Called as `naughty.py JOBDIR [RESULTSDIR]`; without the second, results go into `JOBDIR/results`.
"""

import ctypes
import json
import os
import resource
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

JOB = Path(sys.argv[1])
RESULTS = Path(sys.argv[2]) if len(sys.argv) > 2 else JOB / "results"
TMP = Path(os.environ["TMPDIR"])


def fork_and(do) -> int:
    pid = os.fork()
    if pid == 0:
        do()
        os._exit(0)
    return pid


def sleep() -> None:
    time.sleep(600)


def tell_pid(pid: int) -> None:
    (RESULTS / "pid.new").write_text(str(pid))
    (RESULTS / "pid.new").rename(RESULTS / "pid")
    print('{"progress": "sleeping"}', flush=True)


def copy() -> None:
    (RESULTS / "out.bin").write_bytes((JOB / "inputs/in.bin").read_bytes())
    (RESULTS / "secret.bin").write_bytes(b"undeclared")


def nothing() -> None:
    pass


def look() -> None:
    limits = {
        name: resource.getrlimit(getattr(resource, name))[0]
        for name in ("RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_FSIZE")
    }
    seen = {
        "environment": dict(os.environ),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())) - 1,
        "stdin": str(Path("/proc/self/fd/0").readlink()),
        "cwd": str(Path.cwd()),
        "umask": os.umask(0),
        "limits": limits,
        "session": os.getsid(0) == os.getpid(),
        "no_new_privs": ctypes.CDLL(None).prctl(39, 0, 0, 0, 0),
        "argv": sys.argv[1:],
    }
    (RESULTS / "seen.json").write_text(json.dumps(seen))


def fill_memory() -> None:
    """Until the kernel says no, or ends this; what says no at once is asked no more, so that it can be seen."""
    kept = []
    with suppress(MemoryError):
        while True:
            kept.append(b"x" * (4 << 20))
    sleep()


def one_huge_allocation() -> None:
    bytearray(1 << 34)


def fill(folder: Path) -> None:
    for number in range(1000):
        (folder / str(number)).write_bytes(bytes(1 << 20))
        time.sleep(0.005)
    sleep()


def fill_results() -> None:
    fill(RESULTS)


def fill_scratch() -> None:
    fill(TMP)


def big_file() -> None:
    (RESULTS / "out.bin").write_bytes(bytes(8 << 20))


def many_files() -> None:
    for number in range(20_000):
        (RESULTS / str(number)).touch()


def holes() -> None:
    (RESULTS / "out.bin").write_bytes(b"x")
    for number in range(10):
        with (RESULTS / str(number)).open("wb") as file:
            file.truncate(4 << 20)


def ever_more_processes() -> None:
    while True:
        fork_and(sleep)


def many_processes() -> None:
    for _ in range(60):
        fork_and(sleep)
    sleep()


def exit_3() -> None:
    sys.exit(3)


def exit_137() -> None:
    sys.exit(137)


def crash() -> None:
    os.abort()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail_with(text: str):
    def fail() -> None:
        (RESULTS / "failure.json").write_text(text)
        sys.exit(1)

    return fail


def fail_and_die() -> None:
    (RESULTS / "failure.json").write_text('{"code": "update-invalid", "party": "north"}')
    die()


def fail_and_exit_0() -> None:
    (RESULTS / "failure.json").write_text('{"code": "update-invalid"}')


def link_out() -> None:
    (RESULTS / "out.bin").symlink_to("/etc/hostname")


def link_folder() -> None:
    (RESULTS / "sub").symlink_to(JOB / "inputs")


def link_failure() -> None:
    (RESULTS / "failure.json").symlink_to(JOB / "job.json")


def link_results() -> None:
    RESULTS.rename(JOB / "elsewhere")
    RESULTS.symlink_to(JOB / "inputs")


def hard_link() -> None:
    (RESULTS / "first").write_bytes(b"x")
    os.link(RESULTS / "first", RESULTS / "out.bin")


def hard_link_from() -> None:
    (RESULTS / "out.bin").write_bytes(b"x")
    os.link(RESULTS / "out.bin", RESULTS / "second")


def fifo() -> None:
    os.mkfifo(RESULTS / "out.bin")


def device() -> None:
    try:
        os.mknod(RESULTS / "out.bin", 0o20666, os.makedev(1, 5))  # /dev/zero
    except PermissionError:  # only root may make one, so this user's workers cannot
        fifo()


def unix_socket() -> None:
    os.chdir(RESULTS)
    socket.socket(socket.AF_UNIX).bind("out.bin")


def folder() -> None:
    (RESULTS / "out.bin").mkdir()


def nest() -> None:
    (RESULTS / "odd\n\udcff name").mkdir()
    (RESULTS / "closed").mkdir()
    (RESULTS / "closed/inner").mkdir()
    (RESULTS / "closed/link").symlink_to("/")
    (RESULTS / "closed").chmod(0)
    os.chdir(RESULTS)
    for _ in range(3000):
        Path("deep").mkdir()
        os.chdir("deep")
    Path("plaintext").write_bytes(b"x")


def talk() -> None:
    print("row 17 has label 1", flush=True)
    for text in ("round 1 of 2", "x" * 81, "card\n4929", "<b>", 7):
        print(json.dumps({"progress": text}), flush=True)
    print('{"progress": "ok", "row": 17}', flush=True)
    print('{"progress": "round 2 of 2"}', file=sys.stderr, flush=True)
    print('{"progress": "done"}', flush=True)
    sys.stdout.write("no line end")


def shout() -> None:
    for _ in range(300):
        print("x" * 65535)


def sleep_and_tell() -> None:
    tell_pid(os.getpid())
    sleep()


def daemon() -> None:
    """A grandchild that left the session and whose parent is gone."""

    def child() -> None:
        os.setsid()
        pid = fork_and(sleep)
        tell_pid(pid)

    os.waitpid(fork_and(child), 0)
    sleep()


def leave_daemon() -> None:
    def child() -> None:
        os.setsid()
        tell_pid(fork_and(sleep))

    os.waitpid(fork_and(child), 0)


def dial() -> None:
    """Echo what comes in by the door, once; then find it closed."""
    os.chdir(JOB / "door")
    stream = socket.socket(socket.AF_UNIX)
    stream.connect("socket")
    stream.sendall(stream.recv(100).upper())
    stream.recv(1)  # the escrow has gone
    try:
        socket.socket(socket.AF_UNIX).connect("socket")
    except OSError:
        (RESULTS / "out.bin").write_bytes(b"closed")


def dial_and_wait() -> None:
    os.chdir(JOB / "door")
    stream = socket.socket(socket.AF_UNIX)
    stream.connect("socket")
    sleep()


FAILURES = {
    "catalogued": '{"code": "roster-incomplete"}',
    "blaming": '{"code": "update-invalid", "party": "north-2"}',
    "blaming_oddly": '{"code": "update-invalid", "party": "north, who has 3 frauds"}',
    "invented": '{"code": "card-4929-is-fraud"}',
    "talkative": '{"code": "update-invalid", "row": 17}',
    "broken": '{"code": ',
    "nested": "[" * 4000,
    "long": '{"code": "update-invalid"' + " " * 8192 + "}",
}

if __name__ == "__main__":
    name = json.loads((JOB / "job.json").read_text())["do"]
    (fail_with(FAILURES[name]) if name in FAILURES else globals()[name])()
