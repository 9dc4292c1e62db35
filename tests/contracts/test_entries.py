"""A ledger is replayed from its bytes alone, and no entry is changed, dropped, moved or added unnoticed."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs
from support import LEDGER, OPENED, World, contract, data_revoked, erased, refused, rejected, released, signer

from contracts import statements as st
from contracts.canonical import parse
from contracts.entries import leaf, read_leaf, replay
from contracts.errors import EscrowError
from contracts.records import RECORDS
from contracts.signing import sign
from contracts.transparency import Tree, leaf_hash


def history() -> World:
    """A ledger with a released and a rejected contract and a revoked deposit."""
    world = World.founded()
    done = world.brought_to("releasing")
    world.now += 60
    world.submit(released(world.case(done)))
    world.submit(erased(done))
    world.submit(rejected(world.propose(contract(title="another")), "valley"))
    world.submit(data_revoked("north", "train"))
    return world


HISTORY = history()
PLACES = hs.integers(0, len(HISTORY.leaves) - 1)


def tampered(leaves: list[bytes], key: str | None = HISTORY.escrow.public) -> str:
    with refused("ledger-tampered") as caught:
        replay(leaves, key=key)
    return caught.value.message


def test_a_replay_gives_the_records_the_tree_and_the_time() -> None:
    found = replay(HISTORY.leaves, key=HISTORY.escrow.public)
    assert {key: record.document() for key, record in found.records.items()} == HISTORY.documents
    tree = Tree()
    for data in HISTORY.leaves:
        tree, _ = tree.append(leaf_hash(data))
    assert found.tree.root() == tree.root()
    assert (found.tree.size, found.time) == (len(HISTORY.leaves), OPENED + 60)


def test_every_prefix_is_a_ledger_and_the_empty_one_too() -> None:
    for size in range(len(HISTORY.leaves) + 1):
        assert replay(HISTORY.leaves[:size]).tree.size == size


def test_a_record_reads_back_as_it_was_written() -> None:
    for key, data in HISTORY.documents.items():
        assert RECORDS[key.kind].model_validate_json(data).document() == data


@settings(max_examples=40)
@given(PLACES, hs.data())
def test_any_changed_byte_is_noticed(place: int, data: hs.DataObject) -> None:
    spoilt = bytearray(HISTORY.leaves[place])
    at = data.draw(hs.integers(0, len(spoilt) - len(b',"time":1700000000}') - 1))
    spoilt[at] ^= data.draw(hs.integers(1, 255))
    leaves = [*HISTORY.leaves[:place], bytes(spoilt), *HISTORY.leaves[place + 1 :]]
    assert f"Entry {place} is refused" in tampered(leaves)


def test_a_changed_time_changes_the_head_even_where_replay_cannot_tell() -> None:
    spoilt = [leaf(read_leaf(data).envelope, read_leaf(data).time + 1) for data in HISTORY.leaves]
    assert replay(spoilt).tree.root() != replay(HISTORY.leaves).tree.root()


def noticed(leaves: list[bytes]) -> bool:
    """Whether replay refuses the leaves, or they lead to another head than the parties remember."""
    try:
        found = replay(leaves, key=HISTORY.escrow.public)
    except EscrowError as error:
        return error.code == "ledger-tampered"
    return found.tree.root() != replay(HISTORY.leaves).tree.root()


@pytest.mark.parametrize("place", range(len(HISTORY.leaves)))
def test_a_deleted_entry_is_noticed(place: int) -> None:
    assert noticed([*HISTORY.leaves[:place], *HISTORY.leaves[place + 1 :]])


def test_a_deleted_approval_is_noticed_by_replay_alone() -> None:
    for place, data in enumerate(HISTORY.leaves):
        if isinstance(st.read(read_leaf(data).envelope.payload), st.ContractApproved):
            tampered([*HISTORY.leaves[:place], *HISTORY.leaves[place + 1 :]])


@settings(max_examples=40)
@given(PLACES, PLACES)
def test_a_repeated_entry_is_refused_wherever_it_is_put(place: int, put: int) -> None:
    if put <= place:
        put = len(HISTORY.leaves)
    late = [leaf(read_leaf(data).envelope, OPENED + 60) for data in HISTORY.leaves[place : place + 1]]
    early = HISTORY.leaves[place : place + 1] if read_leaf(HISTORY.leaves[put - 1]).time == OPENED else late
    assert f"Entry {put} " in tampered([*HISTORY.leaves[:put], *early, *HISTORY.leaves[put:]])


@settings(max_examples=30)
@given(PLACES, PLACES)
def test_a_moved_entry_changes_the_head(one: int, two: int) -> None:
    leaves = list(HISTORY.leaves)
    leaves[one], leaves[two] = leaves[two], leaves[one]
    assert leaves == HISTORY.leaves or noticed(leaves)


def test_time_never_runs_backwards() -> None:
    first, *rest = HISTORY.leaves
    later = leaf(read_leaf(first).envelope, OPENED + 1)
    assert "Entry 1 is earlier" in tampered([later, *rest])


def test_an_entry_by_another_key_is_refused() -> None:
    world = World.founded()
    forged = sign(st.PartyRevoked(ledger=LEDGER, name="north").payload(), signer("stranger"))
    assert "signature-invalid" in tampered([*world.leaves, leaf(forged, OPENED)])


def test_a_whole_ledger_by_another_key_is_refused_where_the_key_is_pinned() -> None:
    other = World(escrow=signer("stranger"))
    other.submit(st.LedgerOpened(ledger=LEDGER, public_key=other.escrow.public))
    assert replay(other.leaves).tree.size == 1
    assert "pinned" in tampered(other.leaves)


def test_a_ledger_begins_with_its_opening() -> None:
    assert "Entry 0 " in tampered(HISTORY.leaves[1:])


def test_a_leaf_is_canonical_json_of_envelope_and_time() -> None:
    for data in HISTORY.leaves:
        found = read_leaf(data)
        assert leaf(*found) == data
        document = parse(data)
        assert isinstance(document, dict)
        assert sorted(document) == ["envelope", "time"]
        assert document["time"] == found.time
        assert json.loads(found.envelope.to_bytes()) == document["envelope"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data + b"\n",
        lambda data: b" " + data,
        lambda data: data[:-1],
        lambda data: data.replace(b',"time":', b',"time":0'),
        lambda data: data.replace(b',"time":', b',"time":-'),
        lambda data: data.replace(b',"time":', b',"time": '),
        lambda data: data.replace(b"}]},", b"}], },"),
        lambda data: data.replace(b'"time":', b'"tine":'),
        lambda data: data.replace(b',"time":', b',"time":1,"time":'),
        lambda data: data[:-1] + b"0" * 16 + b"}",
        lambda data: data[:-1] + "٣}".encode(),
        lambda data: data[:-1] + b".0}",
        lambda data: b'{"time":1}',
        lambda data: b',"time":1}',
        lambda data: b"",
        lambda data: b'{"envelope":' + data + b',"time":1}',
    ],
)
def test_a_leaf_has_one_form(spoil: "object") -> None:
    spoilt = spoil(HISTORY.leaves[3])  # type: ignore[operator]
    assert spoilt != HISTORY.leaves[3]
    with pytest.raises(EscrowError):
        read_leaf(spoilt)
    assert "Entry 3 " in tampered([*HISTORY.leaves[:3], spoilt, *HISTORY.leaves[4:]])
