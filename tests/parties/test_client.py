"""A bank's client: signs what it read, remembers the ledger's head, and can do everything twice."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from contracts.canonical import decode_base64
from contracts.notes import parse_note
from contracts.signing import Envelope, key_id, public_bytes
from contracts.statements import read
from parties.client import Client, contribution, directory_keys
from parties.deposit import Deposit, seal_table
from scenarios import tiny
from scenarios.consortium import ORIGIN, Consortium

pytestmark = pytest.mark.wires


class Forger:
    """An escrow that shows another contract under the digest that was asked for."""

    def __init__(self, honest: Any, shown: str) -> None:
        self.honest, self.shown = honest, shown

    def view(self, _: str) -> Any:
        return self.honest.view(self.shown)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.honest, name)


def test_what_is_approved_is_what_was_read(consortium: Consortium, refused: Any) -> None:
    good, bad = tiny.proposed(consortium), tiny.proposed(consortium, title="Another contract")
    north = consortium.banks["north"]
    with refused("digest-mismatch"):
        Client(north.home, north.identity, Forger(north.escrow, bad)).approve(good)
    assert north.view(good).approved == () == north.view(bad).approved


def test_a_client_remembers_the_head_of_its_last_receipt(consortium: Consortium) -> None:
    digest = tiny.proposed(consortium)
    sizes = []
    for name, bank in consortium.banks.items():
        receipt = bank.approve(digest)
        remembered = (bank.home / "head.note").read_text()
        assert remembered == receipt.head
        sizes.append(parse_note(remembered, {ORIGIN: consortium.core.signer.public}).size)
        assert name in bank.view(digest).approved
    assert sizes[0] < sizes[1] == consortium.core.ledger.size()


class Unproven:
    """An escrow whose receipts prove nothing."""

    def __init__(self, honest: Any, proof: tuple[str, ...]) -> None:
        self.honest, self.proof = honest, proof

    def submit(self, envelope: bytes) -> Any:
        return self.honest.submit(envelope).model_copy(update={"proof": self.proof})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.honest, name)


@pytest.mark.parametrize("proof", [("00" * 32,), (), ("no hash",)])
def test_a_receipt_that_proves_nothing_is_refused_and_kept(
    consortium: Consortium, refused: Any, proof: tuple[str, ...]
) -> None:
    digest = tiny.proposed(consortium)
    north = consortium.banks["north"]
    with refused("ledger-tampered"):
        Client(north.home, north.identity, Unproven(north.escrow, proof)).approve(digest)
    [kept] = [json.loads(path.read_text()) for path in (north.home / "evidence").glob("*.json")]
    envelope = Envelope.from_bytes(decode_base64(kept["envelope"]))
    assert read(envelope.payload).kind == "contract-approved"
    assert kept["receipt"]["proof"] == list(proof)
    assert parse_note(kept["receipt"]["head"], {ORIGIN: kept["public-key"]}).size > kept["receipt"]["index"]


def test_a_deposit_can_be_sent_again(consortium: Consortium) -> None:
    north = consortium.banks["north"]
    size = consortium.core.ledger.size()
    north.deposit(consortium.deposits["north"])
    assert consortium.core.ledger.size() == size
    assert len(north.escrow.deposits()) == 2


@dataclass(frozen=True)
class Cut:
    """An upload whose file cannot be read beyond its middle, the first time."""

    whole: Deposit
    offsets: list[int]

    @property
    def token(self) -> str:
        return self.whole.token

    def chunks(self, offset: int) -> Iterator[bytes]:
        self.offsets.append(offset)
        data = self.whole.path.read_bytes()
        if len(self.offsets) == 1:
            yield data[: len(data) // 2]
            raise OSError("the disk is gone")
        yield data[offset:]

    def digest(self) -> str:
        return self.whole.digest()


def test_a_transfer_that_was_cut_goes_on_where_it_was(consortium: Consortium) -> None:
    north = consortium.banks["north"]
    new = seal_table(tiny.tables(0, "north", banks=2)[0], "train", tiny.SCHEMA, north.folder)
    upload = Cut(new, [])
    with pytest.raises(OSError, match="gone"):
        north.escrow.deposit(upload)
    assert new.commitment not in {view.commitment for view in north.escrow.deposits()}
    assert north.escrow.deposit(upload) == new.blob
    assert upload.offsets == [0, new.size // 2]
    north.deposit([new])
    assert new.commitment in {view.commitment for view in north.escrow.deposits()}
    assert consortium.core.vault.read(new.blob) == new.path.read_bytes()


def test_a_file_that_was_damaged_at_home_is_not_taken(consortium: Consortium, refused: Any) -> None:
    north = consortium.banks["north"]
    new = seal_table(tiny.tables(0, "north", banks=2)[0], "train", tiny.SCHEMA, north.folder)
    whole = new.path.read_bytes()
    new.path.write_bytes(whole[: len(whole) // 2])
    with refused("blob-refused"):
        north.deposit([new])
    assert new.commitment not in {view.commitment for view in north.escrow.deposits()}
    new.path.write_bytes(whole)
    north.deposit([new])
    assert new.commitment in {view.commitment for view in north.escrow.deposits()}


def test_approving_needs_the_secrets_of_the_deposits(consortium: Consortium, refused: Any) -> None:
    digest = tiny.proposed(consortium)
    north = consortium.banks["north"]
    for path in north.folder.glob("*.json"):
        path.unlink()
    with refused("deposit-unknown"):
        north.approve(digest)
    assert north.view(digest).approved == ()


def test_the_key_of_rows_that_were_kept_is_never_sealed(consortium: Consortium, refused: Any) -> None:
    north = consortium.banks["north"]
    train, _ = consortium.deposits["north"]
    digest = tiny.proposed(consortium)
    replace(train, kept=True).save()  # and still the contract says that the escrow has them
    with refused("deposit-mismatch"):
        north.approve(digest)
    assert north.view(digest).approved == ()


def test_a_contribution_says_what_the_deposits_say(consortium: Consortium) -> None:
    train, holdout = consortium.deposits["north"]
    found = contribution("north", (holdout, train))
    assert found.commitments() == (train.commitment, holdout.commitment)
    assert (found.train.rows, found.holdout.rows, found.holdout.positives) == (
        train.rows,
        holdout.rows,
        holdout.positives,
    )


def test_the_directory_has_the_keys_of_everyone_who_may_sign(consortium: Consortium) -> None:
    north = consortium.banks["north"]
    keys = directory_keys(north.escrow)
    assert keys == {name: key_id(public_bytes(bank.identity.signer.public)) for name, bank in consortium.banks.items()}
    consortium.core.revoke("harbour")
    assert set(directory_keys(north.escrow)) == {"north"}


def test_a_contract_drawn_up_with_another_key_is_refused(consortium: Consortium, refused: Any) -> None:
    contract = consortium.contract(consortium.draft(model={"family": "logistic"}, method={"name": "pooled"}))
    first, second = contract.parties
    swapped = contract.model_copy(update={"parties": (first, second.model_copy(update={"key": first.key}))})
    with refused("key-mismatch"):
        consortium.propose(swapped)
    assert consortium.banks["north"].escrow.contracts() == ()


def test_a_client_of_another_ledger_notices(consortium: Consortium, refused: Any) -> None:
    north = consortium.banks["north"]
    elsewhere = replace(north, escrow=Elsewhere(north.escrow))
    with refused("escrow-pinned"):
        elsewhere.pin()


class Elsewhere:
    """An escrow that says it is another."""

    def __init__(self, honest: Any) -> None:
        self.honest = honest

    def info(self) -> Any:
        return self.honest.info().model_copy(update={"ledger": "other.example/ledger"})
