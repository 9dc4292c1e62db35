"""An ensemble: the parties' own models as one, by a log-linear pool of calibrated experts.

The joint score is sigmoid(Σ w_p · (a_p · logit_p(x) + b_p)): each member's log-odds are calibrated (Platt scaling,
slope a_p and intercept b_p), then averaged. The rules are the same for every contract and use no holdout:
1. a_p and b_p are fitted at the party, on the last `select-days` of its training window, to a model that was trained on
   the days before (`platt`).
2. w_p is proportional to the number of frauds that the member was validated on: to how much there is to believe a_p by,
   for frauds and not rows are what decides it. How well the member ranks is not counted a second time: that is in a_p.
   Scores that tell nothing have a slope near 0, and nothing is added for them whatever they weigh.
3. A member that was not validated weighs nothing beside those that were. Where nobody was, all weigh the same and count
   as calibrated.
4. No member weighs more than half, of two no more than two thirds: what it was validated on is its own bank's word.
   What is above that goes to the others by rule 2; if none of them was validated, evenly, against rule 3. With half of
   the weight a bank is as loud as all the others together, and never the only one heard. Two need more room: at one
   half each, rule 2 would not be there.
5. Members are combined in the order of their parties' names: equal members give equal bytes.

Members and their figures come from other banks' machines and are read as hostile. A member that is no sound bundle of
this contract, its features and its schema, or whose figures no validation can give, is `update-invalid`, and the
operator is told whose it is; so are figures of more rows than the contract says that the party trains on. Figures that
are merely untrue cannot be told from true ones; what a bank that overstates its model gets, besides what weight rule 4
leaves it, is a worse ensemble, which the gate measures on every party's holdout before anyone receives it.

The graph holds the members' graphs and weights, so who receives the ensemble receives the members and can tell them
apart. The manifest says openly whose they are and what they weigh.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from contracts.errors import EscrowError
from contracts.schema import Schema
from models import bundle
from models.families.base import parse
from models.families.poolgraph import NEAREST, Part, pool_graph
from models.jobs import Own, Validation
from models.manifest import Ensemble, Member

OWN: Final = "baseline.json"
"""The file beside a party's own bundle that says which candidate it is and what it showed (`Own`)."""
OWN_AT_MOST: Final = 1 << 16
"""Its bytes."""
STEPS_AT_MOST: Final = 100
"""Newton's steps; ten are usual."""
PRECISION: Final = 1e-10
"""A step smaller than this ends the search."""
BEFORE: Final = (1.0, 0.0)
"""The slope and intercept that are believed before anything is seen: the model's scores are probabilities."""
SPREAD: Final = (1.0, 2.0)
"""Standard deviations of that belief, which is normal: a handful of frauds outweighs it."""

Numbers = npt.NDArray[np.float64]


class Terms(NamedTuple):
    """What an own model was to be trained for: the features' names in order, the schema, the contract's digest."""

    names: tuple[str, ...]
    schema: Schema
    contract: str | None


def combine(
    members: Mapping[str, Mapping[str, bytes]],
    *,
    rows: Mapping[str, int],
    names: Sequence[str],
    schema: Schema,
    contract: str | None,
) -> dict[str, bytes]:
    """The joint bundle's files: `model.onnx` and `model.json`.

    Args:
        members: by party, the files of its own model: a bundle and `baseline.json`.
        rows: training rows of each party as the contract states them.
        names: features, in the order that every member must have them in.
        schema: the contract's.
        contract: its digest, for which every member must have been trained.

    Raises:
        EscrowError: `update-invalid`, with the party, for a member that is refused; `bundle-invalid` if all of them
            together are larger than a bundle may be.
    """
    if not members:
        raise EscrowError("roster-incomplete", "An ensemble needs at least one member.")
    terms = Terms(tuple(names), schema, contract)
    found = {party: member(party, members[party], rows[party], terms) for party in sorted(members)}
    shares = weights({party: each.own.validation for party, each in found.items()})
    described = {
        party: Member(model=parse(each.own.spec), weight=shares[party], slope=slope, intercept=intercept)
        for party, each in found.items()
        for slope, intercept in [each.calibration]
    }
    graph = pool_graph(
        {party: Part(found[party].graph, each.weight * each.slope) for party, each in described.items() if each.weight},
        offset=sum(each.weight * each.intercept for each in described.values()),
        d=len(names),
    )
    return bundle.made(graph, Ensemble(members=described), names=names, schema=schema, contract=contract)


def weights(validations: Mapping[str, Validation | None]) -> dict[str, float]:
    """Each member's weight by rules 2 to 4; not negative, in sum 1."""
    frauds = {party: 0 if each is None else each.positives for party, each in validations.items()}
    found, most = _shares(frauds), max(1 / 2, 2 / (1 + len(frauds)))
    first = max(found, key=lambda party: found[party])
    if found[first] <= most:
        return found
    others = _shares({party: count for party, count in frauds.items() if party != first})
    return {party: most if party == first else (1 - most) * others[party] for party in found}


