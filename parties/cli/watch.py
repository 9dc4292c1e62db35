"""Watch what happens to contracts, over lost connections, until it ends or Ctrl-C."""

import threading
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

import typer

from contracts.answers import Answer, Telling
from contracts.api import CaseView, Event
from contracts.entries import read_leaf
from contracts.errors import EscrowError, Exit
from contracts.lifecycle import TERMINAL, State
from contracts.statements import RunStarted, read
from parties.cli.cases import brief, found, standing
from parties.cli.desk import Desk, tell
from parties.cli.screen import moment, short
from parties.client import Client
from parties.identity import pinned
from parties.offers import leaves
from parties.patience import Place

PATIENCE: Final = 120.0  # seconds without a connection until it is given up
LONGEST_WAIT: Final = 30.0
_LOST: Final = frozenset({"escrow-unreachable", "escrow-slow"})
_ENDINGS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        State.RELEASED: frozenset({"run-released"}),
        State.WITHHELD: frozenset({"run-decided"}),
        State.FAILED: frozenset({"run-failed"}),
        State.REJECTED: frozenset({"contract-rejected"}),
        State.WITHDRAWN: frozenset({"contract-withdrawn"}),
        State.HALTED: frozenset({"contract-halted", "data-revoked", "party-revoked"}),
        State.EXPIRED: frozenset({"contract-expired"}),
    }
)
"""Which kinds of statements bring a contract to each end."""


def watch(
    ctx: typer.Context,
    which: Annotated[
        str, typer.Argument(metavar="[DIGEST]", help="One contract; its first eight characters will do.")
    ] = "",
    *,
    until_ended: Annotated[
        bool, typer.Option("--until-ended", help="Stop once it has ended: exit code 0 if released, else 1.")
    ] = False,
    since: Annotated[int, typer.Option(metavar="ENTRY", min=-1, help="Begin at this ledger entry; now if -1.")] = -1,
    patience: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long to try again after a lost connection.")
    ] = PATIENCE,
) -> Telling:
    """Show what happens to this party's contracts, a line for each event, with where the contract stands now.

    Goes on over lost connections. With `--format jsonl` each event is one line of JSON.

    Example: party contract watch 4f1d09aa --until-ended
    """
    if until_ended and not which:
        raise EscrowError("usage", "--until-ended needs a contract.", "Name its digest; see `party contract list`.")
    return _Watch(ctx.obj, which, since, until_ended=until_ended, patience=patience).telling()


class _Watch:
    """One watch; remembers where it is, over connections."""

    def __init__(self, desk: Desk, which: str, since: int, *, until_ended: bool, patience: float) -> None:
        self._desk, self._which, self._until_ended, self._patience = desk, which, until_ended, patience
        self._place = Place(since) if since >= 0 else None
        self._lost: float | None = None  # when the connection was lost, by a clock that only goes on

    def telling(self) -> Telling:
        """Every event, and how it ended."""
        while True:
            try:
                with self._desk.client() as client:
                    return (yield from self._connected(client))
            except EscrowError as error:
                self._wait(error)

    def _connected(self, client: Client) -> Telling:
        """Every event until the connection is lost."""
        resumed = self._place is not None
        if self._place is None:  # asked first, so that nothing between the two is missed
            self._place = Place(pinned(self._desk.home).checkpoint(client.head()).size)
        view = found(client.escrow, self._which) if self._which else None
        ended = view is not None and self._over(view)
        if view:
            yield _now(view)
            self._which = view.digest
        if view and ended and not resumed:
            return self._ending(view)
        # What ended it may stand before the place where to begin; heard from the beginning it is found.
        for event in client.escrow.watch(0 if ended else self._place.since):
            self._lost = None
            if self._which and event.contract != self._which:
                continue
            new = self._place.moves(event)
            view = client.view(event.contract)
            if new:
                yield _told(event, view)
            if self._over(view) and _ended(client, event, view):
                return self._ending(view)
        raise EscrowError("escrow-unreachable", "The escrow ended the stream.")

    def _over(self, view: CaseView) -> bool:
        return self._until_ended and view.state in TERMINAL

    def _ending(self, view: CaseView) -> Answer:
        exit_code = Exit.OK if view.state == State.RELEASED else Exit.REFUSED
        return Answer(brief(view), f"It has ended: {standing(view)}", exit_code)

    def _wait(self, error: EscrowError) -> None:
        """Wait before the next connection, each time longer; give up when it was too long."""
        now = time.monotonic()
        lost = self._lost = now if self._lost is None else self._lost
        left = self._patience - (now - lost)
        if error.code not in _LOST or self._place is None or left <= 0:
            raise error
        seconds = min(max(1.0, (now - lost) / 2), LONGEST_WAIT, left)
        tell(f"{error.message} Trying again in {seconds:.0f} s; nothing will be missed.")
        threading.Event().wait(seconds)


def _ended(client: Client, event: Event, view: CaseView) -> bool:
    """Whether this event brought a contract to the end at which it stands; a run may fail without being the last."""
    if event.kind not in _ENDINGS[view.state]:
        return False
    return view.state not in {State.WITHHELD, State.FAILED} or not _goes_on(client, event)


def _goes_on(client: Client, event: Event) -> bool:
    """Whether the ledger holds a later run of the contract."""
    size = pinned(client.home).checkpoint(client.head()).size
    later = (read(read_leaf(each).envelope.payload) for each in leaves(client.escrow, size, event.index + 1))
    return any(isinstance(each, RunStarted) and each.contract == event.contract for each in later)


def _now(view: CaseView) -> Answer:
    return Answer({"kind": "now", **brief(view)}, f"{short(view.digest)}  {standing(view)}")


def _told(event: Event, view: CaseView) -> Answer:
    data: dict[str, Any] = {"entry": event.index, "time": event.time, "kind": event.kind, **brief(view)}
    return Answer(
        data, f"{moment(event.time)}  #{event.index}  {event.kind}  {short(event.contract)}  {standing(view)}"
    )
