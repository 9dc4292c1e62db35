"""No entry of the ledger can be changed, moved or dropped unnoticed, and its heads stand under known keys only."""

import base64
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from contracts.errors import EscrowError
from contracts.notes import Checkpoint, cosign, cosigned_times, parse_note, sign_note
from contracts.signing import Ed25519Signer, public_text, verify_bytes
from contracts.transparency import (
    Node,
    Tree,
    consistency_proof,
    empty_root,
    inclusion_proof,
    leaf_hash,
    node_hash,
    node_row,
    verify_consistency,
    verify_inclusion,
)

MOST = 70
ENTRIES = [b"entry %d" % i for i in range(MOST)]


def refused(code: str) -> "pytest.RaisesExc[EscrowError]":
    return pytest.raises(EscrowError, check=lambda error: error.code == code)


# The definitions of RFC 9162, section 2.1, word for word and without any shortcut.


def largest_power_of_two_below(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def naive_root(entries: Sequence[bytes]) -> bytes:
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0]).digest()
    k = largest_power_of_two_below(len(entries))
    return sha256(b"\x01" + naive_root(entries[:k]) + naive_root(entries[k:])).digest()


def naive_path(m: int, entries: Sequence[bytes]) -> list[bytes]:
    if len(entries) == 1:
        return []
    k = largest_power_of_two_below(len(entries))
    if m < k:
        return [*naive_path(m, entries[:k]), naive_root(entries[k:])]
    return [*naive_path(m - k, entries[k:]), naive_root(entries[:k])]


def naive_consistency(m: int, entries: Sequence[bytes], known: bool = True) -> list[bytes]:
    if m == len(entries):
        return [] if known else [naive_root(entries)]
    k = largest_power_of_two_below(len(entries))
    if m <= k:
        return [*naive_consistency(m, entries[:k], known), naive_root(entries[k:])]
    return [*naive_consistency(m - k, entries[k:], known=False), naive_root(entries[:k])]


class Store:
    """The ledger's table: with each entry the hashes that its append gave; counts how often it is asked."""

    def __init__(self, entries: Sequence[bytes]) -> None:
        self.trees = [Tree()]
        self.rows: list[tuple[bytes, ...]] = []
        self.asked = 0
        for entry in entries:
            tree, row = self.trees[-1].append(leaf_hash(entry))
            self.trees.append(tree)
            self.rows.append(row)

    def fetch(self, nodes: Sequence[Node]) -> list[bytes]:
        self.asked += 1
        places = [node_row(level, index) for level, index in nodes]
        return [self.rows[row][position] for row, position in places]


STORE = Store(ENTRIES)
ROOTS = [naive_root(ENTRIES[:size]) for size in range(MOST + 1)]


def test_the_trees_of_certificate_transparencys_reference_tests() -> None:
    leaves = "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"
    roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]
    assert [tree.root().hex() for tree in Store([bytes.fromhex(leaf) for leaf in leaves]).trees] == roots


def test_an_entry_cannot_pose_as_a_node() -> None:
    left, right = leaf_hash(b"left"), leaf_hash(b"right")
    assert leaf_hash(left + right) != node_hash(left, right)
    assert node_hash(left, right) != node_hash(right, left)


def test_roots_are_those_of_the_definition() -> None:
    assert [tree.root() for tree in STORE.trees] == ROOTS
    assert empty_root() == ROOTS[0]


def test_an_entry_keeps_the_subtrees_that_end_with_it() -> None:
    for index, row in enumerate(STORE.rows):
        assert list(row) == [naive_root(ENTRIES[index + 1 - 2**level : index + 1]) for level in range(len(row))]
        assert (index + 1) % 2 ** (len(row) - 1) == 0
        assert (index + 1) % 2 ** len(row) != 0


def test_a_tree_is_restored_from_its_rows() -> None:
    assert [Tree.restore(size, STORE.fetch) for size in range(MOST + 1)] == STORE.trees


def test_every_inclusion_proof_is_the_definitions_and_verifies() -> None:
    for size in range(1, MOST + 1):
        for index in range(size):
            proof = inclusion_proof(index, size, STORE.fetch)
            assert list(proof) == naive_path(index, ENTRIES[:size])
            verify_inclusion(leaf_hash(ENTRIES[index]), index, size, proof, ROOTS[size])


