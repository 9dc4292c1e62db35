"""A model as files, never pickle: `model.onnx` with its preprocessing, and `model.json`, which says what it is.

Rules enforced here:
1. `model.json` is canonical JSON without unknown keys. Its `digest` covers all of its other fields, and among them the
   digest of `model.onnx`: one digest names the bundle, and a changed byte anywhere is `bundle-invalid`. Whoever must
   also know that nobody made the whole bundle anew compares `Bundle.digest` with a signed one.
2. `model.onnx` passes `models.onnx_guard`, and has one float32 input (rows, features) and one float32 output (rows).
3. Files are regular files of bounded size; nothing is followed out of the directory.
4. A packed bundle has one form in bytes. Nothing is written unless all of it is exactly what `pack` would have made.
5. No number that depends on training rows stands beside the model, but for the weights of an ensemble's members: its
   graph holds them anyway, for every recipient to read.

Reading and scoring need onnxruntime and numpy alone: a bank's client has no training framework.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from contracts import archive
from contracts.canonical import digest
from contracts.errors import EscrowError
from contracts.schema import Schema
from models import onnx_guard
from models.families.base import Float32Vector, Model
from models.families.base import parse as parse_spec
from models.manifest import MANIFEST, Described, Manifest

GRAPH: Final = "model.onnx"
LIMITS: Final[Mapping[str, int]] = {MANIFEST: 1 << 20, GRAPH: 64 << 20}
"""Names of a bundle's files, in packing order, and the most bytes of each."""
CHUNK: Final = 65_536
"""Rows scored at once."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that passed every check of `load`."""

    manifest: Manifest
    session: onnxruntime.InferenceSession

    @property
    def digest(self) -> str:
        """Names this bundle, every byte of it."""
        return self.manifest.digest

    def scores(self, X: NDArray[np.floating]) -> Float32Vector:
        """Probability of fraud, float32 (n,), for raw features (n, d) in the order of `manifest.features`.

        Raises:
            EscrowError: `table-invalid` for another width or a feature that is not a finite float32 number;
                `bundle-invalid` if the model gives anything but one probability for each row.
        """
        rows = self._rows(X)
        parts = [np.empty(0, np.float32)]
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            scores = _run(self.session, chunk)
            # Written so that NaN fails.
            if scores.shape != (len(chunk),) or not bool(((scores >= 0) & (scores <= 1)).all()):
                raise EscrowError("bundle-invalid", "The bundle's model did not give one probability for each row.")
            parts.append(scores)
        return np.concatenate(parts)

    def _rows(self, X: NDArray[np.floating]) -> NDArray[np.float32]:
        names = self.manifest.features
        with np.errstate(over="ignore"):  # refused below, as not finite
            rows = np.ascontiguousarray(X, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != len(names):
            raise EscrowError("table-invalid", f"The model takes rows of {len(names)} features.")
        finite = np.isfinite(rows)
        if not bool(finite.all()):
            row, column = np.argwhere(~finite)[0]
            raise EscrowError(
                "table-invalid", f"Row {row + 1}: feature {names[column]!r} is not a finite float32 number."
            )
        return rows


def write(
    directory: Path,
    model: Model,
    *,
    names: Sequence[str],
    schema: Schema | Mapping[str, object],
    spec: Mapping[str, object],
    contract: str | None,
) -> None:
    """Write what `files` gives into a directory, made if missing.

    Raises:
        EscrowError: as `files`.
    """
    put(directory, files(model, names=names, schema=schema, spec=spec, contract=contract))


def files(
    model: Model,
    *,
    names: Sequence[str],
    schema: Schema | Mapping[str, object],
    spec: Mapping[str, object],
    contract: str | None,
) -> dict[str, bytes]:
    """The files of a trained model's bundle; equal arguments give equal bytes.

    Args:
        model: the trained model.
        names: its features, in the order of the columns it was trained on.
        schema: the contract's schema, from which the features are computed.
        spec: the contract's model term.
        contract: digest of the contract it was trained for, or None.

    Raises:
        EscrowError: `model-invalid` for a wrong spec; `bundle-invalid` for anything `load` would refuse.
    """
    parsed = parse_spec(spec)
    if parsed.family != model.family:
        raise EscrowError(
            "model-invalid", f"A {model.family} model is not what the spec of a {parsed.family} describes."
        )
    return made(model.to_onnx(), parsed, names=names, schema=schema, contract=contract)


def made(
    graph: bytes,
    described: Described,
    *,
    names: Sequence[str],
    schema: Schema | Mapping[str, object],
    contract: str | None,
) -> dict[str, bytes]:
    """The files of a bundle around a graph; see `files`.

    Raises:
        EscrowError: `bundle-invalid` for anything `load` would refuse.
    """
    manifest = Manifest.of(
        {
            "bundle": 1,
            "model": described.model_dump(mode="json", by_alias=True),
            "features": list(names),
            "schema": schema.model_dump(mode="json", by_alias=True) if isinstance(schema, Schema) else dict(schema),
            "trained-for": contract,
            "onnx": digest(graph),
        }
    )
    _opened(manifest, graph)
    return {MANIFEST: manifest.stated(), GRAPH: graph}


def put(directory: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a directory, made if missing; those of the same names are replaced."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (directory / name).write_bytes(content)


def load(directory: Path) -> Bundle:
    """Read and check a bundle's files; other files in the directory are not looked at.

    Raises:
        EscrowError: `bundle-invalid` if any rule above is broken.
    """
    return read({name: _read(directory / name) for name in LIMITS})


def read(contents: Mapping[str, bytes]) -> Bundle:
    """Check a bundle's files at hand; other files among them are not looked at.

    Raises:
        EscrowError: as `load`.
    """
    for name, limit in LIMITS.items():
        if len(contents.get(name, b"")) > limit:
            raise EscrowError("bundle-invalid", f"The bundle's {name} has more than {limit} bytes.")
    stated, graph = (contents.get(name, b"") for name in LIMITS)
    return _opened(Manifest.read(stated), graph)


def pack(directory: Path) -> bytes:
    """The bundle's files as one archive that depends on their contents alone (see `contracts.archive`)."""
    return archive.pack({name: _read(directory / name) for name in LIMITS})


def unpack(data: bytes, directory: Path) -> None:
    """Write the files of a packed bundle; `load` them next.

    Args:
        data: what `pack` gave.
        directory: made if missing; the bundle's files in it are replaced.

    Raises:
        EscrowError: `bundle-invalid`, before anything is written, for any bytes that `pack` cannot give.
    """
    try:
        contents = archive.unpack(data, LIMITS)
    except EscrowError as error:
        raise EscrowError("bundle-invalid", "The packed bundle is damaged or holds other than a bundle.") from error
    if set(contents) != set(LIMITS):
        raise EscrowError("bundle-invalid", "The packed bundle lacks a file.")
    put(directory, contents)


def _read(path: Path) -> bytes:
    """The bytes of a regular file within its limit; a link is refused, not followed."""
    limit = LIMITS[path.name]
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read(limit + 1) if regular else b""
    except OSError as error:
        raise EscrowError("bundle-invalid", f"The bundle's {path.name} cannot be read ({error.strerror}).") from None
    if not regular or len(data) > limit:
        raise EscrowError("bundle-invalid", f"The bundle's {path.name} is not a regular file of at most {limit} bytes.")
    return data


def _opened(manifest: Manifest, graph: bytes) -> Bundle:
    """The bundle of a manifest and a graph that belong together."""
    if len(graph) > LIMITS[GRAPH]:
        raise EscrowError("bundle-invalid", f"The bundle's {GRAPH} has more than {LIMITS[GRAPH]} bytes.")
    if digest(graph) != manifest.onnx:
        raise EscrowError("bundle-invalid", f"The bundle's {GRAPH} is not the one its {MANIFEST} names.")
    onnx_guard.check(graph)
    session = _session(graph)
    inputs = [(value.name, value.type, value.shape) for value in session.get_inputs()]
    outputs = [(value.name, value.type, value.shape) for value in session.get_outputs()]
    if inputs != [("features", "tensor(float)", ["rows", len(manifest.features)])]:
        raise EscrowError("bundle-invalid", "The bundle's model does not take the features that the bundle names.")
    if outputs != [("score", "tensor(float)", ["rows"])]:
        raise EscrowError("bundle-invalid", "The bundle's model does not give one score for each row.")
    return Bundle(manifest, session)


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is wrong is told by the error, not by a line on stderr
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no other common base
        raise EscrowError("bundle-invalid", "The bundle's model cannot be opened.") from error


def _run(session: onnxruntime.InferenceSession, rows: NDArray[np.float32]) -> Float32Vector:
    try:
        scores: Float32Vector = session.run(["score"], {"features": rows})[0]
    except Exception as error:  # onnxruntime's errors have no other common base
        raise EscrowError("bundle-invalid", "The bundle's model failed while scoring.") from error
    return scores
