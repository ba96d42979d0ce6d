"""How long the doctor's checks take before a training: ResNet-18, 64 px, batches of 32 images.

    python benchmarks/doctor_preflight.py [--threads 2]

`visus.diagnose` with a budget that leaves nothing out, wall time and processor time, check by check, and how many
training steps of the same batch that is. Exit code 1 when it takes more than 20 s of wall time or a check is left out.
Results: benchmarks/results/doctor_preflight.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

from visus.core.device import environment
from visus.core.files import write_json
from visus.doctor.diagnosis import diagnose
from visus.run.models import create_model

BAR_S = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = create_model("resnet18", num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    labels = torch.arange(320) % 10
    images = torch.randn(320, 3, 64, 64) + labels[:, None, None, None] / 10
    data = torch.utils.data.TensorDataset(images, labels)
    loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
    loss = nn.CrossEntropyLoss()
    wall, cpu = time.perf_counter(), time.process_time()
    found = diagnose(model, loader, loss, optimizer=optimizer, validation=loader, budget_s=600)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    step = _step_s(model, optimizer, loss, images[:32], labels[:32])
    print(found)
    row = {"wall time": f"{wall:.1f} s", "processor time": f"{cpu:.1f} s", "checks": len(found.seconds),
           "left out": len(found.left_out), "training steps in that time": round(wall / step),
           "findings above a note": sum(f.severity != "note" for f in found.findings)}
    slowest = dict(sorted(found.seconds.items(), key=lambda item: -item[1])[:5])
    write_json(Path(__file__).parent / "results" / "doctor_preflight.json", {
        "command": ["python", "benchmarks/doctor_preflight.py", *sys.argv[1:]], "bar_s": BAR_S,
        "results": {"ResNet-18, 64 px, batch 32": row,
                    "slowest checks": {name: f"{seconds:.2f} s" for name, seconds in slowest.items()}},
        "environment": environment() | {"threads": arguments.threads}})
    print(f"{wall:.1f} s, {cpu:.1f} s of processor time")
    return 1 if wall > BAR_S or found.left_out else 0


def _step_s(model: nn.Module, optimizer: torch.optim.Optimizer, loss: nn.Module, images: torch.Tensor,
            labels: torch.Tensor) -> float:
    model.train()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss(model(images), labels).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    sys.exit(main())
