"""Data that is false, exchanged, dishonest, too little, or made to harm."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from contracts.errors import EscrowError
from escrow.uploads import UploadLimits
from models.table import Prepared
from scenarios import hostile, tiny
from scenarios.consortium import Consortium


def ended(consortium: Consortium) -> tuple[str, str, str | None]:
    case = consortium.core.run(tiny.approved(consortium))
    return case.state, case.reason, case.verdict


def collected_nothing(consortium: Consortium) -> bool:
    """Nobody can collect anything of any contract."""
    for bank in consortium.banks.values():
        for view in bank.escrow.contracts():
            with pytest.raises(EscrowError, match="The contract is"):
                bank.escrow.collect(view.digest)
    return True


def harbours(train: Prepared | None = None, holdout: Prepared | None = None) -> dict[str, tuple[Prepared, Prepared]]:
    honest = tiny.tables(1, "harbour", banks=2)
    return {"harbour": (train or honest[0], holdout or honest[1])}


@pytest.mark.parametrize(("part", "lie"), [("train", {"rows": 5}), ("holdout", {"positives": 5})])
def test_false_counts_fail_the_run_closed(consortium: Consortium, part: str, lie: dict[str, int]) -> None:
    harbour = consortium.banks["harbour"]
    honest = dict(zip(("train", "holdout"), tiny.tables(1, "harbour", banks=2), strict=True))
    sealed = {name: hostile.sealer(harbour, name, tiny.SCHEMA)(table) for name, table in honest.items()}
    sealed[part] = hostile.miscounted(sealed[part], **lie)
    harbour.deposit(sealed.values())
    consortium.deposits["harbour"] = tuple(sealed.values())
    assert ended(consortium) == ("failed", "counts-differ", None)
    assert collected_nothing(consortium)


def test_data_that_is_not_what_was_committed_never_reaches_a_worker(consortium: Consortium) -> None:
    harbour = consortium.banks["harbour"]
    train, holdout = tiny.tables(1, "harbour", banks=2)
    other = tiny.table("harbour", "holdout", {3: 30, 4: 30}, seed=5)
    swapped = hostile.exchanged(holdout, other, hostile.sealer(harbour, "holdout", tiny.SCHEMA))
    honest = hostile.sealer(harbour, "train", tiny.SCHEMA)(train)
    harbour.deposit([honest, swapped])
    consortium.deposits["harbour"] = (honest, swapped)
    assert ended(consortium) == ("failed", "commitment-mismatch", None)
    assert collected_nothing(consortium)


@pytest.mark.wires
def test_a_deposit_cannot_be_exchanged_after_it_was_stated(consortium: Consortium, refused: Any) -> None:
    digest = tiny.approved(consortium)
    harbour = consortium.banks["harbour"]
    old = consortium.deposits["harbour"][0]
    other = hostile.sealer(harbour, "train", tiny.SCHEMA)(tiny.table("harbour", "train", {4: 60}, seed=9))
    assert harbour.escrow.deposit(replace(other, token=old.token)) == old.blob  # that upload has ended: nothing is read
    assert consortium.core.vault.read(old.blob) == old.path.read_bytes()
    assert harbour.escrow.deposit(other) == other.blob
    with refused("deposit-exists"):
        harbour.submit(replace(other, commitment=old.commitment).statement(consortium.core.origin, "harbour"))
    assert (
        consortium.banks["north"].escrow.deposit(replace(other, token=old.token)) == other.blob
    )  # an upload of its own
    assert consortium.core.run(digest).state == "released"


@pytest.mark.wires
def test_a_file_that_is_not_the_stated_one_is_refused(consortium: Consortium, refused: Any) -> None:
    harbour = consortium.banks["harbour"]
    new = hostile.sealer(harbour, "train", tiny.SCHEMA)(tiny.table("harbour", "train", {4: 60}, seed=9))
    honest = new.path.read_bytes()
    for wrong in (b"", b"x" * new.size, honest + b"x", honest[:-1]):
        new.path.write_bytes(wrong)
        with refused("blob-refused"):
            harbour.escrow.deposit(new)
    assert not consortium.core.vault.has(new.blob)
    with refused("blob-missing"):
        harbour.submit(new.statement(consortium.core.origin, "harbour"))
    consortium.deposits["harbour"] = (new, consortium.deposits["harbour"][1])
    with refused("deposit-unknown"):
        tiny.proposed(consortium)
    new.path.write_bytes(honest)
    harbour.deposit([new])
    tiny.proposed(consortium)


@pytest.mark.wires
def test_an_approval_with_a_useless_key_fails_the_run_closed(consortium: Consortium) -> None:
    digest = tiny.proposed(consortium)
    north, harbour = consortium.banks.values()
    north.approve(digest)
    own = hostile.approval(harbour, digest)
    crossed = dict(zip(own.keys, reversed(own.keys.values()), strict=True))  # each file's key for the other file
    hostile.submit(harbour.escrow, own.model_copy(update={"keys": crossed}), harbour.identity.signer)
    case = consortium.core.run(digest)
    assert (case.state, case.reason) == ("failed", "key-refused")


def test_an_approval_with_garbage_for_a_key_fails_the_run_closed(consortium: Consortium) -> None:
    digest = tiny.proposed(consortium)
    north, harbour = consortium.banks.values()
    north.approve(digest)
    own = hostile.approval(harbour, digest)
    hostile.submit(
        harbour.escrow,
        own.model_copy(update={"keys": dict.fromkeys(own.keys, "Z2FyYmFnZQ==")}),
        harbour.identity.signer,
    )
    case = consortium.core.run(digest)
    assert (case.state, case.reason) == ("failed", "key-refused")


def test_holdout_rows_in_training_are_found(found: Any) -> None:
    train, holdout = tiny.tables(1, "harbour", banks=2)
    leaked = holdout.select(slice(0, 10))
    leaked = replace(leaked, times=train.times[:10])
    mixed = Prepared(
        names=train.names,
        **{
            name: np.concatenate([getattr(train, name), getattr(leaked, name)])
            for name in ("features", "labels", "groups", "terminals", "amounts", "times")
        },
    )
    assert ended(found(exchanged=harbours(mixed))) == ("failed", "holdout-in-training", None)


def test_a_holdout_of_another_banks_training_rows_is_found(found: Any) -> None:
    stolen = tiny.tables(0, "north", banks=2)[0]
    moved = replace(stolen, times=stolen.times + np.timedelta64(21, "D"))
    assert ended(found(exchanged=harbours(holdout=moved))) == ("failed", "holdout-in-training", None)


@pytest.mark.parametrize("days", [-21, -4])
def test_a_holdout_earlier_than_training_and_label_delay_is_refused(found: Any, days: int) -> None:
    _, holdout = tiny.tables(1, "harbour", banks=2)
    early = replace(holdout, times=holdout.times + np.timedelta64(days, "D"))
    assert ended(found(exchanged=harbours(holdout=early))) == ("failed", "holdout-too-early", None)


@pytest.mark.wires
def test_too_few_positives_are_refused_before_anyone_signs(found: Any, refused: Any) -> None:
    few = tiny.table("harbour", "holdout", {3: 20, 4: 20})
    consortium = found(exchanged=harbours(holdout=few))
    size = consortium.core.ledger.size()
    clause = {"kind": "gain", "party": "harbour", "metric": "average-precision", "more-than": 0.0}
    for needs in ({}, {"min-positives": 41}):  # 50 unless the contract says otherwise
        with refused("document-invalid"):
            tiny.proposed(consortium, release=[{**clause, **needs}])
    assert consortium.core.ledger.size() == size
    tiny.proposed(consortium, release=[{**clause, "min-positives": 40}])


def test_a_model_that_never_flags_anything_is_withheld(found: Any, outcome: Any) -> None:
    train, holdout = tiny.tables(0, "north", banks=2)
    flat = replace(train, terminals=np.array([f"flat-{each}" for each in train.terminals]))
    consortium = found(exchanged={"north": (flat, holdout)})
    accurate = [
        {"kind": "floor", "party": "harbour", "metric": "average-precision", "at-least": 0.5},
        {"kind": "no-harm", "party": "harbour", "metric": "recall-at-fpr", "at": 0.05, "margin": 0.0},
    ]
    digest = tiny.approved(consortium, release=accurate)
    case = consortium.core.run(digest)
    assert (case.state, case.verdict) == ("withheld", "withheld")
    assert [finding.outcome for finding in outcome(consortium, digest).findings] == ["fails", "fails"]
    assert collected_nothing(consortium)


def test_a_joint_model_that_harms_is_withheld(found: Any, outcome: Any) -> None:
    """What is fraud at north is the opposite of what is fraud at harbour, which has far more rows."""
    train = tiny.table("harbour", "train", {3: 400}, genuine=800, shift=-tiny.SHIFT)
    holdout = tiny.table("harbour", "holdout", {3: 60}, shift=-tiny.SHIFT)
    own = (tiny.table("north", "train", {3: 60}), tiny.table("north", "holdout", {3: 60}))
    consortium = found(exchanged={"north": own, "harbour": (train, holdout)})
    digest = tiny.approved(consortium)
    assert consortium.core.run(digest).verdict == "withheld"
    north = outcome(consortium, digest).of("north")[0].measurement
    assert north.joint < north.own - 0.3
    assert collected_nothing(consortium)


def test_bad_labels_at_one_bank_stop_at_the_clause_of_the_bank_they_harm(found: Any, outcome: Any) -> None:
    """Harbour files the frauds that north knows as genuine: it gains by north's labels, and north loses by its own."""
    train = tiny.table("harbour", "train", {3: 150, 4: 60}, genuine=400)
    hidden = replace(train, labels=np.where(train.features[:, 3] > 1.5, 0, train.labels).astype(np.int8))
    norths = (tiny.table("north", "train", {3: 60}), tiny.table("north", "holdout", {3: 60}))
    consortium = found(exchanged={**harbours(hidden), "north": norths})
    gain = {"kind": "gain", "party": "harbour", "metric": "average-precision", "more-than": 0.0}
    no_harm = {"kind": "no-harm", "party": "north", "metric": "average-precision", "margin": 0.02}
    digest = tiny.approved(consortium, release=[gain, no_harm])
    assert consortium.core.run(digest).verdict == "withheld"
    [culprit], [harmed] = (outcome(consortium, digest).of(name) for name in ("harbour", "north"))
    assert harmed.outcome == "fails"
    assert culprit.outcome == "holds"
    assert harmed.measurement.gain_upper < -0.1
    assert collected_nothing(consortium)


