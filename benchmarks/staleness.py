"""What staleness costs: Downpour SGD with 1 to 32 simulated replicas, plain and AdaGrad servers, rates tuned for each.

    python benchmarks/staleness.py

The task is the digits of 8 x 8 pixels and a network of 32 tanh units, batches of 20. Replicas are equally fast, so that
R of them push gradients that are R - 1 updates old (Dean et al. 2012 say that AdaGrad's rates make this bearable: here
it is measured). The loss is that of all images after 300 updates, the mean of three seeds. A few minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from visus.core.device import environment
from visus.optim.build import build_optimizer
from visus.optim.downpour import downpour

OUT = Path(__file__).parent / "results" / "staleness.json"
REPLICAS = (1, 2, 4, 8, 16, 32)
RATES = tuple(float(f"{10 ** (k / 4):.3g}") for k in range(-10, 3))  # four to a decade
SERVERS: dict[str, dict[str, Any]] = {"plain SGD": {"name": "sgd", "momentum": 0.0}, "AdaGrad": {"name": "adagrad"}}
BATCH = 20


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.from_numpy(found.data).float() / 8 - 1, torch.from_numpy(found.target)


def loss_of(weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(torch.tanh(F.linear(x, weights[0], weights[1])), weights[2], weights[3]), y)


def final(server: Callable[[list[Tensor]], torch.optim.Optimizer], replicas: int, updates: int, seed: int,
          data: tuple[Tensor, Tensor]) -> float:
    x, y = data
    generator = torch.Generator().manual_seed(seed)
    start = [torch.randn(32, 64, generator=generator) / 8, torch.zeros(32),
             torch.randn(10, 32, generator=generator) / 32**0.5, torch.zeros(10)]
    orders = [torch.randperm(len(x), generator=generator) for _ in range(1 + (updates + 40) * BATCH // len(x))]
    order = torch.cat(orders)

    def gradient(weights: list[Tensor], batch: int) -> tuple[float, list[Tensor]]:
        rows = order[batch * BATCH:(batch + 1) * BATCH]
        leaves = [w.detach().requires_grad_() for w in weights]
        loss = loss_of(leaves, x[rows], y[rows])
        return loss.item(), list(torch.autograd.grad(loss, leaves))

    found = downpour(start, gradient, server, updates=updates, replicas=replicas)
    loss = float(loss_of(found.weights, x, y))
    return loss if math.isfinite(loss) else 99.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = digits()
    results: dict[str, dict[str, Any]] = {}
    began = time.process_time()
    for name, options in SERVERS.items():
        results[name] = {}
        for replicas in REPLICAS:
            found = {lr: statistics.fmean(
                final(partial(build_optimizer, options["name"], lr=lr, momentum=options.get("momentum")), replicas,
                      arguments.updates, seed, data) for seed in range(arguments.seeds)) for lr in RATES}
            best = min(found, key=lambda lr: found[lr])
            results[name][str(replicas)] = {"lr": best, "loss": round(found[best], 5),
                                            "losses": {f"{lr:g}": round(loss, 4) for lr, loss in found.items()}}
            print(f"{name:<10} {replicas:>2} replicas: loss {found[best]:.4f} at {best:g}", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({
        "command": ["python", *sys.argv], "task": "digits, a network of 32 tanh units", "updates": arguments.updates,
        "seeds": arguments.seeds, "replicas": list(REPLICAS), "rates": list(RATES), "results": results,
        "seconds": round(time.process_time() - began, 1), "environment": environment()}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
