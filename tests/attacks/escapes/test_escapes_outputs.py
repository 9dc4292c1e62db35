"""Programs that leave something else than files, more than files, or words where none are allowed."""

import stat
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from escrow.runtime.base import State, Status
from escrow.runtime.capsules import capsule_code
from tests.attacks.escapes.catalogue import AMID, ENDINGS, ODD_OUTPUTS, ORDER, SPARSE, OddOutput, Probe
from tests.attacks.escapes.stage import Ran, Stage

pytestmark = pytest.mark.engine

GOOD = {"good.bin": b"good", "locked.bin": b"locked", "sub/good.bin": b"below"}
DECLARED = (*GOOD, "archive.bin")
NEVER_OUT = {"pipe", "socket"}  # of gVisor: it keeps them to itself


@pytest.fixture(scope="session")
def odd(stage: Stage) -> Ran:
    paths = [probe.path for probe in ODD_OUTPUTS]
    return stage.run(stage.job("odd", {"deed": "outputs.odd"}, paths))


@pytest.mark.parametrize("probe", ODD_OUTPUTS, ids=lambda probe: probe.name)
def test_what_is_no_file_is_no_output(stage: Stage, odd: Ran, probe: OddOutput) -> None:
    assert odd.status == Status(State.FINISHED)
    assert odd.outputs == {}
    assert odd.refusal.startswith("output-refused: ")
    absent = probe.path == "linked-input" or (stage.sealing == "gvisor" and probe.path in NEVER_OUT)
    assert (f"{probe.path}: " in odd.refusal) != absent
    assert probe.path not in odd.files


@pytest.fixture(scope="session")
def untidy(stage: Stage) -> Ran:
    return stage.run(stage.job("untidy", {"deed": "outputs.untidy"}, DECLARED))


def nothing_else(ran: Ran) -> bool:
    files = {path for path, (mode, _) in ran.files.items() if not stat.S_ISDIR(mode)}
    return files == set(DECLARED) == set(ran.outputs)


def whole(ran: Ran) -> bool:
    return {path: ran.outputs[path] for path in GOOD} == GOOD


def not_unpacked(ran: Ran) -> bool:
    return len(ran.outputs["archive.bin"]) == 10_240 and not Path("/tmp/escaped").exists()  # noqa: S108 - what it aims at


def unmarked(ran: Ran) -> bool:
    files = [each for each in ran.files.values() if not stat.S_ISDIR(each[0])]
    return {(stat.S_IMODE(mode), time) for mode, time in files} == {(0o600, 0.0)}


@pytest.mark.parametrize(
    ("probe", "holds"),
    list(zip(AMID, (nothing_else, nothing_else, whole, whole, not_unpacked, unmarked), strict=True)),
    ids=[probe.name for probe in AMID],
)
def test_outputs_are_what_was_declared_whatever_lies_beside_them(
    stage: Stage, untidy: Ran, probe: Probe, holds: Callable[[Ran], bool]
) -> None:
    assert untidy.status == Status(State.FINISHED)
    assert untidy.refusal == ""
    assert holds(untidy)
    assert stage.traces(stage.job("untidy", {})) == []


@pytest.mark.parametrize("probe", [SPARSE], ids=lambda probe: probe.name)
def test_room_that_is_not_there_is_not_read(stage: Stage, probe: Probe) -> None:
    ran = stage.run(stage.job("sparse", {"deed": "outputs.sparse"}, ["1", "2"], results_mib=4))
    assert ran.status == Status(State.FAILED, "limit-results")
    assert ran.files == {}
    assert stage.traces(stage.job("sparse", {})) == []


@pytest.fixture(scope="session")
def ended(stage: Stage) -> Iterator[dict[str, Future[Ran]]]:
    def run(probe: Probe) -> Ran:
        return stage.run(stage.job(probe.name, {"deed": f"outputs.{probe.name}"}))

    with ThreadPoolExecutor(3) as threads:
        yield {probe.name: threads.submit(run, probe) for probe in ENDINGS}


@pytest.mark.parametrize("probe", ENDINGS, ids=lambda probe: probe.name)
def test_however_it_ends_the_outside_hears_one_word(stage: Stage, ended: dict[str, Future[Ran]], probe: Probe) -> None:
    ran = ended[probe.name].result()
    assert ran.status == Status(State.FAILED, "capsule-failed")
    assert capsule_code(ran.status.code) == "capsule-failed"
    assert (ran.outputs, ran.told) == ({}, 0)
    assert stage.traces(stage.job(probe.name, {})) == []


@pytest.mark.parametrize("probe", [ORDER], ids=lambda probe: probe.name)
def test_order_and_times_of_outputs_tell_nothing(stage: Stage, probe: Probe) -> None:
    paths = ["b.bin", "c.bin", "a.bin"]
    once, again = (
        stage.run(stage.job(name, {"deed": f"outputs.{name}"}, paths)) for name in ("in_order", "in_order_later")
    )
    assert list(once.outputs.items()) == list(again.outputs.items()) == [(path, path.encode()) for path in paths]
    assert {path: listed(once, path) for path in paths} == {path: listed(again, path) for path in paths}
    assert (once.status, once.told) == (again.status, again.told)


def listed(ran: Ran, path: str) -> tuple[int, float]:
    return ran.files[path]
