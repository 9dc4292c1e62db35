"""Role `evaluate`: what the joint model gains each party on that party's own holdout.

All measurements of one party share their resamples, drawn from a seed that the contract fixes, so that its clauses look
at the same sample; parties draw independently. Models are scored from their bundles, which is what would be released.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, cast

from contracts.canonical import canonical
from contracts.errors import EscrowError
from contracts.gain import Measurement, compare
from contracts.metrics import Metric, MetricName, Rows
from models.bundle import Bundle, load, unpack
from models.families.base import Float32Vector
from models.jobs import EvaluateJob, Measure, Place, Tell
from models.seeds import part_seed
from models.table import Prepared, read_prepared

INCUMBENT: Final = "incumbent.bundle"


def run(job: EvaluateJob, place: Place, tell: Tell) -> None:
    """Measure everything that was asked; write the evidence."""
    joint = load(place.inputs / "joint")
    found: dict[str, Measurement] = {}
    for party in sorted({measure.party for measure in job.measurements}):
        tell(f"evaluate {party}")
        asked = [measure for measure in job.measurements if measure.party == party]
        holdout = read_prepared(place.inputs / party / "holdout.parquet")
        seed = part_seed(bytes.fromhex(job.seed), "evaluate", party)
        found |= _measured(asked, place.inputs / party, holdout, joint, replicates=job.replicates, seed=seed)
    evidence = {
        "contract": job.contract,
        "measurements": {name: found[name].model_dump(mode="json", by_alias=True) for name in sorted(found)},
    }
    (place.results / "evidence.json").write_bytes(canonical(evidence))


def _measured(
    asked: list[Measure], inputs: Path, holdout: Prepared, joint: Bundle, *, replicates: int, seed: bytes
) -> dict[str, Measurement]:
    """One party's measurements: each model scores once, each baseline is compared by all of its metrics at once."""
    rows = Rows.of(holdout.labels, holdout.groups, holdout.amounts, holdout.times)
    joint_scores = _scores(joint, holdout)
    found: dict[str, Measurement] = {}
    for baseline in sorted({measure.baseline for measure in asked}):
        own_scores = _scores(_own(inputs, baseline), holdout)
        bounds: tuple[Literal["percentile", "bca"], ...] = ("percentile", "bca")
        for bound in bounds:
            metrics = {m: _metric(m) for m in asked if (m.baseline, m.bound) == (baseline, bound)}
            if not metrics:
                continue
            compared = compare(
                list(metrics.values()), rows, own_scores, joint_scores, replicates=replicates, seed=seed, bound=bound
            )
            found |= {m.id: compared[metric].measurement(m.confidence) for m, metric in metrics.items()}
    return found


def _own(inputs: Path, baseline: Literal["best-own", "incumbent"]) -> Bundle:
    """What the joint model is compared with; a party's incumbent comes packed, as it was committed."""
    if baseline == "best-own":
        return load(inputs / "baseline")
    try:
        packed = (inputs / INCUMBENT).read_bytes()
    except FileNotFoundError:
        raise EscrowError("bundle-invalid", "The incumbent model is not there.") from None
    with TemporaryDirectory() as directory:
        unpack(packed, Path(directory))
        return load(Path(directory))


def _metric(measure: Measure) -> Metric:
    try:
        return Metric(cast("MetricName", measure.metric), measure.at)
    except ValueError as error:
        raise EscrowError("document-invalid", f"Measurement {measure.id!r}: {error}.") from None


def _scores(model: Bundle, holdout: Prepared) -> Float32Vector:
    if model.manifest.features != holdout.names:
        raise EscrowError("bundle-invalid", "A model takes other features than the holdout has.")
    return model.scores(holdout.features)
