from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.doctor.after.curves import bending, found, good, history


def test_a_jump_at_a_resume_is_found_with_its_update():
    broken = history(lambda x: bending(x) + (1.2 if 0.5 < x < 0.7 else 0.0), resumed_at=(200,))
    (finding,) = found("restart-jump", broken)
    assert finding.severity == "warning" and finding.step == 200


def test_the_same_jump_elsewhere_and_a_resume_without_one_are_silent():
    jump = history(lambda x: bending(x) + (1.2 if 0.5 < x < 0.7 else 0.0), resumed_at=(100,))
    assert not found("restart-jump", jump)
    assert not found("restart-jump", good(resumed_at=(20, 40, 200, 390, 400)))


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_a_resume_in_the_steep_beginning_is_silent(noise):
    for seed in range(5):
        assert not found("restart-jump", good(noise=noise, seed=seed, resumed_at=(30, 60)))


def test_a_rate_that_began_anew_is_in_the_evidence():
    broken = history(lambda x: bending(x) + (1.2 if x > 0.5 else 0.0), resumed_at=(200,),
                     schedule=lambda x: 1.0 if x <= 0.5 else 0.01)
    assert "the rate went from 0.001 to 1e-05" in found("restart-jump", broken)[0].evidence


def sorted_classes(x: float) -> float:
    return bending(x, end=1.0) * (1 + 0.4 * math.sin(2 * math.pi * (10 * x)))


def test_a_loss_with_the_period_of_an_epoch_is_a_sawtooth():
    (finding,) = found("sawtooth", history(sorted_classes, noise=0.02))
    assert finding.severity == "warning" and "shuffle=True" in finding.remedy and "40 updates" in finding.evidence


def test_another_period_or_none_is_no_sawtooth():
    assert not found("sawtooth", history(lambda x: bending(x, end=1.0) * (1 + 0.4 * math.sin(2 * math.pi * 7.3 * x))))
    for seed in range(5):
        assert not found("sawtooth", good(noise=0.2, seed=seed))


def test_a_fall_at_the_end_of_each_epoch_alone_is_no_sawtooth():
    by_heart = history(lambda x: 2.3 * 0.6 ** math.floor(10 * x - 1e-9), noise=0.05)
    assert not found("sawtooth", by_heart)


def test_a_small_last_batch_is_a_note_of_its_own():
    last = history(lambda x: bending(x) * (8.0 if round(400 * x) % 40 == 0 else 1.0))
    (finding,) = found("sawtooth", last)
    assert finding.severity == "note" and "drop_last" in finding.remedy


def test_every_second_step_logged_gives_the_same_answer():
    whole = history(sorted_classes, noise=0.02)
    keep = slice(1, None, 2)
    assert found("sawtooth", replace(whole, steps=whole.steps[keep], losses=whole.losses[keep], lrs=whole.lrs[keep]))


def test_a_watcher_that_left_some_losses_out_still_sees_it():
    whole = history(sorted_classes, noise=0.02)
    keep = np.flatnonzero(np.random.Generator(np.random.PCG64(0)).random(400) < 0.7)
    some = {name: tuple(getattr(whole, name)[k] for k in keep) for name in ("steps", "losses", "lrs")}
    assert found("sawtooth", replace(whole, **some))
    healthy = good(noise=0.2)
    some = {name: tuple(getattr(healthy, name)[k] for k in keep) for name in ("steps", "losses", "lrs")}
    assert not found("sawtooth", replace(healthy, **some))


def test_batches_in_the_same_order_each_epoch_are_found():
    order = np.random.Generator(np.random.PCG64(3)).normal(0, 0.2, 40)
    assert found("sawtooth", history(lambda x: bending(x) * math.exp(order[round(400 * x) % 40]), noise=0.03))
