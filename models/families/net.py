"""Logistic regression and multilayer perceptron: one torch net, trained alone or by exchanging parameters.

Every feature x goes through sign(x)·log(1 + |x|), is standardised by (joint) moments and clipped, so that amounts and
counts of any size are tame and a bundle takes raw features. The loss is binary cross-entropy without class weights:
average precision ranks, and weights only add variance where 1 % of the rows carry the signal. AdamW with large batches
on one thread: the bytes of a model must not depend on how many cores a machine has.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor
from torch.nn import functional

from contracts.errors import EscrowError
from models.families.adamw import AdamW
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
from models.families.graph import INPUT, OUTPUT, constant, graph_bytes

CLIP: Final = 10.0
"""Standard deviations beyond which a feature counts as just far away: drift and hostile values stay bounded."""
SMALLEST_DEVIATION: Final = 1e-3
"""Floor of the standard deviation, in log units: a constant feature stays near zero instead of exploding."""
PRIOR_LOGIT: Final = -4.6
"""First bias of the output: 1 % fraud, so that training does not begin by unlearning one half."""
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


def standardised(X: Float32Matrix, moments: Moments) -> Tensor:
    """Raw features (n, d) as the net sees them."""
    mean, reciprocal = standardisation(moments)
    if X.shape[1] != mean.size:
        raise EscrowError("training-failed", "The rows and the moments have different numbers of features.")
    return torch.from_numpy(np.clip((tame(X) - mean) * reciprocal, -CLIP, CLIP))


def logits(layers: list[Tensor], inputs: Tensor) -> Tensor:
    """The net: (n, d) → (n,), linear layers with ReLU between them."""
    values = inputs
    for position in range(0, len(layers), 2):
        if position:
            values = functional.relu(values)
        values = functional.linear(values, layers[position], layers[position + 1])
    return values.squeeze(1)


def use_one_thread() -> None:
    """Make torch's arithmetic repeatable in the calling thread (the number of threads is each thread's own setting).

    One thread suffices for what a net does here on a processor; `torch.use_deterministic_algorithms` would load torch's
    compiler, 1.5 CPU-seconds in every worker, for operations that are not used.
    """
    torch.set_num_threads(1)


@dataclass(frozen=True)
class NetModel:
    """A trained net: its parameters and the moments that standardise its inputs."""

    family: str
    parameters: Parameters
    moments: Moments

    def scores(self, X: Float32Matrix) -> Float32Vector:
        """Probability of fraud, float32 (n,)."""
        use_one_thread()
        layers = [torch.from_numpy(array) for array in self.parameters]
        with torch.inference_mode():
            parts = [
                torch.sigmoid(logits(layers, standardised(X[start : start + CHUNK], self.moments))).numpy()
                for start in range(0, len(X), CHUNK)
            ]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def to_onnx(self) -> bytes:
        """The log transform, standardisation, clipping and layers as one graph."""
        mean, reciprocal = standardisation(self.moments)
        initializers = [
            constant("one", np.float32(1)),
            constant("mean", mean),
            constant("reciprocal", reciprocal),
            constant("low", np.float32(-CLIP)),
            constant("high", np.float32(CLIP)),
            constant("columns", np.array([1], np.int64)),
        ]
        nodes = [
            helper.make_node("Sign", [INPUT], ["sign"]),
            helper.make_node("Abs", [INPUT], ["size"]),
            helper.make_node("Add", ["size", "one"], ["shifted"]),
            helper.make_node("Log", ["shifted"], ["log"]),
            helper.make_node("Mul", ["sign", "log"], ["tame"]),
            helper.make_node("Sub", ["tame", "mean"], ["centred"]),
            helper.make_node("Mul", ["centred", "reciprocal"], ["scaled"]),
            helper.make_node("Clip", ["scaled", "low", "high"], ["hidden0"]),
        ]
        depth = len(self.parameters) // 2
        for layer in range(depth):
            weight, bias = self.parameters[2 * layer : 2 * layer + 2]
            initializers += [constant(f"weight{layer}", weight), constant(f"bias{layer}", bias)]
            names = [f"hidden{layer}", f"weight{layer}", f"bias{layer}"]
            nodes.append(helper.make_node("Gemm", names, [f"linear{layer}"], transB=1))
            if layer < depth - 1:
                nodes.append(helper.make_node("Relu", [f"linear{layer}"], [f"hidden{layer + 1}"]))
        nodes.append(helper.make_node("Sigmoid", [f"linear{depth - 1}"], ["probability"]))
        nodes.append(helper.make_node("Squeeze", ["probability", "columns"], [OUTPUT]))
        return graph_bytes(nodes, initializers, mean.size)


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
        moments = self.moments(matrix)
        start = self.initial(matrix.shape[1], moments, seed=seed)
        trained = self.local_fit(start, moments, matrix, y, epochs=self.spec.epochs, seed=seed, progress=progress)
        return self.from_parameters(trained, moments)

    def moments(self, X: Float32Matrix) -> Moments:
        """Row count, sums and sums of squares after the log transform."""
        values = tame(features_of(X)).astype(np.float64)
        return Moments(len(values), values.sum(axis=0), np.square(values).sum(axis=0))

    def initial(self, d: int, moments: Moments, *, seed: int) -> Parameters:
        """He-uniform weights, zero biases, and an output bias for rare frauds; the seed alone decides them."""
        if moments.sums.size != d:
            raise EscrowError("update-invalid", "Moments were sent for another number of features.")
        rng = np.random.default_rng([seed, 0])
        parameters: Parameters = []
        for (rows, columns), _ in self._shapes(d):
            bound = np.sqrt(6.0 / columns) if rows > 1 else np.sqrt(1.0 / columns)
            parameters.append(rng.uniform(-bound, bound, (rows, columns)).astype(np.float32))
            parameters.append(np.zeros(rows, np.float32))
        parameters[-1][:] = PRIOR_LOGIT
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
        progress: Progress | None = None,
    ) -> Parameters:
        """AdamW from `parameters`, the rows shuffled anew in each epoch; see `Federated.local_fit`."""
        use_one_thread()
        matrix = features_of(X)
        inputs = standardised(matrix, moments)
        targets = torch.from_numpy(labels_of(y, len(matrix)))
        layers = [torch.from_numpy(array.copy()).requires_grad_() for array in parameters]
        optimiser = AdamW(layers, rate=self.spec.learning_rate, decay=self.spec.weight_decay)
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(epochs):
            for batch in torch.split(torch.randperm(len(matrix), generator=generator), self.spec.batch):
                loss = functional.binary_cross_entropy_with_logits(logits(layers, inputs[batch]), targets[batch])
                optimiser.step(torch.autograd.grad(loss, layers))
            if progress is not None:
                progress((epoch + 1) / epochs)
        return [layer.detach().numpy() for layer in layers]

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
