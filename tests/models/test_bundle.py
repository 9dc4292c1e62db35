"""Bundles: what is written is what is read and scored, and nothing else is ever opened."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from contracts.canonical import canonical, digest
from contracts.errors import EscrowError
from models import bundle, onnx_guard
from models.families.base import Model, make

NAMES = ["amount", "customer-7d", "terminal-risk-7d"]
SCHEMA: dict[str, Any] = {
    "columns": {"time": "t", "label": "fraud", "group": "card", "amount": "amount", "terminal": "terminal"},
    "split": {"train-from": "2018-07-01", "train-days": 28, "test-days": 28},
}
CONTRACT = "sha256:" + "ab" * 32
SPECS: dict[str, dict[str, Any]] = {
    "logistic": {"family": "logistic", "epochs": 2},
    "mlp": {"family": "mlp", "hidden": [8], "epochs": 2},
    "boosted": {"family": "boosted", "iterations": 10, "leaves": 8},
}


def rows(n: int, seed: int) -> np.ndarray:
    return np.exp(2 * np.random.default_rng(seed).normal(size=(n, 3))).astype(np.float32)


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    X = rows(2000, 0)
    return {name: make(spec).fit(X, X[:, 0] > 8, seed=1) for name, spec in SPECS.items()}


def written(directory: Path, models: dict[str, Model], name: str = "mlp") -> str:
    """Write a bundle; the digest that it states."""
    bundle.write(directory, models[name], names=NAMES, schema=SCHEMA, spec=SPECS[name], contract=CONTRACT)
    stated: str = json.loads((directory / bundle.MANIFEST).read_bytes())["digest"]
    return stated


def refused(directory: Path) -> str:
    """Load a bundle that must be refused; the message."""
    with pytest.raises(EscrowError) as refusal:
        bundle.load(directory)
    assert refusal.value.code == "bundle-invalid"
    return refusal.value.message


@pytest.mark.parametrize("name", sorted(SPECS))
def test_a_loaded_bundle_scores_as_the_model_did_and_says_what_it_is(
    tmp_path: Path, models: dict[str, Model], name: str
) -> None:
    stated = written(tmp_path, models, name)
    loaded = bundle.load(tmp_path)
    assert loaded.digest == stated
    assert loaded.manifest.model.family == name
    assert loaded.manifest.features == tuple(NAMES)
    assert loaded.manifest.trained_for == CONTRACT
    assert loaded.manifest.table.columns.group == "card"
    X = np.concatenate([rows(500, 2), [[0, 3.4e38, -1e9]]]).astype(np.float32)
    np.testing.assert_allclose(loaded.scores(X), models[name].scores(X), rtol=0, atol=1e-5)


def test_rows_are_scored_alike_in_one_batch_and_in_many(
    tmp_path: Path, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, models)
    loaded = bundle.load(tmp_path)
    whole = loaded.scores(rows(1000, 3))
    monkeypatch.setattr(bundle, "CHUNK", 64)
    np.testing.assert_allclose(loaded.scores(rows(1000, 3)), whole, rtol=0, atol=1e-6)
    assert loaded.scores(np.empty((0, 3))).shape == (0,)


def test_equal_models_give_equal_files_and_packs(tmp_path: Path, models: dict[str, Model]) -> None:
    assert written(tmp_path / "a", models) == written(tmp_path / "b", models)
    assert bundle.pack(tmp_path / "a") == bundle.pack(tmp_path / "b")


def test_files_at_hand_are_read_as_those_in_a_directory(tmp_path: Path, models: dict[str, Model]) -> None:
    stated = written(tmp_path, models)
    files = bundle.files(models["mlp"], names=NAMES, schema=SCHEMA, spec=SPECS["mlp"], contract=CONTRACT)
    assert files == {name: (tmp_path / name).read_bytes() for name in bundle.LIMITS}
    assert bundle.read({**files, "more.json": b"{}"}).digest == stated
    for name in files:
        for bad in ({**files, name: files[name][:-1]}, {other: files[other] for other in files if other != name}):
            with pytest.raises(EscrowError) as refusal:
                bundle.read(bad)
            assert refusal.value.code == "bundle-invalid"


def test_files_at_hand_are_bounded_as_those_in_a_directory(models: dict[str, Model]) -> None:
    files = bundle.files(models["mlp"], names=NAMES, schema=SCHEMA, spec=SPECS["mlp"], contract=CONTRACT)
    for name, limit in bundle.LIMITS.items():
        with pytest.raises(EscrowError, match=f"{name} has more than {limit} bytes"):
            bundle.read({**files, name: bytes(limit + 1)})


def test_a_bank_needs_no_training_framework_to_score(tmp_path: Path, models: dict[str, Model]) -> None:
    written(tmp_path, models, "boosted")
    program = """
