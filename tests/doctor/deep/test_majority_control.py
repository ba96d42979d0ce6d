"""The commonest class, or the mean, as the opponent."""

from __future__ import annotations

from tests.doctor.deep.clouds import patient
from visus.doctor.deep.majority_control import majority_control


def test_a_net_that_learns_wrong_labels_by_heart_is_no_better_than_the_commonest_class():
    finding, = majority_control(patient("wrong labels"))
    assert finding.severity == "warning" and "whether the labels belong to the images" in finding.remedy


def test_a_net_that_hardly_moves_is_no_better_than_the_commonest_class():
    finding, = majority_control(patient("slow"))
    assert finding.severity == "warning" and "does not even learn" in finding.remedy


def test_values_are_compared_with_their_mean():
    finding, = majority_control(patient("wrong labels", kind="values"))
    assert "mean of the targets" in finding.title
