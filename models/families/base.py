"""A model family: its parameters (`ModelSpec`), how it trains (`Family`, `Federated`) and what it yields (`Model`).

Rules enforced here:
1. The vocabulary of parameters is closed: an unknown family or key, a wrong type or value is `model-invalid`.
2. Training rows are a finite float32 matrix with labels 0 and 1; anything else is `training-failed`.
3. Moments that no float32 rows can have are `update-invalid`: a party cannot bend the joint standardisation with them.

What a model must know of all rows beyond its parameters is in their `Moments`: nobody sees pooled rows for it. Features
are numbers: schema `card-transactions/1` knows no categories. A schema that does would have to name each category's
values itself, in the contract; a vocabulary gathered from the parties' rows would tell what stands in them.

This module needs neither torch nor scikit-learn; `make` loads the one that the family trains with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from contracts.computation import BoostedSpec, LogisticSpec, MlpSpec, ModelSpec
from contracts.errors import EscrowError

Float32Matrix: TypeAlias = NDArray[np.float32]
Float32Vector: TypeAlias = NDArray[np.float32]
Float64Vector: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[np.generic]
"""(n,) zeros and ones (1 = fraud) of any integer, boolean or float type."""
Parameters: TypeAlias = list[NDArray[np.float32]]
"""Weights and biases, first layer first: `(out, in)`, `(out,)`, `(out, in)`, …"""
Progress: TypeAlias = Callable[[float], None]
"""Told the fraction of a fit that is done, from above 0 to 1."""

LARGEST_LOG: Final = 89.0
"""Above log1p of the largest float32: no transformed feature lies further from zero."""


NetSpec: TypeAlias = LogisticSpec | MlpSpec
_SPEC: Final[TypeAdapter[LogisticSpec | MlpSpec | BoostedSpec]] = TypeAdapter(ModelSpec)


class Model(Protocol):
    """A trained model."""

    @property
    def family(self) -> str:
        """`logistic`, `mlp` or `boosted`."""

    def scores(self, X: Float32Matrix) -> Float32Vector:
        """Probability of fraud, float32 (n,), for raw features (n, d), by the framework that trained the model."""

    def to_onnx(self) -> bytes:
        """The model and its preprocessing as ONNX (see `models.families.graph`); equal models give equal bytes."""


@runtime_checkable
class Family(Protocol):
    """A way to train a model on rows that are all at hand."""

    @property
    def name(self) -> str:
        """`logistic`, `mlp` or `boosted`."""

    def fit(self, X: Float32Matrix, y: Labels, *, seed: int, progress: Progress | None = None) -> Model:
        """Train on raw features (n, d) and labels (n,); same rows and seed, same machine: same bytes.

        Raises:
            EscrowError: `training-failed` for rows that are not finite, mis-shaped, or all of one class.
        """


@dataclass(frozen=True)
class Moments:
    """All that parties tell of their rows so that a joint model can begin: how features spread, how rare frauds are.

    Attributes:
        rows: number of rows, at least 1.
        sums: float64 (d,), of the log-transformed features.
        squares: float64 (d,), of their squares.
        positives: how many rows are frauds, from 0 to `rows`.

    Raises:
        EscrowError: `update-invalid` if no rows can have these moments.
    """

    rows: int
    sums: Float64Vector
    squares: Float64Vector
    positives: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.sums.ndim != 1 or self.sums.shape != self.squares.shape:
            raise EscrowError("update-invalid", "Moments need at least one row and as many sums as sums of squares.")
        if not 0 <= self.positives <= self.rows:
            raise EscrowError("update-invalid", "Moments count fewer frauds than none, or more than there are rows.")
        # Written so that NaN fails. Cauchy-Schwarz, with room for the rounding of long sums.
        possible = (self.squares <= LARGEST_LOG**2 * self.rows) & (
            self.sums**2 <= self.rows * self.squares * (1 + 1e-6) + 1e-12
        )
        if not bool(np.all(possible)):
            raise EscrowError("update-invalid", "Moments were sent that no table can have.")

    @classmethod
    def joint(cls, parts: Sequence["Moments"]) -> "Moments":
        """The moments of all parties' rows together, added in the order given (pass them in party order)."""
        if not parts or len({part.sums.shape for part in parts}) != 1:
            raise EscrowError("update-invalid", "Parties sent moments of different numbers of features.")
        sums, squares = parts[0].sums, parts[0].squares
        for part in parts[1:]:
            sums, squares = sums + part.sums, squares + part.squares
        return cls(sum(part.rows for part in parts), sums, squares, positives=sum(part.positives for part in parts))

    @classmethod
    def middle(cls, parts: Sequence["Moments"]) -> "Moments":
        """Moments of as many rows that no minority of parties can bend: medians over the parties, which do not weigh.

        Of each feature the median of the means, and the median of the parties' mean squared distances from that; of the
        frauds the median of their shares.
        """
        joint = cls.joint(parts)
        rows = np.array([[part.rows] for part in parts], np.float64)
        means, squares = (np.stack([getattr(part, name) for part in parts]) / rows for name in ("sums", "squares"))
        mean = np.median(means, axis=0)
        # A median of mean squares would respect Cauchy-Schwarz, too, as each party's own do and a median keeps order;
        # but it may be another party's than the mean is, and a liar could choose the two so that no spread is left.
        distances = np.maximum(squares - 2 * mean * means + mean**2, 0.0)
        share = float(np.median([part.positives / part.rows for part in parts]))
        spread = np.median(distances, axis=0)
        return cls(joint.rows, joint.rows * mean, joint.rows * (spread + mean**2), round(joint.rows * share))


