"""Role `aggregate`: the joint model, made by asking the parties' workers where they are; it sees nobody's rows.

1. The own models that come through the door are asked for first, of all parties at once: each trains its own meanwhile.
2. Then the rounds, each with a checkpoint that goes out through the door; or, for an ensemble, the own models are
   combined, those from the door and those among the inputs.
3. An own model that is no sound member (`models.ensemble`) ends the run here, where it is known whose it is.
4. Each checkpoint begins with the digests of the own models that came through the door. An attempt that goes on from it
   takes no others: nobody chooses what the joint model is measured against once it has seen rounds of that.

The features' names are those that the role `check` found in every table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pydantic import ValidationError

from contracts.canonical import canonical, derive, digest
from contracts.errors import EscrowError
from contracts.frames import KEEPER
from models.federated.door import Door
from models.jobs import AggregateJob, Checked, Place, Tell

if TYPE_CHECKING:
    from models.federated.grid import PartyGrid

Files = Mapping[str, bytes]


def run(job: AggregateJob, place: Place, tell: Tell) -> None:
    """Ask the parties."""
    with Door.dial(place.door) as door:  # the escrow waits for it; what follows takes seconds to load
        names = _names(place.inputs / "check.json")
        if job.method.get("name") == "ensemble":
            _ensemble(job, place, door, names, tell)
        else:
            _rounds(job, place, door, names, tell)


def _rounds(job: AggregateJob, place: Place, door: Door, names: tuple[str, ...], tell: Tell) -> None:
    from models.federated.checkpoint import in_parts  # noqa: PLC0415 - the door first
    from models.federated.socketgrid import SocketGrid  # noqa: PLC0415 - as above
    from models.federated.vectors import keep_freed  # noqa: PLC0415 - as above
    from models.roles.rounds import train_in_rounds  # noqa: PLC0415 - as above

    keep_freed()
    grid = SocketGrid(job.parties, door)
    taken = _taken(job, place, grid, names, tell)

    def keep(number: int, pieces: Iterator[memoryview]) -> None:
        for part in in_parts(chain(taken.values(), pieces)):
            door.send_pieces(KEEPER, number, part)

    with ExitStack() as stack:
        start = _checkpoint(place.inputs / "checkpoint", stack)
        if start is not None:
            _check_taken(start, taken)
        train_in_rounds(job, grid, names, place.results, tell, keep=keep, start=start)


def _taken(job: AggregateJob, place: Place, grid: PartyGrid, names: tuple[str, ...], tell: Tell) -> dict[str, bytes]:
    """What `_write` returns of the own models that come through the door; none of them stays in memory."""
    from models import ensemble  # noqa: PLC0415 - the door first

    came, terms = _fetched(job, grid, tell), ensemble.Terms(names, job.data_schema, job.contract)
    for party, files in came.items():
        ensemble.member(party, files, job.parties[party], terms)
    return _write(place.results, came)


def _ensemble(job: AggregateJob, place: Place, door: Door, names: tuple[str, ...], tell: Tell) -> None:
    from models import bundle, ensemble  # noqa: PLC0415 - the door first
    from models.federated.socketgrid import SocketGrid  # noqa: PLC0415 - as above

    came = _fetched(job, SocketGrid(job.own, door), tell)
    here = {party: _read(place.inputs / "own" / party) for party in job.parties if party not in came}
    tell("combine")
    members, rows = {**came, **here}, job.parties
    made = ensemble.combine(members, rows=rows, names=names, schema=job.data_schema, contract=job.contract)
    _write(place.results, came)
    bundle.put(place.results / "model", made)


def _fetched(job: AggregateJob, grid: PartyGrid, tell: Tell) -> dict[str, dict[str, bytes]]:
    """The own models that come through the door, as they came."""
    from models import bundle, ensemble  # noqa: PLC0415 - the door first
    from models.federated.own import fetch_own  # noqa: PLC0415 - as above
    from models.federated.roster import Roster  # noqa: PLC0415 - as above

    if not job.own:
        return {}
    tell("own models")
    rows = {party: job.parties[party] for party in grid.parties.values()}
    return fetch_own(Roster(grid, rows), job.own, {**bundle.LIMITS, ensemble.OWN: ensemble.OWN_AT_MOST})


def _check_taken(checkpoint: BinaryIO, taken: Mapping[str, bytes]) -> None:
    """Rule 4, by the first bytes of a checkpoint, which are read. One that is too short for them is none."""
    for party, mark in taken.items():
        before = checkpoint.read(len(mark))
        if len(before) == len(mark) and before != mark:
            raise EscrowError("update-invalid", "A party's own model is another one than before.", party=party)


def _read(folder: Path) -> Files:
    """A party's own model among the inputs."""
    try:
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    except OSError:
        raise EscrowError("file-unreadable", "A party's own model is not among the inputs.") from None


def _write(results: Path, own: Mapping[str, Files]) -> dict[str, bytes]:
    """Put own models among the results; for each 32 bytes that tell it from every other."""
    from models import bundle  # noqa: PLC0415 - the door first

    for party, files in own.items():
        bundle.put(results / "own" / party, files)
    return {
        party: derive("own", canonical({name: digest(data) for name, data in files.items()}))
        for party, files in sorted(own.items())
    }


def _checkpoint(path: Path, stack: ExitStack) -> BinaryIO | None:
    """The checkpoint of an attempt before this one; none if it cannot be opened: then training begins at round 1."""
    try:
        return stack.enter_context(path.open("rb"))
    except OSError:
        return None


def _names(path: Path) -> tuple[str, ...]:
    try:
        return Checked.model_validate_json(path.read_bytes()).names
    except (OSError, ValidationError):
        raise EscrowError("file-unreadable", "What was found out about the tables cannot be read.") from None
