"""What the doctor leaves in a run folder, by formula: an overfitting training with one layer that dies."""

from __future__ import annotations

import io
import json
import math
import random
from pathlib import Path
from typing import Any

from PIL import Image

from tests.report.sample_run import make_sample_run
from visus.core.record import Finding, RunFolder

LAYERS = ("stem.conv", "stages.0.0.conv1", "stages.0.0.conv2", "stages.1.0.conv1", "stages.1.0.conv2", "head.fc")


def findings() -> list[Finding]:
    return [
        Finding("weak-classes", "note", "1 class is recognised far less often than the rest: 8",
                "8: 61 % of 36 images"),
        Finding("flat-loss", "error", "A symptom", "2.30 is left of 2.30", "Look for the cause", step=800),
        Finding("overfitting", "warning", "Validation loss rises from epoch 9 on while training loss falls",
                "validation 0.31 at epoch 9, 0.52 at the end (+68 %, 6 rises running)", "More images", step=360),
        Finding("dead-while-training", "warning", "87 % of the units of stages.1.0.conv2 are silent",
                "56 of 64 units gave 0 for each of 512 images", "Lower the learning rate", step=415,
                layer="stages.1.0.conv2"),
        Finding("loss-spike", "warning", "The loss rose to 12 times its median", "3.1 against 0.26", "Clip", step=372),
    ]


def checks() -> dict[str, Any]:
    about = {"flat-loss": {"rank": 8, "symptom": True, "rule": "After one epoch the loss is still above 97 %"},
             "overfitting": {"rank": 3, "symptom": False, "rule": "Validation loss rises three evaluations running"},
             "dead-while-training": {"rank": 2, "symptom": False, "rule": "More than 75 % of the units are silent"}}
    return {"seconds": {"initial-loss": 0.02, "overfit-batch": 4.31, "rate-range": 3.2, "flat-loss": 0.001},
            "left_out": {"slow-loader": "the 20 s were over"}, "checks": about, "rate_range": rates()}


def rates() -> dict[str, Any]:
    values = [10 ** (-7 + 8 * k / 79) for k in range(80)]
    losses = [2.3 - 1.6 / (1 + (3e-3 / r) ** 1.5) + (r / 0.3) ** 3 for r in values]
    return {"rates": values, "losses": losses, "suggested": 0.004, "configured": 0.02}


def watched(layers: tuple[str, ...] = LAYERS, steps: int = 90) -> list[dict[str, Any]]:
    rng = random.Random(0)
    rows = []
    for k in range(1, steps + 1):
        share, row = k / steps, {}
        for depth, name in enumerate(layers):
            dying = name == "stages.1.0.conv2" and share > 0.5
            ratio = 10 ** (-2 - 1.5 * share - 0.2 * depth + 0.2 * rng.random()) * (1e-5 if dying else 1)
            row[name] = {"ratio": 0.6 if k == 20 else ratio, "gradient": 3 * math.exp(-3 * share) * (depth + 1) / 6,
                         "std": 1.0, **({} if name == "head.fc" else {"dead": 0.9 if dying else 0.1 * share})}
        rows.append({"step": 9 * k, "layers": row})
    return rows


def add_filters(run: RunFolder, epochs: tuple[int, ...] = (0, 1, 2, 5, 10, 20)) -> None:
    for epoch in epochs:
        image = Image.linear_gradient("L").rotate(7 * epoch).resize((199, 99))
        encoded = io.BytesIO()
        image.save(encoded, "PNG")
        (run.path / "images" / f"filters-{epoch}.png").write_bytes(encoded.getvalue())


def make_examined_run(path: Path, **options: Any) -> RunFolder:
    """A sample run with everything that the doctor's section draws."""
    run = make_sample_run(path, findings=False, **options)
    for finding in findings():
        run.find(finding)
    run.write("doctor.json", checks())
    (run.path / "watch.jsonl").write_text("".join(json.dumps(row) + "\n" for row in watched()), "utf-8")
    add_filters(run)
    return run
