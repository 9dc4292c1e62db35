"""The escrow's verbs as callers meet them, what its directory shows, and whole contracts with the real worker."""

import logging
import shutil
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contracts import statements as st
from contracts.api import Escrow
from contracts.canonical import parse
from contracts.entries import read_leaf
from contracts.errors import EscrowError
from contracts.notes import parse_note
from contracts.signing import sign
from contracts.statements import EnrolmentRequest
from escrow import faults
from escrow.core import Core
from escrow.runtime.process import ProcessRuntime
from parties.identity import Identity, pinned
from parties.release import fetch, verify_release
from scenarios import tiny
from scenarios.consortium import MODELS, ORIGIN, Consortium
from scenarios.worlds import build


def test_a_session_is_the_protocol_that_banks_use(consortium: Consortium) -> None:
    session: Escrow = consortium.core.session("north")
    assert session.caller == "north"
    info = session.info()
    assert (info.ledger, info.public_key) == (ORIGIN, consortium.core.signer.public)
    assert info.workers == {"none": consortium.core.runtime.worker()}
    assert [(view.request.name, view.revoked) for view in session.directory()] == [("harbour", False), ("north", False)]


@pytest.mark.wires
def test_a_bank_sees_its_own_deposits_only(consortium: Consortium) -> None:
    for name, bank in consortium.banks.items():
        views = bank.escrow.deposits()
        assert {view.commitment for view in views} == {each.commitment for each in consortium.deposits[name]}
        assert {view.party for view in views} == {name}
        assert not any(view.revoked or view.looks for view in views)


@pytest.mark.wires
def test_every_wait_has_a_reason_and_an_owner(consortium: Consortium) -> None:
    digest = tiny.proposed(consortium)
    north, harbour = consortium.banks.values()

    def where() -> tuple[str, str, tuple[str, ...]]:
        view = harbour.view(digest)
        return view.state, view.reason, view.turn

    assert where() == ("open", "approvals", ("north", "harbour"))
    north.approve(digest)
    assert where() == ("open", "approvals", ("harbour",))
    harbour.approve(digest)
    assert where() == ("approved", "start", ("escrow",))
    harbour.halt(digest)
    assert where() == ("halted", "halted", ())


@pytest.mark.wires
def test_a_fault_is_shown_to_the_party_at_fault_alone(consortium: Consortium) -> None:
    digest = tiny.approved(consortium)
    error = EscrowError("update-invalid", "A message is longer than any may be.")
    faults.keep(consortium.core.runs.faults, faults.Fault.of(error, digest, 1, "harbour"))
    north, harbour = (bank.view(digest).fault for bank in consortium.banks.values())
    assert north is None
    assert harbour is not None
    assert error.message in harbour


@pytest.mark.wires
def test_a_proposal_is_withdrawn_by_its_proposer_alone(consortium: Consortium, refused: Any) -> None:
    digest = tiny.proposed(consortium)
    north, harbour = consortium.banks.values()
    with refused("statement-refused"):
        harbour.withdraw(digest)
    north.withdraw(digest)
    assert harbour.view(digest).state == "withdrawn"
    with refused("state-refused"):
        harbour.approve(digest)


@pytest.mark.wires
def test_the_same_statement_twice_is_one(consortium: Consortium) -> None:
    digest = tiny.proposed(consortium)
    north = consortium.banks["north"]
    first, second = north.halt(digest), north.halt(digest)
    assert (first.index, first.envelope) == (second.index, second.envelope)
    assert consortium.core.ledger.size() == parse_note(second.head, {ORIGIN: consortium.core.signer.public}).size


def test_a_fingerprint_that_differs_admits_nobody(consortium: Consortium, tmp_path: Path, refused: Any) -> None:
    new = Identity.create(tmp_path / "new", "new")
    before = consortium.core.ledger.size()
    with refused("key-mismatch"):
        consortium.core.admit(new.request(ORIGIN), consortium.banks["north"].identity.signer.key_id)
    with refused("statement-refused"):
        consortium.core.admit(new.request("other.example/ledger"), new.signer.key_id)
    with refused("document-invalid"):
        consortium.core.admit(sign(b'{"name":"new"}', new.signer), new.signer.key_id)
    asked = EnrolmentRequest.model_validate(parse(new.request(ORIGIN).payload))
    unreachable = asked.model_copy(update={"recipient": "age1" + 58 * "q"})  # nothing can be encrypted to it
    with refused("vault-sealed"):
        consortium.core.admit(sign(unreachable.payload(), new.signer), new.signer.key_id)
    taken = replace(new, name="north")
    with refused("party-exists"):
        consortium.core.admit(taken.request(ORIGIN), new.signer.key_id)
    assert consortium.core.ledger.size() == before


