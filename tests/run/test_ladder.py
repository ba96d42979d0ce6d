"""The ladder of baselines: bounded, honest about what was left out, drawn in the report."""

from __future__ import annotations

import json

import pytest

import visus
from visus.core.batch import ClassPredictions
from visus.run import ladder

ROWS = ["nearest neighbour", "features and SVM", "small net"]


def trained(tmp_path, **values):
    return visus.train("digits", values={"model.name": "nearest_mean", "report.budget_s": 1} | values,
                       out=tmp_path / "run", progress=False)


def test_each_rung_is_measured_on_test_and_the_report_says_what_the_model_adds(tmp_path, with_ladder):
    run = trained(tmp_path, **{"report.ladder_s": 600})
    found = {row["name"]: row["metrics"]["accuracy"]["value"] for row in
             json.loads((run.path / "metrics.json").read_text())["baselines"]}
    assert found["nearest neighbour"] > 0.95 and found["features and SVM"] > 0.9 and found["small net"] > 0.9
    page = run.report.read_text()
    best = max(found, key=found.get)
    points = 100 * (found[best] - run.metrics["accuracy"])
    assert f"This run is {points:.1f} points below the best of them, {best}." in page


def test_the_nearest_neighbour_rung_is_scikit_learns_on_the_same_pixels(tmp_path):
    neighbors = pytest.importorskip("sklearn.neighbors")
    from visus.run.evaluate import own_splits
    from visus.tasks.classification import Classification

    run = trained(tmp_path)
    samples, splits = own_splits(run.folder, run.recipe)
    seen = []

    class Kept(Classification):
        def evaluate(self, predictions: ClassPredictions, *rest, **more):
            seen.append(predictions)
            return super().evaluate(predictions, *rest, **more)

    task = Kept(preprocessing=run.preprocessing, loss_function=lambda logits, targets: logits.sum())
    rungs = ladder.RUNGS[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "RUNGS", rungs)
        ladder.climb(samples, splits, run.preprocessing, task, 0, 60, "other")
    view = ladder.View(samples, splits["train"], splits["val"], splits["test"], run.preprocessing, 0)
    view = [view.batches(splits[name]) for name in ("train", "test")]
    (x, y), (z, _) = ([torch_cat(part) for part in zip(*batches(), strict=True)] for batches in view)
    theirs = neighbors.KNeighborsClassifier(1).fit(x.flatten(1).numpy(), y.numpy()).predict(z.flatten(1).numpy())
    assert (seen[0].probs.argmax(1).numpy() == theirs).mean() > 0.995  # a tie may fall either way


def torch_cat(parts):
    import torch

    return torch.cat(list(parts))


def test_what_the_time_does_not_allow_is_named(tmp_path, with_ladder):
    run = trained(tmp_path, **{"report.ladder_s": 1e-9})
    left = json.loads((run.path / "metrics.json").read_text())["baselines_left_out"]
    assert [row["name"] for row in left] == ROWS[1:] or [row["name"] for row in left] == ROWS
    assert "s for baselines were spent" in left[-1]["why"] and "Left out:" in run.report.read_text()


def test_without_time_there_is_no_ladder_and_a_rung_is_not_the_run_itself(tmp_path, with_ladder):
    run = trained(tmp_path, **{"report.ladder_s": 0})
    metrics = json.loads((run.path / "metrics.json").read_text())
    short = visus.train("digits", values={"model.name": "nearest_mean", "report.budget_s": 0}, out=tmp_path / "short",
                        progress=False)
    assert json.loads((short.path / "metrics.json").read_text()) == metrics
    assert not {row["name"] for row in metrics["baselines"]} & set(ROWS) and metrics["baselines_left_out"] == []


def test_the_same_rungs_twice_give_the_same_numbers_and_leave_the_generators_alone(tmp_path):
    import torch

    from visus.run.build import build_task
    from visus.run.evaluate import own_splits

    run = trained(tmp_path)
    samples, splits = own_splits(run.folder, run.recipe)
    task = build_task(run.recipe, run.preprocessing)
    before = torch.random.get_rng_state()
    once, left = ladder.climb(samples, splits, run.preprocessing, task, 0, 600, "nearest_neighbour")
    again, _ = ladder.climb(samples, splits, run.preprocessing, task, 0, 600, "nearest_neighbour")
    assert torch.equal(before, torch.random.get_rng_state())
    assert [row.metrics for row in once] == [row.metrics for row in again] and len(once) == 2
    assert left == [{"name": "nearest neighbour", "why": "it is this run's model"}]
