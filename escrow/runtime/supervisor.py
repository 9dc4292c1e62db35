"""The small program between the escrow and one worker: it starts the worker, watches it, and ends all it started.

`escrow.runtime.process` runs this file as a script, with `-I -S` and the standard library only: starting it is part of
the cost of every job, so it imports nothing that takes a millisecond to load. Rules:

1. The worker lives no longer than the escrow. Descriptor 0 is a socket to the escrow: when its other end closes, for
   whatever reason, the job ends without an outcome. The kernel kills the worker if this program is killed.
2. Whatever the worker starts stays below this program (a subreaper), also after a double fork or a new session, and
   ends with the job.
3. Limits on time, resident memory, results and number of tasks are sampled here; limits on one process (open files,
   file size, data segment, no core, no new privileges) are the kernel's. RLIMIT_NPROC is not used: it counts all
   processes of the user and spares root. RLIMIT_AS is not used: torch reserves far more address space than it fills.
4. How the job ended is one line in a file that appears whole: `exit N`, `signal N` or the code of a limit.
5. What the worker prints goes to descriptor 2, a file, up to a bound; a line on its standard output that may be
   progress goes to the escrow as one packet, or nowhere if the escrow does not read.
"""

import ctypes
import os
import resource
import select
import sys
import time

ESCROW, LOG = 0, 2
LOG_BYTES_AT_MOST = 4 << 20
PROGRESS_BYTES_AT_MOST = 256
FILES_AT_MOST = 10_000
SAMPLE_SECONDS = 0.1
MIB = 1 << 20
KILL = 9
NO_CORE = 1
"""Limit at which Linux writes no core into a file, too small for one, and starts no program that would take it: that a
limit of 0 does not prevent (fs/coredump.c, core(5)). A worker can still lower it to 0."""
SET_PDEATHSIG, SET_CHILD_SUBREAPER, SET_NO_NEW_PRIVS = 1, 36, 38  # linux/prctl.h


