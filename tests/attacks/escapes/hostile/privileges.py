"""Attempts to become more than the program is: another user, a tracer, a part of the kernel."""

# Plain system calls, on the worker's own places.
# ruff: noqa: PTH208, S108

import ctypes
import errno
import mmap
import os
import re
import resource
import stat
import time
from contextlib import suppress
from pathlib import Path

from kit import ABSENT, INTEL, LIBC, NULL, NUMBERS, Aim, attempt, call, each, in_child, perform

CLONE = {"mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000}
CLONE |= {"pid": 0x20000000, "net": 0x40000000}
PTRACE_SEIZE = 0x4206
CHILD_ENDED = 17
MS_REMOUNT, MS_BIND = 32, 4096


def about_self() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@attempt("capabilities")
def capabilities(aim: Aim) -> str | None:
    """Whether there are any, in any of the sets."""
    held = {key: value for key, value in about_self().items() if key.startswith("Cap") and int(value, 16)}
    return str(held) if held else None


@attempt("grow-capabilities")
def grow_capabilities(aim: Aim) -> str | None:
    """Ask for every capability, and to keep them from the next user."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
    return call("capset", header, sets)


@attempt("become-root")
def become_root(aim: Aim) -> str | None:
    """Become another user or group, in a child."""

    def became(name: str) -> str:
        acts = {
            "root": lambda: os.setuid(0),
            "real root": lambda: os.setresuid(0, 0, 0),
            "group": lambda: os.setgid(0),
            "groups": lambda: os.setgroups([0]),
            "another party": lambda: os.setuid(os.getuid() + 1),
        }
        in_child(acts[name])
        return "became"

    return each(["root", "real root", "group", "groups", "another party"], became)


@attempt("new-privileges")
def new_privileges(aim: Aim) -> str | None:
    """Whether a set-uid program could give any: the kernel's flag against it, and the programs that there are."""
    flag = LIBC.prctl(39, 0, 0, 0, 0)
    marked = []
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if folder != "/" or name not in {"proc", "sys"}]
        modes = ((f"{folder}/{name}", os.lstat(f"{folder}/{name}").st_mode) for name in names)
        marked += [path for path, mode in modes if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID)]
    return None if flag == 1 and not marked else f"no_new_privs is {flag}, set-uid are {marked}"


@attempt("trace", errno.ESRCH)
def trace(aim: Aim) -> str | None:
    """Trace a parent, the container's init, and processes of the machine."""

    def traced(pid: int) -> str | None:
        return in_child(lambda: call("ptrace", PTRACE_SEIZE, pid, 0, 0))

    return each([os.getpid(), *aim["inits"], *aim["pids"]], traced, errno.ESRCH)


@attempt("namespaces")
def namespaces(aim: Aim) -> str | None:
    """New namespaces, by unshare and by clone: in a user namespace of one's own one would be root."""

    def unshared(kind: str) -> str | None:
        return in_child(lambda: call("unshare", CLONE[kind]))

    def cloned(kind: str) -> str | None:
        result = LIBC.syscall(ctypes.c_long(NUMBERS["clone"]), ctypes.c_ulong(CLONE[kind] | CHILD_ENDED), *[NULL] * 4)
        if result == 0:
            os._exit(0)
        if result < 0:
            raise OSError(ctypes.get_errno(), "clone")
        os.waitpid(result, 0)
        return "cloned"

    return each(CLONE, unshared, errno.EINVAL) or each(CLONE, cloned, errno.EINVAL)


@attempt("enter-namespaces")
def enter_namespaces(aim: Aim) -> str | None:
    """Enter namespaces of the machine's processes, and of one's own init."""

    def entered(path: str) -> str | None:
        fd = os.open(path, os.O_RDONLY)
        try:
            return in_child(lambda: call("setns", fd, 0))
        finally:
            os.close(fd)

    kinds = ("mnt", "net", "pid", "user", "uts", "ipc", "cgroup")
    paths = [f"/proc/{pid}/ns/{kind}" for pid in (*aim["inits"], *aim["pids"]) for kind in kinds]
    return each(paths, entered, *ABSENT, errno.ESRCH, errno.EINVAL, errno.ENOTSUP)


@attempt("kernel-modules")
def kernel_modules(aim: Aim) -> str | None:
    """Load or unload code of the kernel; none is named that exists, so nothing happens where it is let through."""
    past = (errno.ENOEXEC, errno.EFAULT, errno.ENOENT, errno.EBADF)
    kinds = {
        "init_module": (NULL, 0, b""),
        "finit_module": (-1, b"", 0),
        "delete_module": (b"no_such_module", 0),
        "kexec_file_load": (-1, -1, 0, NULL, 0),
    }
    return each(kinds, lambda name: call(name, *kinds[name], past=past))


