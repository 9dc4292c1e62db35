"""A released model at the bank: fetched, verified offline, and used to score."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts import statements as st
from contracts.errors import EscrowError
from contracts.proceedings import term_digest
from contracts.signing import Ed25519Signer
from parties.identity import Identity, pinned
from parties.release import fetch, summary, verify_release
from scenarios import hostile, tiny
from scenarios.consortium import ORIGIN, Consortium


def test_a_release_is_verified_without_the_escrow(played: Any) -> None:
    shutil.rmtree(played.escrow)
    for name in ("north", "harbour"):
        where = played.bank(name)
        found = verify_release(played.releases / name, Identity.open(where), pinned(where))
        told = summary(found)
        assert (told["contract"], told["verdict"]) == (played.released, "released")
        assert found.bundle is not None
        assert told["model"] == found.bundle.digest
        [finding] = found.opening.findings
        assert finding.party == name
        assert finding.measurement is not None
        assert finding.measurement.gain_lower is not None
        assert finding.measurement.gain_lower > 0


def test_the_released_model_scores_as_it_was_measured(played: Any) -> None:
    where = played.bank("north")
    found = verify_release(played.releases / "north", Identity.open(where), pinned(where))
    assert found.bundle is not None
    _, holdout = tiny.tables(0, "north", banks=2)
    scores = found.bundle.scores(holdout.features)
    assert scores.shape == (len(holdout),)
    assert np.median(scores[holdout.labels == 1]) > np.median(scores[holdout.labels == 0])


def test_nothing_is_fetched_before_or_without_a_release(
    replayed: Consortium, played: Any, refused: Any, tmp_path: Path
) -> None:
    north = replayed.banks["north"]
    with refused("not-released"):
        fetch(north, played.withheld, tmp_path / "withheld")
    with refused("contract-unknown"):
        fetch(north, "sha256:" + 64 * "0", tmp_path / "unknown")
    assert list(tmp_path.glob("*known")) == list(tmp_path.glob("withheld")) == []


def test_a_file_that_is_in_the_way_of_a_release_is_told(
    replayed: Consortium, played: Any, refused: Any, tmp_path: Path
) -> None:
    (tmp_path / "taken").touch()
    (tmp_path / "there" / "package.age").mkdir(parents=True)
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below", tmp_path / "there"):
        with refused("file-unwritable"):
            fetch(replayed.banks["north"], played.released, folder)


def test_a_release_can_be_fetched_again_later(replayed: Consortium, played: Any, tmp_path: Path) -> None:
    north = replayed.banks["north"]
    folder = fetch(north, played.released, tmp_path / "again")
    verify_release(folder, north.identity, pinned(north.home))
    for name in ("package.age", "model.onnx", "opening.json"):
        assert (folder / name).read_bytes() == (played.releases / "north" / name).read_bytes()


def standing(consortium: Consortium, digest: str, robot: Ed25519Signer, **changes: Any) -> st.RuleMade:
    contract = consortium.banks["north"].view(digest).contract
    own = contract.contribution("north")
    assert own is not None
    covering: dict[str, Any] = {
        "ledger": ORIGIN,
        "party": "north",
        "effect": "approve",
        "key": robot.public,
        "function": term_digest(contract.computation),
        "commitments": own.commitments(),
        "recipients": tuple(each.party for each in contract.recipients),
        "clauses": (),
        "expires": datetime.fromtimestamp(tiny.START + 1000, UTC),
        "uses": 1,
    }
    return st.RuleMade(**{**covering, **changes})


def test_a_release_that_a_standing_rule_approved_verifies(consortium: Consortium, tmp_path: Path) -> None:
    digest = tiny.proposed(consortium)
    north, harbour = consortium.banks.values()
    robot = Ed25519Signer.from_seed(bytes(range(32)))
    rule = standing(consortium, digest, robot)
    north.submit(rule)
    hostile.submit(north.escrow, hostile.approval(north, digest).model_copy(update={"rule": rule.digest()}), robot)
    harbour.approve(digest)
    assert consortium.core.run(digest).state == "released"
    for name, bank in consortium.banks.items():
        assert verify_release(fetch(bank, digest, tmp_path / name), bank.identity, pinned(bank.home)).bundle


@pytest.mark.parametrize("changes", [{"party": "harbour"}, {"recipients": ("north",)}, {"effect": "reject"}])
def test_an_escrow_that_lets_a_rule_say_more_than_it_says_is_seen(
    consortium: Consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Harbour's own rule, or one of north that does not cover this, is taken for north's yes by a lenient escrow."""
    digest = tiny.proposed(consortium)
    north, harbour = consortium.banks.values()
    robot = Ed25519Signer.from_seed(bytes(range(32)))
    rule = standing(consortium, digest, robot, **changes)
    consortium.banks[rule.party].submit(rule)
    with monkeypatch.context() as lenient:
        lenient.setattr("contracts.proceedings._used", lambda rule, *_: rule)
        forged = hostile.approval(north, digest).model_copy(update={"rule": rule.digest()})
        hostile.submit(north.escrow, forged, robot)
        harbour.approve(digest)
        assert consortium.core.run(digest).state == "released"
        folder = fetch(harbour, digest, tmp_path / "harbour")
    with pytest.raises(EscrowError):
        verify_release(folder, harbour.identity, pinned(harbour.home))
