"""Several processes compute what one computes: the same loss curve, weights and answers; gloo on the CPU."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import visus
from tests.run.kill_harness import VALUES, make_data
from tests.train.processes import forked

QUIET = {"doctor.before": False, "doctor.watch": False, "report.budget_s": 0, "model.config.dropout": 0.0,
         "train.epochs": 2, "train.checkpoint_steps": None}
RESNET = {"model.name": "resnet20", "model.config": {}, "data.image_size": 8}


def train(data: Path, out: Path, values: dict) -> None:
    visus.train(data, out=out, values=VALUES | QUIET | values, progress=False)


def both(folder: Path, values: dict, size: int = 2, data: Path | None = None) -> tuple[Path, Path]:
    """The same training by one process and by `size` of them."""
    data = data or make_data(folder, files=False)
    assert forked(lambda: visus.train(data, out=folder / "one", values=VALUES | QUIET | values, progress=False),
                  1) == [0]
    assert forked(lambda: train(data, folder / "many", values), size) == [0] * size
    return folder / "one", folder / "many"


@pytest.mark.slow
def test_with_batch_norm_of_all_processes_too(tmp_path):
    """ResNet-20 on 8 px images, train.sync_batchnorm; activations recomputed on the way. Batch norm over few values
    amplifies rounding: the bound is ten times that of nets without."""
    values = RESNET | {"train.sync_batchnorm": True, "train.checkpoint_activations": True, "train.epochs": 1,
                       "train.batch_size": 22, "optimizer.name": "sgd", "optimizer.lr": 0.01}
    assert_same_curve(*both(tmp_path, values), tolerance=1e-4)


def events(run: Path, kind: str) -> list[dict]:
    return [row for row in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if row["event"] == kind]


def assert_same_curve(one: Path, many: Path, tolerance: float = 1e-5) -> None:
    for kind, names in (("step", ("step", "loss", "lr")), ("epoch", ("train_loss", "val_loss", "step"))):
        a, b = events(one, kind), events(many, kind)
        assert len(a) == len(b) > 0
        for x, y in zip(a, b, strict=True):
            for name in names:
                assert abs(x[name] - y[name]) <= tolerance, (kind, name, x, y)
    a, b = (load_file(run / "model/model.safetensors") for run in (one, many))
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("values", [
    # shares of 4 and 5, and a last batch of 3
    {"train.batch_size": 9, "mix.mixup": 0.3, "mix.cutmix": 1.0, "data.repeats": 3, "train.accumulate": 3,
     "train.clip_norm": 0.1, "optimizer.name": "sgd", "regularise.l1": 1e-4, "regularise.max_norm": 0.5},
    pytest.param({"train.batch_size": 9}, marks=pytest.mark.slow),
    # 66 images: the last batch has one, which both compute
    pytest.param({"train.batch_size": 5, "train.epochs": 1}, marks=pytest.mark.slow),
    pytest.param({"optimizer.sam": 0.05, "optimizer.name": "sgd"}, marks=pytest.mark.slow),
], ids=["mix-repeat-accumulate-clip-regularise", "uneven", "one-image", "sam"])
def test_two_processes_have_the_loss_curve_of_one(tmp_path, values):
    one, many = both(tmp_path, values)
    assert_same_curve(one, many)
    a, b = (np.load(run / "evaluation/test.npz") for run in (one, many))
    assert (a["index"] == b["index"]).all() and (a["targets"] == b["targets"]).all()
    np.testing.assert_allclose(a["probs"], b["probs"], atol=1e-5)


SPLIT = {"train.strategy": "fsdp", "train.batch_size": 9, "optimizer.name": "adamw", "train.clip_norm": 0.5,
         "regularise.l1": 1e-4, "train.accumulate": 2}


@pytest.mark.slow
def test_split_weights_have_the_loss_curve_of_one_process(tmp_path):
    assert_same_curve(*both(tmp_path, SPLIT))


def go_on(data: Path, run: Path, values: dict, *, stop_at: int | None) -> None:
    """Begin or resume the run; at step `stop_at` the first process is asked to stop, as a scheduler would."""
    import visus.run.train as engine_room
    from visus.core.errors import Interrupted

    class Stopping(engine_room.LogWriter):
        def on_step(self, report):
            super().on_step(report)
            if report.step == stop_at and os.environ["RANK"] == "0":
                os.kill(os.getpid(), signal.SIGTERM)

    engine_room.LogWriter = Stopping
    try:
        if run.exists():
            visus.resume(run, values=values, progress=False)
        else:
            visus.train(data, out=run, values=VALUES | QUIET | SPLIT | values, progress=False)
    except Interrupted as error:
        raise SystemExit(error.exit_code) from None


def test_a_run_goes_on_in_another_number_of_processes_and_by_another_strategy(tmp_path):
    """Split over three -> one -> whole copies in two, each stopped by a signal to its first process: the curve stays
    that of one process that was never stopped."""
    data, run = make_data(tmp_path, files=False), tmp_path / "many"
    assert forked(lambda: visus.train(data, out=tmp_path / "one", values=VALUES | QUIET | SPLIT, progress=False),
                  1) == [0]
    assert forked(lambda: go_on(data, run, {}, stop_at=2), 3) == [143] * 3
    newest = max((run / "checkpoints").glob("step-*.json"))
    manifest = json.loads(newest.read_text())
    assert len(manifest["parts"]) == 3 and manifest["step"] == 2
    assert not [path for path in (run / "checkpoints").iterdir() if path.suffix not in (".json", ".safetensors")]
    assert forked(lambda: go_on(data, run, {}, stop_at=3), 1) == [143]
    assert forked(lambda: go_on(data, run, {"train.strategy": "ddp"}, stop_at=None), 2) == [0, 0]
    assert_same_curve(tmp_path / "one", run)