def _shares(frauds: Mapping[str, int]) -> dict[str, float]:
    """Shares in proportion to counts; the same for all if there is nothing to count."""
    total = sum(frauds.values())
    return {party: count / total if total else 1 / len(frauds) for party, count in frauds.items()}


def log_odds(scores: npt.ArrayLike) -> Numbers:
    """log(p ÷ (1 − p)) of scores, each held at least `NEAREST` from 0 and 1, as the graph does."""
    near = np.clip(np.asarray(scores, np.float64), NEAREST, 1 - NEAREST)
    return np.log(near) - np.log1p(-near)


def platt(odds: Numbers, labels: npt.ArrayLike) -> tuple[float, float]:
    """Platt scaling (1999): slope, at least 0, and intercept that make log-odds fit labels best.

    The likelihood is penalised by `BEFORE` and `SPREAD`, so that a few frauds, or frauds that the scores separate
    perfectly, still give numbers of a sane size. Where higher scores mean less fraud, the slope is 0: the model is no
    guide, and turning its scores around would be fitting noise.

    Args:
        odds: (n,) log-odds of a model.
        labels: (n,) zeros and ones.
    """
    targets = np.asarray(labels, np.float64)
    slope, intercept = _fitted(odds, targets)
    if slope < 0:
        slope, intercept = 0.0, _fitted(np.zeros_like(odds), targets)[1]
    return min(slope, 100.0), min(max(intercept, -100.0), 100.0)


def _fitted(odds: Numbers, targets: Numbers) -> tuple[float, float]:
    """The penalised maximum, by Newton's steps, halved while they overshoot."""
    believed, penalty = np.array(BEFORE), 1 / np.square(SPREAD)
    point = believed

    def loss(at: Numbers) -> float:
        values = at[0] * odds + at[1]
        return float((np.logaddexp(0, values) - targets * values).sum() + (penalty * (at - believed) ** 2).sum() / 2)

    for _ in range(STEPS_AT_MOST):
        rates = np.exp(-np.logaddexp(0, -(point[0] * odds + point[1])))
        misses, spread = rates - targets, rates * (1 - rates)
        # Sums and no products of matrices: those depend on how many threads there are.
        gradient = np.array([(misses * odds).sum(), misses.sum()]) + penalty * (point - believed)
        mixed = (spread * odds).sum()
        curvature = np.array([[(spread * odds**2).sum(), mixed], [mixed, spread.sum()]]) + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        before = loss(point)
        while loss(point - step) > before:
            step = step / 2
        point = point - step
        if np.abs(step).max() < PRECISION:
            break
    return float(point[0]), float(point[1])


@dataclass(frozen=True)
class Sound:
    """A member that may be combined."""

    graph: bytes
    own: Own

    @property
    def calibration(self) -> tuple[float, float]:
        """Its slope and intercept."""
        shown = self.own.validation
        return BEFORE if shown is None else (shown.slope, shown.intercept)


def member(party: str, files: Mapping[str, bytes], rows: int, terms: Terms) -> Sound:
    """A party's own model, after every check: in an ensemble, and wherever else it comes from another house.

    Args:
        party: whose it is.
        files: as they came.
        rows: training rows of the party as the contract states them.
        terms: what it was to be trained for.

    Raises:
        EscrowError: `update-invalid`, with the party.
    """
    own = _own(party, files.get(OWN, b""), rows)
    try:
        model = bundle.read(files)
        model.scores(np.array([[0.0], [1.0]], np.float32).repeat(len(model.manifest.features), axis=1))
        described = parse(own.spec)
    except EscrowError as error:
        raise EscrowError("update-invalid", f"A party's own model was refused: {error.message}", party=party) from error
    manifest = model.manifest
    if (manifest.features, manifest.table, manifest.trained_for) != terms:
        raise _refused(party, "is of other features, another schema or another contract")
    if manifest.model != described:
        raise _refused(party, "is not the candidate that it is said to be")
    return Sound(files[bundle.GRAPH], own)


def _own(party: str, data: bytes, rows: int) -> Own:
    """What a party says of its own model."""
    if len(data) > OWN_AT_MOST:
        raise _refused(party, "comes with more figures than a validation has")
    try:
        own = Own.model_validate_json(data)
    except ValidationError:
        raise _refused(party, "comes with figures that cannot be read") from None
    shown = own.validation
    if shown is not None and shown.positives >= shown.rows:
        raise _refused(party, "was validated on frauds alone")
    if shown is not None and shown.rows > rows:
        raise _refused(party, "was validated on more rows than its party trains on")
    return own


def _refused(party: str, why: str) -> EscrowError:
    return EscrowError("update-invalid", f"A party's own model {why}.", party=party)
