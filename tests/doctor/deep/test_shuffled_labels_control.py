"""Labels in random order against the true ones."""

from __future__ import annotations

from tests.doctor.deep.clouds import patient
from visus.doctor.deep.shuffled_labels_control import shuffled_labels_control


def test_labels_of_other_images_are_told_from_shuffled_ones_by_nothing():
    finding, = shuffled_labels_control(patient("wrong labels"))
    assert finding.severity == "warning" and "no more about the inputs" in finding.title
    assert "256 samples trained on, 256 of validation" in finding.evidence


def test_a_score_without_learning_is_a_leak():
    finding = next(shuffled_labels_control(patient("knowing")))
    assert finding.severity == "error" and "Trained on shuffled labels" in finding.title
