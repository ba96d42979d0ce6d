"""Occlusion, RISE, LIME and Kernel SHAP on models whose answer is known: linear ones, products, games with two ears."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from visus.core.errors import UserError
from visus.explain import registry
from visus.explain.explanation import classes_asked
from visus.explain.kernel_shap import KernelShap, coalition_weights, coalitions, kernel_shap, shapley_weights
from visus.explain.lime import Lime, lime, random_samples, ridge_weights, superpixels
from visus.explain.masking import blurred, hidden, masked_scores
from visus.explain.occlusion import Occlusion, occlusion
from visus.explain.rise import RandomMasks, Rise, rise

SIZE = 16
METHODS = {"occlusion": Occlusion(window=5, stride=2, batch=7), "rise": Rise(masks=40, cells=4, batch=9),
           "lime": Lime(segments=8, samples=40, batch=9), "kernel_shap": KernelShap(segments=5, samples=40, batch=9)}


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Linear(nn.Module):
    """Logits are sums of pixels times weights [K, C, H, W]."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", images, self.weights)


@pytest.fixture
def linear() -> Linear:
    return Linear(noise(3, 2, SIZE, SIZE, dtype=torch.float64))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2),
                         nn.Dropout(0.5), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))


def squares(rows: int, columns: int, size: int = SIZE) -> Tensor:
    """[1, size, size]: a grid of segments."""
    y, x = torch.arange(size)[:, None] * rows // size, torch.arange(size) * columns // size
    return (y * columns + x)[None]


