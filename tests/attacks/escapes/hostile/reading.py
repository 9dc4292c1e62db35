"""Attempts to read what belongs to others: the escrow, the machine, another job."""

# Plain system calls, on the worker's own places.
# ruff: noqa: PTH108, PTH208, S108

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from kit import ABSENT, LIBC, Aim, attempt, call, canary, each

GONE = (*ABSENT, errno.ESRCH, errno.ELOOP)
LOOK_AT_MOST = 1 << 16


def glance(path: str) -> bytes:
    """The beginning of a file, without waiting for one that has nothing to say."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, LOOK_AT_MOST)
    finally:
        os.close(fd)


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def climbs(path: str) -> Iterator[str]:
    """Ways to a path of the machine that do not begin at this program's own root."""
    for start in ("", "/proc/1/root", "/proc/self/root", "/proc/1/cwd/../../../..", "/proc/self/cwd/../../.."):
        yield f"{start}{path}"
    for start in ("/data", "/code", "/results", "/tmp", "/dev/shm", "/dev/fd/0/../.."):
        yield f"{start}/../../../..{path}"
        yield f"{start}{path}"


def stolen(aim: Aim, paths: list[str]) -> str | None:
    secret = canary(aim).encode()

    def read(path: str) -> str | None:
        return "read" if secret in glance(path) else None

    refusals = (*GONE, errno.EISDIR, errno.EINVAL, errno.EAGAIN)
    return each([way for path in paths for way in climbs(path)], read, *refusals)


@attempt("vault")
def vault(aim: Aim) -> str | None:
    return stolen(aim, [aim["vault"]])


@attempt("other-inputs")
def other_inputs(aim: Aim) -> str | None:
    """Inputs of a job that runs now, by the path that they have on the machine and by paths like one's own."""
    return stolen(aim, aim["inputs"])


@attempt("other-results")
def other_results(aim: Aim) -> str | None:
    """What that job has written, where the engine keeps it on the machine."""
    return stolen(aim, [f"/var/lib/docker/volumes/{aim['volume']}/_data/found.json"])


@attempt("environment")
def environment(aim: Aim) -> str | None:
    """The escrow's environment, in one's own and in that of every process that can be seen."""
    secret = canary(aim).encode()

    def read(path: str) -> str | None:
        return "read" if secret in glance(path) else None

    inherited = "inherited" if canary(aim) in str(dict(os.environ)) else None
    return inherited or each([f"/proc/{pid}/environ" for pid in processes()], read, *GONE)


@attempt("host-processes")
def host_processes(aim: Aim) -> str | None:
    """Processes of the machine, by the command lines and by the numbers of those that the escrow has."""
    secret = canary(aim).encode()

    def line(pid: int) -> str | None:
        return "is the escrow's" if secret in glance(f"/proc/{pid}/cmdline") else None

    return each(processes(), line, *GONE)


@attempt("signal-host-processes", errno.ESRCH)
def signal_host_processes(aim: Aim) -> str | None:
    """Signal 0 only asks whether a signal could be sent."""

    def signalled(pid: int) -> str:
        os.kill(pid, 0)
        return "could be signalled"

    return each(aim["pids"], signalled, errno.ESRCH)


@attempt("search-everything")
def search_everything(aim: Aim) -> str | None:
    """Read all that can be read outside of the image's software, and look for the secret in it."""
    secret = canary(aim).encode()
    found = []
    for top in ("/proc", "/sys", "/dev", "/etc", "/tmp", "/var", "/run", "/root", "/home", "/opt", "/data", "/code"):
        for folder, folders, names in os.walk(top):
            folders[:] = [name for name in folders if f"{folder}/{name}" not in {"/proc/self", "/proc/thread-self"}]
            depth = folder.count("/")
            if depth > 6 or "/task/" in folder:
                folders.clear()
            found += [f"{folder}/{name}" for name in names if holds(f"{folder}/{name}", secret)]
    return "; ".join(found) or None


