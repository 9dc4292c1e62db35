"""What tests need that run containers: the engine, a small image, and a place in memory.

Such tests carry the marker `engine`. Without an engine they are skipped, visibly; with ESCROW_REQUIRE_ENGINE=1, as in
continuous integration, they fail.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NoReturn

import docker
import pytest
from docker.errors import ImageNotFound

from contracts.errors import EscrowError
from escrow.runtime import folders, images
from escrow.runtime.confinement import RUNTIME
from escrow.runtime.images.engine import CODE, KIND, base_tag

REQUIRED = "ESCROW_REQUIRE_ENGINE"


def missing(what: str) -> NoReturn:
    """End the test that needs `what`: skipped, or failed where it is required."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{what}, but {REQUIRED} is set", pytrace=False)
    pytest.skip(f"{what}; `make engine` sets one up")


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """A client of the container engine."""
    try:
        client = images.engine()
    except EscrowError as error:
        missing(error.message)
    with closing(client):
        yield client


@pytest.fixture(scope="session")
def image(engine: docker.DockerClient) -> str:
    """ID of a small image with python3 and nothing of ours: the vetted base, or one that was made for a try."""
    for name in (base_tag("python"), "base:try"):
        with suppress(ImageNotFound):
            return str(engine.images.get(name).id)
    missing("the engine has no base image (`escrow image base`)")


WorkersImage = Callable[[str], str]


@pytest.fixture
def workers_image(engine: docker.DockerClient) -> Iterator[WorkersImage]:
    """Makes empty images that say they are a worker's, with the code of a digest."""
    made: list[str] = []

    def make(code: str) -> str:
        changes = [f"LABEL {name}={value}" for name, value in {KIND: "worker", CODE: code}.items()]
        answer = engine.api.import_image_from_data(bytes(1024), changes=changes)  # an archive with nothing in it
        made.append(str(json.loads(answer)["status"]))
        return made[-1]

    yield make
    for each in made:
        engine.images.remove(each)


@pytest.fixture(params=["container", "gvisor"])
def sealing(request: pytest.FixtureRequest, engine: docker.DockerClient) -> str:
    """Each sealing that the engine has."""
    if request.param == "gvisor" and "runsc" not in engine.info()["Runtimes"]:
        pytest.skip("the container engine has no runsc")
    return str(request.param)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory that nobody else can enter."""
    path = Path(tempfile.mkdtemp(prefix="escrow-test-", dir="/dev/shm"))
    yield path
    folders.remove(path)


def label_of(root: Path) -> str:
    """The label of all that the runtime over the directory `root` makes in the engine."""
    return f"{RUNTIME}={hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}"


def leftovers(engine: docker.DockerClient, root: Path) -> list[str]:
    """Containers and volumes in the engine that belong to the runtime over the directory `root`."""
    ours = {"label": label_of(root)}
    containers = engine.api.containers(all=True, filters=ours)
    volumes = engine.api.volumes(filters=ours)["Volumes"] or []
    return [*(each["Names"][0] for each in containers), *(each["Name"] for each in volumes)]