class Federated(Protocol):
    """A family that several parties can train by exchanging parameters (logistic and mlp)."""

    @property
    def name(self) -> str:
        """`logistic` or `mlp`."""

    def moments(self, X: Float32Matrix, y: Labels) -> Moments:
        """One party's share of the joint moments; its rows may be all of one class."""

    def initial(self, d: int, moments: Moments, *, seed: int) -> Parameters:
        """Parameters of round 0 for `d` features: shapes and dtypes that every later update must have."""

    def local_fit(
        self,
        parameters: Parameters,
        moments: Moments,
        X: Float32Matrix,
        y: Labels,
        *,
        epochs: int,
        seed: int,
        proximal: float = 0.0,
    ) -> Parameters:
        """New parameters after `epochs` over a party's rows, all of one class if need be; changes no argument.

        Each step's loss has `proximal`/2 · ‖w − `parameters`‖² added to it (FedProx, Li et al. 2020, arXiv:1812.06127).
        """

    def from_parameters(self, parameters: Parameters, moments: Moments) -> Model:
        """The model that joint parameters and joint moments make; `update-invalid` for wrong shapes or NaN."""


def parse(spec: Mapping[str, object]) -> ModelSpec:
    """A contract's model term as a typed spec, defaults filled in.

    Raises:
        EscrowError: `model-invalid` naming the first key that is wrong.
    """
    try:
        return _SPEC.validate_python(dict(spec))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "family"
        raise EscrowError("model-invalid", f"Model parameter {place!r}: {first['msg']}.") from None


def make(spec: Mapping[str, object]) -> Family:
    """The family that a contract's model term names, e.g. `{"family": "mlp", "hidden": [64, 32], "epochs": 12}`.

    Raises:
        EscrowError: `model-invalid`, see `parse`.
    """
    parsed = parse(spec)
    if isinstance(parsed, BoostedSpec):
        from models.families.boosted import Boosted  # noqa: PLC0415 - scikit-learn takes 2 s to import

        return Boosted(parsed)
    from models.families.net import Net  # noqa: PLC0415 - it needs the names above

    return Net(parsed)


def make_federated(spec: Mapping[str, object]) -> Federated:
    """The same family for federated training.

    Raises:
        EscrowError: `model-invalid` for `boosted`, whose trees cannot be averaged.
    """
    parsed = parse(spec)
    if isinstance(parsed, BoostedSpec):
        raise EscrowError(
            "model-invalid", "Family 'boosted' cannot be trained by exchanging parameters.", "Use method 'pooled'."
        )
    from models.families.net import Net  # noqa: PLC0415 - it needs the names above

    return Net(parsed)


def features_of(X: Float32Matrix) -> Float32Matrix:
    """`X` as a contiguous float32 matrix; `training-failed` if it is empty, not a matrix or not finite."""
    with np.errstate(over="ignore"):
        matrix = np.ascontiguousarray(X, dtype=np.float32)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise EscrowError("training-failed", "Training needs a matrix with at least one row and one feature.")
    if not bool(np.isfinite(matrix).all()):
        raise EscrowError("training-failed", "A training feature is not a finite float32 number.")
    return matrix


def labels_of(y: Labels, n: int) -> Float32Vector:
    """`y` as float32 (n,) zeros and ones; `training-failed` otherwise."""
    labels = np.asarray(y)
    if labels.shape != (n,) or not bool(np.isin(labels, (0, 1)).all()):
        raise EscrowError("training-failed", "Training needs one label, 0 or 1, for each row.")
    return labels.astype(np.float32)


def both_classes(labels: Float32Vector) -> None:
    """Refuse labels that are all 0 or all 1 with `training-failed`: there is nothing to tell apart."""
    if labels.min() == labels.max():
        raise EscrowError("training-failed", "The training rows are all of one class.")
