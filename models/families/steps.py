"""What a net does with torch: score rows, and take AdamW's steps. The rest of `models.families.net` needs numpy alone:
who only averages parameters does not load torch, which takes 2 s.

On one thread: the bytes of a model must not depend on how many cores a machine has.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models.families.adamw import AdamW
from models.families.base import Float32Matrix, Float32Vector, NetSpec, Parameters, Progress


def use_one_thread() -> None:
    """Make torch's arithmetic repeatable in the calling thread (the number of threads is each thread's own setting).

    One thread suffices for what a net does here on a processor; `torch.use_deterministic_algorithms` would load torch's
    compiler, 1.5 CPU-seconds in every worker, for operations that are not used.
    """
    torch.set_num_threads(1)


def logits(layers: list[Tensor], inputs: Tensor) -> Tensor:
    """The net: (n, d) → (n,), linear layers with ReLU between them."""
    values = inputs
    for position in range(0, len(layers), 2):
        if position:
            values = functional.relu(values)
        values = functional.linear(values, layers[position], layers[position + 1])
    return values.squeeze(1)


def probabilities(parameters: Parameters, inputs: Float32Matrix) -> Float32Vector:
    """What the net gives for standardised inputs (n, d), float32 (n,)."""
    use_one_thread()
    layers = [torch.from_numpy(array) for array in parameters]
    with torch.inference_mode():
        scores: Float32Vector = torch.sigmoid(logits(layers, torch.from_numpy(inputs))).numpy()
    return scores


def descend(
    parameters: Parameters,
    spec: NetSpec,
    inputs: Float32Matrix,
    labels: Float32Vector,
    *,
    epochs: int,
    seed: int,
    proximal: float,
    progress: Progress | None,
) -> Parameters:
    """AdamW from `parameters` on standardised inputs (n, d) and labels (n,), the rows shuffled anew in each epoch.

    Args:
        parameters: where the descent starts; unchanged.
        spec: rate, weight decay and batch.
        inputs: (n, d).
        labels: (n,).
        epochs: how often every row is seen.
        seed: of the shuffling.
        proximal: mu of FedProx: mu/2 · ‖w − `parameters`‖² is part of each step's loss.
        progress: told after each epoch.
    """
    use_one_thread()
    rows, targets = torch.from_numpy(inputs), torch.from_numpy(labels)
    start = [torch.from_numpy(array.copy()) for array in parameters]
    layers = [layer.clone().requires_grad_() for layer in start]
    optimiser = AdamW(layers, rate=spec.learning_rate, decay=spec.weight_decay)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        for batch in torch.split(torch.randperm(len(rows), generator=generator), spec.batch):
            loss = functional.binary_cross_entropy_with_logits(logits(layers, rows[batch]), targets[batch])
            gradients: Sequence[Tensor] = torch.autograd.grad(loss, layers)
            if proximal:
                gradients = _pulled(gradients, layers, start, proximal)
            optimiser.step(gradients)
        if progress is not None:
            progress((epoch + 1) / epochs)
    return [layer.detach().numpy() for layer in layers]


@torch.no_grad()
def _pulled(
    gradients: Sequence[Tensor], layers: Sequence[Tensor], start: Sequence[Tensor], proximal: float
) -> list[Tensor]:
    """The gradients of a loss to which proximal/2 · ‖layers − start‖² is added."""
    triples = zip(gradients, layers, start, strict=True)
    return [gradient.add(layer - origin, alpha=proximal) for gradient, layer, origin in triples]
