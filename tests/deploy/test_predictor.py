"""An exported model answers as the run does, without torch."""

from __future__ import annotations

import numpy as np

import visus
from visus.deploy.predictor import open_predictor


def test_the_bundle_gives_the_runs_probabilities_on_real_images(digits_run, digits_bundle, digit_files):
    predictor = open_predictor(digits_bundle)
    for answer in visus.predict(digits_run, digit_files, top=10):
        probs = predictor.probs(predictor.prepared(predictor.read(answer.source).pixels))
        assert predictor.chosen(probs) == answer.chosen
        by_label = dict(zip(answer.labels, answer.probs, strict=True))
        expected = np.array([by_label[label] for label in predictor.bundle.labels])
        assert np.abs(probs - expected).max() < 1e-5