@attempt("bpf")
def bpf(aim: Aim) -> str | None:
    """A map of BPF, which is what its programs begin with."""
    attributes = (ctypes.c_uint32 * 32)(1, 4, 8, 1)
    return call("bpf", 0, attributes, 128)


@attempt("performance-counters")
def performance_counters(aim: Aim) -> str | None:
    """Counters by which one process learns what others compute."""
    attributes = (ctypes.c_uint32 * 32)(1, 128)
    return each([0, -1], lambda who: call("perf_event_open", attributes, who, -1 if who == 0 else 0, -1, 0), *ABSENT)


@attempt("key-rings", errno.ENOKEY)
def key_rings(aim: Aim) -> str | None:
    """Rings of keys, which the kernel keeps for a user across containers."""
    user_ring = ctypes.c_long(-4)
    kinds = {
        "keyctl": (0, user_ring, 1),
        "add_key": (b"user", b"escape", b"x", 1, user_ring),
        "request_key": (b"user", b"escape", NULL, 0),
    }
    return each(kinds, lambda name: call(name, *kinds[name]), errno.ENOKEY)


@attempt("page-faults")
def page_faults(aim: Aim) -> str | None:
    """Handling the kernel's page faults, which exploits use to win races."""
    return call("userfaultfd", 0)


@attempt("io-uring", errno.EFAULT)
def io_uring(aim: Aim) -> str | None:
    """A ring through which operations pass that no filter sees."""
    return call("io_uring_setup", 4, (ctypes.c_uint32 * 30)())


@attempt("priority")
def priority(aim: Aim) -> str | None:
    """Run before all others: niceness, real time, deadline, disk priority."""
    deadline = (ctypes.c_uint64 * 7)(56 | 6 << 32, 0, 0, 5_000_000, 10_000_000, 10_000_000, 0)

    def raised(kind: str) -> str | None:
        acts = {
            "nice": lambda: f"{os.setpriority(os.PRIO_PROCESS, 0, -10)}",
            "real time": lambda: call("sched_setscheduler", 0, 1, (ctypes.c_int * 1)(1)),
            "deadline": lambda: call("sched_setattr", 0, deadline, 0),
            "disk": lambda: call("ioprio_set", 1, 0, 1 << 13),
        }
        return in_child(acts[kind])

    return each(["nice", "real time", "deadline", "disk"], raised, errno.EINVAL, errno.EBUSY)


@attempt("survive-others")
def survive_others(aim: Aim) -> str:
    """Be spared when the machine runs out of memory and the kernel ends processes."""
    path = Path("/proc/self/oom_score_adj")
    before = int(path.read_text(encoding="ascii"))
    path.write_text("-1", encoding="ascii")
    if int(path.read_text(encoding="ascii")) >= min(0, before):
        raise OSError(errno.EPERM, "it was ignored")
    return "the kernel spares it now"


@attempt("set-clock")
def set_clock(aim: Aim) -> str | None:
    """Set the machine's clock to what it says already."""
    now = (ctypes.c_long * 2)(*divmod(time.time_ns(), 10**9))
    mode = (ctypes.c_uint32 * 64)(1)  # ADJ_OFFSET of 0
    kinds: dict[str, tuple[object, ...]] = {"clock_settime": (0, now), "settimeofday": (now, NULL), "adjtimex": (mode,)}
    return each(kinds, lambda name: call(name, *kinds[name]), errno.EINVAL)


@attempt("rename-machine")
def rename_machine(aim: Aim) -> str | None:
    name = os.uname().nodename.encode()
    return each(["sethostname", "setdomainname"], lambda kind: call(kind, name, len(name)))


@attempt("stop-machine")
def stop_machine(aim: Aim) -> str | None:
    """Calls that stop a machine, swap, or change its accounting, with arguments for which they do nothing."""
    past = (errno.EINVAL, errno.ENOENT, errno.EFAULT)
    magic = (0xFEE1DEAD - (1 << 32), 672274793)
    kinds: dict[str, tuple[object, ...]] = {
        "reboot": (*magic, 7, NULL),
        "swapon": (b"/nowhere", 0),
        "acct": (b"/nowhere",),
        "vhangup": (),
    }
    return each(kinds, lambda name: in_child(lambda: call(name, *kinds[name], past=past)), errno.ENOTTY)


