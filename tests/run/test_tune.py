"""visus tune from start to end, on 96 images of 8 x 8 pixels: what is left, what a stop, a kill and a failure do."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.kill_harness import make_data
from visus.core.errors import Interrupted, RecipeError, RunError, TrainingDiverged, UserError
from visus.run import tune_trial
from visus.run.recipe import Recipe
from visus.run.tune import resume_study, tune
from visus.run.tune_record import trial_rows
from visus.run.tune_space import default_space, given_space
from visus.run.tune_storage import Storage, hidden
from visus.run.tune_trial import open_bench, work

VALUES = {"train.epochs": 4, "train.batch_size": 16, "train.threads": 1, "train.layout": "contiguous",
          "train.precision": "fp32", "model.name": "mlp", "data.image_size": 8, "model.config.hidden_dims": [16],
          "augmentation": [], "doctor.before": False, "doctor.watch": False, "report.budget_s": 0.0}
RATE = ("optimizer.lr=log:1e-4..1e-1",)


@pytest.fixture
def data(tmp_path) -> Path:
    return make_data(tmp_path, files=False)


def small(data: Path, out: Path, **more):
    return tune(data, **{"values": VALUES, "vary": RATE, "trials": 4, "epochs": [1], "method": "random",
                         "train_best": False, "out": out,
                         "progress": False} | more)


def test_a_search_leaves_the_best_recipe_its_training_the_table_and_a_page(data, tmp_path):
    study = small(data, tmp_path / "s", vary=[*RATE, "optimizer.name=sgd,adamw"], trials=8, epochs=[2], train_best=True)
    complete = [row for row in study.trials if row["status"] == "complete"]
    assert len(study.trials) == 8 and study.best["value"] == max(row["value"] for row in complete)
    assert study.recipe == Recipe.load(study.path / "best" / "recipe.yaml")  # no choice was left to be made
    assert study.recipe.optimizer.lr == pytest.approx(study.best["values"]["optimizer.lr"], rel=1e-5)
    assert study.recipe.optimizer.name == study.best["values"]["optimizer.name"]
    assert study.recipe.train.epochs == 4  # the trials had 2
    with open(study.path / "trials.csv") as file:
        table = list(csv.DictReader(file))
    assert [float(row["optimizer.lr"]) for row in table] == [row["values"]["optimizer.lr"] for row in study.trials]
    assert study.run.status == "finished" and study.record["test"]["value"] == study.run.metrics["accuracy"]
    assert set(study.record["importance"]) == {"optimizer.lr", "optimizer.name"}
    assert "report.html" in {p.name for p in study.path.iterdir()}


def test_trials_never_look_at_the_test_split(data, tmp_path, monkeypatch):
    from visus.run import evaluate, train

    seen: list[int] = []
    real = train.build_loader

    def watched(recipe, samples, indices, *rest, **named):
        seen.append(len(indices))
        return real(recipe, samples, indices, *rest, **named)

    monkeypatch.setattr(train, "build_loader", watched)
    monkeypatch.setattr(evaluate, "finish_run", lambda *_: pytest.fail("a trial was measured like a finished run"))
    study = small(data, tmp_path / "s", trials=2)
    bench = open_bench(Recipe.parse(study.record["asked"]["recipe"]), tmp_path, tune_trial.Display(False))
    sizes = {name: len(index) for name, index in bench.prepared.splits.items()}
    assert seen == [sizes["train"], sizes["val"]] * 2
    assert not list(study.path.glob("trials/*/metrics.json")) and not list(study.path.glob("trials/*/checkpoints"))
    assert len(list(study.path.glob("trials/*/log.jsonl"))) == 2


@pytest.mark.parametrize("method", ["gp", pytest.param("tpe", marks=pytest.mark.slow)])
def test_a_stopped_search_goes_on_as_if_it_had_not_been(data, tmp_path, monkeypatch, method):
    whole = small(data, tmp_path / "whole", method=method, trials=6)
    real, calls = tune_trial._train, []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(tune_trial, "_train", stopped)
    with pytest.raises(Interrupted, match="visus tune --resume") as error:
        small(data, tmp_path / "s", method=method, trials=6)
    assert error.value.exit_code == 130
    record = json.loads((tmp_path / "s" / "study.json").read_text())
    assert record["status"] == "interrupted"
    assert [row["status"] for row in record["trials"]] == ["complete"] * 4 + ["stopped"]
    again = small(data, tmp_path / "s", method=method, trials=6)
    made = {row.get("retry_of") if row.get("retry_of") is not None else row["number"]: (row["values"], row["value"])
            for row in again.trials if row["status"] != "stopped"}
    assert made == {row["number"]: (row["values"], row["value"]) for row in whole.trials}
    assert again.best["value"] == whole.best["value"]


def test_more_trials_go_on_with_a_finished_search_and_another_search_is_refused(data, tmp_path):
    small(data, tmp_path / "s", trials=2)
    more = resume_study(tmp_path / "s", trials=3, progress=False)
    assert [row["number"] for row in more.trials] == [0, 1, 2]
    with pytest.raises(RunError, match="another search: method was random, now gp"):
        small(data, tmp_path / "s", method="gp")
    with pytest.raises(RunError, match="another space"):
        small(data, tmp_path / "s", vary=["optimizer.lr=log:1e-3..1e-1"])


@pytest.mark.slow
def test_the_same_command_without_a_folder_finds_the_interrupted_search(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = small(data, None, trials=1)
    record = first.record
    (first.path / "study.json").write_text(json.dumps(record | {"status": "interrupted"}))
    assert small(data, None, trials=2).path == first.path
    assert small(data, None, trials=1).path.name == "data-2"  # finished: the next search is a new one


def test_a_trial_that_fails_or_diverges_is_recorded_and_the_search_goes_on(data, tmp_path, monkeypatch):
    real, calls = tune_trial._train, []

    def sometimes(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("shapes do not fit")
        if len(calls) == 3:
            raise TrainingDiverged("the loss is nan")
        return real(*arguments)

    monkeypatch.setattr(tune_trial, "_train", sometimes)
    study = small(data, tmp_path / "s", trials=5)
    assert [row["status"] for row in study.trials] == ["complete", "failed", "diverged", "complete", "complete"]
    assert study.trials[1]["problem"] == "RuntimeError: shapes do not fit" and "nan" in study.trials[2]["problem"]
    assert "shapes do not fit" in (study.path / "report.html").read_text()


def test_a_rate_that_diverges_is_no_end(data, tmp_path):
    study = small(data, tmp_path / "s", vary=["optimizer.lr=[1.0e-2, 1.0e+30]"], method="grid", trials=None,
                  values=VALUES | {"optimizer.name": "sgd"})
    assert [row["status"] for row in study.trials] == ["complete", "diverged"]


def test_when_all_first_trials_fail_the_search_ends_and_says_why(data, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(tune_trial, "_train", broken)
    with pytest.raises(UserError, match="first 3 trials failed; the last: RuntimeError: no kernel"):
        small(data, tmp_path / "s", trials=8)


def test_pruning_ends_hopeless_trials_early(data, tmp_path):
    study = small(data, tmp_path / "s", vary=["optimizer.lr=[1e-2, 1e-9, 2e-9, 3e-9]"], method="grid", trials=None,
                  epochs=[4], pruner="halving", values=VALUES | {"optimizer.name": "adamw"})
    rows = study.trials
    assert rows[0]["status"] == "complete" and rows[0]["epochs"] == 4
    assert {row["status"] for row in rows[1:]} == {"pruned"} and all(row["epochs"] < 4 for row in rows[1:])


def test_a_grid_is_made_whole_and_each_point_once(data, tmp_path):
    study = small(data, tmp_path / "s", method="grid", points=2, trials=None,
                  vary=[*RATE, "optimizer.weight_decay=0,0.1"])
    points = [(row["values"]["optimizer.lr"], row["values"]["optimizer.weight_decay"]) for row in study.trials]
    assert points == [(1e-4, "0"), (1e-4, "0.1"), (1e-1, "0"), (1e-1, "0.1")]


@pytest.mark.slow
def test_stages_go_from_coarse_to_fine_with_more_epochs(data, tmp_path):
    study = small(data, tmp_path / "s", stages=2, trials=4, epochs=None)
    first, second = study.record["stages"]
    assert (first["epochs"], second["epochs"]) == (1, 2) and len(study.trials) == 4
    low, high = second["space"][0]["low"], second["space"][0]["high"]
    assert high / low < 1e3 and low <= study.best["values"]["optimizer.lr"] <= high
    assert study.best["stage"] == 2


def test_a_best_value_at_the_edge_is_told_and_the_next_stage_looks_beyond(data, tmp_path, capsys):
    study = small(data, tmp_path / "s", stages=2, trials=4, vary=["optimizer.lr=log:1e-6..1e-3"], method="grid",
                  points=2, progress=True, epochs=[2])
    said = capsys.readouterr().out
    first, second = study.record["stages"]
    assert "lies at the upper edge of its range" in first["edges"][0] and "the next stage looks there" in said
    assert second["space"][0]["high"] > 1e-3


def test_a_worker_that_was_killed_is_noticed_and_its_trial_made_again_once(data, tmp_path):
    study = small(data, tmp_path / "s", trials=2)
    storage = Storage(None, study.path)
    name = "s/1"
    there = storage.study(name, maximise=True, create=False)
    there.enqueue_trial({"optimizer.lr": 0.01})
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    storage.worker = f"{storage.worker.rpartition(':')[0]}:{dead.pid}"
    assert storage.take(there) is not None
    storage.close()
    storage = Storage(None, study.path)
    bench = open_bench(Recipe.parse(study.record["asked"]["recipe"]), study.path, tune_trial.Display(False))
    work(bench, storage, name, tune_trial.StopRequest())
    rows = trial_rows(storage, name)
    assert [row["status"] for row in rows] == ["complete", "complete", "killed", "complete"]
    assert rows[3]["retry_of"] == 2
    storage.close()


def test_wrong_wishes_end_before_anything_is_trained(data, tmp_path):
    wrong = {
        "there is no such field": {"vary": ["optimizer.lrr=log:1e-4..1e-1"]},
        "Did you mean 'optimizer.lr'": {"vary": ["optimizer.lrr=log:1e-4..1e-1"]},
        "greater than or equal to 0": {"vary": ["optimizer.weight_decay=uniform:-1..1"]},
        "unknown optimizer|there is no optimizer|no such optimizer|adammw": {"vary": ["optimizer.name=sgd,adammw"]},
        "cannot be searched": {"vary": ["data.val=0.1..0.3"]},
        "no such method": {"method": "gpp"}, "no such pruner": {"pruner": "half"},
        "no such acquisition": {"acquisition": "xx"}, "at least 1": {"trials": 0}, "above 0": {"minutes": -1.0},
        "leave nothing": {"trials": 2, "stages": 3}, "one val split": {"values": VALUES | {"data.folds": 3}},
        "neither SQLite nor PostgreSQL": {"storage": "mysql://me:pw@host/db"},
        "step by step": {"recipe": "course"}}
    for said, more in wrong.items():
        with pytest.raises(UserError, match=said):
            small(data, tmp_path / "s", **more)
    assert not (tmp_path / "s").exists() or not list((tmp_path / "s").glob("trials/*"))


def test_the_default_space_is_rate_decay_and_augmentation(data, tmp_path):
    bench = open_bench(Recipe().with_values({**VALUES, "data.path": str(data), "augmentation": "auto",
                                             "optimizer.name": "sgd"}), tmp_path, tune_trial.Display(False))
    space, said = default_space(bench.prepared)
    assert [d.name for d in space] == ["optimizer.lr", "optimizer.weight_decay", "augmentation"]
    rate = bench.prepared.recipe.optimizer.lr
    assert (space[0].low, space[0].high) == pytest.approx((rate / 100, rate * 10), rel=0.05) and space[0].is_log
    assert len(said) == 3
    with pytest.raises(RecipeError, match="not of the form"):
        given_space(None, ["optimizer.lr"])


def test_a_file_of_ranges_is_the_same_as_the_flags(tmp_path):
    (tmp_path / "space.yaml").write_text("optimizer.lr: {log: [1e-4, 1e-1]}\noptimizer.name: [sgd, adamw]\n"
                                         "train.batch_size: 'logint:8..64'\n")
    by_flags = given_space(None, [*RATE, "optimizer.name=sgd,adamw", "train.batch_size=logint:8..64"])
    assert given_space(tmp_path / "space.yaml", []) == by_flags


def test_the_course_takes_its_seven_steps(data, tmp_path):
    study = tune(data, recipe="course", values=VALUES, trials=2, epochs=[1, 2], train_best=False, out=tmp_path / "s",
                 progress=False)
    steps = study.record["steps"]
    assert [step["number"] for step in steps][:6] == [1, 2, 3, 4, 5, 6] and steps[6]["number"] == 7
    assert "ln 3" in steps[0]["sentences"][0]  # three classes
    assert steps[1]["losses"][-1] < 0.5 * steps[1]["losses"][0]
    assert steps[2]["rate"] in (1e-1, 1e-2, 1e-3, 1e-4) and "taken into the grid" in steps[2]["sentences"][-1]
    first = [row for row in study.trials if row["stage"] == 1]
    assert len(first) == 9 and len({tuple(row["values"].values()) for row in first}) == 9
    assert {row["epochs"] for row in first if row["status"] == "complete"} == {1}
    assert "seven steps" in study.report.read_text()


def test_credentials_are_hidden_wherever_they_stand():
    for url in ("postgresql://me:p@ss/word@host:5/db", "postgres://me@host/db",
                "postgresql://host/db?user=me&password=word"):
        shown = hidden(f"visus tune x --storage {url}")
        assert "word@" not in shown and "=word" not in shown and "me:" not in shown
        assert "***" in shown and "host" in shown


@pytest.mark.slow
def test_a_sampled_recipe_is_validated_before_it_is_trained(data, tmp_path, monkeypatch):
    """A combination that the ends of the ranges do not show: recorded with the recipe's own words."""
    monkeypatch.setattr(tune_trial, "choose", _refusing(tune_trial.choose))
    study = small(data, tmp_path / "s", vary=["optimizer.name=sgd,adamw"], method="grid", trials=None)
    assert {row["status"] for row in study.trials} == {"complete", "failed"}
    assert "sgd is out of fashion" in next(row["problem"] for row in study.trials if row["status"] == "failed")


def _refusing(choose):
    def refusing(recipe, facts):
        if recipe.optimizer.name == "sgd":
            raise RecipeError("sgd is out of fashion", where="optimizer.name=sgd")
        return choose(recipe, facts)

    return refusing
