"""What is said of answers that no typical mistake of a lab explains, and answers that agree with other libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from visus.labs import NotWritten, shelf
from visus.labs.checks import features
from visus.labs.contract import Case, Lab, Part, Shown
from visus.labs.diagnosing import error_map, places
from visus.labs.judging import Verdict, judge


class Written:
    """A file with one function `f`."""

    __file__ = __file__

    def __init__(self, function):
        self.f = function


def answer(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.sin(x) * 3, y ** 2


def judged(function, outputs=("a", "b"), right=answer, **options) -> Verdict:
    part = Part(name="f", outputs=outputs, right=right, cases=(Case("3 x 4 numbers", lambda rng: {
        "x": rng.normal(size=(3, 4)), "y": rng.normal(size=(3, 4))}, {7: "the number of images"}),), **options)
    lab = Lab(name="f", number=1, title="", teaches="", source="", parts=(part,), draw=lambda my, digits: Shown(""))
    return judge(lab, Written(function), part)


@pytest.mark.parametrize(("function", "words"), [
    (lambda x, y: (-np.sin(x) * 3, y ** 2), "sign"),
    (lambda x, y: (np.sin(x) * 6, y ** 2), "twice"),
    (lambda x, y: (np.sin(x) * 21, y ** 2), "divide by the number of images"),
    (lambda x, y: (np.sin(x) * 3 / 7, y ** 2), "once too often"),
    (lambda x, y: (np.sin(x) * 3.9, y ** 2), "1.3 times"),
    (lambda x, y: (np.sin(x) * 3 + 0.25, y ** 2), "+0.25 off"),
    (lambda x, y: ((np.sin(x) * 3).T.copy(), y ** 2), "transposed"),
    (lambda x, y: ((np.sin(x) * 3)[::-1].copy(), y ** 2), "reversed along axis 0"),
    (lambda x, y: (np.roll(np.sin(x) * 3, 1, 1), y ** 2), "shifted by one along axis 1"),
    (lambda x, y: ((np.sin(x) * 3).T.reshape(3, 4).copy(), y ** 2), "wrong places"),
    (lambda x, y: (np.zeros((3, 4)), y ** 2), "all zeros"),
    (lambda x, y: (x.copy(), y ** 2), "the input 'x', unchanged"),
    (lambda x, y: (y ** 2, np.sin(x) * 3), "what 'b' should be"),
    (lambda x, y: ((np.sin(x) * 3).astype(np.float32), y ** 2), "single precision"),
    (lambda x, y: ((np.sin(x) * 3).astype(int), y ** 2), "whole numbers"),
    (lambda x, y: (np.log(np.sin(x) - 2), y ** 2), "nan"),
    (lambda x, y: ((np.sin(x) * 3).ravel(), y ** 2), "reshape or transpose"),
    (lambda x, y: ((np.sin(x) * 3)[:, None], y ** 2), "axis of length 1"),
    (lambda x, y: (np.sin(x) * 3 * (1 + 1e-5 * x), y ** 2), "nearly right everywhere"),
])
def test_a_pattern_that_explains_all_entries_is_named(function, words: str):
    found = judged(function)
    assert found.verdict == "wrong" and words in found.diagnosis, found


@pytest.mark.parametrize(("function", "words"), [
    (lambda x, y: None, "nothing (None)"),
    (lambda x, y: x, "one ndarray"),
    (lambda x, y: (x, y, y), "3 things"),
    (lambda x, y: (None, y ** 2), "None for a"),
    (lambda x, y: ([[1], [1, 2]], y ** 2), "no array"),
])
def test_an_answer_that_is_no_answer_is_told_what_it_should_be(function, words: str):
    found = judged(function)
    assert found.verdict == "wrong" and words in found.words, found


def test_an_answer_of_the_right_shape_is_never_right_for_its_shape():
    assert judged(lambda x, y: (np.ones((3, 4)), y ** 2)).verdict == "wrong"
    assert judged(lambda x, y: (np.sin(x) * 3 * (1 + 1e-6), y ** 2)).verdict == "wrong"
    assert judged(lambda x, y: (np.sin(x) * 3 * (1 + 1e-12), y ** 2)).verdict == "right"


def test_views_and_inputs_changed_in_place_are_wrong():
    plain = {"outputs": ("a",), "right": lambda x, y: x.copy()}
    assert "view of the input 'x'" in judged(lambda x, y: x, **plain).words
    assert judged(lambda x, y: x, may_share=True, **plain).verdict == "right"
    assert judged(lambda x, y: x.copy(), **plain).verdict == "right"

    def spoil(x, y):
        y *= 2
        return x.copy()

    assert "changes its input 'y'" in judged(spoil, **plain).words


def test_what_is_wrong_and_where():
    wrong = np.zeros((2, 3, 4, 4), bool)
    wrong[:, :, 0] = True
    assert places(wrong) == "24 of 96 entries wrong, all with index 0 along axis 2"
    wrong[:, :, -1] = True
    assert places(wrong).endswith("all at the border")
    found = judged(lambda x, y: (np.sin(x) * 3 + (np.arange(3) == 1)[:, None] * np.arange(1, 5), y ** 2))
    assert "4 of 12 entries wrong, all with index 1 along axis 0" in found.words and "expected" in found.words


def test_tiny_entries_beside_large_ones_are_compared_on_the_scale_of_the_array():
    a, b = np.array([1.0, 1e-17]), np.array([1.0, -1e-17])
    assert error_map(a, b).max() < 1e-9
    assert np.isnan(error_map(np.array([np.nan]), np.array([1.0])))[0]


def test_a_function_that_waits_for_another_says_which(tmp_path: Path):
    def f(x, y):
        raise NotWritten

    assert judged(f).verdict == "not written"
    assert judged(None).verdict == "not written"


def test_the_hues_and_gradients_of_the_lab_are_those_of_scikit_image():
    skimage = pytest.importorskip("skimage")
    assert skimage
    from skimage.color import rgb2hsv
    from skimage.feature import hog

    rng = np.random.default_rng(0)
    image = rng.random((9, 7, 3))
    assert np.abs(features._hue(image) - rgb2hsv(image)[..., 0]).max() < 1e-12
    grey = rng.random((24, 16))
    theirs = hog(grey, orientations=9, pixels_per_cell=(8, 8), cells_per_block=(1, 1), block_norm="L1",
                 feature_vector=False)[:, :, 0, 0]
    ours = features._hog(grey, 8, 9, mean=True)
    assert np.abs(ours / (ours.sum(axis=2, keepdims=True) + 1e-5) - theirs).max() < 1e-6


def test_no_lab_loads_torch():
    code = "import sys; from visus.labs import shelf; shelf.labs(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=True).stdout.strip() == "False"


def test_no_exercise_holds_an_answer():
    for name in shelf.names():
        assert shelf.exercise(name).count("raise NotWritten") == len(shelf.get(name).parts), name