@attempt("raise-limits")
def raise_limits(aim: Aim) -> str | None:
    """One's own limits on open files, file size and core dumps."""

    def raised(name: str) -> str | None:
        what = getattr(resource, name)
        most = resource.getrlimit(what)[1]
        if most == resource.RLIM_INFINITY:
            return "there was none"
        try:
            resource.setrlimit(what, (most + 1, most + 1))
        except ValueError:  # how Python says EPERM
            return None
        return "raised"

    return each(["RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CORE"], raised)


@attempt("other-system-calls")
def other_system_calls(aim: Aim) -> str | None:
    """Calls of the 32-bit table, by the old gate and by number: a filter that forgets them is passed by."""
    if not INTEL:
        return None

    def old_gate() -> str:
        code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3")  # push rbx; eax = getpid; int 0x80; pop rbx; ret
        place = ctypes.addressof(ctypes.c_char.from_buffer(code))
        result = ctypes.CFUNCTYPE(ctypes.c_int)(place)()
        if result != os.getpid():
            raise OSError(errno.EPERM if result < 0 else errno.ENOSYS, "int 0x80")
        return "int 0x80 was served"

    def by_number() -> str:
        result = LIBC.syscall(ctypes.c_long(0x40000000 + 39))
        if result != os.getpid():
            raise OSError(ctypes.get_errno() or errno.ENOSYS, "x32")
        return "x32 was served"

    acts = {"int 0x80": old_gate, "x32": by_number}
    return each(acts, lambda name: in_child(acts[name]))


@attempt("hardware")
def hardware(aim: Aim) -> str | None:
    """Ports of the machine's devices."""
    kinds = {"iopl": (3,), "ioperm": (0x80, 1, 1)} if INTEL else {}
    return each(kinds, lambda name: in_child(lambda: call(name, *kinds[name])))


@attempt("terminal", *ABSENT)
def terminal(aim: Aim) -> str | None:
    """Type into the terminal of whoever started this."""
    found = [number for number in (0, 1, 2) if os.isatty(number)]
    if found:
        return f"terminals {found}"
    return each(
        ["/dev/tty", "/dev/console", "/dev/tty0"],
        lambda path: os.close(os.open(path, os.O_RDWR)) or "opened",
        errno.EIO,
        *ABSENT,
    )


@attempt("other-processes")
def other_processes(aim: Aim) -> str | None:
    """Processes in sight that are neither one's own nor the container's init."""
    mine = family()
    names = {pid: re.sub(r"\s+", " ", line(pid)) for pid in map(int, filter(str.isdigit, os.listdir("/proc")))}
    others = {pid: name for pid, name in names.items() if pid not in mine and pid != 1}
    return str(others)[:300] if others else None


def family() -> set[int]:
    return {os.getpid(), os.getppid()}


def line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@attempt("shared-memory", errno.ENOENT)
def shared_memory(aim: Aim) -> str | None:
    """Memory and message queues that another worker has made known under a name."""
    calls = {
        "System V": lambda: call("shmget", aim["meet"]["key"], 0, 0o600),
        "queue": lambda: call("mq_open", aim["meet"]["name"].encode(), os.O_RDONLY, 0, NULL),
        "file": lambda: Path(f"/dev/shm/{aim['meet']['name']}").read_text(encoding="ascii"),
        "temporary": lambda: Path(f"/tmp/{aim['meet']['name']}.txt").read_text(encoding="ascii"),
    }
    return each(calls, lambda name: calls[name](), errno.ENOENT)


@attempt("root-of-own-namespace", errno.EINVAL)
def root_of_own_namespace(aim: Aim) -> str | None:
    """Become root in a user namespace of one's own, where the kernel lets one, and make the other attempts as that."""
    again = [
        "vault",
        "other-inputs",
        "public-addresses",
        "host-loopback-tcp",
        "disks",
        "device-nodes",
        "kernel-log",
        "machine-files",
    ]
    again += ["write-root", "write-system-files", "write-anywhere", "change-inputs", "own-image", "control-groups"]

    def act() -> str | None:
        user = os.getuid()
        call("unshare", CLONE["user"] | CLONE["mount"])
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
        for place in (b"/data", b"/code", b"/"):
            with suppress(OSError):
                call("mount", NULL, place, NULL, MS_REMOUNT | MS_BIND, NULL)
        told = perform(again, aim)
        return "; ".join(f"{name}: {words}" for name, (outcome, words) in told.items() if outcome == "got") or None

    return in_child(act)
