"""Runs that are killed with SIGKILL again and again, and resumed until they end; for the tests and the benchmark.

Kills come from outside at random moments, and from inside a checkpoint write, at each kind of call that it makes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

POINTS = ("open", "write", "fsync", "replace", "unlink")  # inside a checkpoint write and the pruning after it
VALUES = {
    "train.epochs": 3, "train.batch_size": 8, "train.checkpoint_steps": 3, "train.ema": 0.9, "train.threads": 1,
    "train.layout": "contiguous", "train.precision": "fp32", "model.name": "mlp", "data.image_size": 8,
    "model.config.hidden_dims": [16], "model.config.dropout": 0.2, "optimizer.lr": 0.05, "optimizer.name": "adamw",
    "augmentation": [{"name": "random_crop", "padding": 1}, {"name": "horizontal_flip"}],
}


@dataclass(frozen=True)
class Outcome:
    workers: int
    kills: int
    starts: int
    runs: int
    same: bool
    seconds: float


def make_data(folder: Path, files: bool, count: int = 96) -> Path:
    """Images whose class is where they are bright: an .npz, or PNG files, which loader workers decode."""
    generator = np.random.Generator(np.random.PCG64(0))
    images = generator.integers(0, 128, (count, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(count) % 3
    for i, label in enumerate(labels):
        images[i, :, 2 * label:2 * label + 4] += 100
    if not files:
        np.savez(folder / "data.npz", images=images, labels=labels)
        return folder / "data.npz"
    for i, label in enumerate(labels):
        (folder / f"data/{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(folder / f"data/{label}/{i}.png")
    return folder / "data"


def digest(run: Path) -> dict[str, str]:
    """What must not depend on how often a run was killed."""
    from visus.train.checkpoint import CheckpointStore, flatten

    _, state, _ = CheckpointStore(run / "checkpoints").load()
    tensors, rest = flatten(state)
    whole = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(tensors):
        whole.update(name.encode() + tensors[name].numpy().tobytes())
    return {"state": whole.hexdigest(),
            "model": hashlib.sha256((run / "model/model.safetensors").read_bytes()).hexdigest(),
            "metrics": (run / "metrics.json").read_text()}


def start(data: Path, run: Path, workers: int, fault: tuple[str, int] | None = None,
          values: dict[str, Any] | None = None) -> int:
    """Fork a process that trains, or resumes, `run`; returns its id. `fault`: it kills itself at the n-th such call."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setpgid(0, 0)
        out = os.open(os.devnull, os.O_WRONLY)
        os.dup2(out, 1)
        if fault:
            _kill_self_at(*fault)
        from visus.run.train import resume, train

        if (run / "data.json").exists():
            resume(run, progress=False)
        else:
            shutil.rmtree(run, ignore_errors=True)  # killed before training began: nothing to lose
            train(data, out=run, values=VALUES | {"data.workers": workers} | (values or {}), progress=False)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _kill_self_at(call: str, number: int) -> None:
    count = 0
    real = getattr(os, call)

    def faulty(*arguments, **named):
        nonlocal count
        name = str(arguments[0]) if arguments else ""
        inside = call in ("fsync", "write") or ".step-" in name or "/step-" in name
        count += inside
        if inside and count == number:
            if call == "write":
                real(arguments[0], arguments[1][:len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)

    setattr(os, call, faulty)


def finished(run: Path) -> bool:
    return (run / "report.html").exists() and json.loads((run / "run.json").read_text())["status"] == "finished"


def wait(pid: int, seconds: float | None) -> int | None:
    """The exit status, or None when `seconds` passed first."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        if end is not None and time.monotonic() > end:
            return None
        time.sleep(0.005)


def torture(folder: Path, *, workers: int, kills: int, seed: int, values: dict[str, Any] | None = None) -> Outcome:
    """One uninterrupted run; then runs that are killed and resumed until `kills` kills have struck, each compared.
    values: of the recipe, beside VALUES."""
    import torch

    torch.set_num_threads(1)
    began = time.monotonic()
    chance = random.Random(seed)
    data = make_data(folder, files=workers > 0 or values is not None)
    whole = folder / "whole"
    started = time.monotonic()
    assert wait(start(data, whole, workers, None, values), None) == 0, "the uninterrupted run failed"
    length = time.monotonic() - started
    expected = digest(whole)
    struck = starts = runs = 0
    same = True
    while struck < kills:
        run = folder / f"killed-{struck}"
        while not finished(run):
            inside = struck < kills and chance.random() < 0.4
            fault = (chance.choice(POINTS), chance.randint(1, 12)) if inside else None
            pid = start(data, run, workers, fault, values)
            status = wait(pid, None if fault or struck >= kills else chance.uniform(0.02, 1.1) * length)
            if status is None:
                os.killpg(pid, signal.SIGKILL)
                status = wait(pid, None)
            starts += 1
            if status == signal.SIGKILL:
                struck += 1
                try:
                    os.killpg(pid, signal.SIGKILL)  # its loader workers
                except ProcessLookupError:
                    pass
            else:
                assert status == 0, f"a resumed run failed with status {status}"
        same &= digest(run) == expected
        runs += 1
        shutil.rmtree(run)
    return Outcome(workers, struck, starts, runs, same, time.monotonic() - began)
