"""The program inside the worker of a bank that lies: `python -m scenarios.lies WORD,WORD,… JOBDIR [RESULTS]`.

A bank whose rows stay with it controls the machine that its worker runs on. Nothing makes it run the product's code; it
may even say that it does. So each lie here is told by the bank's own worker: the product's worker, with one thing
changed before it begins. `LIES` says of each what it is and by which code it is seen; one that is seen by no check has
no code, and then the clauses of those whom it harms decide. Bad labels need no such worker: they are deposited.

Other words are no lies: `honest`; `quick`, which learns by `scenarios.quick`, in a blink; `late:MS:FILE`, which takes
so many milliseconds more for each answer, and makes FILE once it has; and `vanish-once:FILE`, which is killed in
mid-round unless FILE is there, and makes it first.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np

from contracts.frames import HEADER, PAYLOAD_BYTES_AT_MOST, Frame
from models import worker
from models.families import base
from models.families.base import Moments, Parameters
from models.federated.door import Door

FROM_ROUND: Final = 2
"""The first round in which a bank lies; until then it cannot be told from an honest one."""

Change = Callable[[Parameters, Parameters], Parameters]
"""From what the bank was sent and what its rows make of it, to what it says that they make of it."""

Bend = Callable[[Moments], Moments]
"""From the moments of what its rows hold, to what it says that they are."""


@dataclass(frozen=True)
class Lie:
    """What a bank does, and what becomes of the run.

    Attributes:
        words: what it does.
        code: with which the run fails; None if no check can see it.
        install: changes the worker.
        change: what it makes of every update, if it is about those.
        bend: what it makes of its moments, likewise.
    """

    words: str
    code: str | None
    install: Callable[[], None] = field(repr=False)
    change: Change | None = None
    bend: Bend | None = None


class _LyingFamily:
    """A family that trains as it should and says something else; for rounds alone, the bank's own model is honest."""

    def __init__(self, honest: base.Federated, lie: Lie) -> None:
        self._honest, self._lie = honest, lie

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    def local_fit(self, parameters: Parameters, *rest: Any, **how: Any) -> Parameters:
        made = self._honest.local_fit(parameters, *rest, **how)
        return made if self._lie.change is None else self._lie.change(parameters, made)

    def moments(self, X: base.Float32Matrix, y: base.Labels) -> Moments:
        found = self._honest.moments(X, y)
        return found if self._lie.bend is None else self._lie.bend(found)


def lying(family: base.Federated, lie: Lie) -> base.Federated:
    """A family that tells a lie about updates or moments; a ValueError for another lie."""
    if lie.change is None and lie.bend is None:
        raise ValueError(f"it is no lie that a family can tell: {lie.words}")
    return cast("base.Federated", _LyingFamily(family, lie))


def _told(words: str, code: str | None, *, change: Change | None = None, bend: Bend | None = None) -> Lie:
    """A lie about every update, or about the moments."""

    def install() -> None:
        honest = base.make_federated

        def make(spec: Mapping[str, object]) -> base.Federated:
            return lying(honest(spec), lie)

        base.make_federated = make

    lie = Lie(words, code, install, change, bend)
    return lie


def _scaled(factor: float) -> Change:
    return lambda sent, made: [
        (old + factor * (new - old)).astype(np.float32) for old, new in zip(sent, made, strict=True)
    ]


def _spoiled(number: float) -> Change:
    return lambda sent, made: [*made[:-1], np.full_like(made[-1], number)]  # noqa: ARG005 - whatever was sent


def _far_off(honest: Moments) -> Moments:
    """Every feature about as large as any can be: within the bounds, and it squashes everybody's to almost nothing."""
    mean = np.full_like(honest.sums, base.LARGEST_LOG - 1)
    return Moments(honest.rows, honest.rows * mean, honest.rows * (mean**2 + 1), honest.positives)


Send = Callable[[Door, Frame], None]


def _sends(lie: Callable[[Send, Door, Frame], None]) -> Callable[[], None]:
    """Lie in whatever goes through the door from some round on; `lie` is given the honest way to send."""

    def install() -> None:
        honest = _honest()

        def send(door: Door, frame: Frame) -> None:
            if frame.round < FROM_ROUND:
                honest(door, frame)
            else:
                lie(honest, door, frame)

        _put(send)

    return install


def _honest() -> Send:
    """The one way out of a worker, as it is so far."""
    honest = Door.send_pieces
    return lambda door, frame: honest(door, frame.party, frame.round, [frame.payload])


def _put(send: Send) -> None:
    def send_pieces(door: Door, party: int, number: int, pieces: Sequence[bytes | memoryview]) -> None:
        send(door, Frame(party, b"".join(pieces), number))

    Door.send_pieces = send_pieces  # type: ignore[method-assign,assignment]


def _garbage(send: Send, door: Door, frame: Frame) -> None:
    send(door, Frame(frame.party, bytes(range(256)) * 4, frame.round))


def _twice(send: Send, door: Door, frame: Frame) -> None:
    send(door, frame)
    send(door, frame)


def _of_an_old_round(send: Send, door: Door, frame: Frame) -> None:
    send(door, Frame(frame.party, frame.payload, frame.round - 1))


def _as_somebody_else(send: Send, door: Door, frame: Frame) -> None:
    send(door, Frame(frame.party + 1, frame.payload, frame.round))