def holds(path: str, secret: bytes) -> bool:
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode) or path.endswith(("/clear_refs", "/pagemap")):
            return False
        return secret in path.encode("utf-8", "surrogateescape") or secret in glance(path)
    except OSError:  # thousands of files here and most are not for reading: only a find counts
        return False


@attempt("machine-files")
def machine_files(aim: Aim) -> str | None:
    """Memory, keys, symbols, boot parameters and accounts of the machine."""
    names = (
        "kcore kallsyms keys key-users kmsg cmdline diskstats modules iomem ioports timer_list sched_debug interrupts"
    )
    paths = [f"/proc/{name}" for name in names.split()]
    paths += ["/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/sys/kernel/debug", "/sys/firmware/dmi/tables/DMI"]

    def read(path: str) -> str | None:
        data = glance(path)
        if path == "/proc/cmdline" and b"root=" not in data and b"console=" not in data:
            return None  # what gVisor makes up
        return f"{len(data)} bytes" if data.strip(b"\0 \n") else None

    return each(paths, read, *GONE, errno.EISDIR, errno.EIO, errno.EINVAL, errno.EAGAIN)


@attempt("kernel-log")
def kernel_log(aim: Aim) -> str | None:
    """The messages of the kernel, in which other containers' deaths stand."""
    room = ctypes.create_string_buffer(1 << 16)
    size = LIBC.klogctl(3, room, len(room))
    if size < 0:
        raise OSError(ctypes.get_errno(), "syslog")
    return f"{size} bytes" if b"Linux version" in room.raw or size > 4096 else None


@attempt("disks")
def disks(aim: Aim) -> str | None:
    """Block devices: those in /dev, and ones made for the occasion."""

    def read(number: int) -> str:
        path = f"/tmp/disk-{number}"
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(number, 0))
        try:
            return f"{len(glance(path))} bytes"
        finally:
            os.unlink(path)

    there = [path for path in Path("/dev").rglob("*") if stat.S_ISBLK(path.lstat().st_mode)]
    return f"there are {there}" if there else each([8, 253, 254, 259], read, *ABSENT)


@attempt("file-handles", errno.EOPNOTSUPP)
def file_handles(aim: Aim) -> str | None:
    """Open a file by its number rather than its path, which leads past every mount."""
    handle = ctypes.create_string_buffer((8).to_bytes(4, "little") + (1).to_bytes(4, "little") + bytes(8), 16 + 128)
    fd = os.open("/data", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return call("open_by_handle_at", fd, handle, os.O_RDONLY, past=(errno.ESTALE, errno.EINVAL))
    finally:
        os.close(fd)


@attempt("inherited-descriptors", *GONE)
def inherited_descriptors(aim: Aim) -> str | None:
    """Descriptors that whoever started the program forgot to close, and the way out that a directory would be."""
    fd = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = {int(name) for name in os.listdir(fd)} - {0, 1, 2, fd}
        kinds = [f"{number} is {os.readlink(str(number), dir_fd=fd)}" for number in sorted(found)]
    finally:
        os.close(fd)
    standard = [f"{number} is a directory" for number in (0, 1, 2) if stat.S_ISDIR(os.fstat(number).st_mode)]
    return "; ".join([*kinds, *standard]) or None


@attempt("descriptors-of-others", errno.ESRCH)
def descriptors_of_others(aim: Aim) -> str | None:
    """Take an open file out of a process of the machine."""

    def taken(pid: int) -> str | None:
        fd = os.pidfd_open(pid)
        try:
            return call("pidfd_getfd", fd, 0, 0)
        finally:
            os.close(fd)

    return each(aim["pids"], taken, errno.ESRCH, errno.EINVAL)


@attempt("memory-of-others", errno.ESRCH, *ABSENT)
def memory_of_others(aim: Aim) -> str | None:
    """Read memory of processes of the machine, by call and by file."""
    room = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(room), len(room))

    def read(pid: int) -> str | None:
        return call("process_vm_readv", pid, vector, 1, vector, 1, 0, past=(errno.EFAULT,))

    def opened(pid: int) -> str:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))
        return "opened"

    return each(aim["pids"], read, errno.ESRCH) or each(aim["pids"], opened, *GONE)
