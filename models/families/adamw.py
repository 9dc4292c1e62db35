"""AdamW, in place on a few tensors (Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019).

torch has one, but the first step of any torch optimiser loads torch's compiler: 1.5 CPU-seconds in every worker, more
than training a bank's model takes. These twenty lines need nothing but tensors.
"""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

FIRST, SECOND, TINY = 0.9, 0.999, 1e-8  # decay of the two moments and the floor of the root, as in the paper


class AdamW:
    """Moves `layers` against their gradients, one step at a time."""

    def __init__(self, layers: Sequence[Tensor], *, rate: float, decay: float) -> None:
        self._layers, self._rate, self._decay = list(layers), rate, decay
        self._first = [torch.zeros_like(layer) for layer in layers]
        self._second = [torch.zeros_like(layer) for layer in layers]
        self._steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """One update; `gradients` in the order of the layers."""
        self._steps += 1
        size = self._rate / (1 - FIRST**self._steps)
        root = sqrt(1 - SECOND**self._steps)
        for layer, gradient, first, second in zip(self._layers, gradients, self._first, self._second, strict=True):
            first.lerp_(gradient, 1 - FIRST)
            second.mul_(SECOND).addcmul_(gradient, gradient, value=1 - SECOND)
            layer.mul_(1 - self._rate * self._decay)
            layer.addcdiv_(first, second.sqrt().div_(root).add_(TINY), value=-size)
