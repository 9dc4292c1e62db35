"""What a party keeps between messages: what it was asked for, and what comes or goes in several parts.

It lies in Flower's `Context.state`, so it is where the next message finds it on every grid, also one that runs each
message in a process of its own. Parts come and are asked for in order, all of one round; the first one begins anew and
forgets what was left of another. What is in one part leaves nothing behind but that it was asked for.
"""

from collections.abc import Iterable
from typing import Final, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from contracts.errors import EscrowError
from models.federated.records import PART, PARTS, ROUND, Part

_INBOX: Final = "inbox"


def once(state: RecordDict, name: str, number: int = 0) -> None:
    """Note that something is asked for, in round `number`: it may not be again, nor in a round before.

    Raises:
        EscrowError: `update-invalid` if it was noted for this round or a later one.
    """
    last = state.get(_asked(name))
    if isinstance(last, ConfigRecord) and number <= cast("int", last[ROUND]):
        raise EscrowError("update-invalid", "Something was asked for a second time, or for a round that is over.")
    state[_asked(name)] = ConfigRecord({ROUND: number})


def take(state: RecordDict, part: Part, array: Array) -> list[Array]:
    """Take one part of what comes in; all of them if it was the last, otherwise nothing.

    Raises:
        EscrowError: `update-invalid` if it is not the part that follows.
    """
    if part.number == 1:
        _forget(state, _INBOX)
        arrived = ArrayRecord()
    else:
        arrived = _resume(state, _INBOX, part)
    if part.last:
        _forget(state, _INBOX)
        return [*arrived.values(), array]
    arrived[str(part.number)] = array
    _leave(state, _INBOX, part, arrived)
    return []


def put(state: RecordDict, name: str, number: int, parts: Iterable[Array]) -> Array:
    """Keep all parts but the first of what goes out under a name in round `number`; the first."""
    first, *rest = parts
    _forget(state, name)
    if rest:
        kept = ArrayRecord({str(position): part for position, part in enumerate(rest, start=2)})
        _leave(state, name, Part(number, 1, 1 + len(rest)), kept)
    return first


def fetch(state: RecordDict, name: str, part: Part) -> Array:
    """A further part of what goes out; it is not kept any longer.

    Raises:
        EscrowError: `update-invalid` if it is not the part that follows.
    """
    kept = _resume(state, name, part)
    array = kept.pop(str(part.number))
    if part.last:
        _forget(state, name)
    else:
        _leave(state, name, part, kept)
    return array


def _resume(state: RecordDict, name: str, part: Part) -> ArrayRecord:
    """What was left under a name, if `part` follows."""
    at = state.get(_at(name))
    if not isinstance(at, ConfigRecord) or not part.after(Part(*(at[key] for key in (ROUND, PART, PARTS)))):  # type: ignore[arg-type]
        raise EscrowError("update-invalid", "A part was sent or asked for out of turn.")
    return cast("ArrayRecord", state[name])


def _leave(state: RecordDict, name: str, part: Part, arrays: ArrayRecord) -> None:
    state[name], state[_at(name)] = arrays, part.record()


def _forget(state: RecordDict, name: str) -> None:
    for key in (name, _at(name)):
        state.pop(key, None)


def _asked(name: str) -> str:
    """Where it is noted in which round something was asked for last."""
    return f"{name}-asked"


def _at(name: str) -> str:
    """Where it is noted which part was last."""
    return f"{name}-at"
