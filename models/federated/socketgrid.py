"""A Flower grid whose parties sit in workers of their own, behind this worker's one door.

The escrow carries the frames and sees to it that each is from the party whose number it has, and keeps the time: it
ends the stream of a run that takes too long. What is in a frame is the other worker's word and is read as such: a
message that would cost too much to read (`models.federated.plain`), cannot be read, is of another round than was asked
for, or says that it is from another, ends the run.
"""

from collections.abc import Iterable, Iterator

from flwr.app import Message

from contracts.errors import EscrowError
from contracts.frames import Frame
from models.federated.door import Door
from models.federated.encoding import Encoder, from_frame
from models.federated.grid import COORDINATOR, PartyGrid
from models.federated.plain import require_plain

_FIRST = COORDINATOR + 1  # node id of the party with number 0


class SocketGrid(PartyGrid):
    """Parties behind a door; each answers a message before it is sent the next.

    Args:
        parties: their names; the escrow counts them in the order of the names too.
        door: leads to them.

    """

    def __init__(self, parties: Iterable[str], door: Door) -> None:
        super().__init__(parties)
        self._door = door
        self._rounds: dict[int, int] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; their ids. A message's group is the number of its round."""
        sent, encoder = [], Encoder()
        for message in messages:
            node, number = message.metadata.dst_node_id, int(message.metadata.group_id)
            self._door.send_pieces(node - _FIRST, number, encoder.encode(message))
            self._rounds[node] = number
            sent.append(message.metadata.message_id)
        return sent

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Wait for as many replies as there are ids, or until the stream ends; in order of arrival, unchecked."""
        for _ in message_ids:
            frame = self._door.receive()
            if frame is None:
                return
            yield self._reply(frame)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:  # noqa: ARG002 - the escrow keeps the time
        """Send all messages at once; the replies as they arrive. Those that are missing at the stream's end are left
        out.
        """
        return self.pull_messages(self.push_messages(messages))

    def _reply(self, frame: Frame) -> Message:
        node = _FIRST + frame.party
        if node not in self.parties:
            raise EscrowError("roster-incomplete", "An answer came from somebody who was not asked.")
        party = self.parties[node]
        if frame.round != self._rounds.get(node):
            raise EscrowError("roster-incomplete", f"Party {party} answered for another round.", party=party)
        try:
            require_plain(frame.payload)
            reply = from_frame(frame.payload)
        except Exception as error:  # whatever a reader of hostile bytes may raise
            raise EscrowError("update-invalid", f"The answer of party {party} cannot be read.", party=party) from error
        if reply.metadata.src_node_id != node:
            raise EscrowError("roster-incomplete", f"Party {party} answered as somebody else.", party=party)
        return reply


__all__ = ["SocketGrid"]
