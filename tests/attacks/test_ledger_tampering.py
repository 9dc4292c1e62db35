"""The escrow's operator edits, drops, reorders, shortens or forks the ledger, or what is read instead of it."""

import base64
import json
import shutil
from typing import Any

import pytest

from contracts import statements as st
from contracts.entries import leaf, read_leaf
from contracts.notes import parse_note
from contracts.statements import read
from escrow import home
from escrow.audit import audit
from escrow.ledger import Ledger
from parties.client import Client
from scenarios import hostile, tiny


def envelopes(leaves: list[bytes]) -> list[str]:
    return [read_leaf(each).envelope.digest for each in leaves]


def kinds(leaves: list[bytes]) -> list[str]:
    return [str(read(read_leaf(each).envelope.payload).kind) for each in leaves]  # type: ignore[attr-defined]


@pytest.fixture
def operator(played: Any) -> hostile.Operator:
    return hostile.Operator(played.escrow)


def test_an_honest_ledger_passes_every_step(played: Any) -> None:
    heard: list[tuple[int, str]] = []
    steps = audit(played.escrow, played.heads(), heard.append)
    assert [number for number, _ in steps] == [1, 2, 3, 4]
    assert heard == list(steps)
    assert "2 remembered checkpoints" in steps[3][1]


def test_checking_writes_nothing(played: Any) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in played.escrow.glob("ledger*")}

    before = state()
    audit(played.escrow, played.heads())
    assert state() == before


def test_a_ledger_in_use_can_be_checked(replayed: Any, played: Any) -> None:
    north = replayed.banks["north"]
    north.revoke(north.escrow.deposits()[0].commitment)
    assert len(audit(played.escrow, played.heads())) == 4


@pytest.mark.parametrize("what", ["payload", "signature", "time", "form"])
def test_an_edited_entry_is_found(operator: hostile.Operator, what: str, refused: Any) -> None:
    leaves = operator.leaves()
    place = kinds(leaves).index("run-decided")
    found = read_leaf(leaves[place])
    document = json.loads(leaves[place])
    if what == "payload":
        verdict = base64.b64decode(document["envelope"]["payload"]).replace(b'"released"', b'"withheld"')
        document["envelope"]["payload"] = base64.b64encode(verdict).decode()
    elif what == "signature":
        document["envelope"]["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    elif what == "time":
        document["time"] = tiny.START - 1
    edited = json.dumps(document, separators=(",", ":")).encode() + (b" " if what == "form" else b"")
    assert edited != leaf(*found)
    leaves[place] = edited
    names = envelopes(operator.leaves())
    with refused("ledger-tampered"):
        if what in ("form", "signature", "payload"):
            operator.execute("UPDATE entries SET leaf = ? WHERE position = ?", (edited, place))
        else:
            operator.rebuild(leaves, names)
        audit(operator.directory)


def test_a_deleted_entry_is_found(operator: hostile.Operator, refused: Any) -> None:
    operator.execute("DELETE FROM entries WHERE position = 3")
    with refused("ledger-tampered"):
        audit(operator.directory)


@pytest.mark.parametrize("kind", ["contract-approved", "run-decided", "key-erased", "data-deposited"])
def test_a_deleted_entry_is_found_though_all_hashes_are_made_anew(
    operator: hostile.Operator, played: Any, kind: str, refused: Any
) -> None:
    leaves = operator.leaves()
    del leaves[kinds(leaves).index(kind)]
    operator.rebuild(leaves, envelopes(leaves))
    with refused("ledger-tampered"):
        audit(operator.directory, played.heads())


def test_reordered_entries_are_found(operator: hostile.Operator, played: Any, refused: Any) -> None:
    leaves = operator.leaves()
    places = [place for place, kind in enumerate(kinds(leaves)) if kind == "contract-approved"][:2]
    leaves[places[0]], leaves[places[1]] = leaves[places[1]], leaves[places[0]]
    operator.rebuild(leaves, envelopes(leaves))
    with refused("ledger-tampered"):
        audit(operator.directory, played.heads())


def shorten(operator: hostile.Operator, *, by: int) -> None:
    """Leave a shorter ledger with read tables to fit: an older state of the escrow, perfect in itself."""
    leaves = operator.leaves()[:-by]
    fresh = operator.directory.parent / "fresh"
    fresh.mkdir()
    for name in ("escrow.json", "key.pem"):
        shutil.copy(operator.directory / name, fresh)
    ledger = Ledger(f"sqlite:///{fresh / home.LEDGER}")
    for each in leaves:
        ledger.append(*read_leaf(each))
    ledger.close()
    shutil.copy(fresh / home.LEDGER, operator.directory / home.LEDGER)


def test_a_shortened_ledger_is_found_by_whoever_remembers_more(
    operator: hostile.Operator, played: Any, refused: Any
) -> None:
    shorten(operator, by=12)
    audit(operator.directory)  # by itself it is perfect
    with refused("ledger-tampered"):
        audit(operator.directory, played.heads())


def test_a_fork_is_found_by_whoever_remembers_the_other_branch(
    operator: hostile.Operator, played: Any, runtime: Any, clock: tiny.Clock, refused: Any
) -> None:
    shorten(operator, by=12)
    forked = tiny.reopened(played.folder / "consortium", runtime, clock)
    for number in range(14):
        forked.join(f"new-{number}")
    forked.core.close()
    audit(operator.directory)
    with refused("ledger-tampered"):
        audit(operator.directory, played.heads())


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE records SET document = replace(document, 'withheld', 'released') WHERE kind = 'case'",
        "UPDATE records SET state = 'released' WHERE kind = 'case'",
        "DELETE FROM records WHERE kind = 'deposit'",
        "INSERT INTO records SELECT 'party/ghost', 'party', NULL, document, NULL FROM records LIMIT 1",
        "UPDATE records SET owner = 'harbour' WHERE owner = 'north'",
        "UPDATE records SET owner = NULL WHERE kind = 'deposit'",
        "DELETE FROM members WHERE party = 'north'",
        "INSERT INTO members SELECT 'ghost', contract FROM members WHERE party = 'north'",
        "DELETE FROM events WHERE kind = 'run-decided'",
        "UPDATE events SET kind = 'contract-rejected' WHERE kind = 'contract-approved'",
        "UPDATE events SET time = time + 1 WHERE kind = 'run-started'",
        "UPDATE events SET position = position + 1 WHERE position = (SELECT max(position) FROM events)",
        "UPDATE entries SET nodes = zeroblob(length(nodes)) WHERE position = 7",
        "UPDATE entries SET time = time + 1 WHERE position = 5",
        "UPDATE entries SET envelope = 'sha256:' || substr(envelope, 9) || '0' WHERE position = 5",
        "DROP TABLE records",
        "DROP TABLE members",
    ],
)
def test_edited_tables_are_found(operator: hostile.Operator, played: Any, change: str, refused: Any) -> None:
    operator.execute(change)
    with refused("ledger-tampered"):
        audit(operator.directory, played.heads())


