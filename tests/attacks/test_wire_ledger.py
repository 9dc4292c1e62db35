"""An operator that rolls the ledger back, shows two of them, or lies about it: every bank refuses, and has evidence."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import EscrowError, Exit
from contracts.notes import Checkpoint, parse_note, sign_note
from contracts.signing import Ed25519Signer
from contracts.transparency import verify_consistency
from escrow.core import Core
from escrow.front import Front
from escrow.server import Server
from parties.client import Client
from parties.identity import pinned
from parties.witness import Witness
from scenarios import tiny
from scenarios.consortium import ORIGIN, Consortium, Wire
from tests import wire as line

CHILD = Path(__file__).with_name("calling_child.py")
BYTES = tuple[tuple[str, str | bytes], ...]


@pytest.fixture
def wire() -> Wire:
    return "grpc"


def remembered(bank: Client) -> str:
    return (bank.home / "head.note").read_text()


def evidence(bank: Client) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((bank.home / "evidence").glob("*.json"))]


def copied(source: Path, target: Path) -> None:
    """The escrow's database, while nobody serves it."""
    for path in source.glob("ledger.db*"):
        shutil.copy(path, target / path.name)


@pytest.fixture
def rolled_back(consortium: Consortium, runtime: Any, tmp_path: Path) -> str:
    """The escrow serves an older state of its database, perfect in itself; a contract that it still has."""
    escrow, saved = consortium.directory / "escrow", tmp_path / "saved"
    saved.mkdir()
    contract = tiny.proposed(consortium)
    line.restart(consortium, runtime, between=lambda: copied(escrow, saved))
    consortium.approve(contract)
    for bank in consortium.banks.values():
        bank.head()

    def restore() -> None:
        for path in escrow.glob("ledger.db*"):
            path.unlink()
        copied(saved, escrow)

    line.restart(consortium, runtime, between=restore)
    return contract


# All but `consistency`, by which a bank checks heads: its answer proves itself or nothing.
VERBS: dict[str, Callable[[Client, str], object]] = {
    "info": lambda bank, _: bank.escrow.info(),
    "directory": lambda bank, _: bank.escrow.directory(),
    "deposits": lambda bank, _: bank.escrow.deposits(),
    "contracts": lambda bank, _: bank.escrow.contracts(),
    "view": lambda bank, contract: bank.view(contract),
    "head": lambda bank, _: bank.escrow.head(),
    "entries": lambda bank, _: bank.escrow.entries(0, 5),
    "inclusion": lambda bank, _: bank.escrow.inclusion(0, 5),
    "submit": lambda bank, _: bank.revoke(f"sha256-salted:{next(bank.folder.glob('*.age')).stem}"),
}


def test_a_rolled_back_ledger_is_refused_in_every_verb(consortium: Consortium, rolled_back: str) -> None:
    for bank in consortium.banks.values():
        before = remembered(bank)
        for verb, call in VERBS.items():
            with pytest.raises(EscrowError) as caught:
                call(bank, rolled_back)
            assert (caught.value.code, caught.value.exit) == ("ledger-tampered", Exit.REFUSED), verb
            assert "evidence" in caught.value.hint
        assert remembered(bank) == before
        key = {ORIGIN: consortium.core.signer.public}
        for each in evidence(bank):
            assert each["remembered"] == before
            assert parse_note(each["shown"], key) != parse_note(before, key)


def test_evidence_of_the_same_is_kept_once(consortium: Consortium, rolled_back: str) -> None:
    north = consortium.banks["north"]
    for _ in range(3):
        with pytest.raises(EscrowError):
            north.head()
    assert len(evidence(north)) == 1


@pytest.fixture
def forked(consortium: Consortium, runtime: Any, tmp_path: Path) -> Iterator[str]:
    """A second escrow with the same keys and the same past; where it serves."""
    tiny.proposed(consortium)
    for bank in consortium.banks.values():
        bank.head()
    copy = tmp_path / "fork"
    line.restart(consortium, runtime, between=lambda: shutil.copytree(consortium.directory / "escrow", copy) and None)
    core = Core.open(copy, runtime, now=consortium.core.now)
    server = Server.start(core)
    yield f"{server.ports.host}:{server.ports.main}"
    server.stop(0)
    core.ledger.close()
    core.lock.release()


