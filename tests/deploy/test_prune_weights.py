"""Masks equal torch's own, and hold through training."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from visus.core.errors import UserError
from visus.deploy.prune_weights import HeldAtZero, apply_masks, magnitude_masks, prunable, rounds, sparsity


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.93])
def test_masks_are_those_of_torch(amount):
    model, theirs = net(), copy.deepcopy(net())
    prune.global_unstructured([(theirs[0], "weight"), (theirs[4], "weight")], prune.L1Unstructured, amount=amount)
    masks = magnitude_masks(model, amount)
    assert torch.equal(masks["0.weight"], theirs[0].weight_mask.bool())
    assert torch.equal(masks["4.weight"], theirs[4].weight_mask.bool())
    layer = magnitude_masks(model, amount, "layer")
    for name, module in (("0.weight", model[0]), ("4.weight", model[4])):
        alone = prune.l1_unstructured(copy.deepcopy(module), "weight", amount)
        assert torch.equal(layer[name], alone.weight_mask.bool())


def test_scales_and_biases_are_not_pruned():
    assert set(prunable(net())) == {"0.weight", "4.weight"}
    with pytest.raises(UserError):
        magnitude_masks(nn.BatchNorm2d(3), 0.5)
    for amount in (-0.1, 1.0):
        with pytest.raises(UserError):
            magnitude_masks(net(), amount)


@pytest.mark.parametrize("optimizer", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
                                       lambda p: torch.optim.AdamW(p, 0.01)])
def test_no_optimizer_moves_a_pruned_weight(optimizer):
    model = net()
    steps = optimizer(model.parameters())
    images = torch.randn(16, 3, 8, 8)
    for _ in range(2):  # momentum is there before the masks are
        steps.zero_grad()
        model(images).square().mean().backward()
        steps.step()
    masks = magnitude_masks(model, 0.7)
    apply_masks(model, masks)
    held, before = HeldAtZero(masks), model[4].weight.detach().clone()
    for _ in range(3):
        steps.zero_grad()
        model(images).square().mean().backward()
        steps.step()
        held.constrain(model)
        assert all(not p[~masks[name]].any() for name, p in prunable(model).items())
    assert not torch.equal(before, model[4].weight)
    total = sum(p.numel() for p in prunable(model).values())
    zeros = sum(sparsity(model)[name] * p.numel() for name, p in prunable(model).items())
    assert zeros / total == pytest.approx(0.7, abs=1e-3)


def test_a_second_round_keeps_the_zeros_of_the_first():
    model = net()
    first = magnitude_masks(model, 0.4)
    apply_masks(model, first)
    second = magnitude_masks(model, 0.6)
    assert all(not (second[name] & ~first[name]).any() for name in first)


def test_rounds_rise_to_the_amount_and_slow_down():
    shares = rounds(0.9, 3)
    assert shares[-1] == pytest.approx(0.9)
    assert shares[0] == pytest.approx(0.9 * (1 - (2 / 3) ** 3))
    assert rounds(0.5, 1) == [0.5]
    with pytest.raises(UserError):
        rounds(0.5, 0)


def test_the_price_of_another_regulariser_stays():
    class Base:
        def penalty(self, model):
            return torch.tensor(3.0)

        def constrain(self, model):
            with torch.no_grad():
                model[0].weight.fill_(2.0)

    model = net()
    masks = magnitude_masks(model, 0.5)
    held = HeldAtZero(masks, Base())
    assert held.penalty(model) == 3
    held.constrain(model)
    assert torch.equal(model[0].weight, 2.0 * masks["0.weight"])
    assert HeldAtZero(masks).penalty(model) is None
