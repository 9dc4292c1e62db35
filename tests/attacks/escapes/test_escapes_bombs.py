"""What a worker may write into a declared output to harm whoever reads it: refused, and within bounded memory.

Here the outputs have left their sandbox: they are within `results_mib`, and the escrow or a bank reads them.
"""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import contract

from contracts.canonical import canonical, digest
from contracts.errors import EscrowError
from escrow.jobs import assembled
from models import bundle, onnx_guard
from tests.attacks.escapes.catalogue import BOMBS, Probe

MIB = 1 << 20
FEATURES = ["amount", "terminal"]
SCHEMA: dict[str, Any] = {
    "columns": {"time": "t", "label": "fraud", "group": "card", "amount": "amount", "terminal": "terminal"},
    "split": {"train-from": "2018-07-01", "train-days": 28, "test-days": 28},
}
SPEC = {"family": "logistic"}

Harm = Callable[[Path], Callable[[], object]]
"""Lays a bomb below a directory; returns what an unsuspecting reader does."""


def measured(act: Callable[[], object]) -> tuple[str, float]:
    """The code with which reading is refused, and the MiB by which this process was larger meanwhile."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the greatest size so far is forgotten
    before = _size("VmRSS")
    with pytest.raises(EscrowError) as refusal:
        act()
    return refusal.value.code, (_size("VmHWM") - before) / 1024


def _size(field: str) -> int:
    """KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))


def evidence(data: bytes) -> Harm:
    """The escrow assembles what a worker says it has measured."""
    return lambda _: lambda: assembled(contract(), "evaluate", {"evaluate.json": data})


def measurements(figures: str) -> bytes:
    asked = canonical({"contract": contract().digest()})[:-1]
    return asked + b',"measurements":' + figures.encode() + b"}"


def forged(directory: Path, graph: bytes) -> Callable[[], object]:
    """A bundle around a hostile graph, with digests that fit; a bank loads it."""
    plain = {"bundle": 1, "model": SPEC, "features": FEATURES, "schema": SCHEMA, "trained-for": None}
    manifest = bundle.Manifest.model_validate({**plain, "onnx": digest(graph)})
    directory.mkdir()
    (directory / bundle.MANIFEST).write_bytes(canonical({**manifest.body(), "digest": manifest.digest}))
    (directory / bundle.GRAPH).write_bytes(graph)
    return lambda: bundle.load(directory)


def model(nodes: list[onnx.NodeProto], *tensors: onnx.TensorProto) -> bytes:
    taken = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", len(FEATURES)])
    given = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows"])
    graph = helper.make_graph(nodes, "score", [taken], [given], list(tensors))
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(made.SerializeToString())


AXIS = helper.make_tensor("axis", TensorProto.INT64, [], np.int64(0).tobytes(), raw=True)
FIRST = helper.make_node("Gather", ["features", "axis"], ["score"], axis=1)


def outer_file(directory: Path) -> Callable[[], object]:
    tensor = TensorProto(name="axis", data_type=TensorProto.INT64, dims=[], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    return forged(directory, model([FIRST], tensor))


def loop(directory: Path) -> Callable[[], object]:
    inner = helper.make_graph([FIRST], "inner", [], [helper.make_tensor_value_info("score", TensorProto.FLOAT, [])])
    return forged(directory, model([helper.make_node("Loop", ["", ""], ["score"], body=inner)], AXIS))


def endless_tensor(directory: Path) -> Callable[[], object]:
    tensor = TensorProto(name="axis", data_type=TensorProto.INT64, dims=[1 << 30, 1 << 30], raw_data=bytes(8))
    return forged(directory, model([FIRST], tensor))


def large_model(directory: Path) -> Callable[[], object]:
    return forged(directory, bytes(65 * MIB))


def packed_twice(_: Path) -> Callable[[], object]:
    packed = io.BytesIO()
    with gzip.open(packed, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        entry = tarfile.TarInfo(bundle.MANIFEST)
        entry.size = 256 * MIB
        archive.addfile(entry, io.BufferedReader(Zeros()))
    return lambda: bundle.unpack(packed.getvalue(), Path("/nowhere"))


class Zeros(io.RawIOBase):
    """A file of zeros without end."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        buffer[:] = bytes(len(buffer))
        return len(buffer)


HARMS: dict[str, tuple[Harm, str, float]] = {
    "deep JSON": (evidence(b"[" * 100_000 + b"]" * 100_000), "evidence-mismatch", 64),
    "large JSON": (evidence(b'"' + b"x" * (40 * MIB) + b'"'), "evidence-mismatch", 64),
    "long number": (evidence(b"1" * 4_000_000), "evidence-mismatch", 64),
    "many keys": (
        evidence(canonical({f"{number:07}": number for number in range(800_000)})),
        "evidence-mismatch",
        512,
    ),
    "two readings": (evidence(measurements('{},"measurements":{}')), "evidence-mismatch", 64),
    "not a number": (evidence(measurements('{"0":{"gain":NaN}}')), "evidence-mismatch", 64),
    "outer file": (outer_file, "bundle-invalid", 64),
    "loop": (loop, "bundle-invalid", 64),
    "endless tensor": (endless_tensor, "bundle-invalid", 64),
    "large model": (large_model, "bundle-invalid", 192),
    "packed twice": (packed_twice, "bundle-invalid", 64),
}


@pytest.mark.parametrize("probe", BOMBS, ids=lambda probe: probe.name)
def test_a_crafted_output_is_refused_within_bounds(tmp_path: Path, probe: Probe) -> None:
    harm, code, most = HARMS[probe.name]
    refusal, grown = measured(harm(tmp_path / "bundle"))
    assert refusal == code
    assert grown <= most


def test_the_same_reading_accepts_what_is_in_order(tmp_path: Path) -> None:
    """So the refusals above are about the bombs."""
    assert isinstance(forged(tmp_path / "bundle", model([FIRST], AXIS))(), bundle.Bundle)
    onnx_guard.check(model([FIRST], AXIS))
    figures = {"0": {"gain": 0.1}, "1": {"gain": 0.1}}
    plain = canonical({"contract": contract().digest(), "measurements": figures})
    assert json.loads(assembled(contract(), "evaluate", {"evaluate.json": plain})["evidence.json"])["measurements"]
