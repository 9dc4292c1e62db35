"""Role `party`: the best model a party can make of its own rows, with which the joint model has to compete.

Of several candidates, each trained on the rows before the last days of the party's training window, the one with the
highest average precision on those days is taken and trained again on all rows. What it showed there stands beside it
(`models.jobs.Own`), for methods that combine own models. Where one of the two parts holds no fraud or nothing but
fraud, nothing can be compared or shown, and the contract's first candidate is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from contracts.canonical import canonical
from contracts.metrics import Metric, Rows, measure
from contracts.schema import Schema
from models import bundle
from models.ensemble import OWN, log_odds, platt
from models.families.base import make
from models.jobs import Own, PartyJob, Place, Spec, Tell, Validation
from models.seeds import part_number
from models.table import Prepared, read_prepared


def run(job: PartyJob, place: Place, tell: Tell) -> None:
    """Choose and train for each party; write the bundles and what each is."""
    for party in job.parties:
        files = own_model(
            party=party,
            train=read_prepared(place.inputs / party / "train.parquet"),
            schema=job.data_schema,
            models=job.models,
            select_days=job.select_days,
            seed=job.seed_bytes,
            contract=job.contract,
            tell=tell,
            validate=job.validated,
        )
        bundle.put(place.results / party, files)


def own_model(
    *,
    party: str,
    train: Prepared,
    schema: Schema,
    models: Sequence[Spec],
    select_days: int,
    seed: bytes,
    contract: str | None,
    tell: Tell,
    validate: bool,
) -> dict[str, bytes]:
    """One party's own model: the files `model.onnx`, `model.json` and `baseline.json`.

    Equal arguments give equal bytes, wherever the worker is that trains.

    Args:
        party: whose model.
        train: its training rows.
        schema: the contract's.
        models: candidates, at least one.
        select_days: how many of the training window's last days they are compared on.
        seed: the run's seed.
        contract: noted in the bundle.
        tell: told where the work is.
        validate: whether a single candidate, too, is first trained on the days before and tried on the last ones. It
            costs a second training, which only a method that combines own models has use for.

    Raises:
        EscrowError: `training-failed` if the rows are of one class; `model-invalid`.
    """
    own = Own(spec=models[0])
    if validate or len(models) > 1:
        since = np.datetime64(schema.split.train_until - timedelta(days=select_days), "s")
        own = _Contest(party, seed, tell).best(models, train, since)
    tell(f"train {own.spec['family']} of {party}")
    model = make(own.spec).fit(train.features, train.labels, seed=_number(seed, party, "fit"))
    files = bundle.files(model, names=train.names, schema=schema, spec=own.spec, contract=contract)
    return {**files, OWN: canonical(own.model_dump(mode="json", by_alias=True))}


@dataclass(frozen=True)
class _Contest:
    """Candidates compared on one party's last days."""

    party: str
    seed: bytes
    tell: Tell

    def best(self, models: Sequence[Spec], train: Prepared, since: np.datetime64) -> Own:
        """The candidate that does best on the rows since a moment, the first of equals."""
        late = train.times >= since
        before, after = train.select(~late), train.select(late)
        if not all(0 < part.positives < len(part) for part in (before, after)):
            return Own(spec=models[0])
        tried = []
        for number, spec in enumerate(models, start=1):
            self.tell(f"candidate {number} of {len(models)} of {self.party}")
            tried.append(Own(spec=spec, validation=self._tried(spec, before, after)))
        return max(tried, key=_precision)

    def _tried(self, spec: Spec, before: Prepared, after: Prepared) -> Validation:
        """What a candidate trained on the rows before shows on those after."""
        model = make(spec).fit(before.features, before.labels, seed=_number(self.seed, self.party, "select"))
        scores = model.scores(after.features)
        rows = Rows.of(after.labels, after.groups, after.amounts, after.times)
        slope, intercept = platt(log_odds(scores), after.labels)
        return Validation(
            rows=len(after),
            positives=after.positives,
            average_precision=measure(Metric("average-precision"), rows, scores),
            slope=slope,
            intercept=intercept,
        )


def _precision(own: Own) -> float:
    return 0.0 if own.validation is None else own.validation.average_precision


def _number(seed: bytes, party: str, purpose: str) -> int:
    return part_number(seed, "baseline", party, purpose)