def test_every_consistency_proof_is_the_definitions_and_verifies() -> None:
    for new in range(MOST + 1):
        for old in range(new + 1):
            proof = consistency_proof(old, new, STORE.fetch)
            assert list(proof) == (naive_consistency(old, ENTRIES[:new]) if old else [])
            verify_consistency(old, ROOTS[old], new, ROOTS[new], proof)


def test_a_proof_asks_the_store_once() -> None:
    for prove in (inclusion_proof, consistency_proof):
        store = Store(ENTRIES)
        prove(37, MOST, store.fetch)
        assert store.asked == 1


def test_a_store_that_lost_hashes_gives_no_proof() -> None:
    for prove in (inclusion_proof, consistency_proof):
        with refused("proof-invalid"):
            prove(37, MOST, lambda nodes: [bytes(32)] * (len(nodes) - 1))


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0), (6, 5)])
def test_there_is_no_proof_of_an_entry_beyond_the_end(index: int, size: int) -> None:
    with refused("proof-invalid"):
        inclusion_proof(index, size, STORE.fetch)
    with refused("proof-invalid"):
        verify_inclusion(leaf_hash(b""), index, size, [], leaf_hash(b""))


@pytest.mark.parametrize(("old", "new"), [(-1, 5), (6, 5), (1, 0)])
def test_a_ledger_never_shrinks(old: int, new: int) -> None:
    with refused("proof-invalid"):
        consistency_proof(old, new, STORE.fetch)
    with refused("proof-invalid"):
        verify_consistency(old, ROOTS[max(old, 0)], new, ROOTS[new], [])


def test_inclusion_fails_at_every_other_index_and_with_every_other_length() -> None:
    for size in range(1, 20):
        for index in range(size):
            proof = inclusion_proof(index, size, STORE.fetch)
            leaf = leaf_hash(ENTRIES[index])
            wrong = [(other, size, proof) for other in range(-1, size + 2) if other != index]
            wrong += [(index, size, proof[:-1]), (index, size, proof[1:])] if proof else []
            wrong += [(index, size, (*proof, bytes(32))), (index, size, (bytes(32), *proof))]
            wrong += [(index, size, (*proof, proof[-1]))] if proof else []
            for other_index, other_size, other_proof in wrong:
                with refused("proof-invalid"):
                    verify_inclusion(leaf, other_index, other_size, other_proof, ROOTS[size])
            for other_size in set(range(MOST + 1)) - {size}:
                with refused("proof-invalid"):
                    verify_inclusion(leaf, index, other_size, proof, ROOTS[other_size])


def test_consistency_fails_for_every_other_pair_of_heads_and_with_every_other_length() -> None:
    sizes = range(18)
    for new in sizes:
        for old in range(1, new):
            proof = consistency_proof(old, new, STORE.fetch)
            for altered in (proof[:-1], proof[1:], (*proof, bytes(32)), (bytes(32), *proof), (*proof, proof[-1])):
                with refused("proof-invalid"):
                    verify_consistency(old, ROOTS[old], new, ROOTS[new], altered)
            for size in set(sizes) - {old}:
                with refused("proof-invalid"):
                    verify_consistency(size, ROOTS[size], new, ROOTS[new], proof)
                with refused("proof-invalid"):
                    verify_consistency(old, ROOTS[size], new, ROOTS[new], proof)
            for size in set(sizes) - {new}:
                with refused("proof-invalid"):
                    verify_consistency(old, ROOTS[old], new, ROOTS[size], proof)


def test_heads_that_need_no_proof_are_still_compared() -> None:
    verify_consistency(0, empty_root(), 0, empty_root(), [])
    verify_consistency(0, empty_root(), 5, ROOTS[5], [])
    verify_consistency(5, ROOTS[5], 5, ROOTS[5], [])
    for old, old_root, new, new_root, proof in [
        (0, ROOTS[1], 5, ROOTS[5], []),
        (0, empty_root(), 0, ROOTS[1], []),
        (0, empty_root(), 5, ROOTS[5], [ROOTS[5]]),
        (5, ROOTS[5], 5, ROOTS[4], []),
        (5, ROOTS[5], 5, ROOTS[5], [ROOTS[5]]),
    ]:
        with refused("proof-invalid"):
            verify_consistency(old, old_root, new, new_root, proof)


