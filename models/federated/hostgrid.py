"""Parties behind a Flower runtime that somebody else wrote: its SuperLink with SuperNodes, or its simulation on Ray.

`HostGrid` lets our round loop run there unchanged. The loop knows the parties by the grid's own node ids and numbers
its messages itself, while a runtime draws node ids and message ids of its own: both are mapped here, both ways, and an
answer that does not come from the node that was asked ends the run. `DeferredApp` is the same for a party's side: the
runtime loads one app for all of its nodes, and which party a node is follows from its context.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from flwr.app import Context, Message, Metadata
from flwr.app.message import make_message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from contracts.errors import EscrowError
from models.federated.grid import COORDINATOR, PartyGrid

ARRIVAL_SECONDS: Final = 120.0
"""How long the nodes of a runtime may take to be there."""
POLL_SECONDS: Final = 0.05
"""Between two looks for nodes or answers; Flower's own `send_and_receive` takes 3 s over SuperLink."""


def await_nodes(grid: Grid, number: int) -> set[int]:
    """The ids of a runtime's nodes, once there are as many as the roster has.

    Raises:
        EscrowError: `roster-incomplete` if there are more; `node-missing` if they do not come.
    """
    until = time.monotonic() + ARRIVAL_SECONDS
    while len(there := set(grid.get_node_ids())) != number:
        if len(there) > number:
            raise EscrowError("roster-incomplete", "A node is there that is not on the roster.")
        if time.monotonic() > until:
            raise EscrowError("node-missing", f"Only {len(there)} of {number} nodes came.")
        time.sleep(POLL_SECONDS)  # the runtimes have no call that waits for nodes
    return there


class DeferredApp(ClientApp):
    """A ClientApp that is made anew for each message, by the node that the message is for.

    Args:
        make: the app that answers a message at a node.
    """

    def __init__(self, make: Callable[[Message, Context], ClientApp]) -> None:
        super().__init__()
        self._make = make

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer one message."""
        return self._make(message, context)(message, context)


class HostGrid(PartyGrid):
    """A party grid over the grid of a Flower runtime.

    Args:
        grid: the runtime's.
        nodes: the runtime's node id → party's name; the exact roster.
        poll: seconds between two looks for answers; each is a call to the runtime.
    """

    def __init__(self, grid: Grid, nodes: Mapping[int, str], *, poll: float = POLL_SECONDS) -> None:
        super().__init__(nodes.values())
        self._poll = poll
        self._grid = grid
        self._nodes = {name: node for node, name in nodes.items()}
        self._asked: dict[str, tuple[str, Message]] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hand messages to the runtime; their ids.

        Raises:
            EscrowError: `roster-incomplete` if the runtime does not take every message.
        """
        asked = list(messages)
        given = list(self._grid.push_messages([self._theirs(message) for message in asked]))
        if len(given) != len(asked) or not all(given):
            raise EscrowError("roster-incomplete", "The Flower runtime did not take every message.")
        for message, theirs in zip(asked, given, strict=True):
            self._asked[message.metadata.message_id] = (theirs, message)
        return [message.metadata.message_id for message in asked]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """The answers to these messages that are there, each once."""
        waiting = dict(self._asked[each] for each in message_ids if each in self._asked)
        for reply in self._grid.pull_messages(list(waiting)) if waiting else ():
            asked = waiting.get(reply.metadata.reply_to_message_id)
            if asked is None or self._asked.pop(asked.metadata.message_id, None) is None:
                raise EscrowError("roster-incomplete", "An answer came to a message that nobody waits for.")
            yield self._ours(reply, asked)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Send messages at once; the answers as they come. Those not there after `timeout` seconds are left out."""
        until = None if timeout is None else time.monotonic() + timeout
        return self._answers(self.push_messages(messages), until)

    def _answers(self, message_ids: Iterable[str], until: float | None) -> Iterator[Message]:
        waiting = dict.fromkeys(message_ids)
        while waiting and (until is None or time.monotonic() <= until):
            for reply in self.pull_messages(waiting):
                del waiting[reply.metadata.reply_to_message_id]
                yield reply
            if waiting:
                time.sleep(self._poll)  # the runtimes have no call that waits for answers

    def _theirs(self, message: Message) -> Message:
        about = message.metadata
        node = self._nodes[self.parties[about.dst_node_id]]
        return Message(message.content, node, about.message_type, ttl=about.ttl, group_id=about.group_id)

    def _ours(self, reply: Message, asked: Message) -> Message:
        node, about = asked.metadata.dst_node_id, reply.metadata
        party = self.parties[node]
        if not reply.has_error() and about.src_node_id != self._nodes[party]:
            raise EscrowError("roster-incomplete", f"Somebody else answered for party {party}.", party=party)
        metadata = Metadata(
            run_id=asked.metadata.run_id,
            message_id=about.message_id,
            src_node_id=node,
            dst_node_id=COORDINATOR,
            reply_to_message_id=asked.metadata.message_id,
            group_id=about.group_id,
            created_at=about.created_at,
            ttl=about.ttl,
            message_type=about.message_type,
        )
        if reply.has_error():
            return make_message(metadata, error=reply.error)
        return make_message(metadata, content=reply.content)


__all__ = ["DeferredApp", "HostGrid", "await_nodes"]
