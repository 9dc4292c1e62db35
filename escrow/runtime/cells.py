"""One job's things in the container engine: the volume of its results, the keeper that holds it, and the worker.

A volume in memory lives as long as a running container uses it. The keeper does so until the results are read, which
happens when the worker is dead, so that nothing can change them meanwhile. Rules:

1. What exists in the engine has a name made of runtime and job, so whatever an earlier attempt left is found.
2. Nothing is pulled: containers are made of image IDs.
3. Whatever goes wrong is an `EscrowError`: `engine-missing` if the engine does not answer, `image-missing`, or
   `runtime-unfit` with the engine's own words, which are the operator's.
"""

import math
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPException
from typing import Final
from urllib.parse import quote

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.transport import UnixHTTPAdapter
from requests import RequestException

from contracts.errors import EscrowError
from escrow.runtime.confinement import JOB, RESULTS, RUNTIME, Names
from escrow.runtime.guard import Connection

_CHUNK: Final = 1 << 18
_FRAME: Final = struct.Struct(">BxxxL")
_BEING_MADE: Final = 20.0  # seconds that the engine may take to finish a container whose caller has gone
_PAUSE: Final = 0.05
_KILLED: Final = 137
_REASON_SECONDS: Final = 5  # in which a busy engine hears why the kernel killed a worker
_LONGEST: Final = 20 * 86400.0  # seconds that a socket can wait
OUT: Final = 1


@contextmanager
def answering() -> Iterator[None]:
    """Turn what the engine's library raises into what the escrow does."""
    try:
        yield
    except ImageNotFound as error:
        raise EscrowError("image-missing", "The engine no longer has the image that a job names.") from error
    except APIError as error:
        raise EscrowError("runtime-unfit", f"The container engine refused: {error.explanation or error}.") from error
    except (DockerException, RequestException) as error:
        raise EscrowError("engine-missing", "The container engine does not answer.") from error


@dataclass(frozen=True)
class End:
    """How a worker ended: its exit status, and whether the kernel ended any of its processes for want of memory."""

    status: int
    out_of_memory: bool


class Printing:
    """What a container prints, from its start on; the caller closes it.

    The engine's protocol is read here because its library cannot close such a stream without leaking the connection.
    """

    def __init__(self, engine: str, container: str) -> None:
        self._connection = Connection(engine)
        try:
            self._connection.request(
                "POST",
                f"/containers/{container}/attach?stream=1&stdout=1&stderr=1",
                headers={"Connection": "Upgrade", "Upgrade": "tcp"},
            )
            self._answer = self._connection.getresponse()
        except (OSError, HTTPException) as error:
            self._connection.close()
            raise EscrowError("engine-missing", "The container engine does not answer.") from error
        if self._answer.status != HTTPStatus.SWITCHING_PROTOCOLS:
            self.close()
            raise EscrowError("runtime-unfit", "The container engine refused to tell what a worker prints.")

    def until(self, deadline: float) -> Iterator[tuple[int, bytes]]:
        """Pairs of stream (`OUT` or 2) and data, until nobody can print any more or the monotonic clock says so."""
        stream = self._answer.fp
        with suppress(ConnectionError, TimeoutError):  # what has happened, the next question to the engine will show
            while (left := deadline - time.monotonic()) > 0:
                self._connection.sock.settimeout(min(left, _LONGEST))
                header = stream.read(_FRAME.size)
                if len(header) < _FRAME.size:
                    break
                which, size = _FRAME.unpack(header)
                while size and (data := stream.read1(min(size, _CHUNK))):
                    size -= len(data)
                    yield which, data

    def close(self) -> None:
        """Close the connection."""
        self._answer.close()
        self._connection.close()


