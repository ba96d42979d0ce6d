"""The watcher beside a run: the same bits with and without, one file of looks, each finding once."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from tests.run.kill_harness import VALUES, digest, make_data
from visus.core.errors import Interrupted
from visus.core.record import Finding, RunFolder
from visus.run.train import resume, train
from visus.run.watch import FILE, RunWatch
from visus.train.trainer import Trainer


def run(folder, name: str, **values):
    data = make_data(folder, files=False)
    train(data, out=folder / name, values=VALUES | {"data.workers": 0} | values, progress=False)
    return folder / name


@pytest.mark.parametrize("values", [{}, {"train.accumulate": 3, "train.clip_norm": 0.5}, {"train.precision": "bf16"},
                                    {"optimizer.name": "sgd", "train.layout": "channels_last"}],
                         ids=["adamw", "accumulate", "bf16", "sgd"])
def test_a_watched_run_ends_with_the_same_bits(tmp_path, values):
    watched, alone = run(tmp_path, "a", **values), run(tmp_path, "b", **values, **{"doctor.watch": False})
    assert digest(watched) == digest(alone)
    assert (watched / FILE).exists() and not (alone / FILE).exists()


def test_the_file_has_each_look_once_with_its_layers(tmp_path):
    rows = list(RunFolder.open(run(tmp_path, "a")).events(FILE))
    steps = [row["step"] for row in rows]
    assert steps[:10] == list(range(1, 11)) and steps == sorted(set(steps))
    assert all(0 <= row["layers"][name]["ratio"] < 10 for row in rows[:10] for name in row["layers"])
    assert rows[0]["loss"] > 0.5 and rows[0]["samples"] == 8 and "waited_s" in rows[0]


def test_a_run_that_is_stopped_and_resumed_watched_is_the_same_and_its_looks_go_on(tmp_path, monkeypatch):
    whole = run(tmp_path, "a")
    step_of = Trainer._report_step

    def stop_at_twelve(self, norm):
        step_of(self, norm)
        if self.position.step == 12:
            self.stop.request()

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_report_step", stop_at_twelve)
        with pytest.raises(Interrupted):
            run(tmp_path, "b")
    first = [row["step"] for row in RunFolder.open(tmp_path / "b").events(FILE)]
    path = tmp_path / "b" / FILE
    path.write_text(path.read_text() + json.dumps({"step": 99, "layers": {}}) + "\n")  # of a step that is taken again
    resume(tmp_path / "b", progress=False)
    assert digest(whole) == digest(tmp_path / "b")
    steps = [row["step"] for row in RunFolder.open(tmp_path / "b").events(FILE)]
    assert first == steps[:len(first)] and 13 in steps and 99 not in steps and steps == sorted(set(steps))


def test_a_finding_is_not_made_again_by_a_resumed_run(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    folder.find(Finding("gradients-not-zeroed", "error", "as before", step=3))
    told = []
    model, scaler = nn.Linear(4, 2), torch.amp.GradScaler("cpu", enabled=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with RunWatch(folder, told.append) as watch:
        watch.begin(model, optimizer, scaler, 10)
        for _ in range(5):
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
    assert "gradients-not-zeroed" in {f.check for f in watch.watcher.findings}
    assert "gradients-not-zeroed" not in {f.check for f in told}


def test_a_rate_that_is_far_too_high_is_in_the_findings_of_the_run(tmp_path):
    path = run(tmp_path, "a", **{"optimizer.lr": 20.0, "schedule.warmup_epochs": 0})
    findings = {f.check: f for f in RunFolder.open(path).findings()}
    assert findings["update-ratio"].severity == "error" and findings["update-ratio"].step <= 4
    assert (path / "report.html").exists()
