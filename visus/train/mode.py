"""Train mode for models of which a part is frozen, and for a second look at a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def train_mode(model: nn.Module) -> None:
    """Train mode, but for modules whose parameters are all frozen: their batch norms keep what they have learnt."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that a network repeats: modules with parameters of which a list or a sequence holds two or more of one
    class; the outermost ones, in order."""
    found: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        children = [child for child in module.children() if any(True for _ in child.parameters())]
        kinds = [type(child) for child in children if any(True for _ in child.children())]
        for child in children:
            inside = isinstance(module, nn.Sequential | nn.ModuleList)
            if inside and kinds.count(type(child)) > 1 and not isinstance(child, nn.Sequential | nn.ModuleList):
                found.append(child)
            else:
                look(child)

    look(model)
    return found


@contextmanager
def same_statistics(model: nn.Module) -> Iterator[None]:
    """Forward passes in train mode that leave running statistics alone: a batch that is seen again counts once."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    before = [(module.momentum, module.num_batches_tracked) for module in norms]
    counters = [None if count is None else count.clone() for _, count in before]
    for module in norms:
        module.momentum = 0.0
    try:
        yield
    finally:
        for module, (momentum, count), counted in zip(norms, before, counters, strict=True):
            module.momentum = momentum
            if count is not None and counted is not None:
                count.copy_(counted)