def test_admitting_the_same_request_again_changes_nothing(consortium: Consortium) -> None:
    north = consortium.banks["north"].identity
    before = consortium.core.ledger.size()
    receipt = consortium.core.admit(north.request(ORIGIN), north.signer.key_id)
    assert receipt.index == 1
    assert consortium.core.ledger.size() == before


@pytest.mark.wires
def test_garbage_is_refused_and_stores_nothing(consortium: Consortium, refused: Any) -> None:
    north = consortium.banks["north"]
    before = consortium.core.ledger.size()
    for garbage, code in ((b"", "not-canonical"), (b"{}", "document-invalid"), (b"\xff", "not-canonical")):
        with refused(code):
            north.escrow.submit(garbage)
    with refused("document-invalid"):
        north.escrow.submit(sign(b'{"kind":"party-admitted","ledger":"x"}', north.identity.signer).to_bytes())
    with refused("not-permitted"):  # well formed, but no party states it
        opened = st.LedgerOpened(ledger=ORIGIN, public_key=north.identity.signer.public)
        north.escrow.submit(sign(opened.payload(), north.identity.signer).to_bytes())
    assert consortium.core.ledger.size() == before


def test_an_escrow_is_made_once_and_opened_where_it_is(consortium: Consortium, tmp_path: Path, refused: Any) -> None:
    runtime = consortium.core.runtime
    with refused("escrow-exists"):
        Core.create(consortium.core.directory, ORIGIN, runtime)
    with refused("escrow-missing"):
        Core.open(tmp_path / "nothing", runtime)
    key = consortium.core.signer.public
    consortium.reopen(runtime)
    assert consortium.core.signer.public == key
    assert consortium.banks["north"].pin().public_key == key


