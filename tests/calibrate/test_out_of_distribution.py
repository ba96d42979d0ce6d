"""Scores of belonging: by hand, in a case where each must part the two sets, and the features they stand on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from visus.calibrate.out_of_distribution import (
    Mahalanobis,
    NearestNeighbours,
    energy,
    features_and_logits,
    head_name,
    max_logit,
    max_softmax,
    separation,
    shrunk_covariance,
    strangers,
)
from visus.core.errors import UserError
from visus.run.models import create_model


def test_scores_of_logits_by_hand():
    z = torch.tensor([[0.0, float(np.log(3.0))], [2.0, 2.0]])
    torch.testing.assert_close(max_softmax(z), torch.tensor([0.75, 0.5]))
    torch.testing.assert_close(max_logit(z), torch.tensor([np.log(3.0), 2.0], dtype=torch.float32))
    torch.testing.assert_close(energy(z), torch.tensor([np.log(4.0), 2 + np.log(2.0)], dtype=torch.float32))
    assert (energy(z * 1e-3, 1e-5) - max_logit(z * 1e-3)).abs().max() < 1e-5  # cold energy is the largest logit


def test_mahalanobis_is_the_distance_in_units_of_the_shared_covariance():
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(3000) % 3
    means = torch.tensor([[0.0, 0], [8, 0], [0, 8]], dtype=torch.float64)
    noise = torch.randn(3000, 2, generator=generator, dtype=torch.float64) @ torch.tensor([[3.0, 0], [1, 0.5]]).double()
    detector = Mahalanobis.fit(means[targets] + noise, targets)
    residuals = means[targets] + noise - detector.means[targets]
    inverse = torch.linalg.inv(shrunk_covariance(residuals))
    points = torch.tensor([[1.0, 2], [9, -3]], dtype=torch.float64)
    away = points[:, None] - detector.means
    expected = -torch.einsum("ncd,de,nce->nc", away, inverse, away).amin(1)
    torch.testing.assert_close(detector(points), expected, rtol=1e-9, atol=1e-9)


def test_mahalanobis_stands_fewer_samples_than_features_and_constant_ones():
    generator = torch.Generator().manual_seed(1)
    features = torch.cat([torch.randn(20, 50, generator=generator), torch.zeros(20, 5)], 1)
    scores = Mahalanobis.fit(features, torch.arange(20) % 2)(features)
    assert torch.isfinite(scores).all() and (scores <= 0).all()


def test_the_nearest_neighbour_score_by_hand():
    bank = torch.tensor([[2.0, 0], [0, 5], [-1, 0]])
    query = torch.tensor([[3.0, 0]])
    assert NearestNeighbours.fit(bank, k=1)(query).item() == pytest.approx(0, abs=1e-6)
    assert NearestNeighbours.fit(bank, k=2)(query).item() == pytest.approx(-np.sqrt(2), rel=1e-6)
    assert NearestNeighbours.fit(bank, k=3)(query).item() == pytest.approx(-2, rel=1e-6)
    with pytest.raises(UserError, match="k=4: must be at most 3"):
        NearestNeighbours.fit(bank, k=4)


def test_separation_by_hand():
    found = separation(np.arange(1, 21.0), np.array([0.0, 1.5, 2.0, 30.0]))  # 95 % of 20: scores of 2 and more come in
    assert found["fpr95"] == 0.5 and found["auroc"] == pytest.approx((20 + 19 + 18.5 + 0) / 80)
    same = separation(np.ones(10), np.ones(10))
    assert same == {"auroc": 0.5, "aupr": 0.5, "fpr95": 1.0}
    assert separation(np.arange(5.0) + 10, np.arange(5.0)) == {"auroc": 1.0, "aupr": 1.0, "fpr95": 0.0}


class Distances(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :3]


@pytest.mark.parametrize("name, config, head, width", [
    ("resnet20", {}, "fc", 64),
    ("vit_tiny_16", {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 1, "num_heads": 2}, "head", 24),
    ("mixer_base_16", {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 1}, "head", 24),
    ("squeezenet1_1", {}, "classifier.conv", 512)])
def test_the_head_is_found_and_gives_the_logits_from_the_features(name, config, head, width):
    model = create_model(name, num_classes=7, **config).eval()
    size = 64 if name == "squeezenet1_1" else 32
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    found = head_name(model, images)
    layer = model.get_submodule(found)
    features, logits = features_and_logits(model, images.split(2))
    assert before == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert features.shape == (3, width) and logits.shape == (3, 7), (found, features.shape)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(images), rtol=1e-4, atol=1e-5)
        if isinstance(layer, nn.Linear):
            torch.testing.assert_close(layer(features), logits, rtol=1e-4, atol=1e-5)


def test_a_model_without_a_linear_head_is_refused():
    with pytest.raises(UserError, match="no linear layer that gives its logits"):
        head_name(Distances(), torch.zeros(1, 1, 2, 2))


def test_each_stranger_keeps_what_it_promises():
    images = torch.rand(3, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    made = strangers(images, torch.Generator().manual_seed(1))
    for kind in ("shuffled pixels", "shuffled tiles"):
        assert not torch.equal(made[kind], images)
        for channel in range(2):  # the same pixels, in another order, colours kept together
            assert torch.equal(made[kind][:, channel].flatten(1).sort(1).values,
                               images[:, channel].flatten(1).sort(1).values)
        together = (images[:, 0] + 10 * images[:, 1]).flatten(1).sort(1).values
        torch.testing.assert_close((made[kind][:, 0] + 10 * made[kind][:, 1]).flatten(1).sort(1).values, together)
    tile = images[0, 0, 0:2, 0:2]
    moved = made["shuffled tiles"][0, 0, :8].unfold(0, 2, 2).unfold(1, 2, 2)
    assert (moved == tile).all((2, 3)).sum() == 1  # a tile stays whole
    torch.testing.assert_close(made["plain colour"], images.mean((2, 3), keepdim=True).expand_as(images))
    for one in made.values():
        assert one.shape == images.shape and one.min() >= 0 and one.max() <= 1
