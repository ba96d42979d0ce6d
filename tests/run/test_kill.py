"""kill -9 and resume: the same bits. The long form, with 50 kills each, is `pytest -m slow tests/run/test_kill.py`."""

from __future__ import annotations

import pytest

from tests.run.kill_harness import torture


@pytest.mark.parametrize("workers, kills", [(0, 6), (2, 3)])
def test_a_run_that_is_killed_and_resumed_ends_with_the_same_bits(tmp_path, workers, kills):
    outcome = torture(tmp_path, workers=workers, kills=kills, seed=1)
    assert outcome.same and outcome.kills >= kills


def test_a_cache_that_was_half_full_when_the_run_was_killed_changes_no_bit(tmp_path):
    crops = [{"name": "random_resized_crop", "scale": [0.3, 1.0]}, {"name": "horizontal_flip"}]
    outcome = torture(tmp_path, workers=2, kills=2, seed=3, values={
        "data.cache": True, "data.image_size": 6, "augmentation": crops, "data.cache_bytes": 96 * 6 * 8 * 3})
    assert outcome.same and outcome.kills >= 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [0, 2])
def test_fifty_kills_end_with_the_same_bits(tmp_path, workers):
    outcome = torture(tmp_path, workers=workers, kills=50, seed=2)
    assert outcome.same and outcome.kills >= 50
