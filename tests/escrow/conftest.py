"""Where blobs may lie: a directory, and a real S3-compatible server on loopback."""

import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from escrow.blobs import Blobs, LocalBlobs, ObjectBlobs
from tests.escrow.pretended import sealed  # noqa: F401 - a fixture

BUCKET = "vault"
ACCESS = {"AWS_ACCESS_KEY_ID": "escrow", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


class Storage:
    """An S3-compatible server with one bucket."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.client = boto3.client(
            "s3",
            endpoint_url=f"http://{address[0]}:{address[1]}",
            region_name=ACCESS["AWS_REGION"],
            aws_access_key_id=ACCESS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=ACCESS["AWS_SECRET_ACCESS_KEY"],
        )
        self.client.create_bucket(Bucket=BUCKET)

    def objects(self) -> list[str]:
        return [each["Key"] for each in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


class Line:
    """A TCP line to a server that lets some bytes through in that direction, and then nothing more."""

    def __init__(self, server: tuple[str, int], room: int) -> None:
        self._server, self._room = server, room
        self._lock, self._sockets = threading.Lock(), list[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.stalled = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                far = socket.create_connection(self._server)
                self._sockets.append(far)
                for thread in (
                    threading.Thread(target=self._forward, args=(near, far)),
                    threading.Thread(target=self._back, args=(far, near)),
                ):
                    self._threads.append(thread)
                    thread.start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(65536):
                with self._lock:
                    self._room -= len(data)
                    if self._room < 0:
                        self.stalled.set()
                        return
                far.sendall(data)

    def _back(self, far: socket.socket, near: socket.socket) -> None:
        with suppress(OSError):
            while data := far.recv(65536):
                near.sendall(data)

    def cut(self) -> None:
        """End every connection, and take no more."""
        _end(self._listener)
        self._threads[0].join()  # from here on there are no new ones
        for each in self._sockets:
            _end(each)
        for thread in self._threads:
            thread.join()


def _end(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()


@pytest.fixture(scope="session")
def storage() -> Iterator[Storage]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    storage = Storage(server.get_host_and_port())
    yield storage
    storage.client.close()
    server.stop()


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[str, int]], None]:
    """Points the environment at an S3-compatible server."""

    def point(address: tuple[str, int]) -> None:
        for name in (name for name in os.environ if name.startswith("AWS_")):
            monkeypatch.delenv(name)
        settings = {**ACCESS, "AWS_ALLOW_HTTP": "true", "AWS_ENDPOINT_URL": f"http://{address[0]}:{address[1]}"}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)

    return point


@pytest.fixture
def bucket(storage: Storage, reach: Callable[[tuple[str, int]], None]) -> str:
    """The URL of a fresh prefix of the server's bucket, which the environment gives access to."""
    reach(storage.address)
    return f"s3://{BUCKET}/{secrets.token_hex(8)}/blobs"


@pytest.fixture
def cut_line(storage: Storage, reach: Callable[[tuple[str, int]], None]) -> Iterator[Callable[[int], Line]]:
    """Makes the storage reachable over a line that lets only so many bytes through."""
    lines = list[Line]()

    def make(room: int) -> Line:
        lines.append(Line(storage.address, room))
        reach(lines[-1].address)
        return lines[-1]

    yield make
    for line in lines:
        line.cut()


@pytest.fixture(params=["local", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """Blobs on the local disk and on S3-compatible storage: they behave alike."""
    if request.param == "local":
        return LocalBlobs(tmp_path / "blobs")
    return ObjectBlobs(request.getfixturevalue("bucket"), patience=timedelta(0))
