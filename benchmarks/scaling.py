"""How data-parallel training scales past one machine: a simulation with measured and published numbers.

    python benchmarks/scaling.py            # some 3 minutes; --quick: seconds

Measured here: forward and backward of ResNet-50 and ViT-B/16 per image (one thread), and the all-reduce of gloo between
two processes of this machine, from which latency and bandwidth are fitted; and what activation checkpointing saves and
costs. Simulated: a ring all-reduce of the gradient (float32) between machines of 8 processes,
2 (M - 1) / M * bytes / bandwidth + 2 (M - 1) * latency for M machines, after a ring inside each machine; efficiency
is compute / (compute + what of the exchange cannot be hidden), between two bounds: nothing is hidden behind the
backward pass, or as much as the backward pass lasts (two thirds of the compute). Not in the model: stragglers, data
loading, other traffic, the last bucket, which nothing can hide. Checked against Goyal et al. 2017.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import time
from pathlib import Path

import torch
from torch import distributed as dist
from torch import nn

import visus
from benchmarks.paired import peak_memory, step
from visus.core.device import environment
from visus.train.recompute import recompute_blocks

OUT = Path(__file__).parent / "results" / "scaling.json"
PROCESSES = [2**k for k in range(11)]
IN_MACHINE = 8
LATENCY_S = 20e-6  # of one message between machines over Ethernet; InfiniBand has a tenth
# bytes per second and direction: between machines, and inside of one
NETWORKS = {"1 Gbit/s Ethernet": 0.125e9, "10 Gbit/s Ethernet": 1.25e9, "50 Gbit/s Ethernet": 6.25e9,
            "200 Gbit/s InfiniBand HDR": 25e9, "400 Gbit/s InfiniBand NDR": 50e9}
NVLINK_BYTES_S = 80e9  # NVLink of the P100: 160 GB/s in both directions together (NVIDIA's data sheet)
MODELS = ("resnet50", "vit_base_16")
# Goyal et al., arXiv:1706.02677, abstract: ResNet-50, 8192 images a step on 256 P100 in one hour, about 90 % of the
# speed of 8 GPUs times 32. 90 epochs of 1,281,167 images in 3600 s are 0.256 s a step; 90 % of it is compute: 0.23 s.
GOYAL = {"step_s": 3600 / (90 * 1_281_167 / 8192), "efficiency": 0.90, "from": 8, "to": 256,
         "network": "50 Gbit/s Ethernet"}
BACKWARD_SHARE = 2 / 3


def ring_s(size: int, processes: int, bytes_s: float, latency_s: float) -> float:
    """Seconds of a ring all-reduce of `size` bytes (Patarasuk and Yuan 2009)."""
    if processes == 1:
        return 0.0
    return 2 * (processes - 1) / processes * size / bytes_s + 2 * (processes - 1) * latency_s


def exchange_s(size: int, processes: int, bytes_s: float, inside_bytes_s: float = NVLINK_BYTES_S) -> float:
    """A ring inside each machine, then one between the machines."""
    inside = min(processes, IN_MACHINE)
    return ring_s(size, inside, inside_bytes_s, 5e-6) + ring_s(size, -(-processes // IN_MACHINE), bytes_s, LATENCY_S)


def efficiency(compute_s: float, exchange: float) -> tuple[float, float]:
    """(nothing hidden, the backward pass hides what it can)."""
    left = max(0.0, exchange - BACKWARD_SHARE * compute_s)
    return compute_s / (compute_s + exchange), compute_s / (compute_s + left)


def compute_per_image_s(name: str, batch: int, rounds: int) -> tuple[float, int]:
    """(median seconds of forward and backward per image, bytes of the gradient)."""
    torch.manual_seed(0)
    model = visus.create_model(name).train()
    images, labels = torch.rand(batch, 3, 224, 224), torch.arange(batch)
    seconds = []
    for _ in range(rounds + 1):
        model.zero_grad(set_to_none=True)
        start = time.process_time()
        nn.functional.cross_entropy(model(images), labels).backward()
        seconds.append((time.process_time() - start) / batch)
    return statistics.median(seconds[1:]), sum(4 * p.numel() for p in model.parameters())


def gloo_here(sizes: list[int], rounds: int) -> dict[str, float]:
    """Two processes of this machine: seconds of an all-reduce by size, and the latency and bandwidth that fit."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    other = os.fork()
    rank = 1 if other == 0 else 0
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    medians = {}
    for size in sizes:
        tensor, seconds = torch.zeros(size // 4), []
        for _ in range(rounds):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(tensor)
            seconds.append(time.perf_counter() - start)
        medians[size] = statistics.median(seconds)
    dist.barrier()
    if other == 0:
        os._exit(0)
    os.waitpid(other, 0)
    dist.destroy_process_group()
    large, small = max(sizes), min(sizes)
    return {"latency_us": round(1e6 * medians[small] / 2, 1),
            "bandwidth_gbyte_s": round(large / medians[large] / 1e9, 3),
            "seconds": {str(size): value for size, value in medians.items()}}


def recomputing(name: str, batch: int, rounds: int) -> dict[str, float]:
    """Peak memory of a training step beyond weights and images, and its time, kept against computed again."""
    found = {}
    for kind in ("kept", "computed again"):
        torch.manual_seed(0)
        model = visus.create_model(name).train()
        if kind == "computed again":
            recompute_blocks(model)
        side = 112 if name == "resnet50" else 224
        images, labels = torch.rand(batch, 3, side, side), torch.arange(batch)
        found[f"{kind}, MiB"] = round(peak_memory(model, side, batch), 1)
        seconds = []
        for _ in range(rounds):
            start = time.process_time()
            step(model, images, labels)
            seconds.append(time.process_time() - start)
        found[f"{kind}, s"] = round(statistics.median(seconds), 3)
    return found | {"memory ratio": round(found["computed again, MiB"] / found["kept, MiB"], 3),
                    "time ratio": round(found["computed again, s"] / found["kept, s"], 3)}


def curves(compute_s: float, size: int) -> dict[str, dict[str, list[float]]]:
    return {network: {str(n): [round(value, 4) for value in efficiency(compute_s, exchange_s(size, n, bytes_s))]
                      for n in PROCESSES} for network, bytes_s in NETWORKS.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [64, 4096, 1 << 18, 1 << 22, 1 << 25]
    gloo = gloo_here(sizes[:4] if arguments.quick else sizes, 5 if arguments.quick else 30)
    results: dict[str, object] = {"gloo, two processes here": gloo}
    print(f"gloo here: {gloo['latency_us']} us a message, {gloo['bandwidth_gbyte_s']} GB/s")
    results["activation checkpointing"] = saved = {
        name: recomputing(name, 2 if arguments.quick else 4, 1 if arguments.quick else 5) for name in MODELS
        if name == "resnet50" or not arguments.quick}
    for name, row in saved.items():
        print(f"{name}, activations computed again: {row['memory ratio']} of the memory, "
              f"{row['time ratio']} of the time")
    for name in MODELS:
        per_image, size = compute_per_image_s(name, 1 if arguments.quick else 4, 1 if arguments.quick else 5)
        gpu_s = GOYAL["step_s"] * GOYAL["efficiency"]
        rows = {"gradient_mb": round(size / 1e6, 1), "here_s_per_image": round(per_image, 3),
                "here, 32 images a process": curves(32 * per_image, size)}
        if name == "resnet50":
            rows["P100 of 2017, 32 images a GPU"] = curves(gpu_s, size)
            bytes_s = NETWORKS[str(GOYAL["network"])]
            bounds = [after / before for after, before in zip(
                efficiency(gpu_s, exchange_s(size, 256, bytes_s)), efficiency(gpu_s, exchange_s(size, 8, bytes_s)),
                strict=True)]
            results["from 8 to 256 GPUs"] = {"published": GOYAL["efficiency"],
                                             "simulated": [round(value, 4) for value in bounds]}
            print(f"8 -> 256 P100: published 0.90, simulated {bounds[0]:.3f} (nothing hidden) to {bounds[1]:.3f}")
        results[name] = rows
        print(f"{name}: {per_image:.2f} s an image here, {size / 1e6:.0f} MB of gradient")
        for label, table in rows.items():
            if isinstance(table, dict):
                for network, line in table.items():
                    print(f"  {label:<30} {network:<26} " + "  ".join(
                        f"{n}: {100 * line[str(n)][0]:.0f}-{100 * line[str(n)][1]:.0f} %" for n in (8, 64, 256, 1024)))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"command": ["python", "benchmarks/scaling.py"], "results": results,
                                         "environment": environment()}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
