"""The image that sealed scenarios run in, and a log that is as loud after a demo as before."""

import logging
from collections.abc import Iterator

import docker
import pytest

from contracts.errors import EscrowError
from escrow.runtime.images.engine import WORKER, find
from escrow.runtime.images.worker import installed_code
from tests.engine import missing


@pytest.fixture(autouse=True)
def _as_loud_as_before() -> Iterator[None]:
    """`escrow demo` quiets the log of its process, which here is that of other tests, too."""
    log = logging.getLogger("escrow")
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture(scope="session")
def worker_image(engine: docker.DockerClient) -> str:
    """ID of the worker's image, which holds the code that is tested here."""
    try:
        found = find(engine, WORKER)
    except EscrowError as error:
        missing(error.message)
        raise
    if found.code != installed_code():
        missing(f"{WORKER} holds other code than is installed here (`escrow image build`)")
    return found.id
