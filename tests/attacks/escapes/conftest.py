"""The stage of the escape suite, once for each sealing that the engine has."""

from collections.abc import Iterator

import docker
import pytest

from tests.attacks.escapes.stage import Stage, place
from tests.engine import engine, image, leftovers

__all__ = ["engine", "image"]


@pytest.fixture(scope="session")
def stages(engine: docker.DockerClient, image: str) -> Iterator[dict[str, Stage]]:
    """A stage for each sealing; whatever is left of any job when all is over fails the session."""
    runtimes = engine.info()["Runtimes"]
    with place() as folder:
        known = [sealing for sealing, name in (("container", "runc"), ("gvisor", "runsc")) if name in runtimes]
        made = {sealing: Stage(folder / sealing, image, engine, sealing) for sealing in known}
        yield made
        for stage in made.values():
            stage.runtime.close()
            assert leftovers(engine, stage.root) == []
        assert list(folder.iterdir()) == []


@pytest.fixture(scope="session", params=["container", "gvisor"])
def stage(request: pytest.FixtureRequest, stages: dict[str, Stage]) -> Stage:
    """The stage of one sealing."""
    if request.param not in stages:
        pytest.skip("the container engine has no runsc")
    return stages[request.param]
