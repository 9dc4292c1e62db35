"""The benchmark of sealing with tiny numbers: real containers, of a small image and few jobs."""

import secrets

import docker
import numpy as np
import pytest

from escrow.runtime.confinement import Names
from scenarios.benchmarks import sealed
from scenarios.benchmarks.sealed import Size

pytestmark = pytest.mark.engine
NOT_TRIED = {"image_build_seconds", "demo_sealed_seconds", "demo_unsealed_seconds", "demo_ratio"}


@pytest.fixture
def tiny(image: str) -> Size:
    return Size(image=image, builds=False, command=("python3", "-I", "-S", "-c", "pass"), pairs=1, jobs=5, demos=0)


def test_every_figure_is_there_and_jobs_leave_nothing(tiny: Size) -> None:
    told: list[str] = []
    figures = sealed.run(told.append, tiny)
    values = figures.values
    assert {"job, pair 1 of 1", "job 0 of 5 in a row"} <= {*told}
    assert {name for name, value in values.items() if np.isnan(value)} == NOT_TRIED
    assert values["job_ratio"] == pytest.approx(values["job_seconds"] / values["bare_seconds"])
    assert values["job_seconds"] > 0
    assert values["leftovers"] == 0
    assert {target.figure for target in figures.targets} == {
        "image_build_seconds",
        "job_ratio",
        "leftovers",
        "demo_ratio",
    }


def test_what_a_job_left_is_found_by_its_name(engine: docker.DockerClient, image: str) -> None:
    job = f"row-{secrets.token_hex(8)}"
    names = Names("runtime", job)
    container = engine.containers.create(image, "true", name=names.keeper, network_mode="none")
    volume = engine.volumes.create(names.volume)
    try:
        assert sealed.standing(job) == [names.keeper, names.volume]
    finally:
        container.remove()
        volume.remove()
    assert sealed.standing(job) == []
