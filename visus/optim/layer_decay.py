"""The layers of a network from its input to its classifier, as its own modules order them, and their learning rates.

Layer-wise decay: each layer learns `decay` times as fast as the one after it (Clark et al., ELECTRA, ICLR 2020; BEiT,
Bao et al. 2022; 0.65 to 0.75 for fine-tuning masked autoencoders, He et al. 2022).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import nn

from visus.optim.parameter_groups import is_weight

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def layers_of(model: nn.Module, head: Collection[str]) -> dict[str, int]:
    """Parameter name -> layer, from 0. head: names of the parameters of the classifier.

    The first layer is the stem: tokens, position embeddings, and all before the first block. A block, a module with
    two weights or more that is an item of a list of such, is one layer. What stands between blocks goes with the block
    after it where it has a weight (a downsampling convolution), else with what is before it (a norm); what follows the
    last block goes with that. In a network without blocks each weight is a layer. The last layer is the classifier:
    the child of the model that holds `head`, whole.
    """
    head_children = {name.partition(".")[0] for name in head}
    units = [unit for name, child in model.named_children() if name not in head_children
             for unit in _units(name, child, False)]
    layers = {name: 0 for name, _ in model.named_parameters(recurse=False)}
    if len(head_children) == 1 and not units:  # all is in one child, the classifier at its end
        units = [unit for name in head_children for unit in _units(name, getattr(model, name), False)]
    blocks = any(count > 1 for _, count in units)
    layer, pending, begun = 0, False, False
    last_block = max((i for i, (_, count) in enumerate(units) if count > 1), default=-1)
    for i, (names, count) in enumerate(units):
        own = count > 1 if blocks else count > 0
        if blocks and not own and count and begun and i < last_block and not pending:
            layer, pending = layer + 1, True
        elif own:
            layer += begun and not pending or blocks and i > 0 and not begun
            pending, begun = False, True
        layers |= dict.fromkeys(names, layer)
    everything = [name for name, _ in model.named_parameters()]
    last = layer + bool(units)
    layers |= {name: last for name in everything if name in head or name not in layers}
    order = {number: k for k, number in enumerate(sorted(set(layers.values())))}
    return {name: order[layers[name]] for name in everything}


def layer_scales(layers: dict[str, int], decay: float) -> dict[str, float]:
    """Parameter name -> decay ** (layers after its own)."""
    last = max(layers.values())
    return {name: decay ** (last - layer) for name, layer in layers.items()}


def _units(prefix: str, module: nn.Module, listed: bool) -> Iterator[tuple[list[str], int]]:
    """The parameters that stay together, and how many weights are among them, in order. listed: the module is an item
    of a list of blocks or stages. A row's own parameters, such as position embeddings, go with its first item."""
    if not _is_opened(module, listed):
        yield [f"{prefix}.{name}" for name, _ in module.named_parameters()], _weights(module)
        return
    own = [f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)]
    inside = isinstance(module, _LISTS) and sum(_weights(child) > 1 for child in module.children()) > 1
    for name, child in module.named_children():
        for names, count in _units(f"{prefix}.{name}", child, inside):
            yield own + names, count
            own = []


def _is_opened(module: nn.Module, listed: bool) -> bool:
    """Whether a module is a row of layers and not one of them."""
    if isinstance(module, _LISTS):
        return _weights(module) > 1 and (not listed or any(_weights(child) > 1 for child in module.children()))
    return any(isinstance(child, _LISTS) and _is_row(child) for child in module.children())


def _is_row(items: nn.Module) -> bool:
    """Two blocks or more of one class, one after the other: lists side by side are branches."""
    kinds = [type(child) if _weights(child) > 1 else None for child in items.children()
             if any(True for _ in child.parameters())]
    return len(kinds) > 1 and len(set(kinds)) == 1 and kinds[0] not in (None, *_LISTS)


def _weights(module: nn.Module) -> int:
    """How many matrices and kernels it has."""
    return sum(is_weight(name, parameter) for name, parameter in module.named_parameters())
