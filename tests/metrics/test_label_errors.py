"""Doubtful labels by confident learning, by hand and on labels that were made wrong."""

from __future__ import annotations

import numpy as np
import pytest

from visus.metrics.label_errors import label_errors


def test_thresholds_and_candidates_by_hand():
    probs = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9]])
    labels = np.array([0, 0, 0, 1, 1])  # thresholds: (0.9 + 0.7 + 0.2) / 3 = 0.6 and (0.6 + 0.9) / 2 = 0.75
    found = label_errors(probs, labels)
    assert found.thresholds == pytest.approx([0.6, 0.75])
    assert found.rows.tolist() == [2] and found.instead.tolist() == [1] and found.margin == pytest.approx([0.6])


def test_turned_labels_are_found_and_others_are_not():
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 800)
    probs = np.full((800, 4), 0.04) + random.random((800, 4)) * 0.02
    probs[np.arange(800), truth] += 0.8
    probs /= probs.sum(1, keepdims=True)
    labels = truth.copy()
    turned = random.choice(800, 40, replace=False)
    labels[turned] = (labels[turned] + 1) % 4
    found = label_errors(probs, labels)
    assert set(found.rows.tolist()) == set(turned.tolist()) and np.array_equal(found.instead, truth[found.rows])
    assert (np.diff(found.margin) <= 0).all()


def test_a_class_that_no_sample_is_labelled_with_is_never_suggested():
    probs = np.array([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.1, 0.3, 0.6]])
    found = label_errors(probs, np.array([1, 0, 1]))
    assert np.isnan(found.thresholds[2]) and 2 not in found.instead
