"""Smoothing's bound and radius where they are known in closed form; input transforms; the signs of masking."""

from __future__ import annotations

import math

import pytest
import torch

from tests.attack.small import right_answers, small_net
from visus.attack.input_transforms import BitDepth, Jpeg, ResizePad, TotalVariation, Transformed
from visus.attack.masking import masking_report
from visus.attack.pgd import PGD
from visus.attack.smoothing import ABSTAIN, Smoothed, incomplete_beta, lower_bound, two_sided
from visus.core.errors import UserError


def half_space(images: torch.Tensor) -> torch.Tensor:
    """Class 1 where the first pixel is above 1/2."""
    first = images[:, 0, 0, 0] - 0.5
    return torch.stack([-first, first], 1)


def test_the_bound_of_all_hits_is_alpha_to_the_1_over_n():
    hits = torch.tensor([100, 0])
    found = lower_bound(hits, 100, 0.01)
    assert found[0] == pytest.approx(0.01 ** (1 / 100), rel=1e-12) and found[1] == 0


def test_the_bound_is_where_the_binomial_tail_is_alpha():
    n, k, alpha = 30, 22, 0.05
    p = float(lower_bound(torch.tensor([k]), n, alpha)[0])
    tail = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))
    assert tail == pytest.approx(alpha, rel=1e-9)


def test_a_fair_coin_s_test_is_the_sum_of_both_tails():
    found = float(two_sided(torch.tensor([9]), torch.tensor([1]))[0])
    assert found == pytest.approx(2 * (math.comb(10, 9) + 1) / 2**10)
    assert float(two_sided(torch.tensor([5]), torch.tensor([5]))[0]) == 1


def test_incomplete_beta_of_one_and_one_is_x():
    x = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(incomplete_beta(torch.ones(11).double(), torch.ones(11).double(), x), x)


def test_the_certificate_of_a_half_space_is_just_below_its_distance():
    """The share of the right side under noise is Phi(distance / sigma): from it the radius would be the distance."""
    images = torch.full((3, 1, 2, 2), 0.5)
    images[:, 0, 0, 0] = torch.tensor([0.9, 0.2, 0.5])
    smoothed = Smoothed(classifier=half_space, sigma=0.25, num_classes=2)
    found = smoothed.certify(images, samples=20_000)
    assert found.classes[:2].tolist() == [1, 0] and found.classes[2] == ABSTAIN and found.radii[2] == 0
    for radius, distance in ((found.radii[0], 0.4), (found.radii[1], 0.3)):
        assert 0.93 * distance < float(radius) <= distance
    assert smoothed.predict(images, samples=500).tolist() == [1, 0, ABSTAIN]


def test_more_draws_certify_more():
    images = torch.full((1, 1, 2, 2), 1.0)
    smoothed = Smoothed(classifier=lambda x: half_space(x + 9), sigma=0.5, num_classes=2)
    radii = [float(smoothed.certify(images, samples=n).radii[0]) for n in (100, 1000, 10_000)]
    assert radii[0] < radii[1] < radii[2]
    # all draws agree: sigma Phi^-1(alpha^(1/n))
    assert radii[1] == pytest.approx(0.5 * float(torch.special.ndtri(torch.tensor(0.001).double() ** 0.001)), rel=1e-6)


def test_wrong_numbers_are_refused():
    with pytest.raises(UserError, match="sigma"):
        Smoothed(classifier=half_space, sigma=0, num_classes=2)
    with pytest.raises(UserError, match="alpha"):
        Smoothed(classifier=half_space, sigma=1, num_classes=2).certify(torch.zeros(1, 1, 2, 2), alpha=1.0)


# -- input transforms ----------------------------------------------------------------------------------------------


def test_bit_depth_leaves_so_many_values_and_jpeg_more_error_at_less_quality():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert len(BitDepth(bits=2)(images).unique()) == 4
    assert (Jpeg(quality=20)(images) - images).abs().mean() > (Jpeg(quality=90)(images) - images).abs().mean()


def test_total_variation_falls_and_a_flat_image_stays():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def variation(x):
        return float(x.diff(dim=2).abs().sum() + x.diff(dim=3).abs().sum())

    weak, strong = TotalVariation(weight=0.05)(images), TotalVariation(weight=0.3)(images)
    assert variation(strong) < variation(weak) < variation(images)
    flat = torch.full((1, 1, 8, 8), 0.4)
    torch.testing.assert_close(TotalVariation()(flat), flat)


def test_resize_and_pad_draws_anew_and_keeps_the_size():
    images = torch.ones(2, 3, 20, 20)
    change = ResizePad(0.5, torch.Generator().manual_seed(0))
    first, second = change(images), change(images)
    assert first.shape == images.shape and not torch.equal(first, second) and first.sum() < images.sum()


def test_rounding_stops_an_attack_that_the_straight_gradient_does_not():
    """The warning in one example: with its own gradient, zero, the defence looks perfect; it is not."""
    images, labels = right_answers(16)
    hidden = Transformed(classifier=small_net(), transform=BitDepth(bits=4), straight_through=False)
    open_ = Transformed(classifier=small_net(), transform=BitDepth(bits=4))
    attack = PGD(eps=0.1, random_start=False)
    assert attack(hidden, images, labels).success.float().mean() < 0.3
    assert attack(open_, images, labels).success.float().mean() > 0.8


# -- signs of masking ----------------------------------------------------------------------------------------------


def test_a_plain_net_shows_no_sign_and_stronger_attacks_are_stronger():
    images, labels = right_answers(24)
    found = masking_report(small_net(), images, labels, 0.05, steps=10, queries=100, random_tries=20)
    assert not found.findings and found.images == 24
    assert found.success["one step"] <= found.success["10 steps"] + 1e-9 and found.success["unbounded"] == 1
    assert found.success["random search"] <= found.success["50 steps"]


def test_a_net_behind_rounding_is_caught():
    images, labels = right_answers(24)
    hidden = Transformed(classifier=small_net(), transform=BitDepth(bits=4), straight_through=False)
    found = masking_report(hidden, images, labels, 0.1, steps=10, queries=100, random_tries=20)
    titles = " ".join(finding.title for finding in found.findings)
    assert "without bounds" in titles and "exactly zero" in titles and "without gradients" in titles
