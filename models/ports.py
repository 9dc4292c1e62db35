"""Ports that are kept free for servers that others start, also while such a server is down."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of loopback that the system gives to nobody meanwhile; a server that is told it can listen there.

    Were a port only looked up, others could have it in the seconds that a server takes to start. The server needs
    SO_REUSEADDR, as gRPC's have it, for the port is bound here, too; only who listens is heard. This is no protection
    from somebody on this machine who wants that very port: who listens first has it.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # for those that share a port, as Flower's
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        yield port


__all__ = ["reserved_port"]
