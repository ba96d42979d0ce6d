"""Three seeds."""

from __future__ import annotations

import torch

from tests.doctor.deep.clouds import patient
from visus.doctor.deep.seed_spread import seed_spread


def test_the_spread_of_three_seeds_is_said_in_numbers():
    spread, = seed_spread(patient())
    assert spread.evidence.count("%") == 3 and "3 seeds" in spread.evidence


def test_nothing_of_the_patient_is_changed():
    well = patient()
    before = [p.detach().clone() for p in well.model.parameters()]
    state = torch.random.get_rng_state()
    list(seed_spread(well))
    assert all(torch.equal(p, q) for p, q in zip(well.model.parameters(), before, strict=True))
    assert torch.equal(state, torch.random.get_rng_state()) and not well.optimizer.state_dict()["state"]
