"""A worker that wants to be found by another: it listens in every way there is until its line ends.

`friend.py JOBDIR RESULTS` is the escrow's worker with a door, and `friend.py - FOLDER` a plain process that listens
for the same and whose line is its standard input.
"""

# Plain system calls, on the worker's own places.
# ruff: noqa: S108

import errno
import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kit import LIBC, Aim, attempt, call, each, perform

IPC_CREAT, IPC_RMID = 0o1000, 0
DOOR = "/job/door/socket"


def serve(line: socket.socket, heard: list[str]) -> None:
    """Answer whoever comes, and remember it."""
    while True:
        if line.type == socket.SOCK_DGRAM:
            _, sender = line.recvfrom(64)
            line.sendto(b"friend", sender)
        else:
            other, _ = line.accept()
            other.close()
        heard.append(f"{line.family.name} {line.getsockname()}")


def listen(meet: dict[str, Any], folders: list[str], heard: list[str]) -> None:
    """Listen on the loopback interface, under an abstract name and in the folders; leave messages in memory."""
    name, port = meet["name"], meet["port"]
    places: list[tuple[int, int, Any]] = [
        (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", port)),
        (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", port)),
        (socket.AF_UNIX, socket.SOCK_STREAM, f"\0{name}"),
        *((socket.AF_UNIX, socket.SOCK_STREAM, f"{folder}/{name}") for folder in folders),
    ]
    for family, kind, address in places:
        line = socket.socket(family, kind)
        line.bind(address)
        if kind == socket.SOCK_STREAM:
            line.listen()
        threading.Thread(target=serve, args=(line, heard), daemon=True).start()
    for folder in folders:
        Path(folder, f"{name}.txt").write_text("message", encoding="ascii")


def share(meet: dict[str, Any]) -> int | None:
    """System V memory under a key, if one may have any: its number."""
    try:
        call("shmget", meet["key"], 4096, IPC_CREAT | 0o666)
    except PermissionError:
        return None
    return LIBC.shmget(meet["key"], 0, 0)


@attempt("door-again", errno.ENOENT, errno.ECONNREFUSED)
def door_again(aim: Aim) -> str:
    """Dial a second time."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(DOOR)
        return "connected"


@attempt("door-taken")
def door_taken(aim: Aim) -> str | None:
    """Take the door's place, or put another beside it."""

    def bound(name: str) -> str:
        with socket.socket(socket.AF_UNIX) as line:
            line.bind(f"/job/door/{name}")
            return "bound"

    def removed(_: str) -> str:
        Path(DOOR).unlink()
        return "removed"

    return each(["socket", "another"], bound) or each([DOOR], removed, errno.ENOENT)


def sealed(job: Path, results: Path) -> None:
    aim = json.loads((job / "job.json").read_bytes())
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(str(job / "door/socket"))
        listen(aim["meet"], ["/tmp", "/dev/shm", str(results)], heard)
        share(aim["meet"])
        (results / "secret.txt").write_bytes((job / "inputs/secret.txt").read_bytes())
        door.recv(1)  # the escrow has come in
        told: dict[str, object] = dict(perform(["door-again", "door-taken"], aim))
        door.sendall(b"!")
        door.recv(1)  # the other has done its worst
    (results / "found.json").write_text(json.dumps({**told, "heard": heard}), encoding="ascii")


def plain(folder: str) -> None:
    aim = json.loads(sys.stdin.readline())
    heard: list[str] = []
    listen(aim["meet"], [folder], heard)
    shared = share(aim["meet"])
    print("listening", flush=True)
    sys.stdin.read()
    LIBC.shmctl(shared, IPC_RMID, None)  # the kernel would keep it


if __name__ == "__main__":
    if sys.argv[1] == "-":
        plain(sys.argv[2])
    else:
        sealed(Path(sys.argv[1]), Path(sys.argv[2]))
