"""Exact nearest neighbours on Fashion-MNIST against scikit-learn's brute force and faiss's flat index.

    python benchmarks/neighbours.py                       # 60,000 x 784 vectors, 10,000 queries, 5 neighbours
    python benchmarks/neighbours.py --queries 500 --rounds 3

All three get the same float32 pixels; the same run checks that the neighbours are the same ones (where distances tie in
float32 the distances are). Process time on one thread, sides in turn, medians of rounds; memory is the highest resident
size during a search less that before it. The approximate indices are measured beside them, with their recall. Bar: at
least as fast as scikit-learn, in less memory than all distances at once. Exit code 1 when it is missed.

scikit-learn and faiss-cpu are installed for the measurement only (extras 'parity' and 'search').
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.paired import interval
from visus.core.device import environment
from visus.ops.approximate import ApproximateIndex
from visus.ops.neighbours import nearest, recall

OUT = Path(__file__).parent / "results" / "neighbours.json"
DATA = Path("/usr/share/datasets/fashion-mnist")
Found = tuple[np.ndarray, np.ndarray]  # distances, positions: [Q, k]


def pixels(name: str) -> np.ndarray:
    """float32 [N, 784] in [0, 1]."""
    raw = np.frombuffer(gzip.decompress((DATA / f"{name}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    return raw.reshape(-1, 784).astype(np.float32) / 255


def resident(field: str) -> int:
    """MiB, 'VmRSS' now or 'VmHWM' at its highest since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) >> 10
    return 0


def extra_memory(work: Callable[[], object]) -> int:
    """MiB above what is resident when it starts."""
    with open("/proc/self/clear_refs", "w") as handle:
        handle.write("5")
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def same(ours: Found, theirs: Found) -> dict[str, float]:
    """Raises where a neighbour differs whose distance does."""
    apart = np.abs(ours[0] - theirs[0]).max()
    assert apart < 2e-3, apart
    return {"largest difference of a distance": float(apart), "same position": float((ours[1] == theirs[1]).mean())}


def measure(base: np.ndarray, queries: np.ndarray, k: int, rounds: int) -> dict[str, dict]:
    import faiss
    from sklearn.neighbors import NearestNeighbors

    faiss.omp_set_num_threads(1)
    brute = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="euclidean").fit(base)
    flat = faiss.IndexFlatL2(base.shape[1])
    flat.add(base)
    vectors, asked = torch.from_numpy(base), torch.from_numpy(queries)

    def ours() -> Found:
        distances, index = nearest(asked, vectors, k)
        return distances.numpy(), index.numpy()

    def peer_flat() -> Found:
        squared, index = flat.search(queries, k)
        return np.sqrt(np.maximum(squared, 0)), index

    sides: dict[str, Callable[[], Found]] = {"ours": ours, "scikit-learn brute": lambda: brute.kneighbors(queries),
                                             "faiss flat": peer_flat}
    few = queries[:64]
    nearest(torch.from_numpy(few), vectors, k), brute.kneighbors(few), flat.search(few, k)  # warm
    memory, found = {}, {}
    for side, work in sides.items():
        memory[side] = extra_memory(lambda side=side, work=work: found.__setitem__(side, work()))
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in list(sides)[::1 if number % 2 else -1]:
            times[side].append(seconds(sides[side]))
        print(f"round {number + 1}: " + ", ".join(f"{side} {of[-1]:.2f} s" for side, of in times.items()), flush=True)
    results: dict[str, dict] = {"ours": {"s": round(statistics.median(times["ours"]), 3), "MiB": memory["ours"]}}
    for side in list(sides)[1:]:
        ratios = [them / us for them, us in zip(times[side], times["ours"], strict=True)]
        results[side] = {"s": round(statistics.median(times[side]), 3), "MiB": memory[side],
                         "our speed against it": round(statistics.median(ratios), 3), "interval": interval(ratios),
                         **same(found["ours"], found[side])}
    for kind in ("hnsw", "ivf"):
        start = time.process_time()
        index = ApproximateIndex(vectors, kind)
        built = time.process_time() - start
        start = time.process_time()
        _, places = index.nearest(asked, k)
        results[f"approximate, {kind}"] = {
            "s": round(time.process_time() - start, 3), "built in s": round(built, 1),
            "recall": round(recall(places, torch.from_numpy(found["ours"][1])), 4)}
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--base", type=int, default=60_000)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    results = measure(pixels("train")[:arguments.base], pixels("t10k")[:arguments.queries], arguments.k,
                      arguments.rounds)
    at_once = arguments.base * arguments.queries * 4 >> 20
    peer = results["scikit-learn brute"]
    bars = {"at least as fast as scikit-learn's brute force": peer["our speed against it"] >= 1,
            f"less than a tenth of the {at_once} MiB of all distances at once": results["ours"]["MiB"] < at_once / 10}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({
        "command": ["python", *sys.argv], "base": arguments.base, "queries": arguments.queries, "k": arguments.k,
        "rounds": arguments.rounds, "threads": 1, "load average at the start": round(load, 2), "bars": bars,
        "results": results, "environment": environment()}, indent=2) + "\n")
    for side, row in results.items():
        print(f"{side}: " + ", ".join(f"{name} {value}" for name, value in row.items()))
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
