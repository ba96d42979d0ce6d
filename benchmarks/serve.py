"""`visus serve` against the bare model, against LitServe and against plain FastAPI, the last two with timm's model in
eager mode: JPEG in, JSON out, over the loopback device.

    python benchmarks/serve.py                                  ResNet-50 and MobileNetV3-Large, 224 px
    python benchmarks/serve.py --models resnet50 --photos FOLDER --rounds 7 --seconds 20 --wrk

Photographs are cut to 500 x 375 and kept as JPEG (quality 90), 64 of them; every server gets the same bytes, as a form.
Weights are random, which changes no time. All servers run for the whole of it, and are idle but for the one that is
asked; each peer is tried in several ways (processes, threads, LitServe's batching) and enters with its best.

1. A sweep over numbers of connections in a closed loop (each asks again as soon as it was answered) gives the requests
   per second and the p99 of each. A peer's point is where it answers most; ours the most that it answers at no longer
   a p99 than that.
2. At these points the servers are measured in turn, in rounds; ratios are taken round by round, their median and its
   interval reported. The bare model, Predictor.probs on prepared images in as many threads as the server has streams,
   and the same with decoding and resizing, are measured in the same rounds. Our server is also asked with what the bare
   model is asked with: prepared images as binary tensors of the Open Inference Protocol.
3. Open loops (a Poisson process; latencies count from when a request was due) at 50, 80 and 150 % of the most that our
   server answers: p50, p99, and how soon the excess is refused; at 80 % also with evenly spaced requests, as tools with
   a constant rate send them. p99 is set against the bare model's p99 of the rounds, and against its median time for one
   image alone. Beside it stands what no server could better: the bare model in as many threads behind a queue, with
   the same arrivals at 80 % of its own rate.

Before that answers of our server are compared with the offline ones. Bars: at least 0.9 of the bare model, 1.35 x
(ResNet-50) and 2.2 x (MobileNetV3) of either peer; p99 at 80 % at most 5 x the bare model's median; no answer wrong
or lost; memory within 5 %.
--wrk measures the closed loops with wrk instead of the client of tests/deploy/server. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import queue
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.paired import interval
from tests.deploy.server.load_client import (
    Address,
    Lost,
    arrivals,
    ask,
    closed_loop,
    look,
    multipart,
    open_loop,
    quantile,
    request,
)
from visus.core.device import environment
from visus.deploy.predictor import open_predictor

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "results" / "serve.json"
MODELS = {"resnet50": "resnet50", "mobilenet_v3_large": "mobilenetv3_large_100"}  # ours -> timm's name
BARS = {"resnet50": 1.35, "mobilenet_v3_large": 2.2}
OF_BARE, P99_OF_BARE, FLAT = 0.9, 5.0, 1.05
PHOTO = (375, 500)  # height, width


@dataclass
class Target:
    """A server that runs. name: side of the comparison; way: how it was started; field: of the form."""

    name: str
    way: str
    address: Address
    requests: list[bytes]
    pid: int
    connections: int = 0
    rate: float = 0.0
    p99: float = 0.0


# -- what is asked ------------------------------------------------------------------------------------------------


def photographs(folder: Path | None, count: int) -> list[bytes]:
    """JPEG files of windows of 500 x 375 of the photographs in a folder, or of those that scikit-image brings."""
    if folder is None:
        import skimage.data

        sources = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    else:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
        sources = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    draw = np.random.default_rng(0)
    encoded = []
    for number in range(count):
        image = Image.fromarray(sources[number % len(sources)])
        scale = 1.1 * max(PHOTO[0] / image.height, PHOTO[1] / image.width)
        if scale > 1:
            image = image.resize((round(image.width * scale), round(image.height * scale)))
        left, top = (int(draw.integers(0, have - want + 1))
                     for have, want in ((image.width, PHOTO[1]), (image.height, PHOTO[0])))
        file = io.BytesIO()
        image.crop((left, top, left + PHOTO[1], top + PHOTO[0])).save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())
    return encoded


def forms(photos: Sequence[bytes]) -> list[bytes]:
    made = []
    for number, photo in enumerate(photos):
        body, line = multipart([("image", f"{number}.jpg", photo)], kind="image/jpeg")
        made.append(request("POST", "/predict", body, [line]))
    return made


def tensors(name: str, images: Sequence[np.ndarray]) -> list[bytes]:
    """Prepared images, uint8 [H, W, 3], as binary tensors of the Open Inference Protocol."""
    made = []
    for image in images:
        head = json.dumps({"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, *image.shape],
                                       "parameters": {"binary_data_size": image.size}}],
                           "outputs": [{"name": "probs", "parameters": {"binary_data": True}}]}).encode()
        lines = [("Inference-Header-Content-Length", str(len(head))), ("Content-Type", "application/octet-stream")]
        made.append(request("POST", f"/v2/models/{name}/infer", head + image.tobytes(), lines))
    return made


def bundle(name: str, folder: Path) -> Path:
    """A bundle of the registered model with random weights: 1000 classes, 224 px, ImageNet's statistics."""
    import torch

    from visus.core.preprocessing import Preprocessing
    from visus.deploy.artifact import FORMAT, ONNX, seal
    from visus.deploy.onnx_file import write_onnx
    from visus.deploy.program import Program
    from visus.run.models import create_model

    torch.manual_seed(0)
    preprocessing = Preprocessing(size=(224, 224), resize="crop", labels=tuple(f"class {k}" for k in range(1000)))
    about = {"format": FORMAT, "model": name, "task": "classification", "preprocessing": preprocessing.to_dict(),
             "calibration": None, "precision": "float32"}
    path = folder / name
    path.mkdir()
    write_onnx(Program(create_model(name).eval(), preprocessing, "classification"),
               torch.zeros((2, 224, 224, 3), dtype=torch.uint8), path / ONNX, about)
    seal(path, about)
    return path


