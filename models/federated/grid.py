"""Flower grids whose nodes are the parties of one contract.

`PartyGrid` fixes who the nodes are and how a message to one is made; `LocalGrid` runs every party's ClientApp in this
process, `models.federated.socketgrid` asks workers elsewhere. Whatever crosses a grid crosses it as bytes, also here,
so no party can hold an object that another one sees.

Beyond Flower's documented API the product uses, here: `Run.create_empty`, `make_message` with its `Metadata`; in
`hostgrid`: `make_message` and `Metadata`; in `encoding`: `flwr.common.serde` and `serde_utils`, `flwr.proto`; in
`plain`: `flwr.proto`; and what starts a SuperLink or Ray in `superlink` and `raygrid`.
"""

import itertools
import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from flwr.app import DEFAULT_TTL, Context, Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from models.federated.encoding import Encoder, from_frame, to_frame

COORDINATOR: Final = 1
"""Node id of the side that asks; parties follow in the order of their names."""

_APP_RAISED: Final = 2  # Flower's ErrorCode.CLIENT_APP_RAISED_EXCEPTION
_LOG = logging.getLogger(__name__)


class PartyGrid(Grid):
    """A Flower grid over a fixed roster.

    Attributes:
        parties: node id → party's name, in the order of the names.
    """

    def __init__(self, parties: Iterable[str]) -> None:
        self.parties: Mapping[int, str] = MappingProxyType(dict(enumerate(sorted(parties), start=COORDINATOR + 1)))
        self._run = Run.create_empty(run_id=1)
        self._numbers = itertools.count(1)

    def set_run(self, run: Run) -> None:
        """Set what Flower knows of the run; its number only stands in metadata."""
        self._run = run

    @property
    def run(self) -> Run:
        """What Flower knows of the run."""
        return self._run

    def get_node_ids(self) -> Iterable[int]:
        """The parties' node ids, in the order of their names."""
        return list(self.parties)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a numbered message to one party; unlike Flower's constructor it needs no identity of this process."""
        metadata = Metadata(
            run_id=self._run.run_id,
            message_id=str(next(self._numbers)),
            src_node_id=COORDINATOR,
            dst_node_id=dst_node_id,
            reply_to_message_id="",
            group_id=group_id,
            created_at=time.time(),  # Flower's, and so in a reply; no result depends on it, every frame's digest does
            ttl=ttl or DEFAULT_TTL,
            message_type=message_type,
        )
        return make_message(metadata, content=content)

    @abstractmethod
    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages; what comes back within `timeout` seconds, best as it comes, in any order, unchecked.

        Where others answer meanwhile, messages are sent by the call itself and not by the first look at an answer.
        """


class LocalGrid(PartyGrid):
    """Every party's ClientApp in this process, one after the other, each with its own lasting state.

    An app that raises is answered for by an error reply; the exception goes to this module's log and nowhere else.

    Args:
        apps: party's name → its ClientApp.
        clock: seconds, monotonic; read only when a timeout is asked for.
    """

    def __init__(self, apps: Mapping[str, ClientApp], *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(apps)
        self._apps = {node: apps[name] for node, name in self.parties.items()}
        self._contexts = {
            node: Context(self.run.run_id, node, node_config={}, state=RecordDict(), run_config={})
            for node in self._apps
        }
        self._clock = clock
        self._outbox: dict[str, bytes] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue messages; their ids."""
        encoder = Encoder()
        frames = {message.metadata.message_id: b"".join(encoder.encode(message)) for message in messages}
        self._outbox.update(frames)
        return list(frames)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Run the app that each queued message is for, and yield its reply. An unknown id yields nothing."""
        for message_id in message_ids:
            frame = self._outbox.pop(message_id, None)
            if frame is not None:
                yield self._answer(frame)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Run one app after the other; a reply that is not ready after `timeout` seconds is left out, as if too late.

        No more than one message is held as bytes, however many parties there are. An app that never returns cannot be
        stopped from within its process: the runtime's time limit ends that one.
        """
        deadline = None if timeout is None else self._clock() + timeout
        encoder = Encoder()
        for message in messages:
            reply = self._answer(b"".join(encoder.encode(message)))
            if deadline is None or self._clock() <= deadline:
                yield reply

    def _answer(self, frame: bytes) -> Message:
        message = from_frame(frame)
        node = message.metadata.dst_node_id
        try:
            return from_frame(to_frame(self._apps[node](message, self._contexts[node])))
        except Exception:  # noqa: BLE001 - a party's code may raise anything, and its text may hold data
            _LOG.exception("The app of party %s raised an exception.", self.parties[node])
            return Message(Error(_APP_RAISED), reply_to=from_frame(frame))
