"""Logistic regression and multilayer perceptron: one net, trained alone or by exchanging parameters.

Every feature x goes through sign(x)·log(1 + |x|), is standardised by (joint) moments and clipped, so that amounts and
counts of any size are tame and a bundle takes raw features. The loss is binary cross-entropy without class weights:
average precision ranks, and weights only add variance where 1 % of the rows carry the signal. How rare frauds are is in
the output's first bias, the log-odds of the (joint) fraud rate: training does not begin by unlearning one half.
Nothing here needs torch until rows are trained on or scored (`models.families.steps`): who only averages parameters
does not load it.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.errors import EscrowError
from models.families.base import (
    Float32Matrix,
    Float32Vector,
    Labels,
    Moments,
    NetSpec,
    Parameters,
    Progress,
    both_classes,
    features_of,
    labels_of,
)

CLIP: Final = 10.0
"""Standard deviations beyond which a feature counts as just far away: drift and hostile values stay bounded."""
SMALLEST_DEVIATION: Final = 1e-3
"""Floor of the standard deviation, in log units: a constant feature stays near zero instead of exploding."""
RAREST_LOGIT: Final = -9.0
"""The lowest first bias: 1 fraud in 8,000 rows. Who denies having frauds cannot make training begin further off."""
CHUNK: Final = 65_536
"""Rows scored at once."""


def tame(X: Float32Matrix) -> Float32Matrix:
    """sign(x)·log(1 + |x|) in float32, as the graph computes it (log1p has no ONNX operator)."""
    return np.sign(X) * np.log(np.float32(1) + np.abs(X))


def standardisation(moments: Moments) -> tuple[Float32Vector, Float32Vector]:
    """Mean and reciprocal deviation of each transformed feature, float32 (d,)."""
    mean = moments.sums / moments.rows
    variance = np.maximum(moments.squares / moments.rows - mean**2, 0.0)
    deviation = np.maximum(np.sqrt(variance), SMALLEST_DEVIATION)
    return mean.astype(np.float32), (1.0 / deviation).astype(np.float32)


def standardised(X: Float32Matrix, moments: Moments) -> Float32Matrix:
    """Raw features (n, d) as the net sees them."""
    mean, reciprocal = standardisation(moments)
    if X.shape[1] != mean.size:
        raise EscrowError("training-failed", "The rows and the moments have different numbers of features.")
    values: Float32Matrix = np.clip((tame(X) - mean) * reciprocal, -CLIP, CLIP)
    return values


def prior_logit(moments: Moments) -> float:
    """Log-odds of the fraud rate, from `RAREST_LOGIT` to 0; half a row is added to each class, lest one be empty."""
    odds = (moments.positives + 0.5) / (moments.rows - moments.positives + 0.5)
    return min(max(log(odds), RAREST_LOGIT), 0.0)


@dataclass(frozen=True)
class NetModel:
    """A trained net: its parameters and the moments that standardise its inputs."""

    family: str
    parameters: Parameters
    moments: Moments

    def scores(self, X: Float32Matrix) -> Float32Vector:
        """Probability of fraud, float32 (n,)."""
        from models.families.steps import probabilities  # noqa: PLC0415 - torch takes 2 s to import

        parts = [
            probabilities(self.parameters, standardised(X[start : start + CHUNK], self.moments))
            for start in range(0, len(X), CHUNK)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def to_onnx(self) -> bytes:
        """The log transform, standardisation, clipping and layers as one graph."""
        from models.families.netgraph import net_graph  # noqa: PLC0415 - who only trains needs no onnx

        return net_graph(self.parameters, *standardisation(self.moments), CLIP)


@dataclass(frozen=True)
class Net:
    """The families `logistic` and `mlp`; implements `Family` and `Federated`."""

    spec: NetSpec

    @property
    def name(self) -> str:
        """`logistic` or `mlp`."""
        return self.spec.family

    def fit(self, X: Float32Matrix, y: Labels, *, seed: int, progress: Progress | None = None) -> NetModel:
        """Train on all rows at hand; see `Family.fit`."""
        matrix = features_of(X)
        both_classes(labels_of(y, len(matrix)))
        moments = self.moments(matrix, y)
        start = self.initial(matrix.shape[1], moments, seed=seed)
        trained = self.local_fit(start, moments, matrix, y, epochs=self.spec.epochs, seed=seed, progress=progress)
        return self.from_parameters(trained, moments)

    def moments(self, X: Float32Matrix, y: Labels) -> Moments:
        """Row count, sums and sums of squares after the log transform, and the number of frauds."""
        values = tame(features_of(X)).astype(np.float64)
        positives = int(labels_of(y, len(values)).sum(dtype=np.float64))
        return Moments(len(values), values.sum(axis=0), np.square(values).sum(axis=0), positives)

    def initial(self, d: int, moments: Moments, *, seed: int) -> Parameters:
        """He-uniform weights, which the seed alone decides, zero biases, and an output bias for how rare frauds are."""
        if moments.sums.size != d:
            raise EscrowError("update-invalid", "Moments were sent for another number of features.")
        rng = np.random.default_rng([seed, 0])
        parameters: Parameters = []
        for (rows, columns), _ in self._shapes(d):
            bound = np.sqrt(6.0 / columns) if rows > 1 else np.sqrt(1.0 / columns)
            parameters.append(rng.uniform(-bound, bound, (rows, columns)).astype(np.float32))
            parameters.append(np.zeros(rows, np.float32))
        parameters[-1][:] = prior_logit(moments)
        return parameters

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
        progress: Progress | None = None,
    ) -> Parameters:
        """AdamW from `parameters`, the rows shuffled anew in each epoch; see `Federated.local_fit`."""
        from models.families.steps import descend  # noqa: PLC0415 - torch takes 2 s to import

        matrix = features_of(X)
        inputs, labels = standardised(matrix, moments), labels_of(y, len(matrix))
        return descend(
            parameters, self.spec, inputs, labels, epochs=epochs, seed=seed, proximal=proximal, progress=progress
        )

    def from_parameters(self, parameters: Parameters, moments: Moments) -> NetModel:
        """The model of these parameters; see `Federated.from_parameters`."""
        expected = [shape for pair in self._shapes(moments.sums.size) for shape in pair]
        if [array.shape for array in parameters] != expected:
            raise EscrowError("update-invalid", "Parameters have other shapes than the contract's model.")
        copies: list[NDArray[np.float32]] = [np.array(array, np.float32) for array in parameters]
        if not all(bool(np.isfinite(array).all()) for array in copies):
            raise EscrowError("update-invalid", "A parameter is not a finite number.")
        return NetModel(self.name, copies, moments)

    def _shapes(self, d: int) -> list[tuple[tuple[int, int], tuple[int]]]:
        """Shapes of weight and bias of each layer."""
        widths = (d, *self.spec.layers, 1)
        return [((rows, columns), (rows,)) for columns, rows in pairwise(widths)]