# -- servers ------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def process(command: Sequence[str], port: int, ready: bytes, log: Path) -> Iterator[int]:
    """A server as a process group of its own; its number. Raises SystemExit when it does not answer in five minutes."""
    with log.open("wb") as file:
        started = subprocess.Popen([*command, "--port", str(port)], cwd=ROOT, stdout=file, stderr=file,
                                   start_new_session=True)
    try:
        end = time.monotonic() + 300
        while True:
            with suppress(Lost, OSError, ValueError, TimeoutError):
                if asyncio.run(ask(("127.0.0.1", port), ready, within=30)).status == 200:
                    break
            if time.monotonic() > end or started.poll() is not None:
                raise SystemExit(f"{' '.join(command)} does not answer:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield started.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def ways(cores: int) -> dict[str, list[dict[str, int]]]:
    """How each peer is tried: a process for each core, or one with a thread for each; LitServe also with batches."""
    both = [{"workers": cores, "threads": 1}, {"workers": 1, "threads": cores}]
    return {"fastapi": both, "litserve": [*both, {"workers": 1, "threads": cores, "batch": 8}]}


# -- measuring ----------------------------------------------------------------------------------------------------


def loop(target: Target, connections: int, seconds: float, wrk: bool) -> tuple[float, float]:
    """(requests per second, p99 in s) of a closed loop. Raises SystemExit for an answer that is no 200."""
    if wrk:
        return wrk_loop(target, connections, seconds)
    start = time.monotonic()
    answers = asyncio.run(closed_loop(target.address, target.requests, 10**9, connections,
                                      until=lambda: time.monotonic() > start + seconds))
    bad = [answer for answer in answers if answer.status != 200]
    if bad:
        raise SystemExit(f"{target.name} {target.way}: {len(bad)} of {len(answers)} were not answered: {bad[0]}")
    took = max(answer.at for answer in answers) - start
    return len(answers) / took, quantile((answer.seconds for answer in answers), 0.99)


LUA = """local bodies = {}
function init(args)
  for _, name in ipairs(args) do
    local file = io.open(name, "rb"); bodies[#bodies + 1] = file:read("*a"); file:close()
  end
end
local number = 0
function request() number = number + 1; return bodies[(number - 1) % #bodies + 1] end
"""


def wrk_loop(target: Target, connections: int, seconds: float) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "ask.lua"
        script.write_text(LUA)
        names = []
        for number, data in enumerate(target.requests):
            names.append(str(Path(folder) / f"{number}.http"))
            Path(names[-1]).write_bytes(data)
        url = f"http://127.0.0.1:{target.address[1]}"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{round(seconds)}s", "--timeout", "60s", "--latency", "-s",
                   str(script), url, "--", *names]
        done = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in done or "Socket errors" in done:
        raise SystemExit(f"{target.name} {target.way}: wrk saw errors:\n{done}")
    p99, unit = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\b", done).groups()  # type: ignore[union-attr]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", done).group(1))  # type: ignore[union-attr]
    return rate, float(p99) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}[unit]


def bare(ask_one: Callable[[int], object], threads: int, seconds: float) -> tuple[float, list[float]]:
    """(calls per second, their times in s) of so many threads."""
    times: list[float] = []
    start = time.monotonic()

    def work(first: int) -> None:
        number = first
        while (begin := time.monotonic()) < start + seconds:
            ask_one(number)
            times.append(time.monotonic() - begin)
            number += threads

    workers = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(times) / (time.monotonic() - start), times


