"""Role `check`: are the contributions what the contract says, and can the test be honest?

1. Rows and frauds are as many as the contract says (`counts-differ`).
2. Every table has the features that the schema's recipe yields (`table-invalid`).
3. No holdout holds rows of any party's training rows (`holdout-in-training`). A row is the same row if all but its time
   and label is equal: changing those does not make it another. Cards do pay the same amount at the same terminal twice,
   so up to 1 % of a holdout may match, and of its frauds; a match at the very same second may not.
4. Training rows lie in the training window and holdout rows in the test window, so each holdout row is later than every
   party's training rows and the label delay (`holdout-too-early`; `table-invalid` for rows before the first window).

Rows are compared by 64-bit hashes: the chance that honest tables of a million rows are refused for a collision is below
one in ten million, and equal rows never escape.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from contracts.canonical import canonical
from contracts.errors import EscrowError
from contracts.schema import Schema
from models.features import feature_names
from models.jobs import CheckJob, Counts, Tell
from models.table import Prepared, codes, read_prepared

RECURRENCES_AT_MOST: Final = 0.01
"""Share of a holdout's rows that may look like a training row of another time."""

Hashes = npt.NDArray[np.uint64]


def run(job: CheckJob, inputs: Path, results: Path, tell: Tell) -> None:
    """Check every contribution, then write the features' names."""
    names = feature_names(job.data_schema)
    trained: list[Prepared] = []
    held: dict[str, Prepared] = {}
    for party, counts in sorted(job.parties.items()):
        tell(f"check {party}")
        train, holdout = (read_prepared(inputs / party / f"{part}.parquet") for part in ("train", "holdout"))
        check_counts(party, counts, train, holdout)
        if not names == train.names == holdout.names:
            raise EscrowError("table-invalid", f"Party {party}'s tables do not have the features of the schema.")
        trained.append(train)
        held[party] = holdout
    tell("compare rows")
    check_rows_apart(trained, held)
    check_windows(job.data_schema, trained, held)
    (results / "check.json").write_bytes(canonical({"names": list(names)}))


def check_counts(party: str, counts: Counts, train: Prepared, holdout: Prepared) -> None:
    """Rule 1."""
    if counts != Counts(train_rows=len(train), holdout_rows=len(holdout), positives=holdout.positives):
        raise EscrowError("counts-differ", f"Party {party}'s tables do not have the counts that the contract states.")


def check_rows_apart(trained: Iterable[Prepared], held: Mapping[str, Prepared]) -> None:
    """Rule 3, over all parties' training rows together."""
    tables = list(trained)
    rows = np.unique(np.concatenate([row_hashes(table) for table in tables]))
    moments = np.unique(np.concatenate([_with_time(row_hashes(table), table) for table in tables]))
    for party, holdout in held.items():
        hashes = row_hashes(holdout)
        same_moment, alike = _among(_with_time(hashes, holdout), moments), _among(hashes, rows)
        if same_moment.any() or _too_many(alike) or _too_many(alike[holdout.labels == 1]):
            raise EscrowError("holdout-in-training", f"Rows of party {party}'s holdout stand in the training rows.")


def _too_many(alike: npt.NDArray[np.bool_]) -> bool:
    """More than chance: one row of a handful says nothing."""
    return alike.sum() > 1 and bool(alike.mean() > RECURRENCES_AT_MOST)


def check_windows(schema: Schema, trained: Iterable[Prepared], held: Mapping[str, Prepared]) -> None:
    """Rule 4."""
    (train_from, train_until), (test_from, test_until) = (
        [np.datetime64(moment, "s") for moment in schema.windows()[part]] for part in ("train", "holdout")
    )
    times = [table.times for table in trained]
    tests = [holdout.times for holdout in held.values()]
    if any((t >= train_until).any() for t in times) or any((t < test_from).any() for t in tests):
        raise EscrowError("holdout-too-early", "A holdout is not later than all training rows and the label delay.")
    if any((t < train_from).any() for t in times) or any((t >= test_until).any() for t in tests):
        raise EscrowError("table-invalid", "A table has rows outside its window.")


def row_hashes(table: Prepared) -> Hashes:
    """A hash of each row's card, terminal, amount and features; (n,)."""
    hashes = np.full(len(table), len(table.names), dtype=np.uint64)
    for keys in (table.groups, table.terminals):
        hashes = _mixed(hashes ^ _key_hashes(keys))
    for column in (table.amounts, *table.features.T):
        bits = np.ascontiguousarray(column + np.float32(0)).view(np.uint32)  # −0 is 0
        hashes = _mixed(hashes ^ bits)
    return hashes


def _with_time(hashes: Hashes, table: Prepared) -> Hashes:
    return _mixed(hashes ^ table.times.astype(np.int64).view(np.uint64))


def _key_hashes(keys: npt.NDArray[np.str_]) -> Hashes:
    """Each distinct key is hashed once."""
    coded = codes(keys)
    first = np.unique(coded, return_index=True)[1]
    distinct = b"".join(blake2b(str(key).encode(), digest_size=8).digest() for key in keys[first])
    hashes: Hashes = np.frombuffer(distinct, dtype=np.uint64)[coded]
    return hashes


def _mixed(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele et al., 2014) on a sequence of its own: every bit reaches every other."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _among(values: Hashes, increasing: Hashes) -> npt.NDArray[np.bool_]:
    """Which values stand in a sorted array."""
    places = np.minimum(np.searchsorted(increasing, values), len(increasing) - 1)
    found: npt.NDArray[np.bool_] = increasing[places] == values
    return found
