"""docs/optimizers.md: its sentences follow from the numbers."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import optimizers_page  # noqa: E402


def row(test, spread=0.002, group="optimizer", edge=False, rates=(0.5, 0.6, 0.8, 0.8, 0.5)):
    return {"group": group, "lr": 0.01, "at the edge": edge, "rates": {str(k): v for k, v in enumerate(rates)},
            "test": test, "spread": spread, "tests": [test] * 3, "seconds": 1.0, "curve": [[20, 1.5], [40, 0.5]]}


RESULTS = {"sgd, nesterov": row(0.80), "adam": row(0.85, rates=(0.8, 0.8, 0.8, 0.8, 0.5)), "lion": row(0.849),
           "random_search": row(0.10, edge=True), "sgd, nesterov + dropout 0.3": row(0.82, group="regulariser"),
           "sgd, nesterov + l1 1e-5": row(0.801, group="regulariser"),
           "sgd, nesterov + ema 0.98": row(0.77, group="averager")}


def test_the_best_is_named_with_those_that_the_seeds_do_not_tell_apart():
    first, _, second, _, third, _, fourth = optimizers_page.sentences(RESULTS)
    assert first.startswith("The best optimizer here is adam, 85.00 %. Within the noise of the seeds of it: lion.")
    assert "Least in need of tuning is adam: 4 of its 5 rates" in second
    assert third.endswith("random_search.")
    assert "better by more than the noise: dropout 0.3 (+2.00); worse: ema 0.98 (-3.00)." in fourth


def test_two_means_differ_by_more_than_two_standard_errors():
    assert optimizers_page.differ(row(0.85, 0.01), row(0.83, 0.01)) is True  # 0.02 > 2 * 0.00816
    assert optimizers_page.differ(row(0.85, 0.01), row(0.835, 0.01)) is False


def test_page_and_figure_hold_every_row():
    found = {"results": RESULTS, "train": 4000, "val": 1000, "test": 4000, "looks": 248, "batch": 64, "seeds": 3}
    stale = {"task": "digits", "updates": 300, "replicas": [1, 2], "rates": [0.1, 1.0], "results": {
        "plain SGD": {"1": {"loss": 0.1, "lr": 1.0}, "2": {"loss": 0.2, "lr": 0.1}}}}
    page = optimizers_page.page(found, stale)
    assert all(f"| {name} | 0.01" in page for name in RESULTS)
    assert "| adam | 0.01 | 85.00 % | 0.20 | 1.0 | 4 of 5 |" in page
    assert "Plain SGD: with 2 replicas the loss is 2.00 times that of one, at a rate 0.1 times as large." in page
    drawn = optimizers_page.figure(RESULTS)
    assert drawn.count("<polyline") == 4 and all(f">{name}<" in drawn for name in RESULTS)
