"""Role `pooled`: the joint model, trained on everyone's rows in one place, in the order of the parties' names."""

import numpy as np

from models.families.base import make
from models.jobs import Place, PooledJob, Tell
from models.roles.joint import write_model
from models.roles.rows import read_tables
from models.seeds import part_number


def run(job: PooledJob, place: Place, tell: Tell) -> None:
    """Train on all rows; write the bundle."""
    tables = read_tables(place.inputs, job.parties)
    names = next(iter(tables.values())).names
    features = np.concatenate([table.features for table in tables.values()])
    labels = np.concatenate([table.labels for table in tables.values()])
    tables.clear()  # the rows are in memory once, not twice
    tell("train")
    model = make(job.model).fit(
        features,
        labels,
        seed=part_number(job.seed_bytes, "pooled"),
        progress=lambda done: tell(f"train {done:.0%}"),
    )
    write_model(job, model, names, place.results)