import sys
from pathlib import Path
import numpy as np
for name in ("torch", "sklearn", "skl2onnx", "onnx", "flwr"):
    sys.modules[name] = None  # importing it now fails
from models import bundle
print(len(bundle.load(Path(sys.argv[1])).scores(np.ones((5, 3)))))
"""
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "5"


@pytest.mark.parametrize(
    ("X", "said"),
    [
        (np.ones((4, 2)), "3 features"),
        (np.ones(3), "3 features"),
        (np.array([[1, 1, 1], [1, np.nan, 1]]), "Row 2: feature 'customer-7d'"),
        (np.array([[1, 1, 1e39]]), "Row 1: feature 'terminal-risk-7d'"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused(
    tmp_path: Path, models: dict[str, Model], X: np.ndarray, said: str
) -> None:
    written(tmp_path, models)
    with pytest.raises(EscrowError, match=said) as refusal:
        bundle.load(tmp_path).scores(X)
    assert refusal.value.code == "table-invalid"


# --- writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"names": NAMES[:2]}, "bundle-invalid"),
        ({"names": [NAMES[0]] * 3}, "bundle-invalid"),
        ({"schema": {**SCHEMA, "extra": 1}}, "bundle-invalid"),
        ({"contract": "sha256:short"}, "bundle-invalid"),
        ({"spec": {"family": "mlp", "hiden": [3]}}, "model-invalid"),
        ({"spec": SPECS["boosted"]}, "model-invalid"),
    ],
)
def test_nothing_is_written_that_could_not_be_loaded(
    tmp_path: Path, models: dict[str, Model], change: dict[str, Any], code: str
) -> None:
    arguments: dict[str, Any] = {"names": NAMES, "schema": SCHEMA, "spec": SPECS["mlp"], "contract": None, **change}
    with pytest.raises(EscrowError) as refusal:
        bundle.write(tmp_path / "new", models["mlp"], **arguments)
    assert refusal.value.code == code
    assert not (tmp_path / "new").exists()


# --- tampering ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(bundle.LIMITS))
def test_a_changed_byte_anywhere_is_noticed(tmp_path: Path, models: dict[str, Model], name: str) -> None:
    written(tmp_path, models)
    path = tmp_path / name
    good = path.read_bytes()
    for place in range(0, len(good), max(1, len(good) // 300)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        refused(tmp_path)
    for bad in (b"", good[:-1], good + b"\0", good + good):
        path.write_bytes(bad)
        refused(tmp_path)
    path.write_bytes(good)
    assert len(bundle.load(tmp_path).scores(rows(3, 1))) == 3


def test_a_missing_file_a_link_a_directory_and_a_pipe_are_refused(tmp_path: Path, models: dict[str, Model]) -> None:
    written(tmp_path / "good", models)
    for name in bundle.LIMITS:
        written(tmp_path / name, models)
        path = tmp_path / name / name
        path.unlink()
        assert name in refused(tmp_path / name)
        path.symlink_to(tmp_path / "good" / name)
        assert name in refused(tmp_path / name)
        path.unlink()
        path.mkdir()
        assert name in refused(tmp_path / name)
        path.rmdir()
        os.mkfifo(path)
        assert name in refused(tmp_path / name)


def restated(directory: Path, **changes: object) -> None:
    """Forge a manifest whose digest fits its contents."""
    path = directory / bundle.MANIFEST
    values = json.loads(path.read_bytes()) | changes
    values.pop("digest")
    path.write_bytes(canonical({**values, "digest": digest(canonical(values))}))


@pytest.mark.parametrize(
    "change",
    [
        {"bundle": 2},
        {"rows": 5},
        {"model": {"family": "mlp"}},
        {"model": {"family": "forest"}},
        {"features": NAMES[:2]},
        {"features": "abc"},
        {"features": []},
        {"schema": {}},
        {"trained-for": "abc"},
        {"onnx": "sha256:" + "0" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_manifest_that_breaks_a_rule_is_refused_even_with_a_fitting_digest(
    tmp_path: Path, models: dict[str, Model], change: dict[str, object]
) -> None:
    written(tmp_path, models)
    restated(tmp_path, **change)
    refused(tmp_path)


def test_a_bundle_made_anew_has_another_digest(tmp_path: Path, models: dict[str, Model]) -> None:
    stated = written(tmp_path, models)
    restated(tmp_path, features=NAMES[::-1])
    assert bundle.load(tmp_path).digest != stated


# --- hostile graphs -----------------------------------------------------------------------------------------------

FEATURES = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])
SCORE = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows"])
AXIS = helper.make_tensor("axis", TensorProto.INT64, [], np.int64(0).tobytes(), raw=True)
FIRST = [helper.make_node("Gather", ["features", "axis"], ["score"], axis=1)]


def graph(
    nodes: list[onnx.NodeProto],
    initializers: list[onnx.TensorProto],
    inputs: Any = None,
    outputs: Any = None,
    **extra: Any,
) -> onnx.ModelProto:
    made = helper.make_graph(nodes, "score", inputs or [FEATURES], outputs or [SCORE], initializers)
    return helper.make_model(made, ir_version=8, opset_imports=[helper.make_opsetid("", 17)], **extra)


def planted(directory: Path, data: bytes) -> None:
    """Forge a bundle around another graph."""
    (directory / bundle.GRAPH).write_bytes(data)
    restated(directory, onnx=digest(data))


def external(location: str) -> onnx.ModelProto:
    tensor = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    leak = helper.make_node("Add", ["first", "secret"], ["score"])
    return graph([helper.make_node("Gather", ["features", "axis"], ["first"], axis=1), leak], [AXIS, tensor])


@pytest.mark.parametrize("location", ["secret.bin", "../secret.bin", "/etc/hostname"])
def test_a_graph_cannot_read_another_file(
    tmp_path: Path, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    """onnxruntime alone opens the first of these when the process stands in its directory."""
    (tmp_path / "here").mkdir()
    for place in (tmp_path, tmp_path / "here"):
        (place / "secret.bin").write_bytes(np.float32(1234).tobytes())
    monkeypatch.chdir(tmp_path / "here")
    written(tmp_path / "bundle", models)
    planted(tmp_path / "bundle", external(location).SerializeToString())
    assert "a field that no model of ours has" in refused(tmp_path / "bundle")


def two_inputs() -> onnx.ModelProto:
    return graph(FIRST, [AXIS], inputs=[FEATURES, helper.make_tensor_value_info("more", TensorProto.FLOAT, ["rows"])])


def two_outputs() -> onnx.ModelProto:
    more = helper.make_tensor_value_info("more", TensorProto.FLOAT, ["rows", 3])
    return graph([*FIRST, helper.make_node("Relu", ["features"], ["more"])], [AXIS], outputs=[SCORE, more])


def another_width() -> onnx.ModelProto:
    return graph(FIRST, [AXIS], inputs=[helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 4])])


def doubles() -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("features", TensorProto.DOUBLE, ["rows", 3])]
    return graph(
        FIRST, [AXIS], inputs=inputs, outputs=[helper.make_tensor_value_info("score", TensorProto.DOUBLE, ["rows"])]
    )


def another_operator() -> onnx.ModelProto:
    return graph([helper.make_node("ReduceMax", ["features"], ["score"], axes=[1], keepdims=0)], [])


def custom_operator() -> onnx.ModelProto:
    return graph([helper.make_node("Abs", ["features"], ["score"], domain="evil")], [])


def subgraph() -> onnx.ModelProto:
    inner = helper.make_graph(FIRST, "inner", [], [SCORE], [AXIS])
    return graph([helper.make_node("Abs", ["features"], ["score"], body=inner)], [])


def local_function() -> onnx.ModelProto:
    function = helper.make_function("", "Abs", ["x"], ["y"], FIRST, [helper.make_opsetid("", 17)])
    return graph(FIRST, [AXIS], functions=[function])


def metadata() -> onnx.ModelProto:
    model = graph(FIRST, [AXIS])
    helper.set_model_props(model, {"owner": "nobody"})
    return model


def cyclic() -> onnx.ModelProto:
    return graph([helper.make_node("Abs", ["score"], ["x"]), helper.make_node("Relu", ["x"], ["score"])], [])


def truncated_tensor() -> onnx.ModelProto:
    tensor = TensorProto(name="axis", data_type=TensorProto.INT64, dims=[1 << 40], raw_data=bytes(8))
    return graph(FIRST, [tensor])


@pytest.mark.parametrize(
    ("hostile", "said"),
    [
        (two_inputs, "does not take the features"),
        (two_outputs, "does not give one score"),
        (another_width, "does not take the features"),
        (doubles, "does not take the features"),
        (another_operator, "an operator"),
        (custom_operator, "an operator"),
        (subgraph, "a field that no model"),
        (local_function, "a field that no model"),
        (metadata, "a field that no model"),
        (cyclic, "cannot be opened"),
        (truncated_tensor, "cannot be opened"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_graph_of_another_form_is_refused(
    tmp_path: Path, models: dict[str, Model], hostile: Callable[[], onnx.ModelProto], said: str
) -> None:
    written(tmp_path, models)
    planted(tmp_path, hostile().SerializeToString())
    assert said in refused(tmp_path)


def test_a_plain_graph_of_the_right_form_is_accepted(tmp_path: Path, models: dict[str, Model]) -> None:
    """So the refusals above are about what was added."""
    written(tmp_path, models)
    planted(tmp_path, graph(FIRST, [AXIS]).SerializeToString())
    np.testing.assert_array_equal(bundle.load(tmp_path).scores(np.full((2, 3), 0.5)), [0.5, 0.5])


@pytest.mark.parametrize("factor", [np.nan, np.inf, 5.0, -1.0])
def test_a_model_that_does_not_give_probabilities_fails_closed(
    tmp_path: Path, models: dict[str, Model], factor: float
) -> None:
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], np.float32(factor).tobytes(), raw=True)
    nodes = [
        helper.make_node("Gather", ["features", "axis"], ["x"], axis=1),
        helper.make_node("Mul", ["x", "scale"], ["score"]),
    ]
    written(tmp_path, models)
    planted(tmp_path, graph(nodes, [AXIS, scale]).SerializeToString())
    loaded = bundle.load(tmp_path)
    with pytest.raises(EscrowError) as refusal:
        loaded.scores(np.ones((2, 3)))
    assert refusal.value.code == "bundle-invalid"


@settings(max_examples=150)
@given(st.data())
def test_the_guard_says_yes_or_no_to_any_bytes(models: dict[str, Model], data: st.DataObject) -> None:
    good = models[data.draw(st.sampled_from(sorted(models)))].to_onnx()
    onnx_guard.check(good)
    at = data.draw(st.integers(0, len(good)))
    bad = good[:at] + data.draw(st.binary(max_size=12)) + good[at + data.draw(st.integers(0, 12)) :]
    with contextlib.suppress(EscrowError):
        onnx_guard.check(bad)


# --- packing ------------------------------------------------------------------------------------------------------


def test_a_packed_bundle_is_a_plain_tar_file_and_comes_back_unchanged(tmp_path: Path, models: dict[str, Model]) -> None:
    written(tmp_path / "a", models)
    data = bundle.pack(tmp_path / "a")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert [(entry.name, entry.mtime, entry.uid, entry.mode) for entry in archive] == [
            ("model.json", 0, 0, 0o644),
            ("model.onnx", 0, 0, 0o644),
        ]
    bundle.unpack(data, tmp_path / "b")
    assert bundle.pack(tmp_path / "b") == data
    assert bundle.load(tmp_path / "b").digest == bundle.load(tmp_path / "a").digest


def archive(*entries: tuple[str, bytes, dict[str, Any]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as made:
        for name, content, attributes in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for key, value in attributes.items():
                setattr(entry, key, value)
            made.addfile(entry, io.BytesIO(content))
    return out.getvalue()


LINK = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
ONE, TWO = ("model.json", b"{}", {}), ("model.onnx", b"graph", {})


ARCHIVES = {
    "empty": b"",
    "zeros": bytes(1024),
    "short": archive(ONE),
    "other-order": archive(TWO, ONE),
    "twice": archive(ONE, ONE),
    "thrice": archive(ONE, TWO, TWO),
    "extra": archive(ONE, TWO, ("extra", b"", {})),
    "parent": archive(("../model.json", b"{}", {}), TWO),
    "absolute": archive(("/model.json", b"{}", {}), TWO),
    "symlink": archive(("model.json", b"", LINK), TWO),
    "hardlink": archive(("model.json", b"", LINK | {"type": tarfile.LNKTYPE}), TWO),
    "directory": archive(("model.json", b"", {"type": tarfile.DIRTYPE}), TWO),
    "setuid": archive(("model.json", b"{}", {"mode": 0o4755}), TWO),
    "time": archive(("model.json", b"{}", {"mtime": 5}), TWO),
    "owner": archive(("model.json", b"{}", {"uname": "root"}), TWO),
    "extended": archive(("model.json", b"{}", {"pax_headers": {"path": "x"}}), TWO, form=tarfile.PAX_FORMAT),
    "too-large": archive(("model.json", bytes(2 << 20), {}), TWO),
}


@pytest.mark.parametrize("data", ARCHIVES.values(), ids=ARCHIVES)
def test_an_archive_that_pack_would_not_make_writes_nothing(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(EscrowError) as refusal:
        bundle.unpack(data, tmp_path / "new")
    assert refusal.value.code == "bundle-invalid"
    assert not (tmp_path / "new").exists()


def unpacked(data: bytes, directory: Path) -> bundle.Bundle:
    bundle.unpack(data, directory)
    return bundle.load(directory)


@settings(max_examples=100)
@given(st.data())
def test_a_changed_pack_is_refused_when_unpacked_or_when_loaded(
    tmp_path_factory: pytest.TempPathFactory, models: dict[str, Model], data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("bundle")
    written(directory, models)
    good = bundle.pack(directory)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    with pytest.raises(EscrowError) as refusal:
        unpacked(bad, directory / "new")
    assert refusal.value.code == "bundle-invalid"


SCORES = """
import os, sys, threading
from pathlib import Path
import models.bundle
models.bundle.onnxruntime.get_available_providers()
print(len(os.listdir("/proc/self/task")), *sorted(str(p) for p in Path.home().rglob("*")))
"""


def test_scoring_reports_to_nobody(tmp_path: Path) -> None:
    """onnxruntime would start a thread that reports, and note a device's id in the user's home."""
    environ = {"HOME": str(tmp_path), "PATH": "/usr/bin", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    asked = [sys.executable, "-c", SCORES]
    said = subprocess.run(asked, env=environ, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["1"]