def test_two_ledgers_are_seen_as_soon_as_heads_are_compared(consortium: Consortium, forked: str, refused: Any) -> None:
    """Each bank alone sees a perfect ledger; their heads cannot both be of one."""
    north, honest_harbour = consortium.banks.values()
    held = line.credentials(honest_harbour, consortium.core.now())
    harbour = replace(honest_harbour, escrow=line.session(honest_harbour, held, forked))
    [contract] = [view.digest for view in north.escrow.contracts()]
    north.approve(contract)
    harbour.reject(contract)
    heads = [pinned(bank.home).checkpoint(remembered(bank)) for bank in (north, harbour)]
    assert heads[0].root != heads[1].root
    shorter, longer = sorted(heads, key=lambda head: head.size)
    for bank in (north, harbour):
        size = pinned(bank.home).checkpoint(bank.head()).size
        proof = [bytes.fromhex(each) for each in bank.escrow.consistency(shorter.size, min(longer.size, size))]
        with refused("proof-invalid"):
            verify_consistency(shorter.size, shorter.root, longer.size, longer.root, proof)
    with refused("ledger-tampered"):
        Witness(north.home).saw(remembered(harbour), lambda old, new: [])
    assert evidence(north)[0]["shown"] == remembered(harbour)
    harbour.escrow.close()  # type: ignore[attr-defined]


def test_a_bank_that_is_switched_to_the_other_ledger_refuses(consortium: Consortium, forked: str, refused: Any) -> None:
    north, harbour = consortium.banks.values()
    [contract] = [view.digest for view in north.escrow.contracts()]
    north.approve(contract)
    before = remembered(north)
    held = {bank.name: line.credentials(bank, consortium.core.now()) for bank in (north, harbour)}
    there = {bank.name: line.session(bank, held[bank.name], forked) for bank in (north, harbour)}
    other = replace(harbour, escrow=there["harbour"])
    for size in range(5):  # the other ledger is shorter, as long, and longer
        with refused("ledger-tampered"):
            there["north"].head()
        tiny_contract = consortium.draft(
            model={"family": "logistic"}, method={"name": "pooled"}, title=f"Contract {size}"
        )
        other.propose(consortium.contract(tiny_contract))
    assert remembered(north) == before
    assert len(evidence(north)) >= 3
    north.head()  # the true one is as good as before
    for session in there.values():
        session.close()


# lies about the head


def moved(consortium: Consortium) -> None:
    """The ledger grows without north."""
    contract = consortium.banks["harbour"].escrow.contracts()[0].digest
    consortium.banks["harbour"].halt(contract)


def no_head(core: Core, seen: int, honest: BYTES) -> BYTES:
    return ()


def no_proof(core: Core, seen: int, honest: BYTES) -> BYTES:
    return honest[:1]


def other_proof(core: Core, seen: int, honest: BYTES) -> BYTES:
    proof = bytearray(dict(honest)["consistency-bin"])  # type: ignore[arg-type]
    proof[0] ^= 1
    return (honest[0], ("consistency-bin", bytes(proof)))


def cut_proof(core: Core, seen: int, honest: BYTES) -> BYTES:
    return (honest[0], ("consistency-bin", bytes(dict(honest)["consistency-bin"])[:-1]))  # type: ignore[arg-type]


def older_head(core: Core, seen: int, honest: BYTES) -> BYTES:
    note = sign_note(Checkpoint(ORIGIN, seen - 1, core.ledger.root(seen - 1)), ORIGIN, core.signer)
    return (("head-bin", note.encode()), ("consistency-bin", b""))


def other_root(core: Core, seen: int, honest: BYTES) -> BYTES:
    note = sign_note(Checkpoint(ORIGIN, seen, bytes(32)), ORIGIN, core.signer)
    return (("head-bin", note.encode()), ("consistency-bin", b""))