def sweep(targets: Sequence[Target], connections: Sequence[int], seconds: float, wrk: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for target in targets:
        rows = found.setdefault(target.name, {}).setdefault(target.way, {})
        for count in connections:
            rate, p99 = loop(target, count, seconds, wrk)
            rows[count] = {"requests per second": round(rate, 2), "p99 ms": round(1e3 * p99, 1)}
            if rate > 1.02 * target.rate:  # more connections only for more answers
                target.connections, target.rate, target.p99 = count, rate, p99
        print(f"  {target.name} {target.way}: {target.rate:.1f} a second with {target.connections} connections, "
              f"p99 {1e3 * target.p99:.0f} ms", flush=True)
    return found


def at_p99(rows: dict[int, dict[str, float]], p99: float) -> int:
    """The connections of ours that answer most at no longer a p99 (s); the fewest where none is that short."""
    fit = {count: row["requests per second"] for count, row in rows.items() if row["p99 ms"] <= 1e3 * p99}
    return max(fit, key=lambda count: fit[count]) if fit else min(rows)


def wrong(target: Target, expected: Sequence[Any], count: int) -> dict[str, int]:
    """`count` answers compared with the offline ones, to the last bit."""
    answers = asyncio.run(closed_loop(target.address, target.requests, count, 8))
    lost = [answer for answer in answers if answer.status != 200]
    differing = [answer for answer in answers if answer.status == 200
                 and answer.json()["results"][0]["top"] != expected[answer.number % len(expected)]]
    return {"asked": count, "lost": len(lost), "wrong": len(differing)}


def wrong_tensors(target: Target, expected: Sequence[np.ndarray]) -> int:
    """Of the answers to prepared images, those that are not the offline ones to the last bit."""
    answers = asyncio.run(closed_loop(target.address, target.requests, len(expected), 8))
    return sum(answer.status != 200 or not answer.body.endswith(expected[answer.number].tobytes())
               for answer in answers)


def open_loops(target: Target, capacity: float, one: float, p99: float, seconds: float) -> dict[str, Any]:
    """one, p99: the bare model's time for an image alone, and its p99 on all streams, s."""
    found = {}
    for share, even in ((0.5, False), (0.8, False), (0.8, True), (1.5, False)):
        count = max(50, round(share * capacity * seconds))
        answers = asyncio.run(open_loop(target.address, target.requests, count, share * capacity, even=even))
        accepted = [answer.seconds for answer in answers if answer.status == 200]
        refused = [answer for answer in answers if answer.status in (429, 503)]
        row = {"asked": count, "answered": len(accepted), "refused": len(refused),
               "neither": count - len(accepted) - len(refused),
               "p50 ms": round(1e3 * quantile(accepted, 0.5), 1), "p99 ms": round(1e3 * quantile(accepted, 0.99), 1),
               "p99 of the bare model's median": round(quantile(accepted, 0.99) / one, 2),
               "p99 of the bare model's": round(quantile(accepted, 0.99) / p99, 2)}
        if refused:
            row["refusal p99 ms"] = round(1e3 * quantile((answer.seconds for answer in refused), 0.99), 1)
            row["all with Retry-After"] = all("retry-after" in answer.headers for answer in refused)
        said = f"{share:.0%} of capacity" + ", evenly spaced" * even
        found[said] = row
        print(f"  {said}: {row}", flush=True)
    return found


def queued(ask_one: Callable[[int], object], threads: int, rate: float, seconds: float, even: bool) -> float:
    """p99 in s, from when it was due, of calls that wait for one of so many threads."""
    jobs: queue.SimpleQueue[tuple[int, float] | None] = queue.SimpleQueue()
    took: list[float] = []

    def work() -> None:
        while (job := jobs.get()) is not None:
            ask_one(job[0])
            took.append(time.monotonic() - job[1])

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    start = time.monotonic()
    for number, moment in enumerate(arrivals(max(50, round(rate * seconds)), rate, even=even)):
        time.sleep(max(0.0, start + moment - time.monotonic()))
        jobs.put((number, start + moment))
    for _ in workers:
        jobs.put(None)
    for worker in workers:
        worker.join()
    return quantile(took, 0.99)


def measure(name: str, arguments: argparse.Namespace, photos: list[bytes], folder: Path) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0))
    print(f"{name}: the bundle", flush=True)
    path = bundle(name, folder)
    predictor = open_predictor(path, threads=1)
    images = [predictor.prepared(predictor.read(photo).pixels) for photo in photos]
    probs = [predictor.probs(image) for image in images]
    expected = [[{"label": predictor.bundle.labels[k], "prob": prob} for k, prob in predictor.top(one)]
                for one in probs]
    sent = forms(photos)
    with ExitStack() as stack:
        def begin(side: str, way: str, command: Sequence[str], ready: bytes) -> Target:
            port = free_port()
            pid = stack.enter_context(process(command, port, ready, folder / f"{name}-{side}-{port}.log"))
            return Target(side, way, ("127.0.0.1", port), sent, pid)

        command = [sys.executable, "-m", "visus", "serve", str(path), "--access-log", "", *arguments.serve.split()]
        ours = begin("visus", f"{cores} streams", command, request("GET", "/v2/health/ready"))
        peers = [begin(side, ", ".join(f"{count} {what}" for what, count in way.items()),
                       [sys.executable, "benchmarks/serve_peers.py", side, "--model", MODELS[name],
                        *(word for what, count in way.items() for word in (f"--{what}", str(count)))], sent[0])
                 for side in arguments.peers for way in ways(cores)[side][:arguments.ways]]
        prepared = replace(ours, requests=tensors(name, images))
        result: dict[str, Any] = {"correct": wrong(ours, expected, arguments.answers)}
        result["correct"]["wrong"] += wrong_tensors(prepared, probs)
        before = look(ours.pid)
        result["sweep"] = sweep([ours, *peers], arguments.connections, arguments.sweep_seconds, arguments.wrk)
        best = {side: max((peer for peer in peers if peer.name == side), key=lambda peer: peer.rate)
                for side in arguments.peers}
        mine = result["sweep"]["visus"][ours.way]
        sides: dict[str, Callable[[float], tuple[float, float]]] = {
            "visus": lambda seconds: loop(ours, ours.connections, seconds, arguments.wrk),
            "visus, prepared images": lambda seconds: loop(prepared, ours.connections, seconds, arguments.wrk)}
        for side, peer in best.items():
            count = at_p99(mine, peer.p99)
            sides[side] = partial(loop, peer, peer.connections, wrk=arguments.wrk)
            sides[f"visus at the p99 of {side}"] = partial(loop, ours, count, wrk=arguments.wrk)

        def bare_model(seconds: float) -> tuple[float, float]:
            rate, times = bare(lambda number: predictor.probs(images[number % len(images)]), cores, seconds)
            return rate, quantile(times, 0.99)

        def bare_path(seconds: float) -> tuple[float, float]:
            def one(number: int) -> None:
                predictor.probs(predictor.prepared(predictor.read(photos[number % len(photos)]).pixels))

            rate, times = bare(one, cores, seconds)
            return rate, quantile(times, 0.99)

        sides |= {"bare model": bare_model, "bare model with decoding": bare_path}
        rounds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for number in range(arguments.rounds):
            for side in list(sides)[::1 if number % 2 else -1]:
                rounds[side].append(sides[side](arguments.seconds))
        alone = [time_of(lambda number: predictor.probs(images[number % len(images)]), number) for number in range(30)]
        one = statistics.median(alone)
        result["requests per second"] = {side: round(statistics.median(rate for rate, _ in found), 2)
                                         for side, found in rounds.items()}
        result["p99 ms"] = {side: round(1e3 * statistics.median(p99 for _, p99 in found), 1)
                            for side, found in rounds.items()}
        result["bare model alone, ms an image"] = round(1e3 * one, 2)
        result["ways"] = {side: f"{peer.way}; {peer.connections} connections" for side, peer in best.items()}

        def ratio(upper: str, lower: str) -> dict[str, Any]:
            ratios = [a / b for (a, _), (b, _) in zip(rounds[upper], rounds[lower], strict=True)]
            return {"median": round(statistics.median(ratios), 3), "interval": interval(ratios)}

        result["against the bare model"] = ratio("visus", "bare model")
        result["prepared images, against the bare model"] = ratio("visus, prepared images", "bare model")
        result["against the bare model with decoding"] = ratio("visus", "bare model with decoding")
        result["against peers at equal p99"] = {side: ratio(f"visus at the p99 of {side}", side) for side in best}
        print(f"  {result['requests per second']}", flush=True)
        result["open loop"] = open_loops(ours, result["requests per second"]["visus"], one,
                                         1e-3 * result["p99 ms"]["bare model"], arguments.seconds)
        for even in (False, True):
            rate, _ = bare_model(arguments.seconds)  # again: a machine that others use too is not always equally fast
            found = queued(lambda number: predictor.probs(images[number % len(images)]), cores, 0.8 * rate,
                           arguments.seconds, even)
            result["open loop"]["80% of capacity" + ", evenly spaced" * even] |= {
                "p99 ms of the bare model behind a queue": round(1e3 * found, 1),
                "the same, of the bare model's median": round(found / one, 2)}
        after = look(ours.pid)
        result["memory"] = {"MiB before": before.rss >> 20, "MiB after": after.rss >> 20,
                            "ratio": round(after.rss / before.rss, 3)}
    result["missed"] = missed(name, result)
    return result


