"""Steps of a net in numpy: what stands in for `models.families.steps` where a scenario has no time to load torch.

A worker that trains a few hundred rows spends nearly all of its life loading torch. In scenarios about who says what to
whom it runs as `python -m scenarios.lies quick` instead: its logistic regression learns by these steps, and everything
else in it is the product's own code. Full-batch gradient descent, repeatable, for nets without hidden layers.
"""

from typing import Final

import numpy as np

from contracts.computation import LogisticSpec
from models.families.base import Float32Matrix, Float32Vector, NetSpec, Parameters, Progress

RATE: Final = 2.0
"""Step size on standardised features; the loss is convex and its curvature at most a quarter of their number."""


def probabilities(parameters: Parameters, inputs: Float32Matrix) -> Float32Vector:
    """As `models.families.steps.probabilities`, for one layer."""
    weight, bias = parameters
    scores: Float32Vector = 1 / (1 + np.exp(-(inputs @ weight[0] + bias[0])))
    return scores.astype(np.float32)


def descend(
    parameters: Parameters,
    spec: NetSpec,
    inputs: Float32Matrix,
    labels: Float32Vector,
    *,
    epochs: int,
    seed: int,  # noqa: ARG001 - one signature; nothing here is drawn
    proximal: float = 0.0,
    progress: Progress | None,
) -> Parameters:
    """As `models.families.steps.descend`, four steps of all rows for each epoch."""
    if not isinstance(spec, LogisticSpec):
        raise TypeError("the quick steps know logistic regression only")
    X, y = inputs.astype(np.float64), labels.astype(np.float64)
    start, first = parameters[0][0].astype(np.float64), float(parameters[1][0])
    weight, bias = start, first
    for epoch in range(epochs):
        for _ in range(4):
            error = 1 / (1 + np.exp(-(X @ weight + bias))) - y
            pull = spec.weight_decay * weight + proximal * (weight - start)
            weight = weight - RATE * (X.T @ error / len(y) + pull)
            bias -= RATE * (float(error.mean()) + proximal * (bias - first))
        if progress is not None:
            progress((epoch + 1) / epochs)
    return [weight[None, :].astype(np.float32), np.array([bias], np.float32)]


__all__ = ["descend", "probabilities"]
