"""Activation checkpointing: what a block computes inside is forgotten after the forward pass and computed again when
its gradient is needed (Chen, Xu, Zhang, Guestrin, Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174).

Memory for activations falls to the inputs of the blocks and the insides of one of them; a third more work. Random
numbers are drawn again as they were, and running statistics move once: gradients are the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from visus.train.mode import repeated_blocks, same_statistics


class _Recomputed:
    """The forward of a block; in train mode its insides are not kept."""

    def __init__(self, block: nn.Module, forward: Callable[..., Any]):
        self.block, self.forward = block, forward

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if not (self.block.training and torch.is_grad_enabled()):
            return self.forward(*inputs, **named)
        return checkpoint(self.forward, *inputs, use_reentrant=False, preserve_rng_state=True,
                          context_fn=lambda: (nullcontext(), same_statistics(self.block)), **named)


def recompute_blocks(model: nn.Module) -> int:
    """Let every repeated block of the model forget its insides, in place; -> how many blocks. Parameters keep their
    names."""
    blocks = repeated_blocks(model)
    for block in blocks:
        block.forward = _Recomputed(block, block.forward)
    return len(blocks)
