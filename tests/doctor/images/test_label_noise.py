from __future__ import annotations

import numpy as np
import pytest

from tests.doctor.images.sets import image_set
from visus.data.opening import open_samples
from visus.doctor.images.exhibits import shown
from visus.doctor.images.features import features
from visus.doctor.images.label_noise import fit_noise, label_noise, renamed, suspects
from visus.doctor.images.pixels import pixels_of


@pytest.fixture(scope="module")
def digits():
    """(images, labels, features) of 700 digits."""
    samples = open_samples("digits")
    images, labels = samples.images[:700], samples.targets[:700]
    return images, labels, features(pixels_of(image_set(images, labels)).small)


def noisy(labels: np.ndarray, share: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    wrong = rng.permutation(len(labels))[:round(share * len(labels))]
    labels = labels.copy()
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return labels


def test_clean_digits_have_no_suspects(digits):
    _, labels, table = digits
    found = suspects(table, labels)
    assert len(found.rows) == 0 and found.noise < 0.005 and found.accuracy > 0.97


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_injected_noise_is_found_and_its_share_estimated(digits, share):
    _, labels, table = digits
    given = noisy(labels, share)
    found = suspects(table, given)
    wrong = given != labels
    named = np.zeros(len(labels), bool)
    named[found.rows] = True
    assert wrong[named].mean() > 0.93 and named[wrong].mean() > 0.8  # precision and recall
    assert found.noise == pytest.approx(share, abs=0.02)
    right = found.instead == labels[found.rows]
    assert right.mean() > 0.9  # the class offered instead is the true one


def test_the_finding_names_the_surest_and_is_graded(digits):
    images, labels, _ = digits
    found = image_set(images, noisy(labels, 0.1))
    finding, = label_noise(found)
    assert finding.severity == "warning" and "cross-validated on 700 images" in finding.evidence
    assert "labelled class" in shown(found)["label-noise"][0].words


def test_where_the_cheap_model_is_weak_nothing_is_said(digits):
    images, labels, table = digits
    guess = np.random.default_rng(0).integers(0, 10, len(labels))
    assert suspects(table[:300], guess[:300]).accuracy < 0.5
    assert not list(label_noise(image_set(images[:300], guess[:300])))
    assert not list(label_noise(image_set(images[:150], noisy(labels, 0.2)[:150])))  # too few


def test_a_split_that_numbers_its_classes_otherwise_is_an_error(digits):
    images, labels, table = digits
    split = np.where(np.random.default_rng(0).random(700) < 0.3, "val", "train")
    order = np.array([1, 2, 0, 3, 4, 5, 6, 9, 7, 8])
    finding = next(label_noise(image_set(images, np.where(split == "val", order[labels], labels), split)))
    assert finding.severity == "error" and "labels of val are in another order" in finding.title
    assert "6 classes have changed their names" in finding.evidence
    assert "class0 is what train calls class2" in finding.evidence
    names = [str(k) for k in range(10)]

    def told(given):
        return [f.evidence for f in renamed(table, given, split == "train", split == "val", "val", names)]

    assert told(labels) == []
    swapped = np.where(split == "val", np.array([0, 1, 2, 4, 3, 5, 6, 7, 8, 9])[labels], labels)
    assert "2 classes" in told(swapped)[0]
    swapped[(split == "val") & (labels == 3)] = 3  # one class lost, none found: no other order
    assert told(swapped) == []


def test_overlapping_classes_are_not_noise():
    rng = np.random.default_rng(0)
    centre = rng.normal(0, 1, 4000)
    labels = (rng.random(4000) < 1 / (1 + np.exp(-4 * centre))).astype(np.int64)
    scores = np.stack([-centre, centre], 1) / 2
    assert fit_noise(scores, labels)[1] < 0.03
    flipped = np.where(rng.random(4000) < 0.15, 1 - labels, labels)
    assert fit_noise(scores, flipped)[1] == pytest.approx(0.3, abs=0.08)  # random labels, half of them right
