"""QuickGELU is x sigmoid(1.702 x), value and gradient, and near GELU."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from visus.layers.quick_gelu import QuickGELU


def test_values_and_gradients_are_the_equations():
    x = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    found, expected = QuickGELU()(x), x * torch.sigmoid(1.702 * x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
    assert (found - F.gelu(x)).abs().max() < 0.021 and not torch.allclose(found, F.gelu(x), atol=0.01)
