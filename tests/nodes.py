"""Contracts with rows at banks, and a bank's node without a worker that speaks the law of `contracts.nodes`."""

import socket
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Self

from contracts.errors import EscrowError
from contracts.frames import HEADER, Frame, FrameReader
from contracts.nodes import Begin, Here, Over, Piece, Pieces, Said, Told, pieces
from parties.deposit import seal_table
from scenarios import tiny
from scenarios.consortium import Consortium

SECONDS = 60.0  # that nothing should need

Join = Callable[[Iterator[Said]], Iterator[Told]]
"""A connection: takes what the node says, gives what it is told."""


class Line:
    """One connection, from its making until it ends; `end` is `closed`, or what it was refused with."""

    def __init__(self, join: Join) -> None:
        self._said: SimpleQueue[Said | None] = SimpleQueue()
        self._told: SimpleQueue[Told | Exception | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._listen, args=(join,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def say(self, *said: Said) -> None:
        for each in said:
            self._said.put(each)

    def told(self, seconds: float = SECONDS) -> Told:
        """What comes next; fails if that is the end."""
        each = self._told.get(timeout=seconds)
        if isinstance(each, Exception):
            raise each
        assert each is not None, "the connection has ended"
        return each

    def begin(self, here: Here | None = None) -> Begin:
        """Say where the node stands; what the escrow begins with."""
        self.say(here or Here())
        begin = self.told()
        assert isinstance(begin, Begin), begin
        return begin

    def question(self) -> bytes:
        """The next whole frame."""
        whole = Pieces()
        while True:
            piece = self.told()
            assert isinstance(piece, Piece), piece
            if (frame := whole.add(piece)) is not None:
                return frame

    def over(self) -> None:
        assert isinstance(self.told(), Over)

    def answer(self, frame: bytes) -> None:
        self.say(*pieces(frame))

    def silent(self) -> bool:
        """Whether nothing was told that was not taken."""
        return self._told.empty()

    def end(self, seconds: float = SECONDS) -> str:
        """How it ends: `closed`, or the code of the refusal; what is told before does not matter."""
        while True:
            try:
                each = self._told.get(timeout=seconds)
            except Empty:
                raise AssertionError("the connection goes on") from None
            if each is None:
                return "closed"
            if isinstance(each, EscrowError):
                return each.code
            if isinstance(each, Exception):
                raise each

    def close(self) -> None:
        """Say nothing more, which ends it."""
        self._said.put(None)
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    def _listen(self, join: Join) -> None:
        try:
            for each in join(iter(self._said.get, None)):
                self._told.put(each)
        except Exception as error:  # noqa: BLE001 - the test gets it
            self._told.put(error)
        else:
            self._told.put(None)


def refusal_to(join: Join, here: Here | None = None) -> str:
    """The code with which a connection is refused."""
    with Line(join) as line:
        line.say(here or Here())
        return line.end()


class Asker:
    """A training: asks over its end of the stream, one question after the other."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        stream.settimeout(SECONDS)

    def ask(self, payload: bytes, number: int = 1) -> bytes:
        """Ask; the question as it has to arrive."""
        frame = Frame(0, payload, number).encode()
        self.stream.sendall(frame)
        return frame

    def answer(self) -> bytes:
        """The next whole answer."""
        reader = FrameReader()
        while data := self.stream.recv(1 << 20):
            if frames := reader.feed(data):
                assert len(frames) == 1
                assert not reader.amid
                return frames[0].payload
        raise AssertionError("the stream has ended")

    def ended(self) -> bool:
        """Whether the stream ends, and nothing came before."""
        return self.stream.recv(1) == b""


def frame(payload: bytes, number: int = 1) -> bytes:
    """An answer."""
    return Frame(0, payload, number).encode()


def lying(length: int, payload: bytes) -> bytes:
    """A frame that says another length than it has."""
    return HEADER.pack(0, 1, length) + payload


def proposed_at_home(consortium: Consortium, *names: str, **terms: Any) -> str:
    """A one-way training, proposed by all, whose training rows stay with the named banks; the contract's digest."""
    for position, name in enumerate(consortium.banks):
        if name in names:
            bank = consortium.banks[name]
            train, _ = tiny.tables(position, name, banks=len(consortium.banks))
            kept = seal_table(train, "train", tiny.SCHEMA, bank.folder, kept=True)
            bank.deposit([kept])
            consortium.deposits[name] = (kept, *consortium.deposits[name][1:])
    document = consortium.draft(model={"family": "logistic"}, method={"name": "ensemble"}, **terms)
    return consortium.propose(consortium.contract(document))


def approved_at_home(consortium: Consortium, *names: str, **terms: Any) -> str:
    """The same, approved by all."""
    digest = proposed_at_home(consortium, *names, **terms)
    consortium.approve(digest)
    return digest
