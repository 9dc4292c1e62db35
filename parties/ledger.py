"""The whole ledger verified at a bank: fetched, kept at home, replayed and compared, with no trust but in the pin.

Steps, each of which must pass:

1. The head is signed with the key of the pinned escrow.
2. Every entry is signed by whom it must be, and the law permits it after those before it: `contracts.rules` decides
   here as it did at the escrow.
3. The entries lead to the head's root: none is missing, changed or moved.
4. The ledger continues the head that this bank remembers, and that of the copy it kept.
5. It continues each head that another party noted, so all of them were shown one ledger. Cosignatures are checked.

A ledger that fails is kept as evidence. Nothing that was fetched before is believed: a copy at home only saves asking
again for the same entries, and where it does not fit, everything is fetched anew. But the escrow signed its head: a
ledger that does not continue that one is a fork, so the copy stays until a ledger that does is in its place.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from contracts import ledgerfile
from contracts.api import Escrow
from contracts.canonical import digest
from contracts.entries import steps
from contracts.errors import EscrowError
from contracts.notes import Checkpoint, cosigned_times
from contracts.records import Key, PartyRecord, Record
from contracts.transparency import Tree, empty_root
from parties.client import Client
from parties.identity import Pinned, pinned, write_private
from parties.offers import leaves
from parties.witness import Witness, keep_evidence

KEPT: Final = "ledger.jsonl"
_REMEMBERED: Final = "the head that this bank remembers"
_COPY: Final = "the head of the copy that it kept"
MAX_NOTE: Final = 1 << 20

Step = tuple[int, str]
Told = Callable[[Step], object]
Counted = Callable[[int, int], object]
"""Hears how many of how many entries were gone through."""


class Verified(NamedTuple):
    """What the verified ledger comes to."""

    head: Checkpoint
    note: str
    records: Mapping[Key, Record]
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """One verification, and who hears of it.

    Attributes:
        home: of the bank, with its pin and its memory.
        heads: other parties' heads, signed notes by the name of their file.
        told: hears of every step that passed.
        counted: hears how the replay goes on.
    """

    home: Path
    heads: Mapping[str, str]
    told: Told
    counted: Counted

    def of_escrow(self, client: Client) -> Verified:
        """Fetch what is new on the escrow's ledger and verify all of it; the copy at home is replaced.

        Raises:
            EscrowError: `ledger-tampered`, with the evidence kept, or what the connection fails with.
        """
        seen = {_REMEMBERED: self._remembered(), _COPY: self._kept_head()}
        note = client.head()
        kept = self.home / KEPT
        if kept.exists():
            try:
                return self._fetched(client.escrow, note, seen, kept)
            except EscrowError as error:
                if error.code not in {"ledger-tampered", "export-invalid"}:
                    raise
        return self._fetched(client.escrow, note, seen, None)

    def of_file(self, path: Path) -> Verified:
        """Verify an exported ledger, offline.

        Raises:
            EscrowError: `file-unreadable`, `export-invalid` also if it ends before a head it is compared with, or
                `ledger-tampered`, with the evidence kept.
        """
        seen = {_REMEMBERED: self._remembered()}
        with _opened(path) as file:
            longest = pinned(self.home).checkpoint(ledgerfile.read(file).note).size
        for name, head in self._beginnings(seen).items():
            if head.size > longest:
                raise EscrowError(
                    "export-invalid",
                    f"{path} ends after {longest} entries, and {name} has {head.size}: it cannot be compared.",
                    "Ask for a newer export, or run `party ledger verify` without a file.",
                )
        try:
            return self._verified(path, seen)
        except EscrowError as error:
            raise self._refused(error, path, seen) from None

    def _fetched(self, escrow: Escrow, note: str, seen: Mapping[str, str], kept: Path | None) -> Verified:
        """Write the escrow's ledger to a new file, verify that, and keep it or leave it as evidence."""
        path = self.home / f"{KEPT}.{secrets.token_hex(8)}.partial"
        size = pinned(self.home).checkpoint(note).size
        try:
            with path.open("xb") as file:
                ledgerfile.write(file, _joined(escrow, size, kept), note)
            verified = self._verified(path, seen)
            path.rename(self.home / KEPT)
        except EscrowError as error:
            raise (error if kept else self._refused(error, path, seen)) from None
        finally:
            path.unlink(missing_ok=True)
        return verified

    def _verified(self, path: Path, seen: Mapping[str, str]) -> Verified:
        escrow, passed = pinned(self.home), list[str]()

        def told(sentence: str) -> None:
            passed.append(sentence)
            self.told((len(passed), sentence))

        with _opened(path) as file:
            opened = ledgerfile.read(file)
            head = ledgerfile.head(opened, escrow.ledger, escrow.public_key)
            told(f"head of {head.origin}, {head.size} entries, signed by the pinned escrow")
            beginnings = self._beginnings(seen)
            course = _Course({each.size for each in beginnings.values()})
            course.through(opened.leaves, escrow, lambda done: self.counted(done, head.size))
        told(f"{course.tree.size} entries, signed by whom they must be, and lawful")
        ledgerfile.fits(head, course.tree)
        told("the entries lead to the head's root: none is missing, changed or moved")
        for name, beginning in beginnings.items():
            course.require(beginning, name)
            told(f"continues {name}, {beginning.size} entries{course.cosigned(self.heads.get(name))}")
        return Verified(head, opened.note, course.records, tuple(passed))

    def _beginnings(self, seen: Mapping[str, str]) -> dict[str, Checkpoint]:
        """The heads that the ledger must continue, by what they are called; the pinned escrow signed each."""
        escrow = pinned(self.home)
        found = {name: escrow.checkpoint(note) for name, note in seen.items() if note}
        for name, note in self.heads.items():
            try:
                found[name] = escrow.checkpoint(note)
            except EscrowError as error:
                raise EscrowError(error.code, f"{name}: {error.message}", error.hint) from None
        return found

    def _remembered(self) -> str:
        path = Witness(self.home).path
        return path.read_text() if path.exists() else ""

    def _kept_head(self) -> str:
        """The head of the copy at home; empty if there is none that the pinned escrow signed."""
        path = self.home / KEPT
        if not path.exists():
            return ""
        try:
            with _opened(path) as file:
                note = ledgerfile.read(file).note
            pinned(self.home).checkpoint(note)
        except EscrowError as error:
            if error.code == "file-unreadable":
                raise
            return ""  # a damaged file is evidence of nothing
        return note

    def _refused(self, error: EscrowError, path: Path, seen: Mapping[str, str]) -> EscrowError:
        """The error to raise; if it is about the ledger, with everything kept that shows it."""
        if error.code != "ledger-tampered":
            return error
        escrow, entries = pinned(self.home), path.read_bytes()
        found = {
            "ledger": escrow.ledger,
            "public-key": escrow.public_key,
            "remembered": seen[_REMEMBERED],
            "kept": seen.get(_COPY, ""),
            "heads": dict(self.heads),
            "entries": digest(entries),
            "refused": error.message,
        }
        evidence = keep_evidence(self.home, found)
        copy = evidence.with_suffix(".jsonl")
        write_private(copy, entries)
        return EscrowError(
            "ledger-tampered",
            error.message,
            f"The evidence is in {evidence} and {copy.name}; compare heads with the other parties before you go on.",
        )


