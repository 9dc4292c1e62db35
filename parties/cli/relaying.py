"""What `party join` and `party start` share: a home's nodes under way, told as they go on, ended by signals.

Ctrl-C, SIGTERM and SIGHUP (a terminal that was closed) end the workers and remove their inputs before the command ends;
whatever signal of these comes while it ends is passed over, so that nothing of the rows is left.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Annotated, Final, cast

import typer

from contracts.answers import Answer
from contracts.api import CaseView
from contracts.contract import Contract
from contracts.errors import EscrowError
from contracts.terms import Digest
from escrow.runtime.base import Runtime, Sealing
from escrow.runtime.signals import heard
from parties.cli.desk import Desk, tell
from parties.cli.screen import short
from parties.client import Client
from parties.conditions import Conditions, News, Session
from parties.nodes import Nodes
from parties.places import Places
from parties.premises import Premises
from parties.session import connect

SealingOption = Annotated[
    str,
    typer.Option(
        "--sealing",
        metavar="container|none",
        help="As the contract says, if left out. container: also seal the worker of a contract that does not ask for"
        " it. A contract that asks for another sealing than is named here, such as gvisor, is refused: leave it out.",
    ),
]
MemoryOption = Annotated[int, typer.Option("--memory", metavar="MIB", min=256, help="What one worker may use.")]
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Ended:
    """How a contract's node ended."""

    contract: Digest
    how: CaseView | EscrowError


@dataclass(frozen=True)
class Relaying:
    """A home's nodes under way.

    Attributes:
        conditions: under which they run.
        nodes: that run.
        heard: what they tell, how each ended, and what ended all of it.
    """

    conditions: Conditions
    nodes: Nodes
    heard: "SimpleQueue[News | Ended | BaseException]"


@contextmanager
def relaying(desk: Desk, sealing: str, *, memory: int, at_once: int, patience: float | None) -> Iterator[Relaying]:
    """Nodes of a home, none yet; all have ended afterwards.

    Raises:
        EscrowError: `usage`, or as `parties.premises.Premises.opened`.
    """
    if sealing not in {"", "container", "none"}:
        raise EscrowError("usage", f"--sealing is container or none, not {sealing!r}.")
    identity = desk.identity()
    chosen = cast("Sealing | None", sealing or None)
    heard: SimpleQueue[News | Ended | BaseException] = SimpleQueue()

    def dial() -> Session:
        escrow = connect(desk.home, identity, desk.now(), warn=tell)
        return Session(Client(desk.home, identity, escrow), escrow.close)

    with _ended_by_signals(heard.put) as ending, Premises.opened(desk.home) as premises:

        def runtime(contract: Contract) -> Runtime:
            return premises.runtime(contract.computation, chosen)

        conditions = Conditions(
            dial, runtime, desk.now, heard.put, places=Places(at_once), memory_mib=memory, patience=patience
        )
        nodes = Nodes(conditions, lambda contract, how: heard.put(Ended(contract, how)))
        try:
            yield Relaying(conditions, nodes, heard)
        finally:
            ending.set()
            nodes.stop()


def told(news: News) -> Answer:
    """What a node tells."""
    data = {"kind": news.kind, "contract": news.contract or None, **news.data}
    return Answer(data, f"{short(news.contract)}  {news.words}" if news.contract else news.words)


@contextmanager
def _ended_by_signals(hear: Callable[[BaseException], object]) -> Iterator[threading.Event]:
    """The first signal is heard as Ctrl-C, unless the command ends already: then the event is set.

    It is not raised, for it could come while the last answer is being printed, which is nobody's place to stop.

    One that this process was started to ignore (`nohup`) stays ignored.
    """
    ending = threading.Event()
    heeded = [each for each in _SIGNALS if signal.getsignal(each) not in {signal.SIG_IGN, None}]
    with heard(heeded) as signals:

        def listen() -> None:
            while signals.wait():
                if not ending.is_set():
                    ending.set()
                    hear(KeyboardInterrupt())

        listener = threading.Thread(target=listen, name="signals")
        listener.start()
        try:
            yield ending
        finally:
            ending.set()
            signals.end()
            listener.join()


__all__ = ["Ended", "MemoryOption", "Relaying", "SealingOption", "relaying", "told"]
