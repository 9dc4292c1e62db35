"""What the bank's commands share: the home they are about, the clock, the keys, a session, and asking people.

Questions and talk go to stderr, so that stdout holds nothing but the result.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from contracts.answers import printable
from contracts.errors import EscrowError
from parties.identity import Identity

if TYPE_CHECKING:
    from parties.client import Client


@dataclass(frozen=True)
class Desk:
    """Where a command was called.

    Attributes:
        named: the home that was named, if one was.
        now: tells whole seconds since 1970.
    """

    named: Path | None
    now: Callable[[], int]

    @property
    def home(self) -> Path:
        """The party's directory.

        Raises:
            EscrowError: `home-missing` if none was named.
        """
        if self.named is None:
            raise EscrowError("home-missing", "Nothing says which party this is.")
        return self.named

    def identity(self) -> Identity:
        """The party's keys; their passphrase is asked for if they are locked."""
        return Identity.open(self.home, passphrase)

    @contextmanager
    def client(self) -> Iterator["Client"]:
        """A session with the pinned escrow, ended afterwards."""
        from parties.client import Client  # noqa: PLC0415 - gRPC is slow to import, and not every command connects
        from parties.session import connect  # noqa: PLC0415

        identity = self.identity()
        escrow = connect(self.home, identity, self.now(), warn=tell)
        try:
            yield Client(self.home, identity, escrow)
        finally:
            escrow.close()


def tell(text: str) -> None:
    """Lines on stderr."""
    typer.echo(printable(text), err=True)


def step(passed: tuple[int, str]) -> None:
    """A numbered step on stderr."""
    tell(f"{passed[0]}. {passed[1]}")


def typed(question: str) -> str:
    """What a person answers on one line.

    Raises:
        EscrowError: `confirmation-missing` if nobody is there to answer.
    """
    typer.echo(printable(question), err=True, nl=False)
    answer = sys.stdin.readline()
    if not answer:
        tell("")
        raise EscrowError("confirmation-missing", "Nobody answered.")
    return answer.strip()


def confirm(name: str, given: str, *, option: str, to: str) -> None:
    """Go on only if a person types the beginning of a digest, or a script gave the whole of it.

    Args:
        name: the digest or commitment, with its prefix.
        given: what the option says, if it was used.
        option: which a script uses.
        to: what is confirmed, as in "approve".

    Raises:
        EscrowError: `digest-mismatch` if another one was given, `confirmation-missing` if another one was typed.
    """
    digits = name.rpartition(":")[2]
    if given:
        if given not in {name, digits}:
            raise EscrowError("digest-mismatch", f"{option} names another one than {name}.", "Give the whole of it.")
        return
    answer = typed(f"To {to}, type the first eight characters of {name}: ")
    beginning = answer.lower().rpartition(":")[2]
    if len(beginning) < 8 or not digits.startswith(beginning):
        raise EscrowError(
            "confirmation-missing",
            "What was typed is not its beginning; nothing was signed.",
            f"Read it again, or use {option} in a script.",
        )


def passphrase() -> str:
    """The passphrase of locked keys, from the file that PARTY_PASSPHRASE_FILE names or typed; empty if there is none.

    Raises:
        EscrowError: `file-unreadable`.
    """
    if path := os.environ.get("PARTY_PASSPHRASE_FILE"):
        try:
            return Path(path).read_text().partition("\n")[0]
        except (OSError, UnicodeDecodeError):
            raise EscrowError("file-unreadable", f"The passphrase's file {path} cannot be read.") from None
    return getpass("Passphrase: ", stream=sys.stderr) if sys.stdin.isatty() else ""


def new_passphrase() -> str:
    """A passphrase for new keys, typed twice unless a file holds it.

    Raises:
        EscrowError: `passphrase-missing` if there is none, or the two differ.
    """
    first = passphrase()
    twice = first and not os.environ.get("PARTY_PASSPHRASE_FILE")
    if twice and getpass("Once more: ", stream=sys.stderr) != first:
        raise EscrowError("passphrase-missing", "The two passphrases differ.", "Try it again.")
    if not first:
        raise EscrowError("passphrase-missing", "There is no passphrase to lock the keys with.")
    return first