@dataclass
class _Course:
    """A replay: the records and tree it ends with, and its roots at the sizes that were asked for."""

    sizes: set[int]
    tree: Tree = field(default_factory=Tree)
    records: dict[Key, Record] = field(default_factory=dict)
    roots: dict[int, bytes] = field(default_factory=lambda: {0: empty_root()})

    def through(self, entries: Iterator[bytes], escrow: Pinned, counted: Callable[[int], object]) -> None:
        """Replay all entries."""
        for step in steps(entries, self.records, key=escrow.public_key):
            self.tree = step.tree
            if step.tree.size in self.sizes:
                self.roots[step.tree.size] = step.tree.root()
            counted(step.tree.size)

    def require(self, beginning: Checkpoint, name: str) -> None:
        """Check that the ledger begins with another head's.

        Raises:
            EscrowError: `ledger-tampered` if it is shorter, or forks before that head.
        """
        if beginning.size > self.tree.size:
            raise EscrowError(
                "ledger-tampered",
                f"The ledger has {self.tree.size} entries and {name} has {beginning.size}: it was rolled back.",
            )
        if self.roots[beginning.size] != beginning.root:
            raise EscrowError(
                "ledger-tampered",
                f"The first {beginning.size} entries are not those of {name}: the ledger was forked or rewritten.",
            )

    def cosigned(self, note: str | None) -> str:
        """Which parties cosigned a head, in words; their keys are those they were admitted with."""
        admitted = [record.request for record in self.records.values() if isinstance(record, PartyRecord)]
        times = cosigned_times(note, {each.name: each.public_key for each in admitted}) if note else {}
        return "".join(f"; cosigned by {name} {_day(time)}" for name, time in times.items())


def _day(time: int) -> str:
    """The UTC time that a cosignature states, or a word for one that no calendar has."""
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M} UTC" if time < 1 << 37 else "at an impossible time"


def _joined(escrow: Escrow, size: int, kept: Path | None) -> Iterator[bytes]:
    """The ledger's entries: those at home first, the others from the escrow."""
    start = 0
    if kept is not None:
        with _opened(kept) as file:
            for data in ledgerfile.read(file).leaves:
                yield data
                start += 1
    yield from leaves(escrow, size, start)


def _opened(path: Path) -> AbstractContextManager[ledgerfile.Source]:
    try:
        return path.open("rb")
    except OSError as error:
        raise EscrowError("file-unreadable", f"{path} cannot be read: {error.strerror}.") from None


def read_note(path: Path) -> str:
    """A head that somebody noted, as text; nothing of it is checked.

    Raises:
        EscrowError: `file-unreadable`.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_NOTE).decode()
    except (OSError, UnicodeDecodeError):
        raise EscrowError("file-unreadable", f"The head {path} cannot be read as text.") from None