@given(st.data())
@settings(max_examples=150)
def test_a_flipped_bit_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, MOST))
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size - 1))
    including = [leaf_hash(ENTRIES[index]), ROOTS[size], *inclusion_proof(index, size, STORE.fetch)]
    joining = [ROOTS[old], ROOTS[size], *consistency_proof(old, size, STORE.fetch)]
    for hashes in (including, joining):
        where, bit = data.draw(st.integers(0, len(hashes) - 1)), data.draw(st.integers(0, 255))
        flipped = int.from_bytes(hashes[where], "big") ^ 1 << bit
        hashes[where] = flipped.to_bytes(32, "big")
    with refused("proof-invalid"):
        verify_inclusion(including[0], index, size, including[2:], including[1])
    with refused("proof-invalid"):
        verify_consistency(old, joining[0], size, joining[1], joining[2:])


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=300), st.data())
@settings(max_examples=40)
def test_an_entry_that_was_changed_after_a_head_was_seen_is_noticed(entries: list[bytes], data: st.DataObject) -> None:
    changed = data.draw(st.integers(0, len(entries) - 1))
    seen = data.draw(st.integers(changed + 1, len(entries)))
    replacement = data.draw(st.binary(max_size=4))
    assume(replacement != entries[changed])
    honest, forged = Store(entries), Store([*entries[:changed], replacement, *entries[changed + 1 :]])
    old, new = honest.trees[seen], forged.trees[-1]
    with refused("proof-invalid"):
        verify_consistency(seen, old.root(), new.size, new.root(), consistency_proof(seen, new.size, forged.fetch))
    with refused("proof-invalid"):
        proof = inclusion_proof(changed, seen, forged.fetch)
        verify_inclusion(leaf_hash(entries[changed]), changed, seen, proof, forged.trees[seen].root())


@pytest.mark.parametrize("length", [0, 31, 33])
def test_hashes_of_another_length_are_refused(length: int) -> None:
    proof = [*inclusion_proof(3, 7, STORE.fetch)[:-1], bytes(length)]
    with refused("proof-invalid"):
        verify_inclusion(leaf_hash(ENTRIES[3]), 3, 7, proof, ROOTS[7])
    with refused("proof-invalid"):
        verify_consistency(3, ROOTS[3], 7, ROOTS[7], [*consistency_proof(3, 7, STORE.fetch)[:-1], bytes(length)])


# Checkpoints.

ORIGIN = "escrow.example/ledger"
LEDGER = Ed25519Signer.from_seed(b"l" * 32)
NORTH = Ed25519Signer.from_seed(b"n" * 32)
SOUTH = Ed25519Signer.from_seed(b"s" * 32)
HEAD = Checkpoint(ORIGIN, 5, ROOTS[5])
NOTE = sign_note(HEAD, ORIGIN, LEDGER)
KEYS = {ORIGIN: LEDGER.public}
WITNESSES = {"north": NORTH.public, "south": SOUTH.public}


def line(name: str, key: bytes, signature: bytes) -> str:
    return f"— {name} {base64.b64encode(key + signature).decode()}\n"


def key_number(name: str, kind: bytes, signer: Ed25519Signer) -> bytes:
    raw = bytes.fromhex(signer.public.removeprefix("ed25519-pub:"))
    return sha256(name.encode() + b"\n" + kind + raw).digest()[:4]


def test_a_note_is_the_text_an_empty_line_and_a_signature() -> None:
    text = f"{ORIGIN}\n5\n{base64.b64encode(ROOTS[5]).decode()}\n"
    assert HEAD.text() == text
    signature = line(ORIGIN, key_number(ORIGIN, b"\x01", LEDGER), LEDGER.sign(text.encode()))
    assert sign_note(HEAD, ORIGIN, LEDGER) == f"{text}\n{signature}"
    assert parse_note(NOTE, KEYS) == HEAD


def test_the_golden_note() -> None:
    assert sign_note(HEAD, ORIGIN, LEDGER) == (
        "escrow.example/ledger\n"
        "5\n"
        "fKo0Xb2JKmZFTWxlEuo8PqPw0+whvj/C4jdXBf049nI=\n"
        "\n"
        "— escrow.example/ledger "
        "vVRd6wD9r9KT47PQ0MNj/iW2TKN3aWP4oASejrjWh9ZJanRA093VyKoZGmWL2xXPlYDKeN1FLEHCNiST1MhGwoM9yAI=\n"
    )


