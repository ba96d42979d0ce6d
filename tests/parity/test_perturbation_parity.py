"""Occlusion, LIME and Kernel SHAP against captum: same model, images, segments and samples."""

from __future__ import annotations

import importlib
import itertools
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.explain.test_perturbation import SIZE, net, noise, squares
from tools.peers import load_peer
from visus.explain.kernel_shap import coalition_weights, coalitions, kernel_shap, shapley_weights
from visus.explain.lime import lime, random_samples
from visus.explain.masking import Fill, class_scores, hidden, masked_scores
from visus.explain.occlusion import occlusion

TARGETS = torch.tensor([2, 0])


def captum(name: str) -> Any:
    """A module of captum.attr, or a skip that says why there is none."""
    try:
        load_peer("captum")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(str(error))


def pair() -> tuple[nn.Module, nn.Module, Tensor]:
    """A model of logits, the same with a softmax, two images."""
    model = net().double().eval()
    return model, nn.Sequential(model, nn.Softmax(1)), noise(2, 3, SIZE, SIZE + 3, seed=1, dtype=torch.float64)


@pytest.mark.parametrize("window, stride", [(4, 4), (5, 2), (7, 3)])
@pytest.mark.parametrize("fill", ["grey", "mean", "blur"])
def test_occlusion_is_captums(window: int, stride: int, fill: Fill):
    model, probability, images = pair()
    theirs = captum("captum.attr").Occlusion(probability).attribute(
        images, sliding_window_shapes=(3, window, window), strides=(3, stride, stride), target=TARGETS,
        baselines=hidden(images, fill).contiguous(), perturbations_per_eval=9)
    ours = occlusion(model, images, TARGETS, window=window, stride=stride, fill=fill, batch=11)
    torch.testing.assert_close(ours, theirs[:, 0].double(), rtol=1e-5, atol=1e-7)  # theirs sums in float32


def test_scores_with_one_segment_hidden_are_those_of_captums_feature_ablation():
    model, _, images = pair()
    segments = torch.arange(12).view(3, 4).repeat_interleave(6, 0)[:SIZE].repeat_interleave(5, 1)[:, :SIZE + 3]
    theirs = captum("captum.attr").FeatureAblation(model).attribute(
        images, target=TARGETS, feature_mask=segments[None, None], perturbations_per_eval=5)
    scores = masked_scores(model, images, TARGETS, hidden(images, "grey"), lambda n: segments != n.view(-1, 1, 1), 12,
                           of="logit")
    with torch.no_grad():
        fall = class_scores(model(images), TARGETS, "logit")[:, None] - scores
    torch.testing.assert_close(fall[:, segments], theirs[:, 0].double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("ridge, samples, width", [(1.0, 60, 0.25), (0.1, 200, 0.6)])
def test_lime_on_the_same_samples_has_captums_weights(ridge, samples, width):
    attr, linear = captum("captum.attr"), captum("captum._utils.models.linear_model")
    model, probability, images = pair()
    segments = torch.cat([squares(3, 4, SIZE), squares(3, 4, SIZE)[:, :, :3] + 3], dim=2)
    rows = iter(random_samples(samples, int(segments.max()) + 1, seed=4).long())

    def nearness(original: Tensor, perturbed: Tensor, row: Tensor, **options: Any) -> Tensor:
        shown = row.double().mean()
        return torch.exp(-((1 - shown.sqrt()) / width) ** 2)[None]

    peer = attr.Lime(probability, interpretable_model=linear.SkLearnRidge(alpha=ridge), similarity_func=nearness,
                     perturb_func=lambda original, **options: next(rows)[None])
    theirs = peer.attribute(images[:1], target=int(TARGETS[0]), feature_mask=segments[:, None], n_samples=samples,
                            perturbations_per_eval=7)
    ours = lime(model, images[:1], segments, TARGETS[:1], samples=samples, ridge=ridge, width=width, seed=4)
    torch.testing.assert_close(ours, theirs[:, 0].double(), rtol=1e-3, atol=1e-6)  # theirs fits in float32


def test_kernel_shap_over_all_coalitions_is_captums_exact_shapley_value():
    model, probability, images = pair()
    segments = squares(1, 5, SIZE + 3)[:, :SIZE].expand(2, -1, -1)
    theirs = captum("captum.attr").ShapleyValues(probability).attribute(
        images, target=TARGETS, feature_mask=segments[:1, None], perturbations_per_eval=6)
    ours = kernel_shap(model, images, segments, TARGETS, samples=30)
    torch.testing.assert_close(ours, theirs[:, 0].double(), rtol=1e-5, atol=1e-8)


def test_kernel_shap_on_the_same_draws_has_captums_weights():
    """Theirs weighs the two ends a million times; ours makes them constraints."""
    attr = captum("captum.attr")
    model, probability, images = pair()
    segments = squares(2, 4, SIZE + 3)[:, :SIZE]
    drawn = coalitions(8, 200, seed=3)
    rows = itertools.chain(drawn.long()[:, None])
    peer = attr.KernelShap(probability)
    peer.perturb_func = lambda original, **options: next(rows)
    theirs = peer.attribute(images[:1], target=2, feature_mask=segments[:, None], n_samples=len(drawn),
                            perturbations_per_eval=10)
    ours = kernel_shap(model, images[:1], segments, 2, samples=200, seed=3)
    torch.testing.assert_close(ours, theirs[:, 0].double(), rtol=2e-3, atol=2e-5)
    assert float(coalition_weights(drawn[2:], 200).sum()) == 200
    weights = coalition_weights(drawn[2:], 200)
    values = shapley_weights(drawn[2:], torch.zeros(200), weights, torch.tensor(0.0), torch.tensor(1.0))
    assert float(values.sum()) == pytest.approx(1)
