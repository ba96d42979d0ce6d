"""The mean image in the place of every input."""

from __future__ import annotations

from tests.doctor.deep.clouds import patient
from visus.doctor.deep.input_independent_control import input_independent_control


def test_inputs_that_do_not_belong_to_the_targets_are_no_better_than_the_mean_image():
    finding, = input_independent_control(patient("wrong labels"))
    assert finding.severity == "warning" and "256 of validation" in finding.evidence


def test_a_net_that_drops_its_input_is_no_better_than_the_mean_image():
    finding, = input_independent_control(patient("dropping"))
    assert "no more than it learns without them" in finding.title
