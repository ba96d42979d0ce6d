"""Activation checkpointing changes what is kept, and not one bit of what is computed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import visus
from visus.train.mode import repeated_blocks
from visus.train.recompute import recompute_blocks


def gradients(name: str, recomputed: bool, dropout: float = 0.0) -> tuple[list, dict]:
    torch.manual_seed(0)
    model = visus.create_model(name, num_classes=5, **({"image_size": 32} if "vit" in name else {})).train()
    if dropout:
        for block in repeated_blocks(model):
            block.add_module("inside", nn.Dropout(dropout))
            block.register_forward_hook(lambda module, inputs, output: module.inside(output))
    if recomputed:
        assert recompute_blocks(model) > 1
    torch.manual_seed(1)
    nn.functional.cross_entropy(model(torch.rand(3, 3, 32, 32)), torch.tensor([0, 1, 4])).backward()
    return [p.grad for p in model.parameters()], model.state_dict()


@pytest.mark.parametrize("name", ["resnet20", pytest.param("vit_tiny_16", marks=pytest.mark.slow)])
def test_gradients_and_running_statistics_are_the_same_bits(name):
    plain, states = gradients(name, False)
    again, same = gradients(name, True)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert states.keys() == same.keys() and all(torch.equal(states[key], same[key]) for key in states)


def test_random_numbers_inside_a_block_are_drawn_again_as_they_were():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.drop = nn.Linear(8, 8), nn.Dropout(0.5)

        def forward(self, x):
            return x + self.drop(self.fc(x).relu())

    def slopes(recomputed):
        torch.manual_seed(0)
        model = nn.Sequential(*[Block() for _ in range(3)])
        if recomputed:
            assert recompute_blocks(model) == 3
        model(torch.ones(4, 8)).square().sum().backward()
        return [p.grad for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(slopes(False), slopes(True), strict=True))


def test_what_is_kept_for_the_backward_pass_shrinks():
    def kept(recomputed):
        torch.manual_seed(0)
        model = visus.create_model("resnet20", num_classes=5).train()
        if recomputed:
            recompute_blocks(model)
        seen = {}

        def note(tensor):
            seen[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(torch.rand(4, 3, 32, 32)).sum()
        return sum(seen.values())

    assert kept(True) < 0.5 * kept(False)
