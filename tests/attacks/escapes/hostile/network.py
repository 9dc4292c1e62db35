"""Attempts to send anything anywhere, and to learn where the program runs."""

# Plain system calls, on the worker's own places.
# ruff: noqa: PTH123, S108

import array
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

from kit import ABSENT, UNREACHABLE, Aim, attempt, canary, each

SECONDS = 0.5
SIOCGIFCONF, SIOCSIFADDR, TUNSETIFF = 0x8912, 0x8916, 0x400454CA


def dial(address: tuple[str, int]) -> str:
    """A TCP connection; whoever does not answer in time was sent something all the same."""
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as line:
        line.settimeout(SECONDS)
        try:
            line.connect(address)
        except TimeoutError:
            return "something was sent"
    return "connected"


def routed(address: tuple[str, int]) -> str:
    """A way to the address; connecting a datagram socket sends nothing."""
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        line.connect(address)
        return "there is a way"


def reached(address: tuple[str, int]) -> str:
    try:
        return routed(address)
    except OSError:
        return dial(address)


def answered(address: tuple[str, int]) -> str | None:
    """An answer to a datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.settimeout(SECONDS)
        line.connect(address)
        line.send(b"ask")
        try:
            return f"answered {line.recv(64)!r}"
        except TimeoutError:
            return None


@attempt("host-loopback-tcp", *UNREACHABLE)
def host_loopback_tcp(aim: Aim) -> str | None:
    return dial(("127.0.0.1", aim["tcp"]))


@attempt("host-loopback-udp", *UNREACHABLE)
def host_loopback_udp(aim: Aim) -> str | None:
    return answered(("127.0.0.1", aim["udp"]))


@attempt("public-addresses")
def public_addresses(aim: Aim) -> str | None:
    public = [("192.0.2.1", 80), ("198.51.100.7", 443), ("8.8.8.8", 53), ("2001:db8::1", 443)]
    private = [("10.0.0.1", 22), ("172.17.0.1", 2375), ("192.168.0.1", 80)]
    return each([*public, *private], reached, *UNREACHABLE)


@attempt("metadata-address")
def metadata_address(aim: Aim) -> str | None:
    return each([("169.254.169.254", 80), ("169.254.170.2", 80), ("fd00:ec2::254", 80)], reached, *UNREACHABLE)


@attempt("broadcast")
def broadcast(aim: Aim) -> str | None:
    return each([("255.255.255.255", 9), ("224.0.0.251", 5353), ("ff02::1", 9)], reached, *UNREACHABLE, errno.EINVAL)


@attempt("raw-sockets")
def raw_sockets(aim: Aim) -> str | None:
    kinds = [(socket.AF_INET, socket.SOCK_RAW, 1), (socket.AF_INET, socket.SOCK_RAW, 255), (17, socket.SOCK_RAW, 768)]
    return each(kinds, opened, *UNREACHABLE, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)


@attempt("odd-families")
def odd_families(aim: Aim) -> str | None:
    """Families that no network namespace holds back, or that reach far into the kernel."""
    netlink, alg, vsock, xdp, can, tipc, rds, bluetooth, kcm, qrtr, smc = 16, 38, 40, 44, 29, 30, 21, 31, 41, 42, 43
    families = (netlink, alg, vsock, xdp, can, tipc, rds, bluetooth, kcm, qrtr, smc)
    kinds = [
        (family, kind, 0)
        for family in families
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET)
    ]
    return each(kinds, opened, *UNREACHABLE, *ABSENT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)


def opened(kind: tuple[int, int, int]) -> str:
    with socket.socket(*kind):
        return "a socket"


@attempt("resolve-names")
def resolve_names(aim: Aim) -> str | None:
    def resolved(name: str) -> str | None:
        try:
            found = socket.getaddrinfo(name, 443)
        except socket.gaierror:
            return None
        addresses = {entry[4][0] for entry in found} - {"127.0.0.1", "::1"}
        return str(sorted(map(str, addresses))) if addresses else None

    return each(["example.com", "metadata.google.internal", "host.docker.internal", aim["hostname"]], resolved)


@attempt("name-servers")
def name_servers(aim: Aim) -> str | None:
    """Whom the machine asks for names, and what it is called."""
    words = []
    lines = Path("/etc/resolv.conf").read_text(encoding="utf-8").splitlines()
    for line in lines:
        key, _, value = line.partition(" ")
        if key in {"nameserver", "search", "domain"} and value.strip() not in {"127.0.0.1", ""}:
            words.append(line)
    if aim["hostname"] in {os.uname().nodename, *Path("/etc/hosts").read_text(encoding="utf-8").split()}:
        words.append("the machine's name")
    return "; ".join(words) or None


@attempt("interfaces")
def interfaces(aim: Aim) -> str | None:
    """Network interfaces besides the loopback one."""
    room = array.array("B", bytes(40 * 64))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        question = struct.pack("iL", len(room), room.buffer_info()[0])
        size = struct.unpack("iL", fcntl.ioctl(line, SIOCGIFCONF, question))[0]
    names = {room.tobytes()[at : at + 16].partition(b"\0")[0].decode() for at in range(0, size, 40)} - {"lo"}
    return f"interfaces {sorted(names)}" if names else None


@attempt("change-network")
def change_network(aim: Aim) -> str | None:
    """Give the loopback interface another address, or make a tunnel."""

    def address(_: str) -> str:
        # 127.0.0.1, which it has already
        question = struct.pack("16sHH4s8x", b"lo", socket.AF_INET, 0, socket.inet_aton("127.0.0.1"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
            fcntl.ioctl(line, SIOCSIFADDR, question)
            return "changed"

    def tunnel(_: str) -> str:
        with open("/dev/net/tun", "r+b", buffering=0) as device:
            fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"", 1))
            return "made"

    return each(["lo"], address, errno.ENOTTY) or each(["tunnel"], tunnel, errno.EBADFD, *ABSENT)


@attempt("host-abstract-socket", *UNREACHABLE)
def host_abstract_socket(aim: Aim) -> str | None:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(f"\0{canary(aim)[:20]}")
        return "connected"


@attempt("engine-socket")
def engine_socket(aim: Aim) -> str | None:
    """The sockets by which the engine takes orders."""

    def connected(path: str) -> str:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(path)
            return "connected"

    climbs = [f"{start}{path}" for path in aim["engine"] for start in ("", "/proc/1/root", "/data/../..")]
    return each(climbs, connected, *ABSENT, errno.ECONNREFUSED)


# another worker, which listens at the same moment: see `friend.py`


@attempt("worker-tcp", *UNREACHABLE)
def worker_tcp(aim: Aim) -> str | None:
    return dial(("127.0.0.1", aim["meet"]["port"]))


@attempt("worker-udp", *UNREACHABLE)
def worker_udp(aim: Aim) -> str | None:
    return answered(("127.0.0.1", aim["meet"]["port"]))


@attempt("worker-abstract-socket", *UNREACHABLE)
def worker_abstract_socket(aim: Aim) -> str | None:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(f"\0{aim['meet']['name']}")
        return "connected"


@attempt("worker-path-socket")
def worker_path_socket(aim: Aim) -> str | None:
    def connected(path: str) -> str:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(path)
            return "connected"

    name = aim["meet"]["name"]
    return each([f"/tmp/{name}", f"/dev/shm/{name}", f"/results/{name}"], connected, *ABSENT, errno.ECONNREFUSED)
