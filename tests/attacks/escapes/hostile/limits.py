"""Programs that take more than they were given. What they got is written down where they live to tell."""

# Plain system calls, on the worker's own places.
# ruff: noqa: PTH108, PTH123, S108

import errno
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

MIB = 1 << 20
FOUND = Path("/results/found.json")
FULL = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EMFILE,
    errno.ENFILE,
    errno.EAGAIN,
    errno.ENOMEM,
    errno.ETOOMANYREFS,
)


def tell(**found: object) -> None:
    FOUND.write_text(json.dumps(found), encoding="ascii")


def until_refused(act: Callable[[int], object]) -> tuple[int, str]:
    """How often it could be done, and how the kernel then said no."""
    count = 0
    while True:
        try:
            act(count)
        except OSError as error:
            if error.errno not in FULL:
                raise
            return count, errno.errorcode[error.errno]
        count += 1


def fill(path: str) -> tuple[int, str]:
    """MiB that fit into one file."""
    with open(path, "wb", buffering=0) as file:

        def write(_: int) -> None:
            if file.write(bytes(MIB)) < MIB:
                raise OSError(errno.ENOSPC, path)

        return until_refused(write)


def pause() -> None:
    while True:
        signal.pause()


def fill_memory() -> None:
    kept = []
    while True:
        kept.append(b"x" * (4 * MIB))


def fill_memory_together() -> None:
    """Each child stays below the limit, all of them together do not. They live until all have what they could get."""
    gate, opened = os.pipe()
    for _ in range(8):
        heard, said = os.pipe()
        if os.fork() == 0:
            os.close(opened)
            kept = b"x" * (24 * MIB)
            os.write(said, b"!")
            os.read(gate, 1)
            os._exit(len(kept) & 1)
        os.close(said)
        os.read(heard, 1)  # nothing, if the kernel has ended it
        os.close(heard)
    time.sleep(4)  # the program itself ends well: meanwhile the engine hears what the kernel did
    os.close(opened)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    tell(got=8, refused="")


def fill_memory_with_files() -> None:
    for number in range(1000):
        fill(f"/tmp/{number}")


def fill_scratch() -> None:
    mib, refused = fill("/tmp/big")
    tell(got=mib, refused=refused)


def fill_shared_memory() -> None:
    mib, refused = fill("/dev/shm/big")
    Path("/dev/shm/big").unlink()
    tell(got=mib, refused=refused)


def fill_results() -> None:
    """Several files, each as large as one may be, and then no word more about it."""
    total = 0
    for number in range(8):
        total += fill(f"/results/{number}")[0]
    Path("/results/0").unlink()
    tell(got=total, refused="ENOSPC")


def fill_results_and_fail() -> None:
    fill("/results/big")
    for number in range(4):
        with suppress(OSError):
            fill(f"/results/{number}")
    sys.exit(1)


def many_files() -> None:
    count, refused = until_refused(lambda number: os.mknod(f"/results/{number}"))
    for number in range(10):
        os.unlink(f"/results/{number}")
    tell(got=count, refused=refused)


def many_temporary_files() -> None:
    count, refused = until_refused(lambda number: os.mknod(f"/tmp/{number}"))
    tell(got=count, refused=refused)


def many_links() -> None:
    """Names for one file cost no file, but each costs room in the directory."""
    Path("/results/one").touch()
    count, refused = until_refused(lambda number: os.link("/results/one", f"/results/link-{number}"))
    for number in range(10):
        os.unlink(f"/results/link-{number}")
    tell(got=count, refused=refused)


def sparse_file() -> None:
    fd = os.open("/results/sparse", os.O_WRONLY | os.O_CREAT)
    sizes = {}
    for size in (1 << 40, 1 << 62):
        try:
            os.truncate(fd, size)
        except OSError as error:
            sizes[size] = errno.errorcode[error.errno or 0]
    tell(got=os.fstat(fd).st_size, refused=" ".join(sizes.values()))


def fork_bomb() -> None:
    def fork(_: int) -> None:
        if os.fork() == 0:
            pause()

    count, refused = until_refused(fork)
    tell(got=count, refused=refused)


def thread_bomb() -> None:
    count = 0
    threading.stack_size(64 << 10)
    while True:
        try:
            threading.Thread(target=pause_thread, daemon=True).start()
        except RuntimeError:
            break
        count += 1
    tell(got=count, refused="EAGAIN")
    os._exit(0)


def pause_thread() -> None:
    threading.Event().wait()


def open_files() -> None:
    held: list[int] = []
    count, refused = until_refused(lambda _: held.append(os.open("/dev/null", os.O_RDONLY)))
    for fd in held[:8]:
        os.close(fd)
    tell(got=count, refused=refused)


def files_in_flight() -> None:
    """Descriptors in flight in messages are not open files of anybody."""
    near, _far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    null = os.open("/dev/null", os.O_RDONLY)
    near.setblocking(False)
    count, refused = until_refused(lambda _: socket.send_fds(near, [b"x"], [null] * 16))
    tell(got=16 * count, refused=refused)


def flood_log() -> None:
    for _ in range(64):
        os.write(1, b"x" * MIB)
        os.write(2, b"y" * 4096)
    tell(got=64, refused="")


def flood_progress() -> None:
    for number in range(200_000):
        sys.stdout.write(f'{{"progress": "line {number}"}}\n')
    tell(got=200_000, refused="")


def take_processors() -> None:
    """Compute until the host has seen enough and ends it."""
    for _ in range(4):
        if os.fork() == 0:
            break
    else:
        print("computing", flush=True)
    while True:
        pass


def ignore_all_signals() -> None:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def daemonise(then: Callable[[], None]) -> None:
    """A grandchild in a session of its own that keeps the output open; its parent is gone."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.write(writer, b"!")
            then()
        os._exit(0)
    os.wait()
    os.read(reader, 1)


def outlive() -> None:
    daemonise(pause)
    tell(got=0, refused="")


def outlive_and_write() -> None:
    """Go on changing the output when the program is over."""
    running, held = os.pipe()

    def write() -> None:
        os.close(held)
        os.read(running, 1)  # until the program has ended, which alone holds the other end
        time.sleep(1)  # in which whatever outlived it is ended
        while True:
            with suppress(OSError):
                Path("/results/found.json").write_text("changed", encoding="ascii")

    daemonise(write)
    tell(got=0, refused="")


def end_init() -> None:
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV):
        os.kill(1, number)
    os.kill(-1, signal.SIGKILL)
    time.sleep(600)