class Limits:
    """The limits of `escrow.runtime.job.Limits`, in its order, as decimal numbers."""

    def __init__(self, numbers: list[str]) -> None:
        self.seconds, self.memory_mib, self.results_mib, self.scratch_mib = map(int, numbers[:4])
        self.processes, self.open_files = map(int, numbers[4:6])  # processors are not limited here


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process, as the manual page prctl 2 says."""
    if ctypes.CDLL(None).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(f"prctl {option} failed")


def become(command: list[str], place: str, limits: Limits, parent: int, ends: tuple[int, int]) -> None:
    """Turn this forked process into the worker, in the directory `place`, that prints to `ends`.

    Returns only if `parent` is gone.
    """
    os.setsid()
    prctl(SET_PDEATHSIG, KILL)
    if os.getppid() != parent:  # it died before the line above
        return
    prctl(SET_NO_NEW_PRIVS, 1)
    for what, most in (
        (resource.RLIMIT_CORE, NO_CORE),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_FSIZE, limits.results_mib * MIB),
        (resource.RLIMIT_DATA, 2 * limits.memory_mib * MIB),  # one huge allocation between two samples
    ):
        hard = resource.getrlimit(what)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (bound, bound))
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib is slow to import
        file.write("1000")  # if the machine runs out of memory, this goes first
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(ends[0], 1)
    os.dup2(ends[1], 2)
    os.chdir(place)
    os.execve(command[0], command, os.environ)  # noqa: S606 - a list, no shell


def launch(command: list[str], place: str, limits: Limits) -> tuple[int, int, int]:
    """Start the worker; its pid and the read ends of its standard output and error."""
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    parent = os.getpid()
    worker = os.fork()
    if worker == 0:
        try:
            become(command, place, limits, parent, (out_end, err_end))
        except OSError as error:
            os.write(err_end, f"the worker could not be started: {error}\n".encode())
        finally:
            os._exit(127)
    for fd in (out_end, err_end):
        os.close(fd)
    for fd in (out, err, ESCROW):
        os.set_blocking(fd, False)
    return worker, out, err


class Printed:
    """Takes what the worker prints from pipes to the log, and progress lines to the escrow."""

    def __init__(self, out: int) -> None:
        self.out = out
        self.room = LOG_BYTES_AT_MOST
        self.line = b""

    def take(self, fd: int) -> bool:
        """Read once from a pipe; False when there is nothing more to come, or nothing now."""
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return False
        os.write(LOG, data[: self.room])
        self.room -= min(self.room, len(data))
        if fd == self.out:
            *lines, rest = (self.line + data).split(b"\n")
            self.line = rest[: PROGRESS_BYTES_AT_MOST + 1]
            for line in lines:
                self.forward(line)
        return bool(data)

    def forward(self, line: bytes) -> None:
        """Send a line to the escrow if it may be progress; whether it is one, the escrow decides."""
        if line.startswith(b"{") and len(line) <= PROGRESS_BYTES_AT_MOST:
            try:
                os.write(ESCROW, line)
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                return  # nobody reads it: progress is told once or not at all


class Task:
    """A process in /proc: parent, resident bytes, number of threads, whether it only waits to be reaped."""

    def __init__(self, stat: bytes) -> None:
        fields = stat[stat.rindex(b")") + 2 :].split()
        self.dead = fields[0] in {b"Z", b"X"}
        self.parent = int(fields[1])
        self.threads = int(fields[17])
        self.resident = int(fields[21]) * resource.getpagesize()


def family() -> dict[int, Task]:
    """All living descendants of this process, by pid; dead orphans are reaped on the way."""
    tasks = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib is slow to import
        if name.isdigit():
            try:
                fd = os.open(f"/proc/{name}/stat", os.O_RDONLY)
                try:
                    tasks[int(name)] = Task(os.read(fd, 4096))
                finally:
                    os.close(fd)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
    members = {os.getpid()}
    while more := {pid for pid, task in tasks.items() if task.parent in members} - members:
        members |= more
    return {pid: tasks[pid] for pid in members - {os.getpid()} if not tasks[pid].dead}


def written(folder: str, most: int) -> int:
    """Bytes on disk below `folder`, counted until they are too many.

    More than `most` also for too many files, and for a directory that hides its content by depth or mode.
    """
    total, files, folders = 0, 0, [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    files += 1
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    if total > most or files > FILES_AT_MOST:
                        return most + 1
        except (FileNotFoundError, NotADirectoryError):
            continue  # changed by the worker meanwhile
        except OSError:
            return most + 1
    return total


def exceeded(folder: str, limits: Limits) -> str | None:
    """Return the code of a limit that the job exceeds now."""
    tasks = family().values()
    if sum(task.resident for task in tasks) > limits.memory_mib * MIB:
        return "limit-memory"
    if sum(task.threads for task in tasks) > limits.processes:
        return "limit-processes"
    for name, most in (("results", limits.results_mib * MIB), ("tmp", limits.scratch_mib * MIB)):
        if written(f"{folder}/{name}", most) > most:
            return "limit-results"
    return None


def ended(worker: int) -> str:
    """Reap the worker, which has exited, and say how."""
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    return f"exit {code}" if code >= 0 else f"signal {-code}"


def watch(worker: int, printed: Printed, err: int, folder: str, limits: Limits) -> str | None:
    """Wait for the end: the worker's own, a limit's, or None if the escrow closed its end."""
    exited = os.pidfd_open(worker)
    poll = select.poll()
    for fd in (ESCROW, exited, printed.out, err):
        poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + limits.seconds
    due = time.monotonic() + SAMPLE_SECONDS
    while True:
        pause = max(0.0, min(due, deadline) - time.monotonic())
        ready = {fd for fd, _ in poll.poll(1000 * pause + 1)}
        if ESCROW in ready:  # it never writes, so this is its end
            return None
        if exited in ready:
            return ended(worker)
        for fd in ready:
            if not printed.take(fd):
                poll.unregister(fd)
        now = time.monotonic()
        if now >= deadline:
            return "limit-time"
        if now >= due:
            if code := exceeded(folder, limits):
                return code
            done = time.monotonic()
            due = done + max(SAMPLE_SECONDS, 20 * (done - now))  # at most a twentieth of a core, on any machine


def end_all() -> None:
    """Kill every descendant and wait until none is left; orphans come to this process, so none is missed."""
    while True:
        for pid in family():
            try:
                os.kill(pid, KILL)
            except ProcessLookupError:
                continue
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def main(arguments: list[str]) -> None:
    """Run `FOLDER PLACE OUTCOME LIMIT… COMMAND…` to its end: a job's directory, where its command starts, and so on."""
    folder, place, outcome = arguments[:3]
    limits = Limits(arguments[3:10])
    os.umask(0o077)
    prctl(SET_CHILD_SUBREAPER, 1)
    worker, out, err = launch(arguments[10:], place, limits)
    printed = Printed(out)
    how = watch(worker, printed, err, folder, limits)
    end_all()
    for fd in (out, err):
        while printed.take(fd):
            pass
    if how is not None:
        with open(f"{outcome}.new", "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib is slow to import
            file.write(how)
        os.rename(f"{outcome}.new", outcome)  # noqa: PTH104 - pathlib is slow to import


if __name__ == "__main__":
    main(sys.argv[1:])
