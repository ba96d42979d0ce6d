"""Design spaces against the paper's counts, the definition of their measures, and the networks that they stand for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from visus.core.errors import UserError
from visus.core.summary import summarise
from visus.models import registry
from visus.search import design_space
from visus.search.design_space import (
    BOTTLENECKS,
    GROUP_WIDTHS,
    SPACES,
    AnyNetSpace,
    Stages,
    best_range,
    compare_spaces,
    compatible,
    count_macs,
    distance,
    edf,
    edf_band,
    fit_line,
    quantised_line,
    sample,
)
from visus.search.trials import TrialLog


def on_meta(stages: Stages, size: int, **config) -> int:
    entry = registry.get("anynet")
    with torch.device("meta"):
        model = entry.build(entry.build.Config(**{**entry.variant, **stages.config(), **config}))
    return summarise(model, (1, model.config.in_channels, size, size)).macs


@pytest.mark.parametrize(("name", "points", "shown", "dimensions"), [  # Table 1
    ("anynetx_a", (16 * 128 * 3 * 6) ** 4, 1.8e18, 16),
    ("anynetx_b", (16 * 128 * 6) ** 4 * 3, 6.8e16, 13),
    ("anynetx_c", (16 * 128) ** 4 * 3 * 6, 3.2e14, 10),
    ("anynetx_d", (16 * 128) ** 4 * 3 * 6 / 24, 1.3e13, 10),
    ("anynetx_e", (16 * 128) ** 4 * 3 * 6 / 24**2, 5.5e11, 10),
    ("regnet", 64**4 * 6 * 3, 3.0e8, 6)])
def test_spaces_are_as_large_as_the_paper_says(name, points, shown, dimensions):
    space = SPACES[name]
    assert space.size == pytest.approx(points, rel=1e-12) == pytest.approx(shown, rel=0.03)
    assert space.num_dimensions == dimensions


def test_each_restriction_divides_the_space_by_its_factor():
    sizes = [SPACES[f"anynetx_{letter}"].size for letter in "abcde"]
    assert [a / b for a, b in itertools.pairwise(sizes)] == pytest.approx([3**3, 6**3, math.factorial(4),
                                                                           math.factorial(4)], rel=1e-12)


def test_the_counts_are_those_of_the_points():
    """Every point of two small spaces, counted one by one; an order of four keeps C(n + 3, 4) of n^4 with ties."""
    small = {"max_depth": 2, "max_width": 16, "share_bottleneck": True, "share_group": True}
    free, rising = AnyNetSpace(name="c", **small), AnyNetSpace(name="d", **small, widths_rise=True)
    points = [Stages(d, w, (b,) * 4, (g,) * 4) for d in itertools.product((1, 2), repeat=4)
              for w in itertools.product((8, 16), repeat=4) for b in BOTTLENECKS for g in GROUP_WIDTHS]
    assert sum(p in free for p in points) == len(points) == free.size == 4608
    assert sum(p in rising for p in points) == 16 * math.comb(5, 4) * 18
    assert Stages((1, 1, 1, 1), (8, 8, 8, 8), (1, 2, 1, 1), (1, 1, 1, 1)) not in free
    assert Stages((1, 1, 3, 1), (8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1, 1)) not in free


@pytest.mark.parametrize("name", [n for n in SPACES if n != "regnet"])
def test_samples_lie_in_their_space_and_depend_on_seed_and_number_alone(name):
    space = SPACES[name]
    found = sample(space, 40, 3)
    assert all(stages in space for stages in found) and len(set(found)) > 35
    assert sample(space, 4, 3) == found[:4] and sample(space, 4, 4) != found[:4]


def test_samples_of_a_wider_space_break_the_narrower_ones_rules():
    for wide, narrow in itertools.pairwise("abcde"):
        assert any(s not in SPACES[f"anynetx_{narrow}"] for s in sample(SPACES[f"anynetx_{wide}"], 40, 0))


def test_depths_and_widths_are_log_uniform():
    """P(v) = (1 / v) / sum(1 / v): each frequency within four standard deviations."""
    found = sample(SPACES["anynetx_a"], 2500, 0)
    for values, step, count in (([d for s in found for d in s.depths], 1, 16),
                                ([w for s in found for w in s.widths], 8, 128)):
        support = step * np.arange(1, count + 1)
        expected = (1 / support) / (1 / support).sum()
        seen = np.array([values.count(v) for v in support]) / len(values)
        assert (np.abs(seen - expected) < 4 * np.sqrt(expected / len(values)) + 1e-9).all()


def test_an_order_keeps_the_rest_of_the_distribution():
    """Depths in {1, 2} with P = (2/3, 1/3), kept where they never fall: (1, 1, 1, 1) has 16 / 31 of them."""
    space = AnyNetSpace(name="e", max_depth=2, depths_rise=True)
    share = np.mean([s.depths == (1, 1, 1, 1) for s in sample(space, 2000, 0)])
    assert abs(share - 16 / 31) < 4 * (0.25 / 2000) ** 0.5


def test_a_width_goes_to_the_nearest_that_its_groups_divide():
    stages = Stages((1, 1, 1, 1), (24, 24, 8, 40), (1, 2, 4, 4), (16, 8, 32, 4))
    assert compatible(stages) == Stages((1, 1, 1, 1), (32, 32, 8, 48), (1, 2, 4, 4), (16, 8, 2, 4))
    for name in SPACES:
        for found in sample(SPACES[name], 30, 1):
            registry.get("anynet").build.Config(**found.config())  # refuses what does not divide


@pytest.mark.parametrize(("size", "shape"), [(224, {}), (32, {"stem_stride": 1, "strides": (1, 2, 2, 2)}), (9, {})])
def test_counted_macs_equal_those_of_the_network_on_the_meta_device(size, shape):
    for number, space in enumerate((AnyNetSpace(name="a", max_depth=2), SPACES["regnet"])):
        stages = sample(space, 1, number, cost=lambda s: sum(s.depths), high=16)[0]
        assert count_macs(stages, size, **shape) == on_meta(stages, size, **shape)


def test_a_regnet_costs_what_the_passport_says():
    regnet = Stages((1, 2, 7, 12), (32, 64, 160, 400), (1,) * 4, (16,) * 4)
    assert count_macs(regnet) == 413_812_608 and compatible(regnet) == regnet


def test_samples_of_a_cost_regime_have_that_cost():
    """The paper's 360 to 400 million multiply-accumulates; one is built on the meta device to see."""
    found = sample(SPACES["anynetx_a"], 6, 0, low=360e6, high=400e6)
    assert all(360e6 <= count_macs(stages) <= 400e6 for stages in found)
    shortest = min(found, key=lambda stages: sum(stages.depths))
    assert 360e6 <= on_meta(shortest, 224) <= 400e6


