"""The plain average of weights against torch.optim.swa_utils and against a mean by hand; exact resume."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from visus.core.errors import CheckpointError
from visus.optim.averaging import WeightAverage

IMAGES = torch.rand(40, 3, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(),
                         nn.Linear(64, 3)).double()


def batches():
    return IMAGES.split(8)


def train(model, averages, updates: int, start: int = 0):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(start, updates):
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(IMAGES[torch.randint(40, (8,))]).square().mean().backward()
        optimizer.step()
        for average in averages:
            average(step + 1)


def test_swa_equals_torchs_averaged_model_and_update_bn():
    model = network()
    ours = WeightAverage(model, start=10, every=5, batches=batches)
    theirs = AveragedModel(model)

    def torchs(step: int) -> None:
        if step > 10 and step % 5 == 0:
            theirs.update_parameters(model)

    train(model, [lambda step: ours.update(model), torchs], 30)
    assert ours.updates == 4 == int(theirs.n_averaged)
    update_bn(batches(), theirs)
    with ours.copy_to(model):
        for name, tensor in theirs.module.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=1e-12, msg=name)


def test_polyaks_average_is_the_mean_of_the_weights_after_every_update():
    model, seen = network(), []
    average = WeightAverage(model, start=4, every=1)
    train(model, [lambda step: average.update(model), lambda step: seen.append(model[5].weight.detach().clone())], 12)
    with average.copy_to(model):
        torch.testing.assert_close(model[5].weight.detach(), torch.stack(seen[4:]).mean(0), rtol=0, atol=1e-14)


def test_before_its_start_the_models_own_weights_are_lent_and_afterwards_they_come_back_to_the_bit():
    model = network()
    average = WeightAverage(model, start=5, every=1, batches=batches)
    train(model, [lambda step: average.update(model)], 5)
    own = copy.deepcopy(model.state_dict())
    with average.copy_to(model):
        assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())
    train(model, [lambda step: average.update(model)], 8, start=5)
    own = copy.deepcopy(model.state_dict())
    with average.copy_to(model):
        assert not torch.equal(model.state_dict()["5.weight"], own["5.weight"])
        assert not torch.equal(model.state_dict()["1.running_var"], own["1.running_var"])
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())


def test_a_resumed_average_has_the_same_bits_and_measuring_draws_no_random_number():
    def run(stop: int | None):
        model = network(dropout=0.5)
        average = WeightAverage(model, start=6, every=3, batches=batches)
        train(model, [lambda step: average.update(model)], stop or 20)
        if stop is not None:
            state, weights = average.state_dict(), copy.deepcopy(model.state_dict())
            model = network(dropout=0.5)
            model.load_state_dict(weights)
            average = WeightAverage(model, start=6, every=3, batches=batches)
            average.load_state_dict(state)
            train(model, [lambda step: average.update(model)], 20, start=stop)
        before = torch.get_rng_state()
        with average.copy_to(model):
            assert torch.equal(torch.get_rng_state(), before)
            return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    whole, resumed = run(None), run(10)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_norms_of_a_frozen_part_keep_their_statistics():
    model = nn.Sequential(network(), nn.Linear(3, 4).double(), nn.BatchNorm1d(4).double())
    model[0].requires_grad_(False)
    average = WeightAverage(model, start=0, batches=batches)
    average.update(model)
    with average.copy_to(model):
        assert torch.equal(model[0][1].running_mean, torch.zeros(4, dtype=torch.float64))
        assert not torch.equal(model[2].running_mean, torch.zeros(4, dtype=torch.float64))


def test_statistics_are_measured_once_for_each_new_average():
    asked = []

    def counted():
        asked.append(1)
        return batches()

    model = network()
    average = WeightAverage(model, start=0, batches=counted)
    average.update(model)
    with average.copy_to(model):
        first = model[1].running_mean.clone()
    with average.copy_to(model):
        assert torch.equal(model[1].running_mean, first)
    average.update(model)
    with average.copy_to(model):
        pass
    assert len(asked) == 2


def test_weights_are_put_back_where_measuring_fails():
    def broken():
        yield IMAGES[:8]
        raise OSError("the disk is gone")

    model = network()
    average = WeightAverage(model, start=0, batches=broken)
    average.update(model)
    train(model, [], 2)
    own = copy.deepcopy(model.state_dict())
    with pytest.raises(OSError, match="gone"), average.copy_to(model):
        pass
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())


def test_a_state_of_another_model_is_refused():
    average = WeightAverage(network(), start=0)
    with pytest.raises(CheckpointError, match="another model"):
        average.load_state_dict(WeightAverage(nn.Linear(2, 2), start=0).state_dict())
