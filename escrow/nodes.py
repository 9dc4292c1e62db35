"""The banks' nodes: who is there, and the stream of frames between a training and the worker at a bank.

A training gets a socket for each party whose rows stay with it, as it does for a worker of the escrow's own; that the
other end is another house, that its connection breaks and is made again, is settled here (`contracts.nodes`). Rules:

1. For one party and contract one connection counts, the newest: one that is half dead cannot lock the node out. A party
   has connections for at most `JOINS_AT_MOST` contracts.
2. While no connection is there an attempt waits. How long a question may take is bounded by whoever asks it.
3. A node that breaks the rules of the conversation is refused, and fails the attempt that is under way with it.
4. A connection ends when the contract does, when its party may go on no longer (asked whenever the ledger says
   something of it, and every `LOOK_SECONDS`), and when the escrow stops. Attempts end with `end`, not with connections.
5. Held for a node are one frame of its attempt, and the pieces of one answer while that is due (`escrow.attempts`,
   `escrow.conversations`).
"""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from contracts.contract import Contract
from contracts.errors import EscrowError
from contracts.nodes import Said, Told
from contracts.terms import Digest, Name
from escrow.conversations import Connection, Seat, Still

JOINS_AT_MOST: Final = 16  # contracts that one party's nodes are connected for; each takes one of its calls


class Nodes:
    """The nodes that are connected, and the attempts that are under way. One object for each escrow process.

    Args:
        joined: called when a node is there that was not.
        ended: whether a contract has ended; it says so before `forget` is called.
    """

    def __init__(
        self, joined: Callable[[], object] = lambda: None, ended: Callable[[Digest], bool] = lambda _: False
    ) -> None:
        self._joined, self._ended = joined, ended
        self._change = threading.Lock()  # of the table; a seat's own `change` may be taken under it, never waited for
        self._seats: dict[tuple[Digest, Name], Seat] = {}  # until the contract ends
        self._closed = False

    def link(self, contract: Digest, run: int, attempt: int, party: Name, *, seconds: float) -> socket.socket:
        """Begin an attempt with a party's node; the training's end of the stream, which the caller closes.

        An attempt that was under way with it ends. `end` cuts the wait short.

        Raises:
            EscrowError: `node-missing`, with the party, if no node of it is there within so long; `state-refused` if
                the contract has ended.
        """
        begun = self._seat(contract, party).begin(run, attempt, seconds)
        if begun is None:
            raise EscrowError("node-missing", f"No node of {party} is connected for this contract.", party=party)
        return begun.far

    def end(self, contract: Digest, run: int) -> None:
        """End every attempt of a run, and every wait to begin one: nodes are told that it is over. Idempotent."""
        for seat in self._of(contract):
            if seat.run == run:
                seat.end()

    def failure(self, contract: Digest, run: int, party: Name) -> str | None:
        """The code with which the node failed the attempt under way, or the run's last one, if it did."""
        with self._change:
            seat = self._seats.get((contract, party))
        attempt = seat.attempt if seat else None
        return attempt.failure if attempt and attempt.run == run else None

    def missing(self, contract: Contract) -> list[Name]:
        """The parties whose rows stay with them and no node of which is connected for this contract."""
        at_home = contract.at_home()
        with self._change:
            return [
                name
                for name in at_home
                if (seat := self._seats.get((contract.digest(), name))) is None or not seat.there
            ]

    @property
    def connected(self) -> int:
        """How many connections there are."""
        return sum(seat.connection is not None for seat in self._of(None))

    def look(self, parties: Iterable[Name]) -> None:
        """The ledger says something of these parties: their connections ask whether they may go on."""
        concerned = set(parties)
        for seat in self._of(None):
            if seat.party in concerned:
                with seat.change:
                    if seat.connection is not None:
                        seat.connection.look = True
                        seat.change.notify_all()

    def forget(self, contract: Digest) -> None:
        """The contract has ended: end its attempts, and keep nothing of it."""
        ended = self._of(contract)
        with self._change:
            self._seats = {key: seat for key, seat in self._seats.items() if key[0] != contract}
        for seat in ended:
            seat.end()

    def hang_up(self) -> None:
        """End every connection, also of who comes later. Attempts wait, as for any connection that broke."""
        with self._change:
            self._closed = True
        for seat in self._of(None):
            with seat.change:
                if seat.connection is not None:
                    seat.connection.hang_up()

    def close(self) -> None:
        """End everything."""
        self.hang_up()
        for seat in self._of(None):
            seat.end()

    def serve(self, contract: Digest, party: Name, said: Iterator[Said], still: Still) -> Iterator[Told]:
        """Speak with a node until its connection or the contract ends; see `contracts.api.Escrow.join`.

        A thread of its own hears what is `said`, which must end when the connection does.

        Raises:
            EscrowError: `quota-exceeded`; `state-refused` if the contract has ended; `node-refused` if a newer
                connection has taken the place; what `still` refuses with; `message-refused`, `roster-incomplete` or
                `update-invalid`, with the party, for what breaks the rules of the conversation.
        """
        seat = self._seat(contract, party)
        connection = Connection(seat, self._joined)
        self._enter(seat, connection)
        try:
            threading.Thread(target=connection.listen, args=(said,), name=f"node-{party}", daemon=True).start()
            yield from connection.speak(still)
        finally:
            with seat.change:
                connection.hang_up()
                if seat.connection is connection:
                    seat.connection = None

    def _enter(self, seat: Seat, connection: Connection) -> None:
        with self._change:
            joined = [each for each in self._seats.values() if each.party == seat.party and each.connection is not None]
            if len(joined) >= JOINS_AT_MOST and seat not in joined:
                raise EscrowError("quota-exceeded", f"{seat.party}'s nodes have joined {JOINS_AT_MOST} contracts.")
            with seat.change:
                if self._closed:
                    connection.hang_up()
                if seat.connection is not None:
                    seat.connection.replace()
                seat.connection = connection

    def _of(self, contract: Digest | None) -> list[Seat]:
        """The seats under one contract, or all."""
        with self._change:
            return [seat for (each, _), seat in self._seats.items() if contract in {each, None}]

    def _seat(self, contract: Digest, party: Name) -> Seat:
        """A party's seat. A contract that ends meanwhile leaves none: either `forget` finds it, or it is found here."""
        with self._change:
            seat = self._seats.setdefault((contract, party), Seat(party))
        if self._ended(contract):
            self.forget(contract)
            raise EscrowError("state-refused", "The contract has ended: nothing is trained under it.")
        return seat


__all__ = ["JOINS_AT_MOST", "Nodes"]
