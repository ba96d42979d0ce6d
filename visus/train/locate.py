"""Where the first non-finite number of a step came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from visus.core.batch import ImageBatch
from visus.train.contracts import TrainingTask


def first_nonfinite(model: nn.Module, task: TrainingTask, batch: ImageBatch) -> tuple[str, str]:
    """Run the forward pass once more and name the first layer whose weights or output are not finite.

    Returns (layer, sentence). The layer is 'input' or 'loss' when all layers between them are finite.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return name.rsplit(".", 1)[0], f"the weights {name} are not finite"
    if not torch.isfinite(batch.images).all():
        return "input", "the input images are not finite"
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(name)
        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()
               if not any(True for _ in module.children())]
    try:
        with torch.no_grad():
            task.loss(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return found[0], f"layer {found[0]} is the first whose output is not finite"
    return "loss", "all layers are finite, the loss function is not"
