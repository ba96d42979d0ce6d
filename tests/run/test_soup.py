"""Model soups on plain numbers: the mean, and who stays in."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from visus.run.soup import cook, greedy, mean_weights


def test_the_mean_is_numpys_and_counters_are_the_firsts():
    states = [{"w": torch.randn(4, 3), "n": torch.tensor(k)} for k in (7, 8, 9)]
    mean = mean_weights(states)
    np.testing.assert_allclose(mean["w"], np.mean([s["w"].double().numpy() for s in states], 0), rtol=1e-6)
    assert mean["n"].item() == 7 and mean["w"].dtype == torch.float32
    one = {"w": torch.tensor([0.1, torch.finfo(torch.float32).tiny])}
    assert torch.equal(mean_weights([one])["w"], one["w"])


def test_an_ingredient_stays_where_the_soup_with_it_is_no_worse():
    values = {(2, 0): 0.8, (2, 1): 0.9, (2, 1, 3): 0.9, (2, 1, 3, 4): 0.89}
    chosen, tasted = greedy([2, 0, 1, 3, 4], 0.85, lambda soup: values[tuple(soup)])
    assert chosen == [2, 1, 3]
    assert [(row.ingredient, row.value, row.kept) for row in tasted] == [
        (2, 0.85, True), (0, 0.8, False), (1, 0.9, True), (3, 0.9, True), (4, 0.89, False)]
    assert greedy([0, 1], 0.5, lambda soup: 0.4, higher_is_better=False)[0] == [0, 1]


def test_batch_norms_of_a_soup_see_the_images_and_those_of_one_member_keep_theirs():
    def net(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
        model[1].running_mean.fill_(float(seed + 5))
        return model

    states, pot, inputs = [net(k).state_dict() for k in (0, 1)], net(2), torch.randn(50, 3)
    assert cook(pot, states, lambda: [inputs]) == 1
    mean = (states[0]["0.weight"] + states[1]["0.weight"]) / 2
    bias = (states[0]["0.bias"] + states[1]["0.bias"]) / 2
    torch.testing.assert_close(pot[1].running_mean, (inputs @ mean.T + bias).mean(0))
    assert cook(pot, states[:1], lambda: [inputs]) == 0
    assert torch.equal(pot[1].running_mean, states[0]["1.running_mean"])
