"""What holds weights back beside weight decay: a price on their absolute values, a bound on the norm of each unit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visus.optim.parameter_groups import decays

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


class WeightRegulariser:
    """l1: weight of the sum of the absolute values of all weights that decay (kernels and matrices, see
    `parameter_groups.decays`); with weight decay the two together are the elastic net (Zou and Hastie 2005). Its slope
    is l1 * sign(w), 0 at 0 (Tibshirani 1996). max_norm: the largest L2 norm of the weights into one unit, 3 to 4 in
    Srivastava et al. 2014 (section 5.1; Srebro and Shraibman 2005); None: no bound."""

    def __init__(self, *, l1: float = 0.0, max_norm: float | None = None):
        assert l1 >= 0 and (max_norm is None or max_norm > 0), (l1, max_norm)
        self.l1, self.max_norm = l1, max_norm

    def penalty(self, model: nn.Module) -> Tensor | None:
        """l1 * sum |w|, a scalar to differentiate; None without l1."""
        if not self.l1:
            return None
        sums = [p.abs().sum() for name, p in model.named_parameters() if p.requires_grad and decays(name, p)]
        return self.l1 * torch.stack(sums).sum() if sums else None

    def constrain(self, model: nn.Module) -> None:
        """Put each unit that is out of bounds back onto them."""
        if self.max_norm is not None:
            for weight, axis in unit_weights(model):
                bound_units(weight, self.max_norm, axis)


def unit_weights(model: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """The weights of linear layers and convolutions that train, each once, with the axis that counts their units."""
    found: dict[int, tuple[nn.Parameter, int]] = {}
    for module in model.modules():
        weight = module._parameters.get("weight") if isinstance(module, _WEIGHTED) else None
        if weight is not None and weight.requires_grad:
            found[id(weight)] = (weight, 1 if isinstance(module, _TRANSPOSED) else 0)
    return list(found.values())


@torch.no_grad()
def bound_units(weight: Tensor, max_norm: float, axis: int = 0) -> None:
    """Scale the weights w into each unit, in place, by min(1, max_norm / |w|); a unit within bounds keeps its bits."""
    others = [i for i in range(weight.ndim) if i != axis]
    norms = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
    if weight.device.type != "cpu" or bool((norms > max_norm).any()):  # elsewhere no wait for the device
        weight.mul_(max_norm / norms.clamp_min(max_norm))