def test_secrets_are_for_the_operators_eyes_only(consortium: Consortium) -> None:
    tiny.approved(consortium)
    for path in consortium.core.directory.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.name == "key.pem" or "vault" in path.parts or "jobs" in path.parts:
            assert mode & 0o077 == 0, path
    for bank in consortium.banks.values():
        for name in ("signing.pem", "age.key"):
            assert stat.S_IMODE((bank.home / name).stat().st_mode) == 0o600
        for path in bank.folder.glob("*.json"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_secrets_stand_in_no_log_and_no_repr(
    consortium: Consortium, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consortium.core.runtime, "_command", (sys.executable, "-c", "raise SystemExit(1)"))
    caplog.set_level(logging.DEBUG)
    digest = tiny.approved(consortium)
    key = consortium.core.vault.run_identity(digest.removeprefix("sha256:"))
    assert consortium.core.run(digest).state == "failed"
    shown = caplog.text + repr(consortium) + repr(consortium.core.runs) + str(consortium.banks)
    secrets = [key, *(each.identity for parts in consortium.deposits.values() for each in parts)]
    secrets += [each.salt for parts in consortium.deposits.values() for each in parts]
    secrets += [str(bank.identity.age) for bank in consortium.banks.values()]
    assert not [secret for secret in secrets if secret in shown]
    assert "AGE-SECRET-KEY" not in shown
    assert "PRIVATE KEY" not in shown


def test_ledger_and_vault_hold_no_plaintext(replayed: Consortium, played: Any) -> None:
    """What stands on the escrow's disk after a release and a refusal: ciphertext, statements, nothing of the rows."""
    train, _ = tiny.tables(0, "north", banks=2)
    wanted = [str(train.groups[0]).encode(), str(train.terminals[0]).encode(), b"PAR1", b"average-precision"]
    for path in played.escrow.rglob("*"):
        if path.is_file() and not path.name.startswith("ledger.db"):
            assert not [word for word in wanted if word in path.read_bytes()], path
    stated = b"".join(read_leaf(leaf).envelope.payload for leaf in replayed.core.ledger.leaves())
    assert played.withheld.encode() in stated
    for word in (*wanted[:3], b"gain-lower", b'"own"', b'"joint"', b"measurement"):
        assert word not in stated


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Four banks with one kind of fraud each, and the real worker."""
    folder = tmp_path_factory.mktemp("skewed")
    world = build("fraud-type-skew", seed=1, size="small")
    paths = world.write(folder / "tables")
    with ProcessRuntime(folder / "jobs") as runtime:
        consortium = Consortium.create(folder / "consortium", world.schema, runtime=runtime)
        for name in world.banks:
            consortium.join(name)
            consortium.deposit(name, paths[name])
        yield consortium, folder
        consortium.core.close()


def test_real_workers_release_the_same_model_for_the_same_run(skewed: Any) -> None:
    """A copy of the whole consortium comes to the same bytes; every bank verifies what it gets."""
    consortium, folder = skewed
    gain = {"kind": "gain", "party": "north", "metric": "average-precision", "more-than": 0.0}
    document = consortium.draft(
        model={**MODELS["boosted"], "iterations": 30}, method={"name": "pooled"}, release=[gain]
    )
    digest = consortium.propose(consortium.contract(document))
    consortium.approve(digest)
    shutil.copytree(folder / "consortium", folder / "copy")
    assert consortium.core.run(digest).state == "released"
    for name, bank in consortium.banks.items():
        verified = verify_release(fetch(bank, digest, folder / "release" / name), bank.identity, pinned(bank.home))
        assert verified.bundle is not None
        lower = [finding.measurement.gain_lower for finding in verified.opening.findings if finding.measurement]
        assert all(bound is not None and bound > 0 for bound in lower)
        assert len(lower) == (name == "north")
    with ProcessRuntime(folder / "copied-jobs") as runtime:
        copy = tiny.reopened(folder / "copy", runtime, tiny.Clock(consortium.core.now()))

        def trained(stage: str, words: str) -> None:
            if (stage, words) == ("evaluate", "started"):
                copy.banks["north"].halt(digest)

        stages = copy.core.run(digest, trained).stages
        copy.core.close()
    # The copy has the run key too, so its commitments have the same salts: equal only for equal bytes.
    assert set(stages) == {"prepare", "baseline", "train"}
    assert stages.items() <= consortium.core.runs.case(digest).stages.items()


def test_real_workers_withhold_what_does_not_reach_the_floor(skewed: Any, refused: Any) -> None:
    consortium, _ = skewed
    floor = {"kind": "floor", "party": "corner", "metric": "average-precision", "at-least": 0.99}
    document = consortium.draft(model=MODELS["logistic"], method={"name": "fedavg", "rounds": 2}, release=[floor])
    digest = consortium.propose(consortium.contract(document))
    consortium.approve(digest)
    case = consortium.core.run(digest)
    assert (case.state, case.verdict, case.reason) == ("withheld", "withheld", "verdict")
    for bank in consortium.banks.values():
        with refused("not-released"):
            bank.escrow.collect(digest)


@pytest.mark.wires
def test_an_open_session_ends_with_the_admission(consortium: Consortium, refused: Any) -> None:
    digest = tiny.proposed(consortium)
    session = consortium.banks["harbour"].escrow
    assert session.view(digest).state == "open"
    consortium.core.revoke("harbour")
    calls = (
        lambda: session.view(digest),
        session.contracts,
        session.deposits,
        lambda: session.entries(0, 1),
        lambda: list(session.collect(digest)),
        lambda: session.deposit(consortium.deposits["harbour"][0]),
    )
    for call in calls:
        with refused("party-revoked"):
            call()


@pytest.mark.wires
@pytest.mark.parametrize(
    ("changes", "code"), [({"size": 1}, "blob-refused"), ({"blob": "sha256:" + 64 * "7"}, "blob-missing")]
)
def test_a_deposit_is_stated_as_it_arrived(
    consortium: Consortium, changes: dict[str, Any], code: str, refused: Any
) -> None:
    stated = consortium.deposits["north"][0].statement(ORIGIN, "north")
    another = stated.model_copy(update={"commitment": "sha256-salted:" + 64 * "7", **changes})
    before = consortium.core.ledger.size()
    with refused(code):
        consortium.banks["north"].submit(another)
    assert consortium.core.ledger.size() == before


@pytest.mark.wires
def test_a_proposal_sent_again_is_the_same_proposal_whatever_became_of_its_deposits(consortium: Consortium) -> None:
    digest = tiny.proposed(consortium)
    north = consortium.banks["north"]
    again = sign(
        st.ContractProposed(ledger=ORIGIN, party="north", contract=north.view(digest).contract).payload(),
        north.identity.signer,
    )
    first = north.escrow.submit(again.to_bytes())
    north.revoke(consortium.deposits["north"][0].commitment)
    assert north.escrow.submit(again.to_bytes()).index == first.index
