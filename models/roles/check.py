"""Role `check`: are the contributions what the contract says, and can the test be honest?

1. Rows and frauds are as many as the contract says (`counts-differ`).
2. Every table has the features that the schema's recipe yields (`table-invalid`).
3. No holdout holds rows of any party's training rows (`holdout-in-training`). A row is the same row if all but its time
   and label is equal: changing those does not make it another. Cards do pay the same amount at the same terminal twice,
   so up to 1 % of a holdout may match, and of its frauds; a match at the very same second may not.
4. Training rows lie in the training window and holdout rows in the test window, so each holdout row is later than every
   party's training rows and the label delay (`holdout-too-early`; `table-invalid` for rows before the first window).

Of a party whose training rows stay at its bank the holdout alone is here. Its worker there keeps rules 1, 2 and 4 for
the training rows (`check_training`). Rule 3 follows for them without any comparison: they lie in the training window
and every holdout row in the later test window, so none is a row of both. What cannot be seen from here is whether such
a bank wrote an earlier time on rows of its own holdout and trains on them; other banks' holdouts are not given to it.

Rows are compared by 64-bit hashes: the chance that honest tables of a million rows are refused for a collision is below
one in ten million, and equal rows never escape.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt

from contracts.canonical import canonical
from contracts.errors import EscrowError
from contracts.schema import Schema
from models.features import feature_names
from models.jobs import Checked, CheckJob, Place, Tell
from models.table import Prepared, codes, read_prepared

RECURRENCES_AT_MOST: Final = 0.01
"""Share of a holdout's rows that may look like a training row of another time."""

Hashes = npt.NDArray[np.uint64]


def run(job: CheckJob, place: Place, tell: Tell) -> None:
    """Check every contribution, then write the features' names."""
    trained: dict[str, Prepared] = {}
    held: dict[str, Prepared] = {}
    for party, counts in sorted(job.parties.items()):
        tell(f"check {party}")
        held[party] = read_prepared(place.inputs / party / "holdout.parquet")
        check_table(held[party], job.data_schema, counts.holdout_rows, party)
        if held[party].positives != counts.positives:
            raise _counts_differ(party)
        if counts.train_rows is not None:
            trained[party] = read_prepared(place.inputs / party / "train.parquet")
            check_table(trained[party], job.data_schema, counts.train_rows, party)
    tell("compare rows")
    check_rows_apart(trained.values(), held)
    for party, table in trained.items():
        check_train_window(table, job.data_schema, party)
    for party, table in held.items():
        check_test_window(table, job.data_schema, party)
    names = feature_names(job.data_schema)
    (place.results / "check.json").write_bytes(canonical(Checked(names=names).model_dump(mode="json")))


def check_training(table: Prepared, schema: Schema, rows: int, party: str) -> None:
    """Rules 1, 2 and 4 for one party's training rows, wherever they are.

    Args:
        table: the training rows.
        schema: the contract's.
        rows: how many the contract states.
        party: whose they are.

    Raises:
        EscrowError: `counts-differ`, `table-invalid`, `holdout-too-early`; with the party.
    """
    check_table(table, schema, rows, party)
    check_train_window(table, schema, party)


def check_table(table: Prepared, schema: Schema, rows: int, party: str) -> None:
    """Rule 1 for its rows, and rule 2."""
    if len(table) != rows:
        raise _counts_differ(party)
    if table.names != feature_names(schema):
        raise EscrowError("table-invalid", "A party's tables do not have the features of the schema.", party=party)


def _counts_differ(party: str) -> EscrowError:
    message = "A party's tables do not have the counts that the contract states."
    return EscrowError("counts-differ", message, party=party)


def check_train_window(table: Prepared, schema: Schema, party: str) -> None:
    """Rule 4 for training rows."""
    start, until = _window(schema, "train")
    if (table.times >= until).any():
        raise EscrowError("holdout-too-early", "Training rows lie after the training window.", party=party)
    if (table.times < start).any():
        raise EscrowError("table-invalid", "Training rows lie before the training window.", party=party)


def check_test_window(table: Prepared, schema: Schema, party: str) -> None:
    """Rule 4 for a holdout."""
    start, until = _window(schema, "holdout")
    if (table.times < start).any():
        raise EscrowError("holdout-too-early", "A holdout has rows before the test window.", party=party)
    if (table.times >= until).any():
        raise EscrowError("table-invalid", "A holdout has rows after the test window.", party=party)


def _window(schema: Schema, part: str) -> tuple[np.datetime64, np.datetime64]:
    """From, and the moment after."""
    start, until = schema.windows()[part]
    return np.datetime64(start, "s"), np.datetime64(until, "s")


def check_rows_apart(trained: Iterable[Prepared], held: Mapping[str, Prepared]) -> None:
    """Rule 3, over all training rows that are here together."""
    tables = list(trained)
    if not tables:
        return
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