def test_the_key_of_gos_own_example() -> None:
    name, number, key = "PeterNeumann", "c74f20a3", "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    signed = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    kind, raw = base64.b64decode(key)[:1], base64.b64decode(key)[1:]
    assert sha256(name.encode() + b"\n" + kind + raw).hexdigest()[:8] == number
    assert base64.b64decode(signed)[:4].hex() == number
    verify_bytes(text.encode(), base64.b64decode(signed)[4:], public_text(raw))


def test_lines_of_unknown_keys_are_ignored() -> None:
    stranger = line("strängér", b"\0\0\0\0", b"whatever, of any length")
    head, signatures = NOTE.split("\n\n")
    assert parse_note(NOTE + stranger, KEYS) == HEAD
    assert parse_note(f"{head}\n\n{stranger}{signatures}", KEYS) == HEAD
    assert parse_note(NOTE, {**KEYS, **WITNESSES}) == HEAD


def test_a_note_without_a_known_signature_is_refused() -> None:
    for keys in ({}, WITNESSES, {ORIGIN: NORTH.public}, {"other.example/ledger": LEDGER.public}):
        with refused("signature-invalid"):
            parse_note(NOTE, keys)


def test_a_known_key_s_line_that_fails_refuses_the_note() -> None:
    failing = line("north", key_number("north", b"\x01", NORTH), NORTH.sign(b"another text"))
    assert parse_note(NOTE + failing, KEYS) == HEAD
    with refused("signature-invalid"):
        parse_note(NOTE + failing, {**KEYS, "north": NORTH.public})


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65)])
def test_a_known_key_s_signature_of_any_length_is_refused_not_fatal(signature: bytes) -> None:
    short = HEAD.text() + "\n" + line(ORIGIN, key_number(ORIGIN, b"\x01", LEDGER), signature)
    with refused("signature-invalid"):
        parse_note(short, KEYS)
    stamped = NOTE + line("north", key_number("north", b"\x04", NORTH), signature)
    with refused("signature-invalid"):
        cosigned_times(stamped, WITNESSES)


def test_another_key_under_the_ledger_s_name_does_not_count() -> None:
    with refused("signature-invalid"):
        parse_note(sign_note(HEAD, ORIGIN, NORTH), KEYS)


def test_a_key_signs_once() -> None:
    signature = NOTE.split("\n\n")[1]
    with refused("signature-invalid"):
        parse_note(NOTE + signature, KEYS)
    twice = cosign(cosign(NOTE, "north", NORTH, 1), "north", NORTH, 2)
    with refused("signature-invalid"):
        cosigned_times(twice, WITNESSES)


@pytest.mark.parametrize(
    "change",
    [
        (ORIGIN + "\n", "escrow.example/other\n"),
        ("\n5\n", "\n6\n"),
        ("\n5\n", "\n4\n"),
        (base64.b64encode(ROOTS[5]).decode(), base64.b64encode(ROOTS[4]).decode()),
    ],
)
def test_a_changed_head_is_refused(change: tuple[str, str]) -> None:
    with refused("signature-invalid"):
        parse_note(NOTE.replace(*change, 1), KEYS)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        "\n\n",
        HEAD.text(),
        HEAD.text() + "\n",
        NOTE.removesuffix("\n"),
        NOTE + "\n",
        "\n" + NOTE,
        NOTE.replace("\n", "\r\n"),
        NOTE.replace("\n\n", "\n"),
        NOTE.replace("\n\n", "\n\n\n"),
        NOTE.replace("\n\n", "\nextension\n\n"),
        NOTE.replace("\n5\n", "\n05\n"),
        NOTE.replace("\n5\n", "\n+5\n"),
        NOTE.replace("\n5\n", "\n-5\n"),
        NOTE.replace("\n5\n", "\n٥\n"),
        NOTE.replace("\n5\n", "\n 5\n"),
        NOTE.replace("\n5\n", f"\n{10**30}\n"),
        NOTE.replace("\n5\n", "\n"),
        NOTE.replace(ORIGIN + "\n", "\n", 1),
        NOTE.replace(ORIGIN + "\n", "escrow example\n", 1),
        NOTE.replace("=\n\n", "\n\n"),
        NOTE.replace(base64.b64encode(ROOTS[5]).decode(), base64.b64encode(ROOTS[5][:31]).decode()),
        NOTE.replace("— ", "- "),
        NOTE.replace("— ", "—"),
        NOTE.replace("— " + ORIGIN, "— "),
        NOTE.replace(ORIGIN + " ", ORIGIN + "  "),
        NOTE.replace(ORIGIN + " ", "escrow+example "),
        NOTE + "— north\n",
        NOTE + "— north QQ\n",
        NOTE + "— north QR==\n",
        NOTE + "— north Q-==\n",
        NOTE + "— no\x01rth QQ==\n",
        NOTE + "north QQ==\n",
    ],
)
def test_a_malformed_note_is_refused(note: str) -> None:
    assert note != NOTE
    with refused("checkpoint-invalid"):
        parse_note(note, KEYS)
    with refused("checkpoint-invalid"):
        cosign(note, "north", NORTH, 1)
    with refused("checkpoint-invalid"):
        cosigned_times(note, WITNESSES)


