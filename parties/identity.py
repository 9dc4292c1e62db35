"""A bank's keys: made at home, never leaving it.

Two keys: an age X25519 key to which releases are encrypted, and an Ed25519 key that signs statements. The first opens
everything else that is secret at home: the signing key and the TLS key lie there encrypted to it. A passphrase, if the
bank wants one, locks the age key (scrypt) and with it all of them.

Files have mode 0600 in a directory of mode 0700; a key that others may read is refused. With the keys the bank keeps
the escrow it has pinned: ledger origin and public key.
"""

import json
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import pyrage
from pydantic import TypeAdapter, ValidationError
from pyrage import x25519

from contracts.errors import EscrowError
from contracts.notes import Checkpoint, parse_note
from contracts.signing import Ed25519Signer, Envelope, Signer, SignerRegistry, sign
from contracts.statements import EnrolmentRequest, Role
from contracts.terms import Name

_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)
_ROLE: Final[TypeAdapter[Role]] = TypeAdapter(Role)
_ABOUT, _AGE, _SIGNING = "party.json", "age.key", "signing.pem"


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
    """A party's name, role and keys."""

    name: str
    signer: Signer
    age: x25519.Identity = field(repr=False)
    role: Role = "party"

    @classmethod
    def create(cls, home: Path, name: str, passphrase: str | None = None, role: Role = "party") -> Self:
        """Make new keys in `home`, locked if a passphrase is given.

        Raises:
            EscrowError: `home-exists` if keys are there already, `document-invalid` for a name that no ledger takes,
                `passphrase-missing` for an empty passphrase.
        """
        try:
            _NAME.validate_python(name)
        except ValidationError:
            raise EscrowError(
                "document-invalid",
                f"{name!r} cannot be a party's name.",
                "Use up to 32 lower-case letters, digits and hyphens, a letter first.",
            ) from None
        if (home / _ABOUT).exists():
            raise EscrowError("home-exists", f"{home} holds a party's keys already.")
        if passphrase == "":
            raise EscrowError("passphrase-missing", "The passphrase is empty.")
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        age, signer = x25519.Identity.generate(), Ed25519Signer.from_seed(secrets.token_bytes(32))
        key = str(age).encode()
        write_private(home / _AGE, key if passphrase is None else pyrage.passphrase.encrypt(key, passphrase))
        write_private(home / _SIGNING, lock(signer.to_pem(), age))
        about = {"name": name, "role": role, "signer": f"file:{_SIGNING}", "passphrase": passphrase is not None}
        write_private(home / _ABOUT, json.dumps(about).encode())  # the last: cut short, the directory holds no keys
        return cls(name, signer, age, role)

    @classmethod
    def open(cls, home: Path, passphrase: Callable[[], str] | None = None) -> Self:
        """The identity kept in `home`.

        Args:
            home: the party's directory.
            passphrase: asked only if the keys are locked.

        Raises:
            EscrowError: `home-missing` if there is none, `passphrase-missing` if the keys are locked and no passphrase
                is given, `key-invalid` if it is the wrong one or a key cannot be used, `key-exposed` if others may
                read a key.
        """
        try:
            about = json.loads((home / _ABOUT).read_text())
            name, uri, locked = str(about["name"]), str(about["signer"]), bool(about["passphrase"])
            role = _ROLE.validate_python(about["role"])
            key = read_private(home / _AGE)
        except (OSError, ValueError, KeyError, TypeError):
            raise EscrowError("home-missing", f"{home} holds no party's keys.") from None
        age = _age_identity(_unlocked(key, passphrase() if passphrase else "") if locked else key)
        return cls(name, signers(home, age).open(uri), age, role)

    def request(self, ledger: str) -> Envelope:
        """The signed request to be admitted to a ledger; the operator compares `signer.key_id` with the party."""
        asked = EnrolmentRequest(
            ledger=ledger,
            name=self.name,
            role=self.role,
            public_key=self.signer.public,
            recipient=str(self.age.to_public()),
        )
        return sign(asked.payload(), self.signer)


def signers(home: Path, age: x25519.Identity) -> SignerRegistry:
    """Openers of a party's signing key by URI; `file:` paths are relative to its home, and locked to its age key."""

    def from_file(uri: str) -> Signer:
        try:
            locked = read_private(home / uri.removeprefix("file:"))
        except OSError:
            raise EscrowError("home-missing", f"{home} holds no signing key.") from None
        return Ed25519Signer.from_pem(unlock(locked, age))

    registry = SignerRegistry()
    registry.register("file", from_file)
    return registry


def lock(secret: bytes, age: x25519.Identity) -> bytes:
    """A secret that only the holder of this age key can read: an age file in its PEM form."""
    locked: bytes = pyrage.encrypt(secret, [age.to_public()], armored=True)
    return locked


def unlock(locked: bytes, age: x25519.Identity) -> bytes:
    """What was locked.

    Raises:
        EscrowError: `key-invalid` if it was not locked to this key, or was damaged.
    """
    try:
        secret: bytes = pyrage.decrypt(locked, [age])
    except pyrage.DecryptError:
        raise EscrowError("key-invalid", "A key file is damaged, or another home's.") from None
    return secret


def _unlocked(key: bytes, passphrase: str) -> bytes:
    if not passphrase:
        raise EscrowError("passphrase-missing", "The keys are locked with a passphrase.")
    try:
        opened: bytes = pyrage.passphrase.decrypt(key, passphrase)
    except pyrage.DecryptError:
        raise EscrowError("key-invalid", "The passphrase does not open the keys.", "Try it once more.") from None
    return opened


def _age_identity(key: bytes) -> x25519.Identity:
    try:
        return x25519.Identity.from_str(key.decode())
    except (pyrage.IdentityError, UnicodeDecodeError):
        raise EscrowError("key-invalid", "The age key cannot be read.") from None


def read_private(path: Path) -> bytes:
    """A file that only its owner may read or write.

    Raises:
        EscrowError: `key-exposed` if others may; OSError as usual.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise EscrowError("key-exposed", f"Others than its owner may use {path}.")
        return file.read()


def write_private(path: Path, content: bytes) -> None:
    """Replace a file of mode 0600 as a whole: whoever reads it finds the old content or the new, also after a crash."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def pin(home: Path, escrow: Pinned) -> None:
    """Remember the escrow; it is never silently exchanged.

    Raises:
        EscrowError: `escrow-pinned` if another one was pinned before.
    """
    path = home / "escrow.json"
    if path.exists() and pinned(home) != escrow:
        raise EscrowError("escrow-pinned", f"{home} has pinned another escrow.")
    write_private(path, json.dumps({"ledger": escrow.ledger, "public-key": escrow.public_key}).encode())


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
