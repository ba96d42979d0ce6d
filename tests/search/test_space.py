"""Spaces: how ranges are written, drawn, laid out, and how a finer stage follows from the best trial."""

from __future__ import annotations

import math

import numpy as np
import pytest

from visus.core.errors import RecipeError
from visus.search.space import Dimension, draw, encode, from_dict, grid, parse_dimension, spread
from visus.search.stages import edges, open_edges, refine

LR = Dimension("optimizer.lr", "log", 1e-5, 1e-1)
NAME = Dimension("optimizer.name", "choice", choices=("sgd", "adamw", "lamb"))


@pytest.mark.parametrize(("text", "kind", "ends"), [
    ("log:1e-4..1e-1", "log", (1e-4, 1e-1)), ("uniform:0..0.5", "uniform", (0, 0.5)), ("0..0.5", "uniform", (0, 0.5)),
    ("int:1..8", "int", (1, 8)), ("logint:16..256", "logint", (16, 256)), ({"log": [1e-4, 0.1]}, "log", (1e-4, 0.1))])
def test_a_range_is_read_as_it_is_written(text, kind, ends):
    d = parse_dimension("a.b", text)
    assert (d.kind, d.low, d.high) == (kind, *ends)
    assert parse_dimension("a.b", d.text()) == d and from_dict(d.to_dict()) == d


@pytest.mark.parametrize(("text", "choices"), [
    ("sgd,adamw", ("sgd", "adamw")), ("32,64,1e-3", (32, 64, 1e-3)), ("true,false", (True, False)),
    ("[[0, 1], []]", ([0, 1], [])), ("[1e-9, b]", (1e-9, "b")),
    ("choice:a..b,c", ("a..b", "c")), ([1, "x"], (1, "x")), ("sgd", ("sgd",))])
def test_choices_are_read_as_yaml(text, choices):
    assert parse_dimension("a.b", text).choices == choices


@pytest.mark.parametrize(("text", "said"), [
    ("log:0..1", "begins above 0"), ("log:1e-1..1e-4", "empty"), ("int:0.5..3", "whole"), ("log:a..b", "not a number"),
    ("lag:1..2", "no kind"), ("log:1", "not a range"), ("sgd,sgd", "different"), ({"log": 3}, "low, high"),
    ({"lug": [1, 2]}, "none of"), ("uniform:0..inf", "empty")])
def test_a_wrong_range_is_refused_by_name(text, said):
    with pytest.raises(RecipeError, match=said) as error:
        parse_dimension("a.b", text)
    assert "a.b=" in str(error.value)


def test_units_and_values_are_each_others_inverse():
    for d in (LR, Dimension("u", "uniform", -2, 3), Dimension("i", "int", 1, 8), Dimension("l", "logint", 16, 256)):
        for unit in np.linspace(0.01, 0.99, 23):
            value = d.value(float(unit))
            assert d.low <= value <= d.high
            if not d.is_whole:
                assert d.unit(value) == pytest.approx(unit)
            else:
                assert d.value(d.unit(value)) == value and isinstance(value, int)


def test_chance_is_even_on_the_scale_of_each_dimension():
    rng = np.random.default_rng(0)
    space = [LR, Dimension("n", "int", 1, 4), NAME]
    drawn = [draw(space, rng) for _ in range(4000)]
    decades = np.bincount([int(math.log10(row["optimizer.lr"]) + 5) for row in drawn], minlength=4)
    for counts in (decades, np.bincount([row["n"] for row in drawn])[1:],
                   [sum(row["optimizer.name"] == label for row in drawn) for label in NAME.labels]):
        expected = 4000 / len(counts)
        assert np.abs(np.asarray(counts) - expected).max() < 5 * math.sqrt(expected)  # five standard deviations


