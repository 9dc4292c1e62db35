"""The heads of a ledger as signed notes, and the lines of those who witness them.

Rules:
1. A checkpoint is three lines: origin, size, root. It stands only under a signature of a key that the reader knows.
2. Lines of unknown keys are ignored; a line of a known key that fails, or stands twice, refuses the whole note.

Sources: C2SP signed-note, tlog-checkpoint and tlog-cosignature.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

from contracts.canonical import decode_base64, encode_base64
from contracts.errors import EscrowError
from contracts.signing import PublicKey, Signer, public_bytes, verify_bytes

_NOTE_KEY: Final = b"\x01"  # an Ed25519 signature over the text
_COSIGNATURE_KEY: Final = b"\x04"  # an Ed25519 signature over a time and the text
_TIME_BYTES: Final = 8
_NAME: Final = r"[^\x00-\x20\s+]{1,256}"
_LINE: Final = re.compile(rf"— ({_NAME}) ([A-Za-z0-9+/]+={{0,2}})")
_CHECKPOINT: Final = re.compile(r"([!-~]{1,256})\n(0|[1-9][0-9]{0,18})\n([A-Za-z0-9+/]{43}=)\n")


@dataclass(frozen=True)
class Checkpoint:
    """A head of the ledger.

    Attributes:
        origin: which ledger, a URL without scheme.
        size: number of entries.
        root: root hash over them, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The three lines that are signed (C2SP tlog-checkpoint, without extension lines).

        Raises:
            EscrowError: `checkpoint-invalid` if a field cannot stand there.
        """
        text = f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n"
        _checkpoint(text)
        return text


def sign_note(checkpoint: Checkpoint, name: str, signer: Signer) -> str:
    """The checkpoint as a note signed under a key name, by convention the ledger's origin."""
    text = checkpoint.text()
    return f"{text}\n{_line(name, signer, _NOTE_KEY, signer.sign(text.encode()))}"


def parse_note(note: str, keys: Mapping[str, PublicKey]) -> Checkpoint:
    """The checkpoint of a note that at least one of the known keys signed.

    Steps: 1. the note is well formed; 2. every line of a known key fits the text, and each key has at most one;
    3. there is such a line.

    Args:
        note: the note's text.
        keys: public keys by key name.

    Raises:
        EscrowError: `checkpoint-invalid` for a malformed note, `signature-invalid` for a missing or failing line.
    """
    text, lines = _read_note(note)
    signatures = _of_known_keys(lines, keys, _NOTE_KEY)
    if not signatures:
        raise EscrowError("signature-invalid", "No known key signed the checkpoint.")
    for name, signature in signatures.items():
        verify_bytes(text.encode(), signature, keys[name])
    return _checkpoint(text)


def cosign(note: str, name: str, signer: Signer, time: int) -> str:
    """The note with a witness's line: by `time` (POSIX seconds) it saw this checkpoint and none that contradicts it.

    The caller has checked the note's signature and its consistency with what the witness saw before.
    """
    text, _ = _read_note(note)
    signature = signer.sign(_cosigned(text, time))
    return note + _line(name, signer, _COSIGNATURE_KEY, time.to_bytes(_TIME_BYTES, "big") + signature)


def cosigned_times(note: str, witnesses: Mapping[str, PublicKey]) -> dict[str, int]:
    """When (POSIX seconds) each known witness that cosigned the note did so. The ledger's own line is not checked.

    Raises:
        EscrowError: `checkpoint-invalid` for a malformed note, `signature-invalid` for a known witness's failing line.
    """
    text, lines = _read_note(note)
    times = {}
    for name, stamped in _of_known_keys(lines, witnesses, _COSIGNATURE_KEY).items():
        times[name] = int.from_bytes(stamped[:_TIME_BYTES], "big")
        verify_bytes(_cosigned(text, times[name]), stamped[_TIME_BYTES:], witnesses[name])
    return times


class _Line(NamedTuple):
    name: str
    key: bytes  # 4 bytes
    signature: bytes


def _checkpoint(text: str) -> Checkpoint:
    found = _CHECKPOINT.fullmatch(text)
    if not found:
        raise _malformed()
    return Checkpoint(found[1], int(found[2]), _decoded(found[3]))


def _read_note(note: str) -> tuple[str, list[_Line]]:
    """The signed text and the signature lines of a well-formed note."""
    text, blank, signatures = note.partition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise _malformed()
    text += "\n"
    _checkpoint(text)
    return text, [_read_line(line) for line in signatures[:-1].split("\n")]


def _read_line(line: str) -> _Line:
    found = _LINE.fullmatch(line)
    if not found:
        raise _malformed()
    data = _decoded(found[2])
    return _Line(found[1], data[:4], data[4:])


def _decoded(text: str) -> bytes:
    try:
        return decode_base64(text)
    except EscrowError:
        raise _malformed() from None


def _malformed() -> EscrowError:
    return EscrowError("checkpoint-invalid", "The checkpoint is malformed.")


def _of_known_keys(lines: Iterable[_Line], keys: Mapping[str, PublicKey], kind: bytes) -> dict[str, bytes]:
    """What each known key signed, by key name; refuses a second line of the same key."""
    known = {(name, _short_id(name, public_bytes(public), kind)) for name, public in keys.items()}
    signatures: dict[str, bytes] = {}
    for line in lines:
        if (line.name, line.key) not in known:
            continue
        if line.name in signatures:
            raise EscrowError("signature-invalid", "A key signed the checkpoint twice.")
        signatures[line.name] = line.signature
    return signatures


def _line(name: str, signer: Signer, kind: bytes, signature: bytes) -> str:
    if not re.fullmatch(_NAME, name):
        raise EscrowError("checkpoint-invalid", "A key name has no space, plus or control character.")
    data = _short_id(name, public_bytes(signer.public), kind) + signature
    return f"— {name} {encode_base64(data)}\n"


def _short_id(name: str, public: bytes, kind: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + kind + public).digest()[:4]


def _cosigned(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()
