"""timm's names of the layers in networks of inverted residuals: EfficientNet, MobileNetV2 and V3, MnasNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

_SQUEEZE = {"se.conv_reduce": "fc1", "se.conv_expand": "fc2"}
_WIDENED = ("conv_exp", "conv_pw", "conv_dw", "se", "conv_pwl")  # in the order of work, of which a block has some
_PLAIN = ("conv", "conv_dw", "se", "conv_pw")


@dataclass(frozen=True)
class BlockTensor:
    """A tensor of a block. place: (stage, index in the stage, number among all blocks). step: place of its layer among
    the block's `steps`, in the order of work: convolutions, each with its batch norm, and the squeeze and excitation as
    one. layer: 'conv', 'bn', 'fc1' or 'fc2'. leaf: 'weight', 'running_mean' and so on."""

    place: tuple[int, int, int]
    step: int
    steps: int
    layer: str
    leaf: str
    tensor: Tensor


def split_timm_blocks(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[BlockTensor]]:
    """The tensors outside of `blocks.STAGE.INDEX`, by name, and those inside. A name that timm does not use stays
    outside, for strict loading to refuse."""
    outside: dict[str, Tensor] = {}
    blocks: dict[tuple[int, int], list[tuple[str, str]]] = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] == "blocks" and len(parts) >= 5 and parts[1].isdecimal() and parts[2].isdecimal():
            blocks.setdefault((int(parts[1]), int(parts[2])), []).append((".".join(parts[3:-1]), parts[-1]))
        else:
            outside[name] = tensor
    found = []
    for number, ((stage, index), tensors) in enumerate(sorted(blocks.items())):
        layers = {layer for layer, _ in tensors}
        order = [part for part in (_WIDENED if "conv_pwl" in layers else _PLAIN)
                 if part in layers or (part == "se" and layers & _SQUEEZE.keys())]
        known = {part: (step, "conv") for step, part in enumerate(order)}
        known |= {f"bn{i}": (known[part][0], "bn") for i, part in enumerate((p for p in order if p != "se"), 1)}
        known |= {name: (order.index("se"), ours) for name, ours in _SQUEEZE.items() if "se" in order}
        for layer, leaf in tensors:
            name = f"blocks.{stage}.{index}.{layer}.{leaf}"
            if layer in known:
                step, kind = known[layer]
                found.append(BlockTensor((stage, index, number), step, len(order), kind, leaf, state[name]))
            else:
                outside[name] = state[name]
    return outside, found
