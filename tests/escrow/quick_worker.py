"""A worker that trains in a blink: the real roles `check` and `evaluate`, and joint or own models by least squares.

A real child process of the real runtime, without torch and scikit-learn. Training does what the first bytes of any
training table's terminal ask for, so that a bank of a test can misbehave inside the sealed run:
`hang-…` waits for the end, `flat-…` gives a model that never flags anything.
"""

import json
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Linear:
    """Least squares on the rows' features, squeezed into a probability; weights of zero never flag anything."""

    weights: NDArray[np.float32]  # (d + 1,), the intercept last
    family: str

    def scores(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        values: NDArray[np.float32] = 1 / (1 + np.exp(-(X @ self.weights[:-1] + self.weights[-1])))
        return values

    def to_onnx(self) -> bytes:
        from onnx import helper  # noqa: PLC0415 - only what a role needs is imported

        from models.families.graph import INPUT, OUTPUT, constant, graph_bytes  # noqa: PLC0415 - as above

        nodes = [
            helper.make_node("Gemm", [INPUT, "weight", "bias"], ["linear"], transB=1),
            helper.make_node("Sigmoid", ["linear"], ["probability"]),
            helper.make_node("Squeeze", ["probability", "columns"], [OUTPUT]),
        ]
        initializers = [
            constant("weight", self.weights[None, :-1]),
            constant("bias", self.weights[-1:]),
            constant("columns", np.array([1], np.int64)),
        ]
        return graph_bytes(nodes, initializers, len(self.weights) - 1)


def say(words: str) -> None:
    print(json.dumps({"progress": words}), flush=True)


def fit(tables: list[Any], family: str) -> Linear:
    X = np.concatenate([table.features for table in tables]).astype(np.float64)
    y = np.concatenate([table.labels for table in tables]).astype(np.float64)
    wishes = {str(terminal).partition("-")[0] for table in tables for terminal in table.terminals[:1]}
    if "hang" in wishes:
        say("hanging")
        threading.Event().wait()
    if "flat" in wishes:
        return Linear(np.zeros(X.shape[1] + 1, np.float32), family)
    design = np.column_stack([X, np.ones(len(X))])
    penalty = np.diag([1e-3] * X.shape[1] + [0.0])
    weights = np.linalg.solve(design.T @ design + penalty, design.T @ (2 * y - 1))
    return Linear(weights.astype(np.float32), family)


def train(job: Mapping[str, Any], directory: Path) -> None:
    from contracts.canonical import canonical  # noqa: PLC0415 - only what a role needs is imported
    from models.table import read_prepared  # noqa: PLC0415 - as above

    inputs, results = directory / "inputs", directory / "results"
    tables = {party: read_prepared(inputs / party / "train.parquet") for party in sorted(job["parties"])}
    if job["role"] == "party":
        spec = job["models"][0]
        for party, table in tables.items():
            write(results / party, job, spec, [table])
            (results / party / "baseline.json").write_bytes(canonical({"spec": spec, "validation": None}))
    else:
        write(results / "model", job, job["model"], list(tables.values()))


def write(folder: Path, job: Mapping[str, Any], spec: Mapping[str, Any], tables: list[Any]) -> None:
    from models import bundle  # noqa: PLC0415 - only what a role needs is imported

    model = fit(tables, str(spec["family"]))
    bundle.write(folder, model, names=tables[0].names, schema=job["schema"], spec=spec, contract=job["contract"])


def main(arguments: list[str]) -> int:
    directory = Path(arguments[0])
    job = json.loads((directory / "job.json").read_bytes())
    if job["role"] in ("check", "evaluate"):
        from models import worker  # noqa: PLC0415 - only what a role needs is imported

        return worker.main(arguments)
    train(job, directory)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