# -- occlusion -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window, stride", [(4, 4), (5, 2), (6, 6), (1, 1), (16, 3)])
@pytest.mark.parametrize("fill", ["grey", "mean", "blur"])
def test_occlusion_is_the_mean_fall_over_the_patches_that_cover_a_pixel(window, stride, fill):
    model, images = net().eval(), noise(2, 3, SIZE, SIZE - 2 if window < 16 else SIZE, seed=1)
    targets = torch.tensor([2, 0])
    height, width = images.shape[2:]
    fills, total, count = hidden(images, fill), torch.zeros(2, height, width), torch.zeros(height, width)
    with torch.no_grad():
        whole = model(images).softmax(1)[range(2), targets]
        for y in range(0, -(-(height - window) // stride) * stride + 1, stride):
            for x in range(0, -(-(width - window) // stride) * stride + 1, stride):
                covered = images.clone()
                covered[:, :, y:y + window, x:x + window] = fills[:, :, y:y + window, x:x + window]
                fall = whole - model(covered).softmax(1)[range(2), targets]
                total[:, y:y + window, x:x + window] += fall[:, None, None]
                count[y:y + window, x:x + window] += 1
    found = occlusion(model, images, targets, window=window, stride=stride, fill=fill, batch=7)
    torch.testing.assert_close(found, total / count, rtol=1e-4, atol=1e-6)


def test_occlusion_of_a_linear_model_is_weight_times_pixel_summed_over_the_patch(linear):
    images = noise(2, 2, SIZE, SIZE, seed=2, dtype=torch.float64)
    found = occlusion(linear, images, 1, window=4, stride=4, of="logit")
    part = (images * linear.weights[1]).sum(1).unflatten(1, (4, 4)).unflatten(3, (4, 4)).sum((2, 4))  # [2, 4, 4]
    torch.testing.assert_close(found, part.repeat_interleave(4, 1).repeat_interleave(4, 2))


def test_fills_are_zero_the_images_mean_and_the_image_out_of_focus():
    images = noise(2, 3, 12, 20)
    assert not hidden(images, "grey").any()
    torch.testing.assert_close(hidden(images, "mean"), images.mean((2, 3), keepdim=True).expand_as(images))
    flat = torch.full((1, 1, 9, 9), 0.7)
    torch.testing.assert_close(blurred(flat, 2.0), flat)
    dot = torch.zeros(1, 1, 21, 21)
    dot[..., 10, 10] = 1
    spread = blurred(dot, 2.0)[0, 0]
    assert float(spread.sum()) == pytest.approx(1) and not spread[:6].any()
    assert float(spread[10, 12] / spread[10, 10]) == pytest.approx(math.exp(-0.5), rel=1e-5)
    torch.testing.assert_close(spread, spread.T)


# -- RISE ----------------------------------------------------------------------------------------------------------


def test_masks_are_enlarged_grids_cut_out_at_a_shift():
    masks = RandomMasks(50, (SIZE, 21), cells=4, share=0.3, seed=5)
    whole = nn.functional.interpolate(masks.grids[:, None], (5 * 4, 5 * 6), mode="bilinear", align_corners=False)[:, 0]
    expected = torch.stack([one[y:y + SIZE, x:x + 21] for one, y, x in zip(whole, *masks.shifts, strict=True)])
    torch.testing.assert_close(masks(torch.arange(50)), expected)
    assert {int(shift) for shift in masks.shifts[0]} == set(range(4)) and int(masks.shifts[1].max()) == 5
    assert set(masks.grids.unique().tolist()) == {0.0, 1.0}


def test_the_mean_mask_lets_through_the_stated_share():
    masks = RandomMasks(4000, (24, 24), cells=6, share=0.3)
    mean = masks(torch.arange(4000)).mean(0)
    assert float((mean - 0.3).abs().max()) < 0.05 and float(mean.mean()) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("centred", [False, True])
def test_rise_is_equation_6(centred):
    model, images, targets = net().eval(), noise(2, 3, SIZE, SIZE, seed=3), torch.tensor([1, 3])
    masks = RandomMasks(30, (SIZE, SIZE), cells=4, share=0.4, seed=1)(torch.arange(30))
    with torch.no_grad():
        scores = torch.stack([model(image * masks[:, None]).softmax(1)[:, target]
                              for image, target in zip(images, targets, strict=True)])
    if centred:
        scores = scores - scores.mean(1, keepdim=True)
    expected = torch.einsum("bn,nhw->bhw", scores, masks) / (30 * 0.4)
    found = rise(model, images, targets, masks=30, cells=4, share=0.4, seed=1, centred=centred, batch=13)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_rise_finds_the_place_that_the_answer_hangs_on():
    weights = torch.zeros(2, 1, 32, 32)
    weights[1, 0, 4:8, 20:24] = 1.0
    model, images = Linear(weights), torch.ones(1, 1, 32, 32)
    for seed in range(3):
        found = rise(model, images, 1, masks=300, cells=8, seed=seed, of="logit")[0]
        y, x = divmod(int(found.argmax()), 32)
        assert 2 <= y < 10 and 18 <= x < 26, (y, x)


def test_centring_gives_the_same_map_from_fewer_masks():
    """Against the map of many masks, for a score with a large constant part."""
    weights = torch.zeros(2, 1, 16, 16)
    weights[1, 0, 3:6, 9:12] = 1.0
    model, images = Linear(weights), torch.ones(1, 1, 16, 16)
    model.forward = lambda images: Linear.forward(model, images) + 30.0
    truth = rise(model, images, 1, masks=20000, cells=4, of="logit", seed=99)[0]
    errors = {}
    for centred in (False, True):
        found = [rise(model, images, 1, masks=200, cells=4, of="logit", seed=seed, centred=centred)[0]
                 for seed in range(4)]
        errors[centred] = sum(float((one - one.mean() - truth + truth.mean()).norm()) for one in found)
    assert errors[True] < 0.5 * errors[False]


# -- LIME ----------------------------------------------------------------------------------------------------------


def test_lime_of_a_model_that_is_linear_in_its_segments_is_exact(linear):
    images, segments = noise(1, 2, SIZE, SIZE, seed=4, dtype=torch.float64), squares(3, 4)
    found = lime(linear, images, segments, 2, samples=80, ridge=0.0, of="logit")[0]
    effect = torch.zeros(12, dtype=torch.float64).index_add_(
        0, segments.flatten(), (images * linear.weights[2]).sum(1).flatten())
    torch.testing.assert_close(found, effect.detach()[segments[0]], rtol=1e-9, atol=1e-9)
    shrunk = lime(linear, images, segments, 2, samples=80, ridge=50.0, of="logit")[0]
    assert float(shrunk.norm()) < 0.5 * float(found.norm())


def test_ridge_weights_solve_the_normal_equations_with_a_free_intercept():
    inputs, outputs = noise(40, 5, dtype=torch.float64), noise(40, seed=1, dtype=torch.float64) + 3
    weights = noise(40, seed=2, dtype=torch.float64).abs()
    found = ridge_weights(inputs, outputs, weights, 0.7)
    design = torch.cat([inputs, torch.ones(40, 1, dtype=torch.float64)], dim=1)
    penalty = torch.diag(torch.tensor([0.7] * 5 + [0.0], dtype=torch.float64))
    expected = torch.linalg.solve(design.T @ (weights[:, None] * design) + penalty, design.T @ (weights * outputs))
    torch.testing.assert_close(found, expected[:5])


def test_samples_start_with_the_whole_image_and_hide_half_of_the_rest():
    kept = random_samples(2000, 11, seed=3)
    assert kept[0].all() and float(kept[1:].float().mean()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(kept, random_samples(2000, 11, seed=3))
    assert not torch.equal(kept, random_samples(2000, 11, seed=4))


# -- Kernel SHAP ---------------------------------------------------------------------------------------------------


def shapley_by_definition(game, count: int) -> list[float]:
    """The mean over all orders of what a player adds."""
    values = [0.0] * count
    for order in itertools.permutations(range(count)):
        seen: frozenset[int] = frozenset()
        for player in order:
            before = game(seen)
            seen = seen | {player}
            values[player] += (game(seen) - before) / math.factorial(count)
    return values


def test_kernel_shap_on_few_segments_is_the_shapley_value_by_its_definition():
    model, images, segments = net().eval(), noise(2, 3, SIZE, SIZE, seed=5), squares(2, 3).expand(2, -1, -1)
    targets = torch.tensor([0, 3])
    found = kernel_shap(model, images, segments, targets, samples=62)
    for number in range(2):
        @cache
        def game(seen: frozenset[int], number: int = number) -> float:
            keep = torch.isin(segments[number], torch.tensor(sorted(seen), dtype=torch.long))
            with torch.no_grad():
                return float(model(images[number:number + 1] * keep).softmax(1)[0, targets[number]])

        expected = torch.tensor(shapley_by_definition(game, 6))[segments[number]]
        torch.testing.assert_close(found[number], expected, rtol=1e-3, atol=2e-7)


@pytest.mark.parametrize("samples", [62, 20, 9])
def test_the_values_sum_to_the_score_of_the_image_less_that_of_the_hidden_one(samples):
    model, images, segments = net().eval(), noise(1, 3, SIZE, SIZE, seed=6), squares(2, 3)
    values = kernel_shap(model, images, segments, 1, samples=samples, fill="mean", of="logit")[0]
    once = torch.stack([values[segments[0] == label][0] for label in range(6)])
    with torch.no_grad():
        gain = (model(images) - model(hidden(images, "mean")))[0, 1]
    torch.testing.assert_close(once.sum(), gain, rtol=1e-5, atol=1e-6)


def test_the_kernel_of_sizes_is_that_of_theorem_2_and_draws_follow_it():
    kept = coalitions(5, 100)
    assert len(kept) == 2**5 and len({tuple(row.tolist()) for row in kept}) == 2**5
    weights = coalition_weights(kept[2:], 100)
    assert [float(weights[kept[2:].sum(1) == k][0]) for k in range(1, 5)] == pytest.approx(
        [4 / (5 * 1 * 4), 4 / (10 * 2 * 3), 4 / (10 * 3 * 2), 4 / (5 * 4 * 1)])
    drawn = coalitions(10, 900)[2:]
    assert len(drawn) == 900 and torch.equal(drawn[::2], ~drawn[1::2])
    shares = torch.tensor([1 / (k * (10 - k)) for k in range(1, 10)])
    found = drawn.sum(1).bincount(minlength=10)[1:10] / 900
    assert float((found - shares / shares.sum()).abs().max()) < 0.04


def test_drawn_coalitions_come_near_the_shapley_values_of_a_game_with_pairs():
    """v(S) = sum of weights + bonus of pairs: each player's value is its weight and half of its bonuses."""
    count = 12
    weights, pairs = noise(count, dtype=torch.float64), noise(count, count, seed=1, dtype=torch.float64).triu(1) * 0.3
    kept = coalitions(count, 800, seed=2)
    play = kept.double()
    scores = play @ weights + torch.einsum("ni,ij,nj->n", play, pairs, play)
    found = shapley_weights(kept[2:], scores[2:], coalition_weights(kept[2:], 800), scores[0], scores[1])
    expected = weights + 0.5 * (pairs.sum(0) + pairs.sum(1))
    assert float((found - expected).abs().max()) < 0.15
    assert float(found.sum()) == pytest.approx(float(expected.sum()))


def test_one_segment_takes_all():
    model, images = net().eval(), noise(1, 3, SIZE, SIZE, seed=7)
    with torch.no_grad():
        gain = (model(images) - model(torch.zeros_like(images)))[0, 2]
    found = kernel_shap(model, images, torch.zeros(1, SIZE, SIZE, dtype=torch.long), 2, of="logit")
    torch.testing.assert_close(found, gain.expand(1, SIZE, SIZE))


# -- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_an_image_is_explained_alike_alone_and_in_a_batch_and_the_model_is_left_as_it_was(name):
    model, images = net(), noise(3, 3, SIZE, SIZE, seed=8)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    method = METHODS[name]
    assert method.problem(model, images[:1]) is None
    found = method(model, images)
    assert found.heat is not None and found.heat.shape == (3, SIZE, SIZE) and not found.heat.requires_grad
    alone = torch.cat([method(model, images[number:number + 1]).heat for number in range(3)])
    torch.testing.assert_close(found.heat, alone, rtol=1e-4, atol=1e-6)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(one.grad is None and one.requires_grad for one in model.parameters())
    assert found.sentence.endswith(".") and name in registry.names()


@pytest.mark.parametrize("name", METHODS)
def test_the_class_asked_about_is_the_one_explained(name):
    model, images = net().eval(), noise(1, 3, SIZE, SIZE, seed=9)
    method = METHODS[name]
    own = int(classes_asked(model, images, None))
    maps = [replace(method, target=target)(model, images).heat for target in (None, own, (own + 1) % 4)]
    assert torch.equal(maps[0], maps[1]) and not torch.allclose(maps[0], maps[2])
    with pytest.raises(UserError, match="classes 0 to 3"):
        replace(method, target=4)(model, images)


@pytest.mark.parametrize("build, words", [
    (lambda: Occlusion(window=0), "window=0"), (lambda: Occlusion(fill="red"), "grey, mean, blur"),
    (lambda: Occlusion(of="loss"), "probability, logit"), (lambda: Rise(share=1.0), "share=1.0"),
    (lambda: Rise(centred=1), "true or false"), (lambda: Rise(seed=-1), "seed=-1"), (lambda: Lime(ridge=-1), "ridge"),
    (lambda: Lime(width=0), "width=0"), (lambda: Lime(batch=0), "batch=0"),
    (lambda: KernelShap(segments=50, samples=40), "at least segments=50"),
    (lambda: Occlusion(window=17).problem(net(), torch.zeros(1, 3, 16, 16)), "side of 16 pixels"),
    (lambda: Occlusion(window=4, stride=5).problem(net(), torch.zeros(1, 3, 16, 16)), "window=4"),
])
def test_wrong_options_are_refused_with_the_range(build, words):
    with pytest.raises(UserError, match=words):
        build()


def test_a_single_output_has_no_probability_to_explain():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))
    for method in (Occlusion(window=2), Rise(), Lime(segments=4), KernelShap(segments=4)):
        assert "take of=logit" in (method.problem(model, torch.zeros(1, 3, 4, 4)) or "")
    assert Occlusion(window=2, of="logit").problem(model, torch.zeros(1, 3, 4, 4)) is None


def test_batches_of_any_size_give_the_same_scores_and_are_never_larger():
    seen: list[int] = []

    class Counting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(len(images))
            return images.flatten(1)[:, :4]

    images, fills = noise(3, 1, 4, 4), torch.zeros(3, 1, 4, 4)
    masks = noise(5, 4, 4, seed=1) > 0
    found = [masked_scores(Counting(), images, torch.tensor([0, 1, 2]), fills, lambda n: masks[n], 5, of="logit",
                           batch=batch) for batch in (1, 4, 100)]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    assert seen == [1] * 15 + [4, 4, 4, 3] + [15]


def test_superpixels_follow_the_colours_of_the_pixels():
    pixels = torch.zeros(1, 3, 24, 24)
    pixels[:, 0, :, 12:] = 1.0
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.2)
    images = (pixels - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    for scale in ((mean, std), (None, None)):
        found = superpixels(images, 8, *scale)[0]
        assert set(found[:, :12].unique().tolist()).isdisjoint(found[:, 12:].unique().tolist())