def longer_than_true(core: Core, seen: int, honest: BYTES) -> BYTES:
    note = sign_note(Checkpoint(ORIGIN, seen + 1000, bytes(32)), ORIGIN, core.signer)
    return (("head-bin", note.encode()), honest[1])


def other_ledger(core: Core, seen: int, honest: BYTES) -> BYTES:
    note = sign_note(Checkpoint("other.example/ledger", seen, bytes(32)), "other.example/ledger", core.signer)
    return (("head-bin", note.encode()), honest[1])


def other_key(core: Core, seen: int, honest: BYTES) -> BYTES:
    note = sign_note(Checkpoint(ORIGIN, seen, core.ledger.root(seen)), ORIGIN, Ed25519Signer.from_seed(bytes(32)))
    return (("head-bin", note.encode()), honest[1])


def garbage(core: Core, seen: int, honest: BYTES) -> BYTES:
    return (("head-bin", b"\xff\x00 no note"), honest[1])


@pytest.mark.parametrize(
    ("lie", "codes"),
    [
        (no_head, {"proof-invalid"}),
        (no_proof, {"proof-invalid"}),
        (other_proof, {"ledger-tampered"}),
        (cut_proof, {"ledger-tampered"}),
        (older_head, {"ledger-tampered"}),
        (other_root, {"ledger-tampered"}),
        (longer_than_true, {"ledger-tampered", "proof-invalid"}),
        (other_ledger, {"ledger-tampered", "signature-invalid", "checkpoint-invalid"}),
        (other_key, {"signature-invalid"}),
        (garbage, {"checkpoint-invalid", "signature-invalid"}),
    ],
)
def test_an_answer_that_lies_about_the_head_is_refused(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch, lie: Callable[[Core, int, BYTES], BYTES], codes: set[str]
) -> None:
    tiny.proposed(consortium)
    north = consortium.banks["north"]
    north.head()
    before = remembered(north)
    moved(consortium)
    honestly = Front._witnessed

    def lying(self: Front, context: Any, seen: int) -> None:
        said: list[BYTES] = []
        honestly(self, _Listener(said), seen)  # type: ignore[arg-type]
        context.set_trailing_metadata(lie(self.core, seen, said[0]))

    monkeypatch.setattr(Front, "_witnessed", lying)
    for call in (north.escrow.info, north.escrow.contracts):  # an answer, and a stream
        with pytest.raises(EscrowError) as caught:
            call()
        assert caught.value.code in codes
        assert caught.value.exit is Exit.REFUSED
    assert remembered(north) == before
    assert bool(evidence(north)) == (lie not in (no_head, no_proof))
    monkeypatch.setattr(Front, "_witnessed", honestly)
    north.head()
    assert remembered(north) != before


class _Listener:
    """Hears what would be sent."""

    def __init__(self, said: list[BYTES]) -> None:
        self.set_trailing_metadata = said.append


# no false alarms


def test_threads_and_processes_of_one_bank_raise_no_false_alarm(consortium: Consortium) -> None:
    """They share a home, and so the remembered head, while the ledger grows."""
    contract = tiny.proposed(consortium)
    north, harbour = consortium.banks.values()
    command = [sys.executable, str(CHILD), str(north.home), "60"]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]

    def call(number: int) -> None:
        for turn in range(12):
            (north.head, north.escrow.deposits, lambda: north.view(contract), north.escrow.info)[turn % 4]()
            if number % 4 == 0:
                tiny.proposed(consortium, title=f"Contract {number} {turn}")
            if number % 4 == 1:
                harbour.head()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))
    for child in children:
        _, said = child.communicate(timeout=5 * line.SECONDS)
        assert (child.returncode, said) == (0, "")
    north.head()
    assert not (north.home / "evidence").exists()
    assert parse_note(remembered(north), {ORIGIN: consortium.core.signer.public}).size == consortium.core.ledger.size()