def _too_long(send: Send, door: Door, frame: Frame) -> None:  # noqa: ARG001 - never sent whole
    door._stream.sendall(HEADER.pack(frame.party, frame.round, PAYLOAD_BYTES_AT_MOST + 1))
    threading.Event().wait()


def _silence(send: Send, door: Door, frame: Frame) -> None:  # noqa: ARG001 - never sent
    threading.Event().wait()


def _vanish(send: Send, door: Door, frame: Frame) -> None:  # noqa: ARG001 - never sent
    os.kill(os.getpid(), signal.SIGKILL)


def _vanish_amid(send: Send, door: Door, frame: Frame) -> None:  # noqa: ARG001 - never sent whole
    door._stream.sendall(frame.encode()[: HEADER.size + len(frame.payload) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def _refuse() -> None:
    os._exit(1)


class _Replay:
    """Answers every later round with what it answered in the last honest one."""

    def __init__(self) -> None:
        self._said = b""

    def install(self) -> None:
        honest = _honest()

        def send(door: Door, frame: Frame) -> None:
            if frame.round < FROM_ROUND:
                self._said = frame.payload
            honest(door, Frame(frame.party, self._said, frame.round))

        _put(send)


def _one_number_more() -> None:
    from models.federated import records, vectors  # noqa: PLC0415 - as above

    honest = records.one
    records.one = lambda vector: honest(vectors.packed(np.append(vectors.unpacked(vector), np.float32(0))))


def _more_rows() -> None:
    """State a hundred times the rows, so as to weigh a hundred times as much."""
    from models.federated import records  # noqa: PLC0415 - Flower takes a while to import, and few lies need it

    honest = records.answer
    records.answer = lambda arrays, rows, **more: honest(arrays, 100 * rows, **more)


def _quick(_: str) -> None:
    from scenarios import quick  # noqa: PLC0415 - in the place of what takes long

    sys.modules["models.families.steps"] = quick


def _late(how: str) -> None:
    honest, (milliseconds, marker) = _honest(), how.split(":", 1)

    def send(door: Door, frame: Frame) -> None:
        time.sleep(int(milliseconds) / 1000)  # a slow bank: there is nothing to wait for
        honest(door, frame)
        Path(marker).touch()

    _put(send)


def _vanish_once(marker: str) -> None:
    def vanish(send: Send, door: Door, frame: Frame) -> None:
        if Path(marker).exists():
            send(door, frame)
        else:
            Path(marker).touch()
            _vanish(send, door, frame)

    _sends(vanish)()


_HABITS: Final[Mapping[str, Callable[[str], None]]] = MappingProxyType(
    {"honest": lambda _: None, "quick": _quick, "late": _late, "vanish-once": _vanish_once}
)


LIES: Final[Mapping[str, Lie]] = MappingProxyType(
    {
        "nan": _told("sends numbers that are none", "update-invalid", change=_spoiled(np.nan)),
        "infinite": _told("sends an infinite bias", "update-invalid", change=_spoiled(np.inf)),
        "huge": _told("sends a bias of 10¹⁸", "update-invalid", change=_spoiled(1e18)),
        "millionfold": _told("scales its updates by 10⁶", "update-invalid", change=_scaled(1e6)),
        "shape": Lie("sends a number more than there are parameters", "update-invalid", _one_number_more),
        "rows": Lie("states more rows than it committed to", "update-invalid", _more_rows),
        "garbage": Lie("sends bytes that are no message", "update-invalid", _sends(_garbage)),
        "too-long": Lie("announces a message longer than any may be", "update-invalid", _sends(_too_long)),
        "replay": Lie("sends its answer of an earlier round again", "roster-incomplete", _Replay().install),
        "old-round": Lie("answers an earlier round", "training-failed", _sends(_of_an_old_round)),
        "twice": Lie("answers twice", "training-failed", _sends(_twice)),
        "impostor": Lie("answers as another bank", "training-failed", _sends(_as_somebody_else)),
        "refusal": Lie("ends its worker before it has answered anything", "training-failed", _refuse),
        "silence": Lie("does not answer", "roster-incomplete", _sends(_silence)),
        "vanish": Lie("is gone in the middle of a round", "worker-lost", _sends(_vanish)),
        "vanish-amid": Lie("is gone in the middle of an answer", "worker-lost", _sends(_vanish_amid)),
        "tenfold": _told("scales its updates by 10, which is within the limit", None, change=_scaled(10.0)),
        "upside-down": _told(
            "moves three times as far as it should, away from what it learned", None, change=_scaled(-3.0)
        ),
        "moments": _told("says that all its features lie far off", None, bend=_far_off),
        "free-ride": _told("sends back what it was sent, as if it had trained", None, change=_scaled(0.0)),
    }
)
"""By name. Where a code stands, the run ends failed with it; the others are for the clauses to decide.

What a worker sends out of turn its own bank's node refuses already, and says only that its worker has failed. A node
that lies itself is told apart by the escrow (`escrow.nodes`, `escrow.relay`).
"""


def main(arguments: list[str]) -> int:
    """Do what the first word names to this process, then be the worker."""
    words, *rest = arguments
    for word in words.split(","):
        name, _, argument = word.partition(":")
        if name in _HABITS:
            _HABITS[name](argument)
        else:
            LIES[name].install()
    return worker.main(rest)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # as the worker itself
