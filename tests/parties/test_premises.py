"""Where a bank's nodes run sealed workers: in the image that the contract names, or one of its code, or nowhere."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.computation import JointTraining
from contracts.errors import EscrowError
from escrow.runtime.docker import ContainerRuntime
from escrow.runtime.images.worker import installed_code
from escrow.runtime.process import memory_root
from parties import premises
from parties.premises import Premises
from tests.engine import WorkersImage

pytestmark = pytest.mark.engine


def computation(worker: str, sealing: str) -> JointTraining:
    document = {
        "kind": "joint-training",
        "worker": worker,
        "model": {"family": "logistic"},
        "method": {"name": "fedavg"},
        "sealing": sealing,
    }
    return JointTraining.model_validate(document, by_alias=True)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A bank's home, of whose workers nothing may be left in memory."""
    yield tmp_path
    base = memory_root(tmp_path)
    assert list(base.parent.glob(f"{base.name}*")) == []


def refused(there: Premises, asked: JointTraining, sealing: str | None = None) -> str:
    with pytest.raises(EscrowError) as caught:
        there.runtime(asked, sealing)  # type: ignore[arg-type]
    return caught.value.code


def test_a_contract_that_seals_gets_containers_of_the_image_that_it_names(home: Path, image: str, sealing: str) -> None:
    with Premises.opened(home) as there:
        runtime = there.runtime(computation(image, sealing))
        assert isinstance(runtime, ContainerRuntime)
        assert (runtime.sealing, runtime.worker()) == (sealing, image)
        assert there.runtime(computation(image, sealing)) is runtime


def test_another_image_is_not_taken_for_the_one_that_is_named(
    home: Path, workers_image: WorkersImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it calls itself the worker's, and says that it holds the same code."""
    monkeypatch.setattr(premises, "IMAGE", workers_image(installed_code()))
    with Premises.opened(home) as there:
        assert refused(there, computation(f"sha256:{'1' * 64}", "container")) == "image-missing"


def test_code_that_a_contract_names_runs_sealed_only_in_an_image_of_it(
    home: Path, workers_image: WorkersImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = computation(installed_code(), "none")
    monkeypatch.setattr(premises, "IMAGE", workers_image(f"sha256:{'2' * 64}"))
    with Premises.opened(home) as there:
        assert refused(there, asked, "container") == "worker-unknown"
    monkeypatch.setattr(premises, "IMAGE", workers_image(installed_code()))
    with Premises.opened(home) as there:
        assert there.runtime(asked, "container").sealing == "container"
