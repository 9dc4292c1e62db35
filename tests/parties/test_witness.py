"""What a bank remembers of the ledger: it takes what continues it, refuses all else, and keeps the evidence."""

import json
import random
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import EscrowError
from contracts.notes import Checkpoint, sign_note
from contracts.signing import Ed25519Signer
from contracts.transparency import Tree, consistency_proof, leaf_hash
from parties.identity import Pinned, pin
from parties.witness import Witness

ORIGIN = "escrow.example/ledger"
SIGNER = Ed25519Signer.from_seed(bytes(32))


class Log:
    """A ledger of made-up entries, and what it was asked to prove."""

    def __init__(self, *entries: bytes) -> None:
        self._nodes: dict[tuple[int, int], bytes] = {}
        self._trees = [Tree()]
        for index, entry in enumerate(entries):
            tree, nodes = self._trees[-1].append(leaf_hash(entry))
            self._trees.append(tree)
            self._nodes |= {(level, index >> level): node for level, node in enumerate(nodes)}
        self.asked: list[tuple[int, int]] = []

    def note(self, size: int, signer: Ed25519Signer = SIGNER, origin: str = ORIGIN) -> str:
        return sign_note(Checkpoint(origin, size, self._trees[size].root()), origin, signer)

    def proof(self, old: int, new: int) -> list[bytes]:
        return list(consistency_proof(old, new, lambda nodes: [self._nodes[each] for each in nodes]))

    def ask(self, old: int, new: int) -> Sequence[bytes]:
        self.asked.append((old, new))
        return self.proof(old, new)


@pytest.fixture
def log() -> Log:
    return Log(*[b"entry %d" % number for number in range(20)])


@pytest.fixture
def other(log: Log) -> Log:
    """A ledger that is the same up to its eighth entry, and then another."""
    return Log(*[b"entry %d" % number for number in range(8)], *[b"another %d" % number for number in range(12)])


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    pin(tmp_path, Pinned(ORIGIN, SIGNER.public))
    return Witness(tmp_path)


def test_nothing_is_remembered_at_first(witness: Witness, log: Log) -> None:
    assert witness.seen() == 0
    assert witness.saw(log.note(5), log.ask).size == 5
    assert witness.seen() == 5
    assert log.asked == []
    assert stat.S_IMODE(witness.path.stat().st_mode) == 0o600


def test_a_proof_that_was_sent_along_is_enough(witness: Witness, log: Log) -> None:
    witness.saw(log.note(5), log.ask)
    witness.saw(log.note(11), log.ask, since=5, proof=log.proof(5, 11))
    assert (witness.seen(), log.asked) == (11, [])


def test_a_proof_for_another_head_than_is_remembered_is_asked_for_again(witness: Witness, log: Log) -> None:
    witness.saw(log.note(5), log.ask)
    witness.saw(log.note(9), log.ask, since=5, proof=log.proof(5, 9))
    witness.saw(log.note(11), log.ask, since=5, proof=log.proof(5, 11))  # its call began before the other was answered
    assert (witness.seen(), log.asked) == (11, [(9, 11)])


def test_an_answer_that_was_overtaken_is_checked_and_forgotten(witness: Witness, log: Log) -> None:
    witness.saw(log.note(5), log.ask)
    witness.saw(log.note(11), log.ask, since=5, proof=log.proof(5, 11))
    witness.saw(log.note(9), log.ask, since=5, proof=log.proof(5, 9))
    assert (witness.seen(), log.asked) == (11, [(9, 11)])


def test_what_does_not_continue_the_ledger_is_refused_and_kept(witness: Witness, log: Log, other: Log) -> None:
    witness.saw(log.note(10), log.ask)
    seen: list[dict[str, Any]] = [
        {"note": other.note(10), "since": 10},  # as long, but another
        {"note": log.note(9), "since": 10},  # shorter than what the call knew of
        {"note": other.note(9), "since": 5},  # overtaken, it says, but of another ledger
        {"note": other.note(15), "since": 10, "proof": other.proof(10, 15)},
        {"note": other.note(15), "since": 10, "proof": log.proof(10, 15)},
        {"note": other.note(15), "since": 0},
        {"note": log.note(15), "since": 10, "proof": []},
        {"note": log.note(15), "since": 10, "proof": [*log.proof(10, 15), bytes(32)]},
        {"note": log.note(15), "since": 10, "proof": [b"short"]},
    ]
    for number, each in enumerate(seen):
        with pytest.raises(EscrowError) as caught:
            witness.saw(each.pop("note"), other.ask, **each)
        assert caught.value.code == "ledger-tampered", number
        assert "evidence" in caught.value.hint
        assert witness.path.read_text() == log.note(10)
    kept = [json.loads(path.read_text()) for path in (witness.home / "evidence").glob("*.json")]
    assert len(kept) == len(seen)
    for each in kept:
        assert (each["ledger"], each["public-key"], each["remembered"]) == (ORIGIN, SIGNER.public, log.note(10))
        assert each["shown"] != log.note(10)
    witness.saw(log.note(15), log.ask, since=10, proof=log.proof(10, 15))  # the true ledger is as good as before


def test_a_head_that_the_pinned_escrow_did_not_sign_is_refused(witness: Witness, log: Log, refused: Any) -> None:
    witness.saw(log.note(5), log.ask)
    with refused("signature-invalid"):
        witness.saw(log.note(6, signer=Ed25519Signer.from_seed(bytes(31) + b"x")), log.ask)
    with refused("signature-invalid"):
        witness.saw(log.note(6, origin="other.example/ledger"), log.ask)
    for garbage in ("", "no note", log.note(6)[:-3], log.note(6).replace("\n6\n", "\n7\n")):
        with pytest.raises(EscrowError) as caught:
            witness.saw(garbage, log.ask)
        assert caught.value.code in {"checkpoint-invalid", "signature-invalid"}
    assert witness.seen() == 5


def test_evidence_is_for_the_banks_eyes_and_kept_once(witness: Witness, log: Log, refused: Any) -> None:
    witness.saw(log.note(5), log.ask)
    for _ in range(3):
        with refused("ledger-tampered"):
            witness.saw(log.note(4), log.ask, since=5)
    [path] = (witness.home / "evidence").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_escrow_that_gives_no_proof_changes_nothing(witness: Witness, log: Log, refused: Any) -> None:
    def unreachable(old: int, new: int) -> Sequence[bytes]:
        raise EscrowError("escrow-unreachable", "The escrow cannot be reached.")

    witness.saw(log.note(5), log.ask)
    with refused("escrow-unreachable"):
        witness.saw(log.note(9), unreachable)
    assert witness.seen() == 5
    assert not (witness.home / "evidence").exists()


def test_answers_in_any_order_from_many_threads_are_no_alarm(witness: Witness, log: Log) -> None:
    def call(seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - an order of calls, no secret
        for _ in range(20):
            since = witness.seen()
            size = rng.randint(max(since, 1), 20)
            proof = log.proof(since, size) if since else None
            Witness(witness.home).saw(log.note(size), log.ask, since=since, proof=proof)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))
    assert witness.path.read_text() == log.note(witness.seen())
    assert not (witness.home / "evidence").exists()
