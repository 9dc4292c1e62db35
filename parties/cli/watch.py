"""Watch what happens to contracts, over lost connections, until it ends or Ctrl-C."""

import threading
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from contracts.answers import Answer, Telling
from contracts.api import CaseView, Event
from contracts.errors import EscrowError, Exit
from contracts.lifecycle import TERMINAL, State
from parties.cli.cases import brief, found, standing
from parties.cli.desk import Desk, tell
from parties.cli.screen import moment, short
from parties.client import Client
from parties.identity import pinned

PATIENCE: Final = 900.0  # seconds without a connection until it is given up
LONGEST_WAIT: Final = 30.0
_LOST: Final = frozenset({"escrow-unreachable", "escrow-slow"})


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
) -> Telling:
    """Show what happens to this party's contracts, a line for each event, with where the contract stands now.

    Goes on over lost connections. With `--format jsonl` each event is one line of JSON.

    Example: party contract watch 4f1d09aa --until-ended
    """
    if until_ended and not which:
        raise EscrowError("usage", "--until-ended needs a contract.", "Name its digest; see `party contract list`.")
    return _Watch(ctx.obj, which, since, until_ended=until_ended).telling()


class _Watch:
    """One watch; remembers where it is, over connections."""

    def __init__(self, desk: Desk, which: str, since: int, *, until_ended: bool) -> None:
        self._desk, self._which, self._until_ended = desk, which, until_ended
        self._since = since
        self._lost = 0.0  # seconds waited since something was heard

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
        if self._since < 0:  # asked first, so that nothing between the two is missed
            self._since = pinned(self._desk.home).checkpoint(client.head()).size
        view = found(client.escrow, self._which) if self._which else None
        if view:
            yield _now(view)
            self._which = view.digest
        if view and self._over(view):
            return self._ending(view)
        for event in self._events(client):
            view = client.view(event.contract)
            yield _told(event, view)
            if self._over(view):
                return self._ending(view)
        raise EscrowError("escrow-unreachable", "The escrow ended the stream.")

    def _events(self, client: Client) -> Iterator[Event]:
        for event in client.escrow.watch(self._since):
            self._since, self._lost = event.index + 1, 0.0
            if not self._which or event.contract == self._which:
                yield event

    def _over(self, view: CaseView) -> bool:
        return self._until_ended and view.state in TERMINAL

    def _ending(self, view: CaseView) -> Answer:
        exit_code = Exit.OK if view.state == State.RELEASED else Exit.REFUSED
        return Answer(brief(view), f"It has ended: {standing(view)}", exit_code)

    def _wait(self, error: EscrowError) -> None:
        """Wait before the next connection, each time longer; give up when it was too long."""
        if error.code not in _LOST or self._lost >= PATIENCE or self._since < 0:
            raise error
        seconds = min(max(1.0, self._lost / 2), LONGEST_WAIT)
        tell(f"{error.message} Trying again in {seconds:.0f} s; nothing will be missed.")
        threading.Event().wait(seconds)
        self._lost += seconds


def _now(view: CaseView) -> Answer:
    return Answer({"kind": "now", **brief(view)}, f"{short(view.digest)}  {standing(view)}")


def _told(event: Event, view: CaseView) -> Answer:
    data: dict[str, Any] = {"entry": event.index, "time": event.time, "kind": event.kind, **brief(view)}
    return Answer(
        data, f"{moment(event.time)}  #{event.index}  {event.kind}  {short(event.contract)}  {standing(view)}"
    )
