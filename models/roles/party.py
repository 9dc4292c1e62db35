"""Role `party`: the best model a party can make of its own rows, with which the joint model has to compete.

Of several candidates, each trained on the rows before the last days of the party's training window, the one with the
highest average precision on those days is taken and trained again on all rows. Where one of the two parts holds no
fraud or nothing but fraud, nothing can be compared, and the contract's first candidate is taken.
"""

from datetime import timedelta
from pathlib import Path

import numpy as np

from contracts.canonical import canonical
from contracts.metrics import Metric, Rows, measure
from models import bundle
from models.families.base import make
from models.jobs import PartyJob, Spec, Tell
from models.seeds import part_number
from models.table import Prepared, read_prepared


def run(job: PartyJob, inputs: Path, results: Path, tell: Tell) -> None:
    """Choose and train for each party; write the bundles and which spec each is."""
    for party in job.parties:
        train = read_prepared(inputs / party / "train.parquet")
        spec = job.models[0]
        if len(job.models) > 1:
            last_days = job.data_schema.split.train_until - timedelta(days=job.select_days)
            spec = choose(job, party, train, np.datetime64(last_days, "s"), tell)
        tell(f"train {spec['family']} of {party}")
        model = make(spec).fit(train.features, train.labels, seed=_number(job, party, "fit"))
        bundle.write(
            results / party,
            model,
            names=train.names,
            schema=job.data_schema,
            spec=spec,
            contract=job.contract,
        )
        (results / party / "baseline.json").write_bytes(canonical(spec))


def choose(job: PartyJob, party: str, train: Prepared, since: np.datetime64, tell: Tell) -> Spec:
    """The candidate that does best on the rows since a moment; the first of equals."""
    late = train.times >= since
    before, after = train.select(~late), train.select(late)
    if not all(0 < part.positives < len(part) for part in (before, after)):
        return job.models[0]
    rows = Rows.of(after.labels, after.groups, after.amounts, after.times)
    values = []
    for number, spec in enumerate(job.models, start=1):
        tell(f"candidate {number} of {len(job.models)} of {party}")
        model = make(spec).fit(before.features, before.labels, seed=_number(job, party, "select"))
        values.append(measure(Metric("average-precision"), rows, model.scores(after.features)))
    return job.models[int(np.argmax(values))]


def _number(job: PartyJob, party: str, purpose: str) -> int:
    return part_number(job.seed_bytes, "baseline", party, purpose)