def test_a_regime_that_a_space_does_not_hold_is_refused(monkeypatch):
    monkeypatch.setattr(design_space, "MAX_DRAWS", 20)
    with pytest.raises(UserError, match="anynetx_e: holds no network that costs 1 to 2"):
        sample(SPACES["anynetx_e"], 1, 0, low=1, high=2)


def test_edf_is_the_share_of_smaller_errors():
    """Equation 1, which counts e_i < e strictly."""
    assert edf([0.4, 0.1, 0.2, 0.2], [0.1, 0.2, 0.3, 0.4, 0.5]).tolist() == [0, 0.25, 0.75, 0.75, 1]
    errors, grid = np.random.default_rng(0).random(50), (np.arange(20000) + 0.5) / 20000
    assert (1 - edf(errors, grid)).mean() == pytest.approx(errors.mean(), abs=1e-4)  # the area above F is the mean


def test_the_band_is_that_of_a_binomial():
    """F(e) of a resampled set of n models is Binomial(n, F(e)) / n."""
    stats = pytest.importorskip("scipy.stats")
    errors, at = np.arange(40) / 40, [0.1, 0.25, 0.5, 0.9]
    low, high = edf_band(errors, at, seed=0, draws=4000)
    exact = [stats.binom.ppf(q, 40, edf(errors, at)) / 40 for q in (0.025, 0.975)]
    assert np.abs(low - exact[0]).max() <= 1.5 / 40 and np.abs(high - exact[1]).max() <= 1.5 / 40


def test_distance_equals_scipys():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(1)
    a, b = generator.random(30), generator.random(45).round(1)
    assert distance(a, b) == pytest.approx(stats.ks_2samp(a, b).statistic, abs=1e-12)
    assert distance(a, a) == 0


def test_the_best_value_lies_where_the_draws_put_it():
    """With errors in the order of the values, the best of k of n draws is at most the r-th with probability
    1 - (1 - r / n)^k."""
    count, taken = 200, 50
    low, median, high = best_range(np.arange(1, count + 1), np.arange(count), seed=0)
    ranks = {q: count * (1 - (1 - q) ** (1 / taken)) for q in (0.025, 0.5, 0.975)}
    assert low == 1 and abs(median - ranks[0.5]) <= 1 and abs(high - ranks[0.975]) <= 2


def test_the_line_of_a_regnet_is_found_and_a_zigzag_has_none():
    line = quantised_line(20, 24, 20, 2.5)
    widths, depths = np.unique(line, return_counts=True)
    regnet = fit_line(Stages(tuple(depths), tuple(widths), (1,) * 4, (1,) * 4))
    assert len(widths) == 4 and regnet.error < 0.01
    zigzag = fit_line(Stages((4, 4, 4, 4), (512, 32, 512, 32), (1,) * 4, (1,) * 4))
    assert zigzag.error == pytest.approx(math.log(16) / 2, rel=0.05)  # the best line is level


def fake_error(config, seed) -> float:
    """The more the widths fall, the worse: what D forbids."""
    falls = sum(max(0, a - b) / a for a, b in itertools.pairwise(config["widths"]))
    return 0.2 + 0.1 * falls


def test_spaces_are_told_apart_and_a_stopped_comparison_goes_on(tmp_path):
    spaces = [SPACES["anynetx_c"], SPACES["anynetx_d"]]
    calls: list[str] = []

    def score(config, seed):
        calls.append("trained")
        return fake_error(config, seed)

    log = TrialLog(tmp_path / "log.jsonl")
    first = compare_spaces(spaces, score, 8, seed=0, log=log)
    again = compare_spaces(spaces, score, 20, seed=0, log=TrialLog(tmp_path / "log.jsonl"))
    assert len(calls) == 40 and first[0].errors == again[0].errors[:8]  # 16, then 24 more
    wide, narrow = again
    assert narrow.space == "anynetx_d" and max(narrow.errors) < 0.21 and np.mean(wide.errors) > 0.24
    assert edf(narrow.errors, [0.21]) == 1 and distance(wide.errors, narrow.errors) > 0.5
