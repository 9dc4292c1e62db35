"""Programs that leave something else than files where outputs are expected, or say more than outputs may say."""

# Plain system calls, on the worker's own places.
# ruff: noqa: PTH101, PTH102, PTH109, PTH211, S103, S108

import ctypes
import io
import os
import signal
import socket
import stat
import sys
import tarfile
import time
from contextlib import suppress
from pathlib import Path

RESULTS = Path("/results")
MIB = 1 << 20


def odd() -> None:
    """One odd thing for each declared output."""
    os.chdir(RESULTS)
    os.symlink("/data/rows.csv", "absolute-link")
    os.symlink("../data/rows.csv", "relative-link")
    os.symlink("nowhere", "dangling-link")
    os.symlink("/proc/self/environ", "process-link")
    os.symlink("/proc/1/root/etc/shadow", "climbing-link")
    Path("real").mkdir()
    Path("real/file").write_bytes(b"x")
    os.symlink("real", "linked-folder")
    os.symlink("/data", "linked-inputs")
    Path("first-name").write_bytes(b"x")
    os.link("first-name", "second-name")
    with suppress(OSError):  # another file system
        os.link("/data/rows.csv", "linked-input")
    os.mkfifo("pipe")
    socket.socket(socket.AF_UNIX).bind("socket")
    Path("folder").mkdir()
    Path("inside").mkdir()
    Path("inside/folder").symlink_to("../real")
    for name, kind, number in (("device", stat.S_IFCHR, (1, 5)), ("whiteout", stat.S_IFCHR, (0, 0))):
        try:
            os.mknod(name, kind | 0o666, os.makedev(*number))
        except OSError:
            os.symlink("/dev/zero", name)  # the next best thing


def untidy() -> None:
    """Good outputs amid everything that could disturb whoever reads them."""
    os.chdir(RESULTS)
    with tarfile.open("archive.bin", "w") as archive:
        for name in ("../../../../tmp/escaped", "/tmp/escaped", "results/undeclared", "results/good.bin"):
            evil = tarfile.TarInfo(name)
            evil.size = 4
            archive.addfile(evil, io.BytesIO(b"evil"))
    Path("good.bin").write_bytes(b"good")
    Path("locked.bin").write_bytes(b"locked")
    Path("sub").mkdir()
    Path("sub/good.bin").write_bytes(b"below")
    for odd_name in (
        b"new\nline",
        b"..\\..\\up",
        b"\x1b[2J",
        b"\xff\xfe",
        b"good.bin ",
        b"GOOD.BIN",
        b"n" * 255,
        b"-rf",
        b"*",
    ):
        Path(os.fsdecode(odd_name)).write_bytes(b"secret")
        Path("sub", os.fsdecode(odd_name)).write_bytes(b"secret")
    Path(os.fsdecode(b"good.bin\xe2\x80\xae")).write_bytes(b"secret")
    os.symlink("/", "root")
    os.symlink(".", "circle")
    os.chmod("good.bin", 0o6755)
    with suppress(OSError):
        os.setxattr("good.bin", "user.secret", b"secret")
    os.utime("good.bin", ns=(0, 2**33 * 10**9 + 123_456_789))
    os.utime("archive.bin", (1, 1))
    Path("closed").mkdir()
    Path("closed/file").write_bytes(b"secret")
    os.chmod("closed", 0)
    os.chmod("locked.bin", 0)
    at = os.getcwd()
    for _ in range(1500):
        os.mkdir("deep")
        os.chdir("deep")
    Path("file").write_bytes(b"secret")
    os.chdir(at)
    os.chmod("sub", 0o555)


def sparse() -> None:
    """As many files as there may be, each as large as one may be, and hardly any of it on any disk."""
    for number in range(3000):
        fd = os.open(f"/results/{number}", os.O_WRONLY | os.O_CREAT)
        os.truncate(fd, 4 * MIB)
        os.close(fd)


def in_order() -> None:
    """Write outputs in another order than they are declared, at telling times."""
    for second, name in enumerate(("c.bin", "a.bin", "b.bin")):
        path = RESULTS / name
        path.write_bytes(name.encode())
        os.utime(path, (1_000_000 + second, 4929_0000 + second))
    print("row 17 has label 1", file=sys.stderr)
    print('{"progress": "row 17", "label": 1}')


def in_order_later() -> None:
    time.sleep(0.1)
    for name in ("b.bin", "c.bin", "a.bin"):
        (RESULTS / name).write_bytes(name.encode())


def exit_with_row() -> None:
    sys.exit(17)


def exit_with_label() -> None:
    sys.exit(1)


def die_of_signal() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def crash() -> None:
    ctypes.string_at(0)


def explain_at_length() -> None:
    (RESULTS / "failure.json").write_text('{"code": "row-17-has-label-1"}', encoding="ascii")
    raise ValueError("card 4929 is a fraud")


def explain_by_link() -> None:
    os.symlink("/data/rows.csv", RESULTS / "failure.json")
    sys.exit(1)
