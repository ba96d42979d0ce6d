"""A run folder such as a finished training leaves, made of arithmetic alone: nothing is trained."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from visus.core.record import Evaluation, Example, Finding, Metric, RunFolder

DIGITS = tuple("0123456789")


def make_sample_run(
    path: Path,
    *,
    classes: Sequence[str] = DIGITS,
    multi_label: bool = False,
    epochs: int = 20,
    steps_per_epoch: int = 40,
    per_class: int = 36,
    skill: float = 0.9,
    examples: int = 6,
    model: str = "small_cnn",
    data: str = "digits",
    findings: bool = True,
    status: str = "finished",
    evaluated: bool = True,
    thumbnail: Callable[[int], Image.Image] | None = None,
) -> RunFolder:
    """A run folder at `path`.

    skill: share of each class that is predicted right; epochs=0 leaves a run that has only begun; evaluated=False
    one without metrics.json; thumbnail(k): the k-th example's image, else a small gradient.
    """
    rng = random.Random(0)
    task = "multilabel" if multi_label else "classification"
    run = RunFolder.create(
        path,
        command=["visus", "train", data, "--epochs", str(epochs), "--set", "data.seed=0"],
        task=task,
        model=model,
        data=data,
        parameters=94_410,
        macs=3_221_504,
    )
    run.update(status=status, seconds=151.7, best_epoch=max(1, epochs - 3), created="2026-03-02T14:05:11+0100")
    (run.path / "recipe.yaml").write_text(
        f"model:\n  name: small_cnn\ntrain:\n  epochs: {epochs}\n  optimizer: adamw\n  lr: 0.002\n", "utf-8"
    )
    run.write(
        "environment.json",
        {
            "python": "3.11.7",
            "torch": "2.13.0+cpu",
            "platform": "Linux x86_64",
            "cpu": {"name": "generic", "cores": 2, "bf16": False},
            "precision": "float32",
        },
    )
    run.write("data.json", data_record(classes, data, per_class))
    log_epochs(run, epochs, steps_per_epoch, "mean_average_precision" if multi_label else "accuracy", rng)
    (run.path / "model" / "model.safetensors").write_bytes(b"\0" * 381_208)
    run.write("model/model.json", {"name": model, "parameters": 94_410})
    if findings:
        for finding in sample_findings():
            run.find(finding)
    if evaluated:
        for k in range(2 * examples):
            picture = thumbnail(k) if thumbnail else Image.linear_gradient("L").rotate(30 * k).resize((28, 28))
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            (run.path / "images" / f"example-{k:03d}.png").write_bytes(buffer.getvalue())
        splits = {
            split: evaluation(split, classes, multi_label, per_class, skill, examples, rng) for split in ("val", "test")
        }
        name = "mean_average_precision" if multi_label else "accuracy"
        run.write(
            "metrics.json",
            {
                "task": task,
                "headline": {"name": name, "split": "test", "higher_is_better": True},
                "splits": {split: asdict(one) for split, one in splits.items()},
                "baselines": [
                    {
                        "name": "chance",
                        "description": "Every class with the same probability",
                        "metrics": {name: asdict(Metric(1 / len(classes)))},
                    },
                    {
                        "name": "class prior",
                        "description": "Always the most frequent class of the training split",
                        "metrics": {name: asdict(Metric(1.1 / len(classes), 0.9 / len(classes), 1.3 / len(classes)))},
                    },
                    {
                        "name": "softmax regression",
                        "description": "Linear model on the pixels",
                        "metrics": {name: asdict(Metric(0.9 * skill, 0.86 * skill, 0.93 * skill))},
                    },
                ],
            },
        )
    return run


def data_record(classes: Sequence[str], data: str, per_class: int) -> dict[str, object]:
    return {
        "path": data,
        "format": "builtin",
        "classes": list(classes),
        "channels": 1,
        "recognised": f"{len(classes)} classes of grey images, 8 x 8 pixels, built in",
        "split": "70 % train, 15 % validation, 15 % test, stratified by class with seed 0",
        "counts": {
            "train": {name: 4 * per_class + k % 5 for k, name in enumerate(classes)},
            "val": dict.fromkeys(classes, per_class),
            "test": dict.fromkeys(classes, per_class),
        },
        "image_sizes": {"min": [8, 8], "median": [8, 8], "max": [8, 8]},
        "notes": ["3 files ignored: 2 .txt, 1 .db"],
        "problems": [{"file": "seven/scan_0193.jpg", "problem": "truncated: 812 of 20,114 bytes"}],
    }


def log_epochs(run: RunFolder, epochs: int, steps_per_epoch: int, metric: str, rng: random.Random) -> None:
    total = max(1, epochs * steps_per_epoch)
    for step in range(1, epochs * steps_per_epoch + 1):
        rate = 0.002 * min(step / (0.1 * total), 0.5 * (1 + math.cos(math.pi * step / total)))
        loss = 2.3 * math.exp(-5 * step / total) + 0.03 + rng.random() * 0.12 * math.exp(-3 * step / total)
        if step % 5 == 0:
            run.log(
                "step",
                step=step,
                epoch=(step - 1) // steps_per_epoch + 1,
                loss=loss,
                lr=rate,
                images_per_s=5400 + rng.random() * 300,
            )
        if step % steps_per_epoch == 0:
            run.log(
                "epoch",
                epoch=step // steps_per_epoch,
                step=step,
                train_loss=loss * 0.98,
                lr=rate,
                val_loss=loss * 1.06 + 0.05,
                metrics={metric: 0.99 - 0.8 * math.exp(-7 * step / total)},
                seconds=7.4 + rng.random(),
                images_per_s=5512.0,
                peak_memory_mb=412.5,
            )


def evaluation(
    split: str,
    classes: Sequence[str],
    multi_label: bool,
    per_class: int,
    skill: float,
    examples: int,
    rng: random.Random,
) -> Evaluation:
    n = len(classes)
    counts = [[0] * n for _ in range(n)]
    for i in range(n):
        for _ in range(per_class):
            j = i if rng.random() < skill else (i + rng.choice((1, 1, 1, 2, n - 1, rng.randrange(n)))) % n
            counts[i][j] += 1
    right = sum(counts[i][i] for i in range(n)) / (n * per_class)
    columns = [sum(column) for column in zip(*counts, strict=True)]
    table = []
    for i, name in enumerate(classes):
        recall, precision = counts[i][i] / per_class, counts[i][i] / columns[i] if columns[i] else None
        f1 = 2 * counts[i][i] / (per_class + columns[i])
        table.append(
            {
                "name": name,
                "count": per_class,
                "precision": precision,
                "recall": recall,
                "f1": f1,
                "average_precision": 0.5 + f1 / 2,
                "roc_auc": 0.9 + f1 / 10,
            }
        )
    confused = sorted(
        (
            {"truth": classes[i], "predicted": classes[j], "count": counts[i][j]}
            for i in range(n)
            for j in range(n)
            if i != j and counts[i][j]
        ),
        key=lambda row: -row["count"],
    )
    low, high = max(0.0, right - 0.02), min(1.0, right + 0.015)
    if multi_label:
        metrics = {
            "mean_average_precision": Metric(right, low, high),
            "micro_f1": Metric(right - 0.01),
            "macro_f1": Metric(right - 0.02),
            "subset_accuracy": Metric(right - 0.1),
            "hamming_loss": Metric(0.031),
            "roc_auc": Metric(0.985),
        }
    else:
        metrics = {
            "accuracy": Metric(right, low, high),
            "balanced_accuracy": Metric(right, low, high),
            "macro_f1": Metric(right - 0.003, low, high),
            "roc_auc": Metric(0.9971, 0.994, 0.999),
            "nll": Metric(0.1124, 0.08, 0.15),
            "brier": Metric(0.0513),
            "ece": Metric(0.0213),
        }

    def example(k: int, hit: bool) -> Example:
        truth = (classes[k % n],) if not multi_label else (classes[k % n], classes[(k + 2) % n])
        predicted = truth if hit else (classes[(k + 1) % n],)
        number = k if not hit else examples + k
        return Example(
            f"images/example-{number:03d}.png",
            f"{classes[k % n]}/scan_{number:04d}.png",
            truth,
            predicted,
            0.31 + 0.03 * k if hit else 0.997 - 0.04 * k,
        )

    return Evaluation(
        split,
        n * per_class,
        metrics,
        table,
        None if multi_label or n > 200 else {"labels": list(classes), "counts": counts},
        [] if multi_label else confused[:100],
        None if multi_label else reliability(rng, n * per_class),
        [example(k, False) for k in range(examples)],
        [example(k, True) for k in range(examples)],
    )


def reliability(rng: random.Random, total: int) -> dict[str, object]:
    bins = []
    for k in range(15):
        low, high = k / 15, (k + 1) / 15
        count = round(total * 0.6 * 0.55 ** (14 - k)) if k > 3 else 0
        confidence = (low + high) / 2 if count else None
        accuracy = None if confidence is None else max(0.0, min(1.0, confidence - 0.09 + 0.12 * rng.random()))
        bins.append({"low": low, "high": high, "count": count, "confidence": confidence, "accuracy": accuracy})
    return {"bins": bins, "ece": 0.0213}


def sample_findings() -> list[Finding]:
    return [
        Finding(
            "data.duplicates",
            "warning",
            "14 images are in more than one split",
            "train/3/0193.png is the same as test/3/1204.png; 13 more",
            "Remove one of each pair",
        ),
        Finding(
            "train.dead_units",
            "note",
            "A layer's units are mostly silent",
            "61 % of 64 units are 0 for every image",
            "Lower the learning rate or use another activation",
            step=400,
            layer="stages.2.conv",
        ),
        Finding(
            "data.unreadable", "error", "One file could not be read", "seven/scan_0193.jpg: truncated", "Replace it"
        ),
    ]