@given(st.integers(0, len(NOTE) - 1), st.characters(codec="utf-8"))
@settings(max_examples=200)
def test_no_character_of_a_note_can_be_changed(position: int, character: str) -> None:
    assume(NOTE[position] != character)
    with pytest.raises(EscrowError):
        parse_note(NOTE[:position] + character + NOTE[position + 1 :], KEYS)


@pytest.mark.parametrize(
    "head",
    [
        Checkpoint("", 5, ROOTS[5]),
        Checkpoint("two\nlines", 5, ROOTS[5]),
        Checkpoint("two words", 5, ROOTS[5]),
        Checkpoint(ORIGIN, -1, ROOTS[5]),
        Checkpoint(ORIGIN, 5, ROOTS[5][:31]),
        Checkpoint(ORIGIN, 5, b""),
    ],
)
def test_what_cannot_stand_in_a_checkpoint_is_not_signed(head: Checkpoint) -> None:
    with refused("checkpoint-invalid"):
        sign_note(head, ORIGIN, LEDGER)


@pytest.mark.parametrize("name", ["", "two words", "plus+name", "line\n", "tab\t", "\x01"])
def test_a_key_name_that_cannot_stand_in_a_note_is_refused(name: str) -> None:
    with refused("checkpoint-invalid"):
        sign_note(HEAD, name, LEDGER)
    with refused("checkpoint-invalid"):
        cosign(NOTE, name, NORTH, 1)


def test_a_witness_signs_the_time_and_the_text() -> None:
    time = 1_700_000_000
    signed = NORTH.sign(f"cosignature/v1\ntime {time}\n{HEAD.text()}".encode())
    expected = line("north", key_number("north", b"\x04", NORTH), time.to_bytes(8, "big") + signed)
    assert cosign(NOTE, "north", NORTH, time) == NOTE + expected


def test_witnessed_times_are_read_back() -> None:
    note = cosign(cosign(NOTE, "north", NORTH, 1_700_000_000), "south", SOUTH, 1_700_000_060)
    assert cosigned_times(note, WITNESSES) == {"north": 1_700_000_000, "south": 1_700_000_060}
    assert cosigned_times(note, {"south": SOUTH.public}) == {"south": 1_700_000_060}
    assert cosigned_times(note, {"south": NORTH.public, **KEYS}) == {}
    assert cosigned_times(NOTE, WITNESSES) == {}
    assert parse_note(note, {**KEYS, **WITNESSES}) == HEAD


def test_a_cosignature_is_not_the_ledger_s_signature() -> None:
    note = cosign(f"{HEAD.text()}\n{line('stranger', bytes(4), bytes(64))}", ORIGIN, LEDGER, 1)
    with refused("signature-invalid"):
        parse_note(note, KEYS)


def test_a_cosignature_fits_one_head_and_one_time() -> None:
    cosigned = cosign(NOTE, "north", NORTH, 1_700_000_000)
    moved = cosign(NOTE, "north", NORTH, 1_700_000_001)
    [first, second] = (base64.b64decode(note.splitlines()[-1].split(" ")[2]) for note in (cosigned, moved))
    forged = NOTE + line("north", first[:4], second[4:12] + first[12:])
    with refused("signature-invalid"):
        cosigned_times(forged, WITNESSES)
    with refused("signature-invalid"):
        cosigned_times(cosigned.replace("\n5\n", "\n6\n"), WITNESSES)


def test_heads_of_a_growing_ledger_join_up() -> None:
    notes = [sign_note(Checkpoint(ORIGIN, tree.size, tree.root()), ORIGIN, LEDGER) for tree in STORE.trees]
    heads = [parse_note(note, KEYS) for note in notes]
    for old, new in pairwise(heads):
        verify_consistency(old.size, old.root, new.size, new.root, consistency_proof(old.size, new.size, STORE.fetch))