class Cell:
    """What the engine holds for one job. Safe to remove from another thread at any time.

    Args:
        client: of the engine.
        names: what the things are called.
        empty: whether there is nothing of that name, as far as anybody knows.

    """

    def __init__(self, client: docker.DockerClient, names: Names, *, empty: bool) -> None:
        self._client = client
        self._api = client.api
        self.names = names
        self._removal = threading.Lock()
        self._empty = empty

    def keep(self, config: dict[str, object]) -> None:
        """Make the volume, and start the keeper that holds it."""
        with answering():
            self._create(self.names.keeper, config)
            self._api.start(self.names.keeper)

    def furnish(self, config: dict[str, object]) -> None:
        """Make the worker's container."""
        with answering():
            self._create(self.names.worker, config)

    def _create(self, name: str, config: dict[str, object]) -> None:
        create: Callable[[dict[str, object], str], object] = self._api.create_container_from_config
        self._empty = False
        try:
            create(config, name)
        except APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:
                raise
            self._take_away(name)  # it was being created while an earlier escrow died
            create(config, name)

    def attach(self) -> Printing:
        """What the worker prints, from its start on; the caller closes it."""
        return Printing(socket_of(self._client), self.names.worker)

    def start(self) -> None:
        """Start the worker."""
        with answering():
            self._api.start(self.names.worker)

    def end(self, seconds: float) -> End | None:
        """Wait for the worker's end; None if it still runs after `seconds`."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            with answering():
                with suppress(RequestException):  # it took too long, or the engine is gone: the next question tells
                    self._api.wait(self.names.worker, timeout=int(min(left, _LONGEST)) + 1)
                state = self._api.inspect_container(self.names.worker)["State"]
            if not state["Running"]:
                status = int(state["ExitCode"])
                return End(status, bool(state["OOMKilled"]) or (status == _KILLED and self._memory_ended(state)))
        return None

    def _memory_ended(self, state: Mapping[str, str]) -> bool:
        """Whether the engine heard of the kernel's reason after it had heard of the end: then its state lacks it."""
        begun = datetime.fromisoformat(state["StartedAt"][:19]).replace(tzinfo=UTC)
        what = {"container": self.names.worker, "event": "oom"}
        for _ in range(_REASON_SECONDS):
            with answering():
                until = math.ceil(time.time()) + 1
                told = self._api.events(since=int(begun.timestamp()), until=until, filters=what, decode=True)
                with closing(told):
                    if next(iter(told), None) is not None:
                        return True
            if self._empty:  # we ended it ourselves, and whoever did waits
                break
        return False

    def _archive(self) -> str:
        return f"{self._api.base_url}/v{self._api.api_version}/containers/{quote(self.names.keeper)}/archive"

    @contextmanager
    def results(self) -> Iterator[Iterator[bytes]]:
        """Read the worker's results as a tar stream, chunk by chunk; `engine-missing` if their keeper has ended."""
        with answering():
            if not self._api.inspect_container(self.names.keeper)["State"]["Running"]:
                raise EscrowError("engine-missing", "The results of a job are gone, as is the engine that held them.")
        with (
            answering(),
            self._api.get(
                self._archive(), params={"path": RESULTS}, stream=True, timeout=self._api.timeout
            ) as response,
        ):
            response.raise_for_status()
            yield response.iter_content(_CHUNK)

    def has(self, path: str) -> bool:
        """Tell whether anything is called `path` in the results."""
        with answering():
            query = {"path": f"{RESULTS}/{path}"}
            answer = self._api.head(self._archive(), params=query, timeout=self._api.timeout)
            if answer.status_code == HTTPStatus.NOT_FOUND:
                return False
            answer.raise_for_status()
        return True

    def remove(self) -> None:
        """Remove worker, keeper and volume, killing what runs, and wait until they are gone."""
        with self._removal, answering():
            if self._empty:
                return
            deadline = time.monotonic() + _BEING_MADE
            while not self._removed(last=time.monotonic() > deadline):
                time.sleep(_PAUSE)  # the engine tells nobody when a container that it is making can be removed
            self._empty = True

    def _removed(self, *, last: bool) -> bool:
        """Whether all is gone; not so while the engine makes a container that uses the volume but has no name yet."""
        self._take_away(self.names.worker)
        self._take_away(self.names.keeper)
        try:
            self._api.remove_volume(self.names.volume)
        except NotFound:
            return True
        except APIError as error:
            if error.status_code != HTTPStatus.CONFLICT or last:
                raise
            return False
        return True

    def _take_away(self, name: str) -> None:
        with suppress(NotFound):
            try:
                self._api.remove_container(name, force=True, v=True)
            except NotFound:
                return
            except APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:
                    raise
                self._api.wait(name, condition="removed")  # somebody removes it already


def left_in(client: docker.DockerClient, runtime: str) -> set[str]:
    """Ids of the jobs of which a runtime has anything left in the engine."""
    carrying = {"label": f"{RUNTIME}={runtime}"}
    with answering():
        containers = client.api.containers(all=True, filters=carrying)
        volumes = client.api.volumes(filters=carrying)["Volumes"] or []
    return {str(each["Labels"][JOB]) for each in (*containers, *volumes)}


def socket_of(client: docker.DockerClient) -> str:
    """Path of the engine's socket; `runtime-unfit` if the engine is reached otherwise."""
    adapter = client.api.get_adapter(client.api.base_url)
    if not isinstance(adapter, UnixHTTPAdapter):
        raise EscrowError("runtime-unfit", "Jobs need a container engine on this machine, reached by its Unix socket.")
    return str(adapter.socket_path)
