"""Programs that take more than their share, each in a job of its own with small limits.

Whether a limit was kept is seen by how the job ended, by what it says it got, and by what the host saw of it.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.attacks.escapes.catalogue import DEEDS, GVISORS_OWN, SMALL, Deed
from tests.attacks.escapes.stage import Ran, Stage

pytestmark = pytest.mark.engine

AT_ONCE = 3
KEPT_AT_MOST = 4 << 20
ALONE = ("take_processors",)  # it is measured
MEASURED_SECONDS = 3.0


@pytest.fixture(scope="session")
def done(stage: Stage) -> Iterator[Mapping[str, Callable[[], Ran]]]:
    """How the jobs ended: all but those that are measured are started as soon as there is room."""

    def run(deed: Deed) -> Ran:
        return stage.run(stage.job(deed.name, {"deed": f"limits.{deed.name}"}, **deed.limits))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        futures: dict[str, Future[Ran]] = {
            deed.name: threads.submit(run, deed) for deed in DEEDS if deed.name not in ALONE
        }
        yield {name: future.result for name, future in futures.items()}


@pytest.mark.parametrize("deed", [deed for deed in DEEDS if deed.name not in ALONE], ids=lambda deed: deed.name)
def test_a_job_gets_no_more_than_its_share(stage: Stage, done: Mapping[str, Callable[[], Ran]], deed: Deed) -> None:
    ran = done[deed.name]()
    limits = stage.job(deed.name, {}, **deed.limits).limits
    most = getattr(limits, deed.most) if isinstance(deed.most, str) else deed.most
    most += GVISORS_OWN if (stage.sealing, deed.most) == ("gvisor", "processes") else 0
    assert ran.status.code in deed.ends(stage.sealing)
    if ran.status.code is None:
        assert ran.found()["got"] <= most, ran.found()
    assert ran.kept <= KEPT_AT_MOST
    assert ran.told == 0
    assert set(ran.files) <= {"found.json"}
    assert stage.traces(stage.job(deed.name, {})) == []


@pytest.mark.parametrize("deed", [deed for deed in DEEDS if deed.name in ALONE], ids=lambda deed: deed.name)
def test_a_job_gets_no_more_than_its_processors(stage: Stage, deed: Deed) -> None:
    job = stage.job(deed.name, {"deed": f"limits.{deed.name}"}, **deed.limits)
    stage.start(job)
    stage.hear(job)
    seconds = processor_seconds(stage, stage.names(job).worker)
    stage.runtime.destroy(job.id)
    assert 0 < seconds <= 1.25 * deed.limits["cpus"]
    assert stage.traces(job) == []


def processor_seconds(stage: Stage, container: str) -> float:
    """What a container computed between two looks, in seconds of a processor for each second.

    The clock is read before the first look and after the last: an engine that is slow to look makes it no more.
    """

    def used() -> int:
        stats = stage.engine.api.stats(container, stream=False, one_shot=True)
        return int(stats["cpu_stats"]["cpu_usage"]["total_usage"])

    begin, before = time.monotonic(), used()
    threading.Event().wait(MEASURED_SECONDS)
    return (used() - before) / 1e9 / (time.monotonic() - begin)


def test_the_limits_of_the_probes_are_small() -> None:
    """A limit that is not kept must cost this machine little."""
    for deed in DEEDS:
        limits = {**SMALL, **deed.limits}
        assert limits["memory_mib"] <= 256
        assert limits["processes"] <= 256
        assert limits["seconds"] <= 60