def time_of(call: Callable[[int], object], number: int) -> float:
    start = time.perf_counter()
    call(number)
    return time.perf_counter() - start


def missed(name: str, result: dict[str, Any]) -> list[str]:
    found = []
    if result["correct"]["lost"] or result["correct"]["wrong"]:
        found.append(f"answers: {result['correct']}")
    if result["against the bare model"]["median"] < OF_BARE:
        found.append(f"{result['against the bare model']['median']} of the bare model, not {OF_BARE}")
    found += [f"{ratio['median']} x of {side}, not {BARS[name]}"
              for side, ratio in result["against peers at equal p99"].items() if ratio["median"] < BARS[name]]
    at_eighty = result["open loop"]["80% of capacity"]["p99 of the bare model's median"]
    if at_eighty > P99_OF_BARE:
        found.append(f"p99 at 80 % is {at_eighty} x the bare model's time, not {P99_OF_BARE}")
    if result["memory"]["ratio"] > FLAT:
        found.append(f"memory grew: {result['memory']}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--peers", nargs="*", choices=["litserve", "fastapi"], default=["litserve", "fastapi"])
    parser.add_argument("--ways", type=int, default=9, help="of starting each peer, at most")
    parser.add_argument("--photos", type=Path, help="a folder of photographs; default: those of scikit-image")
    parser.add_argument("--count", type=int, default=64, help="different photographs")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 2, 3, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement in a round")
    parser.add_argument("--sweep-seconds", type=float, default=8)
    parser.add_argument("--answers", type=int, default=1000, help="that are compared with the offline ones")
    parser.add_argument("--serve", default="", help="more options of visus serve, such as '--queue 16'")
    parser.add_argument("--wrk", action="store_true", help="closed loops by wrk")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    photos = photographs(arguments.photos, arguments.count)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            results[name] = measure(name, arguments, photos, Path(folder))
    versions = {package: version_of(package) for package in ("timm", "torch", "litserve", "fastapi", "uvicorn",
                                                             "onnxruntime")}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({
        "command": ["python", *sys.argv], "versions": versions, "rounds": arguments.rounds,
        "load average at the start": round(load, 2), "client": "wrk" if arguments.wrk else "tests/deploy/server",
        "missed": [f"{name}: {said}" for name, result in results.items() for said in result["missed"]],
        "summary": summary(results), "results": results, "environment": environment()}, indent=2) + "\n")
    for name, result in results.items():
        print(f"{name}: {result['against the bare model']['median']} of the bare model; "
              + ", ".join(f"{ratio['median']} x of {side} {ratio['interval']}"
                          for side, ratio in result["against peers at equal p99"].items())
              + f"; missed: {result['missed'] or 'nothing'}")
    return 1 if any(result["missed"] for result in results.values()) else 0


