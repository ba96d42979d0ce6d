"""Running statistics of batch norms, measured anew: averaged weights have statistics of their own.

Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018, arXiv:1803.05407,
section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def measure_batch_norms(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Set the running mean and variance of each batch norm to the mean of those of `batches`, each weighted alike, as
    one pass over the inputs in train mode finds them; all else stays in eval mode, so that nothing is dropped.
    batches: what the model takes, such as float [B, C, H, W]. Afterwards each module is in the mode that it was in.
    Returns how many batch norms there are; with none, no batch is asked for."""
    norms = [module for module in model.modules()
             if isinstance(module, _BatchNorm) and module.running_mean is not None]
    if not norms:
        return 0
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    model.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # the plain mean over the batches
        for batch in batches:
            model(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    return len(norms)
