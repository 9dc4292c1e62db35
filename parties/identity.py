"""A bank's keys: made at home, never leaving it.

Two keys: an Ed25519 key that signs statements, and an age X25519 key to which releases are encrypted. Files have mode
0600 in a directory of mode 0700. With them the bank keeps the escrow it has pinned: ledger origin and public key.
"""

import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from pydantic import TypeAdapter, ValidationError
from pyrage import IdentityError, x25519

from contracts.errors import EscrowError
from contracts.signing import Ed25519Signer, Envelope, Signer, SignerRegistry, sign
from contracts.statements import EnrolmentRequest, Role
from contracts.terms import Name
from contracts.transparency import Checkpoint, parse_note

_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)


@dataclass(frozen=True)
class Pinned:
    """The escrow a party deals with."""

    ledger: str  # origin of its checkpoints
    public_key: str

    def checkpoint(self, note: str) -> Checkpoint:
        """The head that a note of this escrow states.

        Raises:
            EscrowError: as `parse_note`, or `ledger-tampered` for the head of another ledger.
        """
        found = parse_note(note, {self.ledger: self.public_key})
        if found.origin != self.ledger:
            raise EscrowError("ledger-tampered", "The checkpoint is of another ledger.")
        return found


@dataclass(frozen=True)
class Identity:
    """A party's name and keys."""

    name: str
    signer: Signer
    age: x25519.Identity = field(repr=False)

    @classmethod
    def create(cls, home: Path, name: str) -> Self:
        """Make new keys in `home`.

        Raises:
            EscrowError: `home-exists` if keys are there already, `document-invalid` for a name that no ledger takes.
        """
        try:
            _NAME.validate_python(name)
        except ValidationError:
            raise EscrowError(
                "document-invalid",
                f"{name!r} cannot be a party's name.",
                "Use up to 32 lower-case letters, digits and hyphens, a letter first.",
            ) from None
        if (home / "party.json").exists():
            raise EscrowError("home-exists", f"{home} holds a party's keys already.")
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(home / "signing.pem", Ed25519Signer.from_seed(secrets.token_bytes(32)).to_pem())
        _write(home / "age.key", str(x25519.Identity.generate()).encode())
        _write(home / "party.json", json.dumps({"name": name, "signer": "file:signing.pem"}).encode())
        return cls.open(home)

    @classmethod
    def open(cls, home: Path) -> Self:
        """The identity kept in `home`.

        Raises:
            EscrowError: `home-missing` if there is none, `key-invalid` if its key cannot be used.
        """
        try:
            about = json.loads((home / "party.json").read_text())
            name, uri = str(about["name"]), str(about["signer"])
            age = x25519.Identity.from_str((home / "age.key").read_text())
            signer = signers(home).open(uri)
        except (OSError, ValueError, KeyError, TypeError, IdentityError):
            raise EscrowError("home-missing", f"{home} holds no party's keys.") from None
        return cls(name, signer, age)

    def request(self, ledger: str, role: Role = "party") -> Envelope:
        """The signed request to be admitted to a ledger; the operator compares `signer.key_id` with the party."""
        asked = EnrolmentRequest(
            ledger=ledger,
            name=self.name,
            role=role,
            public_key=self.signer.public,
            recipient=str(self.age.to_public()),
        )
        return sign(asked.payload(), self.signer)


def signers(home: Path) -> SignerRegistry:
    """Openers of a party's signing key by URI; `file:` paths are relative to its home."""
    registry = SignerRegistry()
    registry.register("file", lambda uri: Ed25519Signer.from_pem((home / uri.removeprefix("file:")).read_bytes()))
    return registry


def pin(home: Path, escrow: Pinned) -> None:
    """Remember the escrow; it is never silently exchanged.

    Raises:
        EscrowError: `escrow-pinned` if another one was pinned before.
    """
    path = home / "escrow.json"
    if path.exists() and pinned(home) != escrow:
        raise EscrowError("escrow-pinned", f"{home} has pinned another escrow.")
    _write(path, json.dumps({"ledger": escrow.ledger, "public-key": escrow.public_key}).encode())


def pinned(home: Path) -> Pinned:
    """The escrow that was pinned.

    Raises:
        EscrowError: `home-missing` if none was.
    """
    try:
        about = json.loads((home / "escrow.json").read_text())
        return Pinned(str(about["ledger"]), str(about["public-key"]))
    except (OSError, ValueError, KeyError):
        raise EscrowError("home-missing", f"{home} has pinned no escrow.") from None


def _write(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
