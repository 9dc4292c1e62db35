"""Attempts to change anything but one's own results and temporary files."""

# Plain system calls, on the worker's own places.
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH118, PTH211, S103, S108, S606

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kit import ABSENT, NULL, Aim, attempt, call, each, in_child

MS_REMOUNT, MS_BIND, MS_SHARED, CLONE_NEWNS = 32, 4096, 1 << 20, 0x20000
OPEN_TREE_CLONE = 1
INPUT = "/data/rows.csv"
OWN = ("/tmp", "/results", "/dev/shm", "/dev/mqueue")
"""Places that are the worker's own, gone when it is; the last two hold messages between its processes."""


def openable(path: str) -> str:
    """Open for writing and write nothing: so an attempt that succeeds somewhere does no harm there."""
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    return "open for writing"


def creatable(folder: str) -> str:
    path = f"{folder}/escaped"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    os.unlink(path)
    return "a file was made"


@attempt("write-root")
def write_root(aim: Aim) -> str | None:
    folders = ["/", "/usr", "/usr/bin", "/etc", "/var", "/var/tmp", "/opt", "/root", "/home", "/lib", "/run", "/dev"]
    return each(folders, creatable, *ABSENT)


@attempt("write-system-files")
def write_system_files(aim: Aim) -> str | None:
    return each(["/etc/passwd", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/.dockerenv"], openable, *ABSENT)


@attempt("write-anywhere")
def write_anywhere(aim: Aim) -> str | None:
    """Everything that the kernel calls writable, except one's own places and what has no content."""
    found = []
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in (*OWN, "/proc", "/sys")]
        if os.access(folder, os.W_OK):
            found.append(folder)
        paths = [os.path.join(folder, name) for name in names]
        found += [path for path in paths if kept(path) and os.access(path, os.W_OK)]
    return "; ".join(found) or None


def kept(path: str) -> bool:
    """Whether what is written there stays: not a link, nor a device like /dev/null."""
    return stat.S_ISREG(os.lstat(path).st_mode)


@attempt("change-inputs", errno.ENOTSUP)
def change_inputs(aim: Aim) -> str | None:
    """Content, length, mode, owner, times, name and attributes of an input, and files beside it."""
    acts: dict[str, Callable[[], object]] = {
        "open": lambda: openable(INPUT),
        "truncate": lambda: os.truncate(INPUT, Path(INPUT).stat().st_size),
        "chmod": lambda: os.chmod(INPUT, 0o666),
        "chown": lambda: os.chown(INPUT, os.getuid(), os.getgid()),
        "utime": lambda: os.utime(INPUT, (1, 1)),
        "rename": lambda: (os.rename(INPUT, f"{INPUT}.old"), os.rename(f"{INPUT}.old", INPUT)),
        "attribute": lambda: os.setxattr(INPUT, "user.mark", b"1"),
        "beside": lambda: creatable("/data"),
        "link": lambda: os.symlink("/etc/passwd", "/data/link"),
        "beside the program": lambda: creatable("/code"),
        "the program": lambda: openable("/code/run"),
        "unlink": lambda: os.unlink(INPUT),
    }

    def done(name: str) -> str:
        acts[name]()
        return "done"

    return each(acts, done, errno.ENOTSUP, errno.ETXTBSY)


@attempt("link-inputs", errno.EXDEV)
def link_inputs(aim: Aim) -> str | None:
    """Give an input another name where it can be written."""

    def linked(folder: str) -> str:
        os.link("/data/aim.json", f"{folder}/linked")
        os.unlink(f"{folder}/linked")
        return "linked"

    return each(["/data", "/tmp", "/results"], linked, errno.EXDEV)


@attempt("own-image", errno.ETXTBSY)
def own_image(aim: Aim) -> str | None:
    """The interpreter, its library, and this very program by way of its process."""
    paths = [os.path.realpath("/usr/bin/python3"), os.__file__, "/proc/self/exe", os.path.realpath("/lib64")]
    return each(paths[:3], openable, errno.ETXTBSY) or each(paths[3:], creatable)


@attempt("engines-programs", errno.ETXTBSY, *ABSENT)
def engines_programs(aim: Aim) -> str | None:
    """The init that the engine lends to a container is a file of the machine."""
    return each(["/sbin/docker-init", "/dev/init", "/proc/1/exe"], openable, errno.ETXTBSY, *ABSENT)


@attempt("kernel-settings")
def kernel_settings(aim: Aim) -> str | None:
    """Settings by which a kernel would start a program of ours, or that weaken it."""
    names = ["kernel/core_pattern", "kernel/modprobe", "kernel/hotplug", "kernel/sysrq", "vm/overcommit_memory"]
    names += ["kernel/randomize_va_space", "net/ipv4/ip_forward", "fs/binfmt_misc/register"]
    paths = [f"/proc/sys/{name}" for name in names]
    paths += ["/proc/sysrq-trigger", "/proc/irq/default_smp_affinity"]
    return each(paths, openable, *ABSENT, errno.EINVAL)


@attempt("control-groups")
def control_groups(aim: Aim) -> str | None:
    """The files in which one's own limits stand, and the program that a kernel starts when a group is empty."""
    top = Path("/sys/fs/cgroup")
    folders = [top, *(path for path in top.glob("*") if path.is_dir())]
    files = ["release_agent", "notify_on_release", "cgroup.procs", "memory.limit_in_bytes", "memory.max", "pids.max"]
    files += ["cpu.max", "cpu.cfs_quota_us", "cgroup.subtree_control", "devices.allow"]
    found = each([f"{folder}/{name}" for folder in folders for name in files], openable, *ABSENT)
    return found or each([str(folder) for folder in folders], directory, *ABSENT)


def directory(parent: str) -> str:
    os.mkdir(f"{parent}/escaped")
    os.rmdir(f"{parent}/escaped")
    return "a directory was made"


@attempt("system-devices")
def system_devices(aim: Aim) -> str | None:
    """Files of /sys and devices that give power over the machine."""
    paths = ["/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/mm/ksm/run", "/sys/module", "/dev/kvm"]
    paths += ["/dev/loop-control", "/dev/mem", "/dev/port", "/dev/vhost-net", "/dev/vsock", "/dev/autofs", "/dev/sda"]
    return each(paths, openable, *ABSENT, errno.EISDIR)


@attempt("mounts")
def mounts(aim: Aim) -> str | None:
    """Mount, remount, bind, unmount, and the newer calls for the same."""
    tmpfs, nowhere = b"tmpfs", b"/data"

    def mounted(kind: str) -> str | None:
        calls = {
            "tmpfs": ("mount", tmpfs, b"/tmp", tmpfs, 0, NULL),
            "proc": ("mount", b"proc", b"/tmp", b"proc", 0, NULL),
            "cgroup": ("mount", b"cgroup", b"/tmp", b"cgroup", 0, b"memory"),
            "overlay": ("mount", b"overlay", b"/tmp", b"overlay", 0, b"lowerdir=/data:/code"),
            "bind": ("mount", b"/tmp", nowhere, NULL, MS_BIND, NULL),
            "writable": ("mount", NULL, nowhere, NULL, MS_REMOUNT | MS_BIND, NULL),
            "writable root": ("mount", NULL, b"/", NULL, MS_REMOUNT | MS_BIND, NULL),
            "shared": ("mount", NULL, b"/", NULL, MS_SHARED, NULL),
            "uncovered": ("umount2", nowhere, 2),
            "new calls": ("fsopen", b"tmpfs", 0),
            "clone": ("open_tree", -100, b"/data", OPEN_TREE_CLONE),
            "attributes": ("mount_setattr", -100, nowhere, 0, (ctypes.c_uint64 * 4)(0, 1, 0, 0), 32),
        }
        return in_child(lambda: apart(calls[kind]))

    kinds = ["tmpfs", "proc", "cgroup", "overlay", "bind", "writable", "writable root", "shared", "new calls", "clone"]
    return each([*kinds, "attributes", "uncovered"], mounted, errno.ENODEV, errno.EINVAL, errno.EBUSY)


def apart(arguments: tuple[Any, ...]) -> str | None:
    """Make a call where its effect is seen by nobody else, if one may go there."""
    with suppress(OSError):
        call("unshare", CLONE_NEWNS)
    return call(*arguments)


@attempt("change-root")
def change_root(aim: Aim) -> str | None:
    def changed(name: str) -> str | None:
        arguments = (b"/nowhere", b"/nowhere") if name == "pivot_root" else (b"/tmp",)
        return in_child(lambda: call(name, *arguments, past=ABSENT if name == "pivot_root" else ()))

    return each(["chroot", "pivot_root"], changed)


@attempt("device-nodes")
def device_nodes(aim: Aim) -> str | None:
    """Devices of one's own, made and opened: memory, kernel messages, disk, virtual machines."""

    def made(what: tuple[int, int, int]) -> str:
        kind, major, minor = what
        path = f"/tmp/device-{major}-{minor}"
        os.mknod(path, kind | 0o600, os.makedev(major, minor))
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        finally:
            os.unlink(path)
        return "opened"

    kinds = [(stat.S_IFCHR, 1, 1), (stat.S_IFCHR, 1, 11), (stat.S_IFBLK, 8, 0), (stat.S_IFCHR, 10, 232)]
    return each(kinds, made, *ABSENT)


@attempt("run-from-scratch", errno.ENOEXEC)
def run_from_scratch(aim: Aim) -> str | None:
    """Run a file that was written into a place of one's own, set-uid at that."""

    def ran(folder: str) -> str | None:
        path = f"{folder}/program"
        Path(path).write_bytes(Path("/bin/true").read_bytes())
        os.chmod(path, 0o4755)
        try:
            return in_child(lambda: os.execv(path, [path]))
        finally:
            os.unlink(path)

    return each(["/tmp", "/results", "/dev/shm"], ran, errno.ENOSPC, *ABSENT)
