"""What the controls share."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.doctor.deep.clouds import patient
from visus.doctor import controls
from visus.doctor.deep.input_independent_control import input_independent_control
from visus.doctor.deep.majority_control import majority_control
from visus.doctor.deep.more_data_curve import more_data_curve
from visus.doctor.deep.seed_spread import seed_spread
from visus.doctor.deep.shuffled_labels_control import shuffled_labels_control
from visus.doctor.deep.tiny_net_control import tiny_net_control
from visus.doctor.patient import Patient

CONTROLS = (shuffled_labels_control, majority_control, input_independent_control, tiny_net_control, more_data_curve,
            seed_spread)


@pytest.mark.parametrize("known", [{}, {"validation": False}, {"kind": "labels"}, {"kind": "values"}])
def test_a_task_that_is_learnt_has_notes_only(known):
    for control in CONTROLS:
        assert all(finding.severity == "note" for finding in control(patient(**known))), control.__name__


def test_a_share_needs_three_standard_deviations_to_beat_the_commonest_class():
    well = patient()
    parts = controls.split(well)
    share = controls.majority(well, parts)
    assert controls.chance(well, parts) == pytest.approx(share + 3 * (share * (1 - share) / 256) ** 0.5)


def test_a_redraw_keeps_the_distribution_of_each_weight():
    torch.manual_seed(0)
    model = nn.Linear(8, 8)
    before = model.weight.detach().clone()
    controls._redraw(model)
    assert not torch.equal(model.weight, before)
    assert torch.equal(model.weight.flatten().sort().values, before.flatten().sort().values)


def test_too_few_samples_tell_nothing():
    few = Patient(model=nn.Linear(4, 2), loss=F.cross_entropy, batches=((torch.randn(20, 4), torch.arange(20) % 2),))
    assert all(list(control(few)) == [] for control in CONTROLS)
