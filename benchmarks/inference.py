"""Seven nets as `visus.optimize` computes them against timm's eager forward with the same weights.

    python benchmarks/inference.py [--models resnet18,mobilenet_v3_large] [--threads 1,2] [--rounds 9] [--no-compile]

224 px, one image, float32. Each side is a process of its own, so that no other pool of threads lives beside it; the
sides compute in turns, and wait while they do not. One thread: processor time; two: wall time. Medians of the
per-round ratios. The output of every side must equal timm's within 1e-5 of its largest number, in this same run.

Sides: timm; ours (what visus.optimize chose, with that number of threads); the best ways by hand: our net in eager
mode, onnxruntime, OpenVINO where it may compute (torch.compile where --compile). A process of fused multiply-adds in C
gives the peak of the machine in the same rounds (a matrix product of torch where there is no C compiler); what part of
it torch's product of large matrices reaches stands beside it.

Bars: geometric mean 1.42 on one thread, 1.5 on two; on one thread MobileNetV3 2.3, EfficientNet-B0 1.85, ResNet-18
1.4, ResNet-50 1.3; never below 0.97 of the best way by hand; ResNet-50 at 0.85 of the peak; building and tuning of
ResNet-50 at most a quarter of the processor time of torch.compile's first call with an empty cache. Exit code 1 when
one is missed; with a load average above 1.5 at the start they are reported, and the code is 0. Needs the extras
export, openvino and parity. Results: benchmarks/results/inference.json; nets that are not run again stay.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
OUT = Path(__file__).parent / "results" / "inference.json"
NETS: dict[str, tuple[str, dict[str, Any]]] = {  # ours -> timm's name, what timm leaves out
    "resnet18": ("resnet18", {}), "resnet50": ("resnet50", {}),
    "mobilenet_v3_large": ("mobilenetv3_large_100", {"dropout": 0.0, "bn_eps": 1e-5}),
    "efficientnet_b0": ("efficientnet_b0", {"dropout": 0.0, "drop_path": 0.0}),
    "vit_small_16": ("vit_small_patch16_224", {}), "convnext_tiny": ("convnext_tiny", {}),
    "swin_tiny": ("swin_tiny_patch4_window7_224", {})}
GEOMETRIC = {1: 1.42, 2: 1.5}
EACH = {"mobilenet_v3_large": 2.3, "efficientnet_b0": 1.85, "resnet18": 1.4, "resnet50": 1.3}
BY_HAND, OF_PEAK, OF_COMPILE, EQUAL, QUIET = 0.97, 0.85, 0.25, 1e-5, 1.5
TURN_S = 0.2
FMA = r"""
#include <stdio.h>
#include <time.h>
#ifdef __AVX512F__
#define BYTES 64
#else
#define BYTES 32
#endif
typedef float lanes __attribute__((vector_size(BYTES)));
static double now(void) { struct timespec t; clock_gettime(CLOCK, &t); return t.tv_sec + 1e-9 * t.tv_nsec; }
int main(void) {
  char line[64];
  puts("{}"); fflush(stdout);
  while (fgets(line, sizeof line, stdin)) {
    double best = 0;
    for (int round = 0; round < 6; round++) {
      double rate = 0;
      #pragma omp parallel reduction(+:rate)
      {
        const long steps = 2000000;
        lanes a[12], b = {0}, c = {0};
        for (int i = 0; i < (int)(BYTES / 4); i++) { b[i] = 0.999f; c[i] = 0.001f; }
        #pragma GCC unroll 12
        for (int i = 0; i < 12; i++) a[i] = c * (float)i;
        double start = now();
        for (long s = 0; s < steps; s++) {
          #pragma GCC unroll 12
          for (int i = 0; i < 12; i++) a[i] = a[i] * b + c;
          __asm__ volatile("" : "+v"(a[0]), "+v"(a[1]), "+v"(a[2]), "+v"(a[3]), "+v"(a[4]), "+v"(a[5]));
          __asm__ volatile("" : "+v"(a[6]), "+v"(a[7]), "+v"(a[8]), "+v"(a[9]), "+v"(a[10]), "+v"(a[11]));
        }
        rate += 2.0 * steps * 12 * (BYTES / 4) / (now() - start);
      }
      if (rate > best) best = rate;
    }
    printf("{\"rate\": %.6g}\n", best); fflush(stdout);
  }
  return 0;
}
"""


# -- a side: one process -------------------------------------------------------------------------------------------


def side(name: str, what: str, threads: int) -> None:
    """Build, say what was built and give the output; then one turn for each line on standard input."""
    import torch

    torch.set_num_threads(threads)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(7))
    about: dict[str, Any] = {}
    if what == "matmul":
        a = torch.ones(1536, 1536)
        call: Any = lambda: torch.mm(a, a)  # noqa: E731
        about["output"] = []
    else:
        model = net(name, what == "timm")
        call, about = way(model, images, what, threads)
        about["output"] = np.asarray(call()).ravel().tolist()
        about["macs"] = macs(model) if what == "ours" else 0
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn(call) | ({"flops": 2 * 1536**3} if what == "matmul" else {})), flush=True)


def turn(call: Any) -> dict[str, float]:
    """Medians of the calls of a turn, wall; the mean of their processor time."""
    call()
    wall: list[float] = []
    cpu, start = time.process_time(), time.perf_counter()
    while len(wall) < 2 or (time.perf_counter() - start < TURN_S and len(wall) < 200):
        lap = time.perf_counter()
        call()
        wall.append(time.perf_counter() - lap)
    return {"cpu": (time.process_time() - cpu) / len(wall), "wall": statistics.median(wall)}


def net(name: str, peers: bool) -> Any:
    """timm's net, or ours with its weights: the same in every process."""
    import torch

    from tools.peers import peer_model
    from visus.run.models import create_model, load_weights

    theirs_name, options = NETS[name]
    torch.manual_seed(0)
    theirs = peer_model("timm", theirs_name).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if not parameter.any():  # zero at the start: would hide what is behind it
                parameter.normal_(0, 0.02)
    if peers:
        return theirs
    ours = create_model(name, **options)
    load_weights(ours, theirs.state_dict(), origin="torchvision" if name == "resnet18" else "timm")
    return ours.eval()


