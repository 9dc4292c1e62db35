"""Our AdamW is torch's."""

import pytest
import torch

from models.families.adamw import AdamW


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_equal_those_of_torch(decay: float) -> None:
    generator = torch.Generator().manual_seed(3)
    start = [torch.randn(4, 3, generator=generator), torch.randn(4, generator=generator)]
    ours = [layer.clone() for layer in start]
    theirs = [layer.clone().requires_grad_() for layer in start]
    mine, reference = AdamW(ours, rate=0.01, decay=decay), torch.optim.AdamW(theirs, lr=0.01, weight_decay=decay)
    for _ in range(50):
        gradients = [torch.randn(layer.shape, generator=generator) for layer in start]
        mine.step(gradients)
        for layer, gradient in zip(theirs, gradients, strict=True):
            layer.grad = gradient
        reference.step()
    for layer, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(layer, other.detach(), rtol=1e-5, atol=1e-6)