def test_a_grid_has_every_combination_from_end_to_end():
    rows = grid([LR, NAME, Dimension("n", "int", 1, 2)], points=3)
    assert len(rows) == 3 * 3 * 2 and len({tuple(row.values()) for row in rows}) == 18
    assert sorted({row["optimizer.lr"] for row in rows}) == pytest.approx([1e-5, 1e-3, 1e-1])


def test_the_even_sequence_fills_a_space_better_than_chance():
    """Worst gap: the largest distance of a point of the square to its nearest member, less than for chance."""
    space = [Dimension("x", "uniform"), Dimension("y", "uniform")]

    def worst(points: list) -> float:
        given = np.array([[p["x"], p["y"]] for p in points])
        at = np.stack(np.meshgrid(*[np.linspace(0, 1, 21)] * 2), -1).reshape(-1, 1, 2)
        return float(np.sqrt(((at - given) ** 2).sum(-1)).min(1).max())

    even = [worst([spread(space, k, seed) for k in range(16)]) for seed in range(8)]
    chance = [worst([draw(space, np.random.default_rng((seed, k))) for k in range(16)]) for seed in range(8)]
    assert np.mean(even) < 0.8 * np.mean(chance)
    assert spread(space, 3, 1) == spread(space, 3, 1) != spread(space, 3, 2)


def test_two_different_choices_are_one_length_apart():
    a, b = encode([NAME], {"optimizer.name": "sgd"}), encode([NAME], {"optimizer.name": "lamb"})
    assert np.linalg.norm(a - b) == pytest.approx(1.0)


@pytest.mark.parametrize(("value", "side"), [(2e-5, "low"), (5e-2, "high"), (1e-3, None), (2.6e-5, None)])
def test_the_edge_is_the_outer_tenth_by_the_logarithm(value, side):
    """1e-5 to 1e-1 has four decades: the lower edge ends at 10^-4.6 = 2.5e-5, the upper begins at 10^-1.4 = 4e-2."""
    found = edges([LR, NAME], {"optimizer.lr": value, "optimizer.name": "sgd"})
    assert [e.side for e in found] == ([] if side is None else [side])
    assert all("better values may lie beyond" in e.sentence for e in found)


def test_nothing_lies_below_zero():
    space = [Dimension("dropout", "uniform", 0, 0.5)]
    assert edges(space, {"dropout": 0.0}) == [] and [e.side for e in edges(space, {"dropout": 0.49})] == ["high"]
    assert refine(space, {"dropout": 0.01}, {})[0].low == 0.0


def test_a_finer_stage_has_a_third_of_the_range_around_the_best():
    fine = refine([LR], {"optimizer.lr": 1e-3}, {})[0]
    assert math.log10(fine.high / fine.low) == pytest.approx(4 / 3, rel=1e-3)
    assert math.sqrt(fine.low * fine.high) == pytest.approx(1e-3, rel=1e-3)


def test_at_an_edge_the_range_moves_on_instead():
    fine = refine([LR], {"optimizer.lr": 6e-2}, {})[0]
    assert fine.high == pytest.approx(10.0, rel=1e-3)  # two of the four decades beyond 1e-1
    assert fine.low < 6e-2 < fine.high
    low = refine([LR], {"optimizer.lr": 1.2e-5}, {})[0]
    assert low.low == pytest.approx(1e-7, rel=1e-3) and low.high > 1.2e-5


def test_an_edge_inside_of_what_was_searched_before_is_none():
    fine = Dimension("optimizer.lr", "log", 1e-3, 1e-1)
    assert [e.side for e in open_edges([[LR], [fine]], {"optimizer.lr": 9e-2})] == ["high"]  # no stage went on there
    assert open_edges([[LR], [fine]], {"optimizer.lr": 1.1e-3}) == []
    assert [e.side for e in open_edges([[fine]], {"optimizer.lr": 1.1e-3})] == ["low"]


def test_choices_that_were_never_good_are_dropped():
    assert refine([NAME], {"optimizer.name": "sgd"}, {"optimizer.name": ["lamb", "sgd"]})[0].labels == ("sgd", "lamb")
