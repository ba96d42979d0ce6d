"""The loss on others for parts of the samples."""

from __future__ import annotations

from tests.doctor.deep.clouds import patient
from visus.doctor.deep.more_data_curve import more_data_curve


def test_the_numbers_for_a_quarter_a_half_and_all_are_in_the_note():
    note, = more_data_curve(patient())
    assert "64 samples" in note.evidence and "128 samples" in note.evidence and "256 samples" in note.evidence


def test_where_nothing_is_learnt_nothing_is_said():
    assert list(more_data_curve(patient("slow"))) == []