@pytest.mark.wires
def test_a_revoked_deposit_ends_its_contracts_and_serves_no_other(consortium: Consortium, refused: Any) -> None:
    digest = tiny.approved(consortium)
    consortium.banks["harbour"].revoke(consortium.deposits["harbour"][0].commitment)
    view = consortium.banks["north"].view(digest)
    assert (view.state, view.reason) == ("halted", "data-revoked")
    with refused("deposit-revoked"):
        tiny.proposed(consortium, title="Another")
    with refused("statement-refused"):
        consortium.banks["north"].revoke(consortium.deposits["harbour"][1].commitment)


@pytest.mark.wires
def test_nobody_states_a_file_that_another_party_sent(consortium: Consortium, refused: Any) -> None:
    """Else it would be kept for as long as they like, whatever its owner revokes."""
    north, theirs = consortium.banks["north"], consortium.deposits["harbour"][0]
    claimed = replace(theirs, commitment="sha256-salted:" + 64 * "7").statement(consortium.core.origin, "north")
    with refused("blob-missing"):
        north.submit(claimed)
    north.escrow.deposit(theirs)  # whoever has the bytes themselves may
    north.submit(claimed)


@pytest.mark.wires
def test_a_party_has_a_share_of_the_disk(consortium: Consortium, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    north, own = consortium.banks["north"], consortium.deposits["north"]
    room = UploadLimits(stated_bytes=sum(each.size for each in own))
    monkeypatch.setattr(consortium.core.uploads, "_limits", room)
    more = replace(own[0], commitment="sha256-salted:" + 64 * "7").statement(consortium.core.origin, "north")
    with refused("quota-exceeded"):
        north.submit(more)
    north.revoke(own[0].commitment)
    north.submit(more)


@pytest.mark.wires
def test_what_this_escrow_cannot_do_is_refused_when_it_is_proposed(consortium: Consortium, refused: Any) -> None:
    document = consortium.draft(model={"family": "logistic"}, method={"name": "pooled"})
    size = consortium.core.ledger.size()
    wrong = {
        "not-supported": [
            {"computation": {**document["computation"], "sealing": "container"}},
            {"release": [*document["release"], {"kind": "leakage", "tpr-at-1pct-fpr-at-most": 0.05}]},
        ],
        "worker-unknown": [{"computation": {**document["computation"], "worker": "sha256:" + 64 * "0"}}],
    }
    for code, terms in wrong.items():
        for changed in terms:
            with refused(code):
                consortium.propose(consortium.contract({**document, **changed}))
    assert consortium.core.ledger.size() == size


@pytest.mark.wires
def test_a_contract_states_exactly_what_was_deposited(consortium: Consortium, refused: Any) -> None:
    document = consortium.draft(model={"family": "logistic"}, method={"name": "pooled"})
    first, second = document["contributions"]
    more_rows = {**first, "holdout": {**first["holdout"], "rows": first["holdout"]["rows"] + 1}}
    another = {**first, "train": second["train"]}
    unknown = {**first, "train": {**first["train"], "commitment": "sha256-salted:" + 64 * "0"}}
    for changed, code in ((more_rows, "deposit-mismatch"), (unknown, "deposit-unknown")):
        with refused(code):
            consortium.propose(consortium.contract({**document, "contributions": [changed, second]}))
    with refused("document-invalid"):
        consortium.contract({**document, "contributions": [another, second]})