@pytest.mark.parametrize(("found", "code"), [("0001", "database-older"), ("9999", "database-newer")])
def test_a_ledger_of_another_version_is_not_called_tampered(
    operator: hostile.Operator, found: str, code: str, refused: Any
) -> None:
    operator.execute("UPDATE alembic_version SET version_num = ?", (found,))
    with refused(code):
        audit(operator.directory)


def test_a_broken_database_is_told_as_such(operator: hostile.Operator, refused: Any) -> None:
    (operator.directory / home.LEDGER).write_bytes(b"not a database" * 1000)
    with refused("ledger-tampered"):
        audit(operator.directory)
    (operator.directory / home.LEDGER).unlink()
    with refused("escrow-missing"):
        audit(operator.directory)


def test_a_checkpoint_of_another_key_or_ledger_is_refused(
    operator: hostile.Operator, played: Any, refused: Any
) -> None:
    note = played.heads()["north"]
    origin, _ = home.about(operator.directory)
    for other in (note.replace(origin, "other.example/ledger"), "no note at all", note[:-10] + "AAAAAAAA=\n"):
        with refused("ledger-tampered"):
            audit(operator.directory, {"north": other})
    about = operator.directory / "escrow.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "public-key": "ed25519-pub:" + 64 * "a"}))
    with refused("ledger-tampered"):
        audit(operator.directory, {"north": note})


def test_the_operator_cannot_force_what_the_rules_refuse(operator: hostile.Operator, played: Any, refused: Any) -> None:
    origin, _ = home.about(operator.directory)
    operator.force(st.RunStarted(ledger=origin, contract=played.withheld, run=2), tiny.START)
    with refused("ledger-tampered"):
        audit(operator.directory, played.heads())


def test_a_bank_refuses_a_ledger_that_shrinks(
    operator: hostile.Operator, played: Any, runtime: Any, clock: tiny.Clock, refused: Any
) -> None:
    remembered = (played.bank("north") / "head.note").read_text()
    shorten(operator, by=12)
    consortium = tiny.reopened(played.folder / "consortium", runtime, clock)
    north = consortium.banks["north"]
    with refused("ledger-tampered"):
        north.revoke(north.escrow.deposits()[0].commitment)
    assert (played.bank("north") / "head.note").read_text() == remembered
    consortium.core.close()


def test_a_bank_refuses_a_ledger_that_forks(
    operator: hostile.Operator, played: Any, runtime: Any, clock: tiny.Clock, refused: Any
) -> None:
    remembered = (played.bank("north") / "head.note").read_text()
    shorten(operator, by=12)
    consortium = tiny.reopened(played.folder / "consortium", runtime, clock)
    for number in range(14):
        consortium.join(f"new-{number}")
    north = consortium.banks["north"]
    with refused("ledger-tampered"):
        north.revoke(north.escrow.deposits()[0].commitment)
    assert (played.bank("north") / "head.note").read_text() == remembered
    consortium.core.close()


def test_a_bank_refuses_a_receipt_that_is_not_its_statements(replayed: Any, refused: Any) -> None:
    north, harbour = replayed.banks.values()
    other = harbour.revoke(harbour.escrow.deposits()[0].commitment)
    cheated = Client(north.home, north.identity, hostile.Rewound(north.escrow, other))
    with refused("ledger-tampered"):
        cheated.revoke(north.escrow.deposits()[0].commitment)


def test_a_bank_refuses_a_head_signed_with_another_key(replayed: Any, played: Any, refused: Any) -> None:
    north = replayed.banks["north"]
    pinned = north.home / "escrow.json"
    pinned.write_text(json.dumps({**json.loads(pinned.read_text()), "public-key": north.identity.signer.public}))
    with refused("signature-invalid"):
        north.revoke(north.escrow.deposits()[0].commitment)
    with refused("escrow-pinned"):
        north.pin()


def test_heads_of_all_banks_agree(played: Any) -> None:
    origin, key = home.about(played.escrow)
    heads = {parse_note(note, {origin: key}) for note in played.heads().values()}
    assert {head.origin for head in heads} == {origin}