def summary(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A row for each model, for docs/results.md."""

    def said(ratio: dict[str, Any]) -> str:
        return f"{ratio['median']:.2f} ({ratio['interval'][0]:.2f} to {ratio['interval'][1]:.2f})"

    return {name: {
        "answers asked, lost, wrong": ", ".join(str(result["correct"][what]) for what in ("asked", "lost", "wrong")),
        "requests per second": result["requests per second"]["visus"],
        **{f"times {side} at its p99": said(ratio) for side, ratio in result["against peers at equal p99"].items()},
        "of the bare model": said(result["against the bare model"]),
        "prepared images, of the bare model": said(result["prepared images, against the bare model"]),
        "of the bare model with decoding": said(result["against the bare model with decoding"]),
        **{f"p99 at 80 % load, times the bare model's {what}": result["open loop"]["80% of capacity"][key]
           for what, key in (("median", "p99 of the bare model's median"), ("p99", "p99 of the bare model's"))},
        "the same, evenly spaced, times the median":
            result["open loop"]["80% of capacity, evenly spaced"]["p99 of the bare model's median"],
        "the bare model behind a queue at 80 % load, p99, times its median":
            result["open loop"]["80% of capacity"]["the same, of the bare model's median"],
        "memory": result["memory"]["ratio"]} for name, result in results.items()}


def version_of(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
