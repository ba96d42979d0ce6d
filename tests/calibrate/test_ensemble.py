"""Ensembles and dropout at test time: means, disagreement, mutual information; the model left as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from visus.calibrate.ensemble import agree, dropout_on, dropout_passes
from visus.core.errors import UserError


def test_equal_members_agree_and_opposite_ones_do_not():
    probs = np.array([[0.7, 0.3], [0.2, 0.8]])
    same = agree(np.stack([probs, probs, probs]))
    np.testing.assert_allclose(same.probs, probs)
    np.testing.assert_allclose(same.disagreement, 0)
    np.testing.assert_allclose(same.mutual_information, 0, atol=1e-15)
    sure = np.array([[1.0, 0.0]])
    opposite = agree(np.stack([sure, sure[:, ::-1]]))
    assert opposite.disagreement[0] == 1 and opposite.mutual_information[0] == pytest.approx(np.log(2))
    assert agree(np.stack([sure, sure, sure[:, ::-1]])).disagreement[0] == pytest.approx(2 / 3)


def test_entropy_is_that_of_the_mean_and_mutual_information_its_excess():
    rng = np.random.default_rng(0)
    members = rng.dirichlet(np.ones(4), (5, 20))
    found = agree(members)
    mean = members.mean(0)
    entropy = -(mean * np.log(mean)).sum(1)
    np.testing.assert_allclose(found.entropy, entropy)
    np.testing.assert_allclose(found.mutual_information, entropy + (members * np.log(members)).sum(2).mean(0))
    assert (found.mutual_information > 0).all()


class Net(nn.Module):
    def __init__(self, p: float = 0.5):
        super().__init__()
        self.norm, self.dropout, self.head = nn.BatchNorm1d(6), nn.Dropout(p), nn.Linear(6, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.norm(images)))


def test_only_dropout_is_on_and_every_mode_comes_back():
    model = Net()
    model.norm.eval()
    modes = [m.training for m in model.modules()]
    with dropout_on(model) as count:
        assert count == 1 and model.dropout.training and not model.norm.training and not model.head.training
    assert [m.training for m in model.modules()] == modes


def test_passes_differ_average_to_the_expectation_and_leave_norms_and_random_state_alone():
    torch.manual_seed(0)
    model = Net(0.2).eval()
    images = torch.randn(4, 6)
    statistics, state = model.norm.running_mean.clone(), torch.get_rng_state()
    probs = dropout_passes(model, images, 1000, seed=1)
    assert torch.equal(statistics, model.norm.running_mean) and torch.equal(state, torch.get_rng_state())
    assert probs.shape == (1000, 4, 3) and probs.std(0).min() > 0.001
    torch.testing.assert_close(probs, dropout_passes(model, images, 1000, seed=1), rtol=0, atol=0)
    mean_logits = probs.double().log()  # inverted dropout keeps the mean of the logits
    centred = (mean_logits - mean_logits.mean(2, keepdim=True)).mean(0)
    plain = model(images).detach().double()
    torch.testing.assert_close(centred, plain - plain.mean(1, keepdim=True), rtol=0, atol=0.08)


def test_a_model_without_dropout_is_refused():
    for model in (nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.0), nn.Linear(2, 2))):
        with pytest.raises(UserError, match="no dropout that drops anything"):
            dropout_passes(model, torch.zeros(1, 2), 3)
    with pytest.raises(UserError, match="passes=0"):
        dropout_passes(Net(), torch.zeros(1, 6), 0)
