"""What the hostile programs share: attempts by name, and how each is told apart from one that is only broken.

An attempt gets an `Aim` and returns words on what it got hold of, or nothing. An `OSError` whose number is among those
that the attempt expects is a refusal; any other exception means that the attempt itself is wrong, and no proof of
anything. The standard library only: this runs in a bare image.
"""

import ctypes
import errno
import os
import platform
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

Aim = dict[str, Any]
Attempt = Callable[[Aim], "str | None"]
Item = TypeVar("Item")

DENIED = (errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSYS)
"""What a kernel says that refuses, or that has no such call."""
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV)
"""What it says of a thing that is not there."""
UNREACHABLE = (
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ECONNREFUSED,
    errno.EADDRNOTAVAIL,
    errno.ENETDOWN,
    errno.EAFNOSUPPORT,
)
"""What it says of an address to which no way leads."""

ATTEMPTS: dict[str, tuple[Attempt, tuple[int, ...]]] = {}


def attempt(name: str, *refusals: int) -> Callable[[Attempt], Attempt]:
    """Register an attempt and the error numbers, besides `DENIED`, by which it is refused."""

    def registered(act: Attempt) -> Attempt:
        ATTEMPTS[name] = (act, (*DENIED, *refusals))
        return act

    return registered


def each(items: Iterable[Item], act: Callable[[Item], object], *refusals: int) -> str | None:
    """Try `act` on every item; name those with which it got anywhere, which is any result but None."""
    got = []
    for item in items:
        try:
            found = act(item)
        except OSError as error:
            if error.errno not in (*DENIED, *refusals):
                raise
        else:
            if found is not None:
                got.append(f"{item}: {found}")
    return "; ".join(got) or None


LIBC = ctypes.CDLL(None, use_errno=True)
NULL = ctypes.c_void_p(0)

_X86 = {
    "acct": 163, "add_key": 248, "adjtimex": 159, "bpf": 321, "capset": 126, "chroot": 161, "clock_settime": 227,
    "clone": 56, "delete_module": 176, "finit_module": 313, "fsopen": 430, "init_module": 175, "io_uring_setup": 425,
    "ioperm": 173, "iopl": 172, "ioprio_set": 251, "kexec_file_load": 320, "keyctl": 250, "mount": 165,
    "mount_setattr": 442, "mq_open": 240, "open_by_handle_at": 304, "open_tree": 428, "perf_event_open": 298,
    "pidfd_getfd": 438, "pivot_root": 155, "process_vm_readv": 310, "ptrace": 101, "reboot": 169, "request_key": 249,
    "sched_setattr": 314, "sched_setscheduler": 144, "setdomainname": 171, "sethostname": 170, "setns": 308,
    "settimeofday": 164, "shmget": 29, "swapon": 167, "syslog": 103, "umount2": 166, "unshare": 272,
    "userfaultfd": 323, "vhangup": 153,
}  # fmt: skip
_ARM = {
    "acct": 89, "add_key": 217, "adjtimex": 171, "bpf": 280, "capset": 91, "chroot": 51, "clock_settime": 112,
    "clone": 220, "delete_module": 106, "finit_module": 273, "fsopen": 430, "init_module": 105, "io_uring_setup": 425,
    "ioprio_set": 30, "kexec_file_load": 294, "keyctl": 219, "mount": 40, "mount_setattr": 442, "mq_open": 180,
    "open_by_handle_at": 265, "open_tree": 428, "perf_event_open": 241, "pidfd_getfd": 438, "pivot_root": 41,
    "process_vm_readv": 270, "ptrace": 117, "reboot": 142, "request_key": 218, "sched_setattr": 274,
    "sched_setscheduler": 119, "setdomainname": 162, "sethostname": 161, "setns": 268, "settimeofday": 170,
    "shmget": 194, "swapon": 224, "syslog": 116, "umount2": 39, "unshare": 97, "userfaultfd": 282, "vhangup": 58,
}  # fmt: skip
INTEL = platform.machine() == "x86_64"
NUMBERS = _X86 if INTEL else _ARM


def call(name: str, *arguments: object, past: Iterable[int] = ()) -> str | None:
    """Make a system call; OSError if it fails, unless with a number that only comes once permission was granted."""
    if name not in NUMBERS:
        raise OSError(errno.ENOSYS, name)
    ctypes.set_errno(0)
    result = LIBC.syscall(ctypes.c_long(NUMBERS[name]), *(_word(each) for each in arguments))
    number = ctypes.get_errno()
    if result != -1:
        return f"{name} gave {result}"
    if number in past:
        return f"{name} was let through"
    raise OSError(number, name)


def _word(value: object) -> object:
    return ctypes.c_long(value) if isinstance(value, int) else value


def in_child(act: Callable[[], object]) -> str | None:
    """Do it in a child; the words, or OSError, which is EPERM for a child that was killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, f"got {act()}".encode())
        except OSError as error:
            os.write(writer, f"no {error.errno}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as words:
        told = words.read().decode()
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        raise OSError(errno.EPERM, f"killed by signal {os.WTERMSIG(status)}")
    if not told:
        return "it became another program"
    outcome, _, rest = told.partition(" ")
    if outcome != "got":
        raise OSError(int(rest), "in a child")
    return None if rest == "None" else rest


def canary(aim: Aim) -> str:
    """The secret that stands in the escrow's places. The program is given it backwards, so as not to find its own."""
    return str(aim["canary"])[::-1]


def perform(names: Iterable[str], aim: Aim) -> dict[str, list[str]]:
    """Make the attempts: name → outcome (`got`, `nothing`, `refused` or `broken`) and words."""
    told = {}
    for name in names:
        act, refusals = ATTEMPTS[name]
        try:
            words = act(aim)
            told[name] = ["nothing", ""] if words is None else ["got", words[:2000]]
        except OSError as error:
            known = error.errno in refusals
            number = errno.errorcode.get(error.errno or 0, str(error.errno))
            told[name] = ["refused" if known else "broken", f"{number} {error}"[:2000]]
        except Exception as error:  # noqa: BLE001 - whatever it is, the attempt is wrong, and the test says so
            told[name] = ["broken", f"{type(error).__name__} {error}"[:2000]]
    return told
