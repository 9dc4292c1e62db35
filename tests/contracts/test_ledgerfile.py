"""A ledger as a file: read back byte for byte, proven without a database, and refused when it is not whole."""

import io
import json

import pytest
from support import LEDGER, World, refused, signer

from contracts import ledgerfile
from contracts.notes import Checkpoint, sign_note
from contracts.transparency import Tree, leaf_hash

LINES_AT_MOST = ledgerfile.MAX_LINE


def head(world: World, *, origin: str = LEDGER, fewer: int = 0) -> str:
    tree = Tree()
    for data in world.leaves[: len(world.leaves) - fewer]:
        tree, _ = tree.append(leaf_hash(data))
    return sign_note(Checkpoint(origin, tree.size, tree.root()), LEDGER, world.escrow)


def written(leaves: list[bytes], note: str) -> bytes:
    file = io.BytesIO()
    ledgerfile.write(file, leaves, note)
    return file.getvalue()


@pytest.fixture(scope="module")
def world() -> World:
    world = World.founded()
    name = world.propose()
    world.approve(name)
    world.run(name)
    return world


def test_what_is_written_is_read_back(world: World) -> None:
    data = written(world.leaves, head(world))
    note, leaves = ledgerfile.read(io.BytesIO(data))
    assert (note, list(leaves)) == (head(world), world.leaves)
    assert all(json.loads(line) for line in data.splitlines())
    assert len(data.splitlines()) == 1 + len(world.leaves)


def test_a_whole_ledger_is_proven_without_a_database(world: World) -> None:
    checkpoint, replayed = ledgerfile.verified(
        io.BytesIO(written(world.leaves, head(world))), LEDGER, world.escrow.public
    )
    assert checkpoint.size == len(world.leaves)
    assert {key: record.document() for key, record in replayed.records.items()} == world.documents


def test_a_ledger_of_no_entries_is_one() -> None:
    empty = World()
    checkpoint, replayed = ledgerfile.verified(io.BytesIO(written([], head(empty))), LEDGER, empty.escrow.public)
    assert (checkpoint.size, replayed.records) == (0, {})


def test_more_or_fewer_entries_than_the_head_speaks_of_are_refused(world: World) -> None:
    for data in (
        written(world.leaves[:-1], head(world)),
        written(world.leaves, head(world, fewer=1)),
        written([], head(world)),
    ):
        with refused("ledger-tampered"):
            ledgerfile.verified(io.BytesIO(data), LEDGER, world.escrow.public)


def test_a_head_of_another_key_or_ledger_is_refused(world: World) -> None:
    data = written(world.leaves, head(world))
    with refused("signature-invalid"):
        ledgerfile.verified(io.BytesIO(data), LEDGER, signer("stranger").public)
    with refused("ledger-tampered"):
        other = written(world.leaves, head(world, origin="another.example/ledger"))
        ledgerfile.verified(io.BytesIO(other), LEDGER, world.escrow.public)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"no ledger\n",
        b"{}\n",
        b'{"format":"model-escrow/ledger/2","head":"x"}\n',
        b'{"format":"model-escrow/ledger/1","head":1}\n',
        b'{"extra":1,"format":"model-escrow/ledger/1","head":"x"}\n',
        b'{"format":"model-escrow/ledger/1","head":"x"}',
        b"SQLite format 3\0" * 100,
    ],
)
def test_another_kind_of_file_is_refused(data: bytes) -> None:
    with refused("export-invalid"):
        ledgerfile.read(io.BytesIO(data))


def test_a_file_that_was_cut_within_a_line_is_refused(world: World) -> None:
    data = written(world.leaves, head(world))
    for cut in (1, 100, len(world.leaves[-1])):
        _, leaves = ledgerfile.read(io.BytesIO(data[:-cut]))
        with refused("export-invalid"):
            list(leaves)


def test_no_line_is_read_further_than_an_entry_can_be_long(world: World) -> None:
    class Endless:
        read = 0

        def readline(self, limit: int, /) -> bytes:
            Endless.read += limit
            return b"[" * limit

    with refused("export-invalid"):
        ledgerfile.read(Endless())
    assert Endless.read <= LINES_AT_MOST + 1
    longest = b"x" * LINES_AT_MOST
    assert list(ledgerfile.read(io.BytesIO(written([longest], ""))).leaves) == [longest]