def way(model: Any, images: Any, what: str, threads: int) -> tuple[Any, dict[str, Any]]:
    import torch

    import visus

    if what in ("timm", "eager", "torch-compile"):
        spent = used()
        chosen = torch.compile(model) if what == "torch-compile" else model

        def call() -> Any:
            with torch.inference_mode():
                return chosen(images).numpy()

        call()
        return call, {"first call": used() - spent}
    if what == "ours":
        spent = used()
        found = visus.optimize(model, images, threads=threads)
        # torch's pool is not needed any more: one thread of it stays
        return lambda: found(images).numpy(), {"tuning": used() - spent, "choice": repr(found),
                                               "rows": [row.to_dict() for row in found.table]}
    from visus.deploy.backends_torch import quick_graph
    from visus.deploy.session import session_of_graph

    session, array = session_of_graph(quick_graph(model, images), what, threads), images.numpy()
    return lambda: session(array), {}


def used() -> float:
    """Processor seconds of this process and of the compilers that it called."""
    return sum(value.ru_utime + value.ru_stime for value in map(resource.getrusage, (
        resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def macs(model: Any) -> int:
    from visus.core.summary import summarise

    return summarise(model, (1, 3, 224, 224)).macs


# -- the parent ----------------------------------------------------------------------------------------------------


class Side:
    def __init__(self, process: subprocess.Popen[str]):
        self.process = process
        self.about: dict[str, Any] = self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side ended with code {self.process.wait()}: {self.process.args}")
        return json.loads(line)

    def turn(self) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()


@contextmanager
def started(command: list[str], threads: int) -> Iterator[Side]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as cache, subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**environment, "TORCHINDUCTOR_CACHE_DIR": cache}) as process:
        try:
            yield Side(process)
        finally:
            process.kill()


def fma(folder: Path, threads: int) -> list[str] | None:
    """The command of the C program, or None without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    source, program = folder / "fma.c", folder / f"fma{threads}"
    source.write_text(FMA)
    clock = "CLOCK_THREAD_CPUTIME_ID" if threads == 1 else "CLOCK_MONOTONIC"
    built = subprocess.run([compiler, "-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", f"-DCLOCK={clock}",
                            str(source), "-o", str(program)], capture_output=True)
    return [str(program)] if built.returncode == 0 else None


def measure(name: str, threads: int, rounds: int, compiled: bool, folder: Path) -> dict[str, Any]:
    from visus.deploy.openvino_package import may_compute

    whats = ["timm", "ours", "eager", "onnxruntime", *(["onnxruntime-spinning"] if threads > 1 else []),
             *(["openvino"] if may_compute() else []), *(["torch-compile"] if compiled else [])]
    peak_command = fma(folder, threads)
    own = [sys.executable, str(Path(__file__).resolve()), "--side", name]
    with ExitStack() as stack:
        sides = {what: stack.enter_context(started([*own, what, str(threads)], threads)) for what in whats}
        product = stack.enter_context(started([*own, "matmul", str(threads)], threads))
        peak = stack.enter_context(started(peak_command, threads)) if peak_command else None
        expected = np.array(sides["timm"].about["output"])
        largest = float(np.abs(expected).max())
        assert largest > 1e-3, "the output says nothing"
        apart = {what: float(np.abs(np.array(one.about["output"]) - expected).max()) / largest
                 for what, one in sides.items()}
        times: dict[str, list[float]] = {what: [] for what in whats}
        clock = "cpu" if threads == 1 else "wall"
        peaks, products = [], []
        for number in range(rounds + 1):
            for what in whats[::1 if number % 2 else -1]:
                times[what].append(sides[what].turn()[clock])
            found = product.turn()
            products.append(found["flops"] / found[clock])
            peaks.append(products[-1] if peak is None else peak.turn()["rate"])
        times = {what: of[1:] for what, of in times.items()}  # the first round warms up
    ours, about = times["ours"], sides["ours"].about

    def speed(of: list[float], over: list[float]) -> dict[str, Any]:
        from benchmarks.paired import interval

        ratios = [a / b for a, b in zip(over, of, strict=True)]
        return {"median": round(statistics.median(ratios), 3), "interval": interval(ratios)}

    hand = {what: speed(ours, times[what]) for what in whats if what not in ("timm", "ours")}
    return {"choice": about["choice"], "speed against timm": speed(ours, times["timm"]),
            "speed against the best by hand": min(row["median"] for row in hand.values()), "by hand": hand,
            "ms": {what: round(1e3 * statistics.median(of), 3) for what, of in times.items()},
            "largest difference": apart, "tuning, processor s": round(about["tuning"], 2),
            "peak": {"GFLOP/s": round(statistics.median(peaks) / 1e9, 1),
                     "of": "fused multiply-adds in C" if peak_command else "torch.mm, 1536 x 1536"},
            "matrix product, of the peak": round(statistics.median(products) / statistics.median(peaks), 3),
            "share of the peak": round(2 * about["macs"] / statistics.median(ours) / statistics.median(peaks), 3)}


def compile_seconds(name: str) -> float:
    own = [sys.executable, str(Path(__file__).resolve()), "--side", name, "torch-compile", "1"]
    with started(own, 1) as one:
        return float(one.about["first call"])


def auto_tuning(name: str) -> float:
    """Processor seconds of visus.optimize(model, example) as it is called by default."""
    code = ("import sys; sys.path[:0] = [{root!r}, {root!r} + '/benchmarks']; import torch, visus, inference; "
            "model = inference.net({name!r}, False); spent = inference.used(); "
            "visus.optimize(model, torch.rand(1, 3, 224, 224)); print(inference.used() - spent)")
    found = subprocess.run([sys.executable, "-c", code.format(root=str(ROOT), name=name)], capture_output=True,
                           text=True, check=True)
    return float(found.stdout.strip().splitlines()[-1])


def verdicts(results: dict[str, Any], counts: list[int]) -> dict[str, bool]:
    found = {}
    for threads in counts:
        rows = {name: row[f"{threads} threads"] for name, row in results.items()
                if isinstance(row, dict) and f"{threads} threads" in row}
        if not rows:
            continue
        speeds = {name: row["speed against timm"]["median"] for name, row in rows.items()}
        if set(rows) == set(NETS):
            mean = math.exp(statistics.fmean(map(math.log, speeds.values())))
            least = GEOMETRIC[threads]
            found[f"geometric mean on {threads}: {mean:.3f}, at least {least}"] = mean >= least
        for name, row in rows.items():
            if threads == 1 and name in EACH:
                found[f"{name}: {speeds[name]:.2f}, at least {EACH[name]}"] = speeds[name] >= EACH[name]
            hand = row["speed against the best by hand"]
            found[f"{name} on {threads}: {hand:.3f} of the best by hand, at least {BY_HAND}"] = hand >= BY_HAND
            apart = max(row["largest difference"].values())
            found[f"{name} on {threads}: differs by {apart:.1e}, at most {EQUAL}"] = apart <= EQUAL
        if threads == 1 and "resnet50" in rows:
            share = rows["resnet50"]["share of the peak"]
            found[f"resnet50: {share:.2f} of the peak, at least {OF_PEAK}"] = share >= OF_PEAK
    if (first := results.get("first call of torch.compile")) is not None:
        share = first["ours"] / first["torch.compile"]
        found[f"building and tuning: {share:.2f} of torch.compile's first call, at most {OF_COMPILE}"] = \
            share <= OF_COMPILE
    return found


def summary(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A row for each net, for docs/results.md."""
    table: dict[str, dict[str, Any]] = {}
    for name in (name for name in NETS if name in results):
        row: dict[str, Any] = {}
        for threads, found in sorted(results[name].items()):
            speed = found["speed against timm"]
            low, high = speed["interval"]
            row |= {f"{threads}: times timm's speed": f"{speed['median']:.2f} ({low:.2f} to {high:.2f})",
                    f"{threads}: ms, timm and ours": f"{found['ms']['timm']:.1f}, {found['ms']['ours']:.1f}",
                    f"{threads}: of the best by hand": found["speed against the best by hand"],
                    f"{threads}: of the peak": found["share of the peak"],
                    f"{threads}: a matrix product, of the peak": found.get("matrix product, of the peak",
                                                                           "not measured"),
                    f"{threads}: choice": found["choice"].removeprefix("Optimised(").split(",")[0]}
        table[name] = row
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(NETS))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="torch.compile as a way by hand too")
    parser.add_argument("--no-compile", action="store_true", help="not even its first call")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side(arguments.side[0], arguments.side[1], int(arguments.side[2]))
        return 0
    from visus.core.device import environment

    load, counts = os.getloadavg()[0], [int(count) for count in arguments.threads.split(",")]
    results = json.loads(arguments.out.read_text())["results"] if arguments.out.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models.split(","):
            for threads in counts:
                row = measure(name, threads, arguments.rounds, arguments.compile, Path(folder))
                results.setdefault(name, {})[f"{threads} threads"] = row
                print(f"{name} on {threads}: {row['speed against timm']} x timm, {row['choice']}, "
                      f"{row['speed against the best by hand']} of the best by hand, {row['share of the peak']} of the "
                      f"peak, {row['ms']}", flush=True)
            if name == "resnet50" and not arguments.no_compile:
                results["first call of torch.compile"] = {"torch.compile": round(compile_seconds(name), 1),
                                                          "ours": round(auto_tuning(name), 1)}
                print(results["first call of torch.compile"], flush=True)
    bars = verdicts(results, list(GEOMETRIC))  # of what stayed, too
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({
        "command": ["python", *sys.argv], "rounds": arguments.rounds, "load average at the start": round(load, 2),
        "bars": bars, "missed": [said for said, good in bars.items() if not good], "summary": summary(results),
        "results": results, "environment": environment()}, indent=2) + "\n")
    for said, good in bars.items():
        print("reached" if good else "MISSED ", said)
    if load > QUIET:
        print(f"the machine was busy (load {load:.1f}): the bars do not count")
        return 0
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
