"""All nodes of a bank: one for each contract under which its rows stay at home, each in a thread of its own.

`Watchman` finds these contracts by itself: those that are there, and those that come. What ends a node because
something is amiss with one contract leaves the others alone, and is tried again when something happens to the contract
or the connection was made anew. A contract that ended with `node-refused` is not, before the verified ledger says
something new of it; nor is one that has ended as the escrow says, as long as the program runs.
"""

import threading
from collections.abc import Callable
from typing import Final

from contracts.api import CaseView
from contracts.errors import EscrowError
from contracts.lifecycle import TERMINAL
from contracts.records import CaseRecord
from contracts.terms import Digest
from parties import permission
from parties.client import Client
from parties.conditions import Conditions, News
from parties.identity import pinned
from parties.node import Node
from parties.patience import Persistence, Place

Ended = Callable[[Digest, CaseView | EscrowError], object]
"""Hears how a node ended: with its contract, or with an error."""

WATCHING: Final = ""
"""Stands for the contract in news of the watchman's own connection."""


class Nodes:
    """The nodes that run. Safe for threads."""

    def __init__(self, conditions: Conditions, ended: Ended) -> None:
        self._with, self._ended = conditions, ended
        self._change = threading.Lock()
        self._running: dict[Digest, tuple[Node, threading.Thread]] = {}
        self._refused: dict[Digest, CaseRecord | None] = {}
        self._done: set[Digest] = set()  # contracts that have ended
        self._over = False

    def reconsider(self, contract: Digest, stands: Callable[[], CaseRecord | None]) -> None:
        """Forget that its node was refused, unless the contract still `stands` on the verified ledger as it did then.

        Raises:
            EscrowError: as `stands`.
        """
        with self._change:
            if contract not in self._refused:
                return
            before = self._refused[contract]
        if before != stands():
            with self._change:
                self._refused.pop(contract, None)

    def add(self, contract: Digest) -> None:
        """Run the node of a contract, unless it runs, was refused or has seen the contract's end."""
        with self._change:
            if self._over or any(contract in each for each in (self._running, self._refused, self._done)):
                return
            node = Node(contract, self._with)
            thread = threading.Thread(target=self._run, args=(node,), name=f"node-{contract[-8:]}")
            self._running[contract] = node, thread
            thread.start()

    def stop(self) -> None:
        """End all nodes and their workers, and wait for them."""
        with self._change:
            self._over = True
            running = list(self._running.values())
        for node, _ in running:
            node.stop()
        for _, thread in running:
            thread.join()

    def _run(self, node: Node) -> None:
        try:
            how: CaseView | EscrowError = node.serve()
        except EscrowError as error:
            how = error
        except BaseException as error:  # noqa: BLE001 - whoever hears of it says what a person reads
            how = EscrowError("bug", f"The node failed in a way nobody foresaw ({type(error).__name__}).")
        with self._change:
            del self._running[node.contract]
            if not isinstance(how, EscrowError):
                self._done.add(node.contract)
            elif how.code == "node-refused":
                self._refused[node.contract] = node.case
        self._ended(node.contract, how)


class Watchman:
    """Joins every contract that its bank approved and under which rows stay with it.

    Args:
        nodes: where their nodes run.
        conditions: under which they do.
    """

    def __init__(self, nodes: Nodes, conditions: Conditions) -> None:
        self._nodes, self._with = nodes, conditions
        self._stopped = threading.Event()
        self._close: Callable[[], object] = lambda: None
        self._persistence = Persistence()
        self._place: Place | None = None

    def watch(self) -> None:
        """Watch until `stop`.

        Raises:
            EscrowError: what is not the connection's fault, such as a ledger that was tampered with.
        """
        while not self._stopped.is_set():
            try:
                session = self._with.dial()
                self._close = session.close
                try:
                    if not self._stopped.is_set():  # else `stop` closed the session before this one
                        self._watched(session.client)
                finally:
                    session.close()
            except EscrowError as error:
                if self._stopped.is_set():
                    return
                pause = self._persistence.pause(error)
                words = f"{error.message} Reconnecting in {pause:.1f} s."
                self._with.news(News(WATCHING, "reconnecting", words, {"code": error.code, "seconds": pause}))
                self._stopped.wait(pause)

    def stop(self) -> None:
        """End it soon; called from any thread."""
        self._stopped.set()
        self._close()

    def _watched(self, client: Client) -> None:
        place = self._place = self._place or Place(pinned(client.home).checkpoint(client.head()).size)
        for view in client.escrow.contracts():
            self._consider(view, client)
        self._persistence.well()
        for event in client.escrow.watch(place.since):
            if self._stopped.is_set():
                return
            if place.moves(event):
                self._consider(client.view(event.contract), client)
        raise EscrowError("escrow-unreachable", "The escrow has ended the stream of events.")

    def _consider(self, view: CaseView, client: Client) -> None:
        party, digest = client.name, view.digest
        wanted = view.state not in TERMINAL and party in view.approved and party in view.contract.at_home()
        if not wanted or permission.taken_back(client, digest, None):
            return
        self._nodes.reconsider(digest, lambda: _stands(client, digest))
        self._nodes.add(digest)  # not if it is refused meanwhile, or has ended


def _stands(client: Client, contract: Digest) -> CaseRecord | None:
    """How a contract stands on the verified ledger; None if that shows none that this bank has a part in."""
    try:
        return permission.approved(client, contract)
    except EscrowError as error:
        if error.code not in {"contract-unknown", "node-refused", "approval-missing"}:
            raise
        return None


__all__ = ["WATCHING", "Ended", "Nodes", "Watchman"]
