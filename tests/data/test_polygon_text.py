"""Polygons read from text, beside the JSON parser of the standard library."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from visus.data.reading.polygon_text import parse_polygons


def number(draw: random.Random) -> str:
    return draw.choice([
        lambda: str(draw.randrange(10)), lambda: repr(round(draw.uniform(0, 700), 2)),
        lambda: repr(draw.uniform(-700, 700)), lambda: str(draw.randrange(10**draw.randrange(1, 22))),
        lambda: repr(round(draw.uniform(-10, 700), draw.randrange(8))), lambda: "-0.0",
        lambda: "0." + str(draw.randrange(10**9)).zfill(draw.randrange(1, 20)),
        lambda: f"{draw.uniform(0, 1e5):.{draw.randrange(1, 12)}f}"])()


def texts(draw: random.Random) -> list[str]:
    comma = draw.choice([",", ", "])
    return ["[" + comma.join("[" + comma.join(number(draw) for _ in range(draw.randrange(1, 7))) + "]"
                             for _ in range(draw.randrange(1, 3))) + "]" for _ in range(draw.randrange(1, 5))]


def by_json(groups: list[str]) -> list[list[list[float]]] | None:
    try:
        found = [json.loads(group, parse_int=float) for group in groups]
    except ValueError:
        return None
    fits = all(type(group) is list and group and all(
        type(ring) is list and ring and all(type(v) is float for v in ring) for ring in group) for group in found)
    return found if fits else None


def assert_equal(groups: list[str], expected: list[list[list[float]]]) -> bool:
    shapes = parse_polygons(groups)
    if shapes is None:
        return False
    assert shapes.rings.tolist() == [len(group) for group in expected]
    assert shapes.lengths.tolist() == [len(ring) for group in expected for ring in group]
    numbers = np.array([v for group in expected for ring in group for v in ring])
    assert shapes.numbers.tobytes() == numbers.tobytes(), groups
    return True


def test_numbers_have_the_bits_that_float_gives():
    draw = random.Random(0)
    for _ in range(400):
        groups = texts(draw)
        assert assert_equal(groups, by_json(groups)), groups


def test_what_json_refuses_is_never_taken():
    draw = random.Random(1)
    taken = 0
    for _ in range(3000):
        groups = texts(draw)
        at = draw.randrange(len(groups))
        letters = list(groups[at])
        for _ in range(draw.randrange(1, 3)):
            place = draw.randrange(len(letters))
            letters[place:place + draw.randrange(2)] = draw.choice("0123456789.-[], e+\n\t")
        groups[at] = "".join(letters)
        expected = by_json(groups)
        if expected is None:
            assert parse_polygons(groups) is None, groups
        else:
            taken += assert_equal(groups, expected)
    assert taken > 300, "the plain ones are taken"


@pytest.mark.parametrize("text", ["", "[]", "[[]]", "[[1,2],[]]", "[1,2]", "[[1e3]]", "[[+1]]", "[[01]]", "[[1.]]",
                                  "[[.5]]", "[[1 2]]", "[[1]],[[2]]", "[[\u00e9]]", "[[1,2]]]", "[[-]]", "[[1..2]]"])
def test_other_texts_are_left_to_the_parser(text):
    assert parse_polygons([text]) is None
