"""Asking every party of a contract the same question and taking exactly one answer of each.

What is returned is in the order of the parties' names, whatever order it arrived in: the same run gives the same bytes.
"""

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from flwr.app import Message, RecordDict

from contracts.errors import EscrowError
from models.federated.checks import answers
from models.federated.grid import PartyGrid

Checked = TypeVar("Checked")


class Roster:
    """The parties of one contract on a grid.

    Args:
        grid: where they are.
        rows: training rows of each party as the contract states them.
        timeout: seconds that all parties together have for one question; None where somebody else keeps the time.

    Raises:
        EscrowError: `roster-incomplete` if the grid's parties are not the contract's.

    """

    def __init__(self, grid: PartyGrid, rows: Mapping[str, int], timeout: float | None = None) -> None:
        if set(rows) != set(grid.parties.values()):
            raise EscrowError("roster-incomplete", "The parties of the grid are not those of the contract.")
        self._grid, self._timeout = grid, timeout
        self.rows = {party: rows[party] for party in sorted(rows)}

    def ask(
        self,
        kind: str,
        content: RecordDict,
        *,
        number: int,
        check: Callable[[str, Message], Checked],
        of: Collection[str] | None = None,
    ) -> Callable[[], dict[str, Checked]]:
        """Ask parties a question at once. What is returned waits for the answers, whoever calls it.

        Args:
            kind: the message's type, see `models.federated.records`.
            content: the question.
            number: of the round.
            check: given the party's name and its answer, as soon as it is there; raises if it is none.
            of: whom to ask; everybody if it is not said.

        Returns:
            A function, called once: what `check` made of each answer, by party. It raises `roster-incomplete` if not
            every party answers exactly once, and what `check` raises.
        """
        asked = [node for node, name in self._grid.parties.items() if of is None or name in of]
        messages = [self._grid.create_message(content, kind, node, str(number)) for node in asked]
        sent = {message.metadata.dst_node_id: message.metadata.message_id for message in messages}
        replies = self._grid.send_and_receive(messages, timeout=self._timeout)

        def take() -> dict[str, Checked]:
            found = {party: check(party, reply) for party, reply in answers(replies, sent, self._grid.parties)}
            return {party: found[party] for party in sorted(found)}

        return take
