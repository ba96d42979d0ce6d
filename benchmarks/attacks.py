"""Attacks against torchattacks 3.5.1 and foolbox 3.3.4: equal work, equal results, paired times.

  python benchmarks/attacks.py                 two small nets on CIFAR-10, undefended and adversarially trained

The nets are small residual nets that this script trains on CIFAR-10 (a few minutes; kept in the temporary folder). Each
side attacks the same images from the same model; ours through `visus.deploy.frozen`, as `visus attack` does (the copy
is made once for a net; its time stands in the results). The sides take turns; time is the process's own, on one thread.
Robust accuracy is counted from what the attack returns, by the plain model for every side; the row fails where ours is
above theirs (beyond the one image that a random start may decide).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.paired import interval
from visus.attack.deepfool import DeepFool
from visus.attack.pgd import PGD
from visus.core.device import environment
from visus.core.files import write_json
from visus.deploy.frozen import frozen

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
EPS = 8 / 255
EPOCHS = {"plain": 2.0, "pgd": 0.6}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


class Block(nn.Module):
    def __init__(self, a: int, b: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.conv2, self.norm2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        self.short = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b)) if a != b else \
            nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + self.short(x))


class Net(nn.Module):
    """A residual net of 8 layers for 32 px; it normalises images in [0, 1] itself, as the peers ask."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2),
                                    Block(2 * width, 4 * width, 2))
        self.head = nn.Linear(4 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem((images - self.mean) / self.std)).mean((2, 3)))


def cifar(split: str) -> tuple[Tensor, Tensor]:
    held = np.load(DATA / f"cifar10_{split}.npz")
    p = held["q"].cumsum(-1, dtype=np.uint8).cumsum(-2, dtype=np.uint8)
    pixels = np.stack([p[1] + p[0], p[0], p[2] + p[0]], 1)
    return torch.from_numpy(pixels), torch.from_numpy(held["y"].astype(np.int64))


def trained(kind: str, epochs: float, cache: Path, device: str = "cpu") -> Net:
    """kind: plain, or pgd: from the plain net on, each batch is replaced by its PGD-4 examples (Madry et al.). Kept in
    `cache`."""
    path = cache / f"visus-benchmark-cifar-{kind}-{epochs:g}.pt"
    torch.manual_seed(0)
    net = Net()
    if path.is_file():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()
    if kind == "pgd":
        net.load_state_dict(trained("plain", EPOCHS["plain"], cache, device).state_dict())
    images, labels = cifar("train")
    net.to(device)
    steps, batch = round(epochs * 50_000 / 128), 128
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2 if kind == "plain" else 0.1, total_steps=steps)
    attack = PGD(eps=EPS, steps=4, early_stop=False)
    generator, start = torch.Generator().manual_seed(0), time.process_time()
    for step in range(steps):
        chosen = torch.randint(0, 50_000, (batch,), generator=generator)
        x, y = images[chosen].to(device).float() / 255, labels[chosen].to(device)
        flip = (torch.rand(batch, 1, 1, 1, generator=generator) < 0.5).to(device)
        x = torch.where(flip, x.flip(3), x)
        if kind == "pgd":
            net.eval()
            x = attack(net, x, y, generator=generator).images
        net.train()
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"train {kind}: step {step} of {steps}, loss {float(loss.detach()):.3f}, "
                  f"{time.process_time() - start:.0f} s", flush=True)
    net.to("cpu")
    torch.save(net.state_dict(), path)
    return net.eval()


# -- the two sides -------------------------------------------------------------------------------------------------

Side = Callable[[], tuple[Tensor, Tensor]]  # -> (images, what it says of each: fooled)


def ours(fast: nn.Module, attack: Callable[..., object], images: Tensor, labels: Tensor) -> Side:
    def work() -> tuple[Tensor, Tensor]:
        found = attack(fast, images, labels, generator=torch.Generator().manual_seed(0))
        return found.images, found.success

    return work


def with_torchattacks(net: nn.Module, steps: int, images: Tensor, labels: Tensor) -> Side:
    import torchattacks

    attack = torchattacks.PGD(net, eps=EPS, alpha=EPS / 4, steps=steps, random_start=True)

    def work() -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        found = attack(images, labels)
        with torch.no_grad():
            return found, net(found).argmax(1) != labels

    return work


def with_foolbox(net: nn.Module, kind: str, steps: int, images: Tensor, labels: Tensor) -> Side:
    import foolbox

    attack = foolbox.attacks.LinfPGD(abs_stepsize=EPS / 4, steps=steps) if kind == "pgd" else \
        foolbox.attacks.L2DeepFoolAttack(steps=steps)

    def work() -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
        _, found, fooled = attack(model, images, labels, epsilons=EPS if kind == "pgd" else None)
        return found, fooled

    return work


def paired(sides: dict[str, Side], rounds: int) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, list[float]]]:
    """Each side's answer and its seconds, round by round; the order turns about."""
    answers = {name: work() for name, work in sides.items()}  # warms up too
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            start = time.process_time()
            sides[name]()
            seconds[name].append(time.process_time() - start)
    return answers, seconds


def compare(net: Net, sides: dict[str, Side], images: Tensor, labels: Tensor, rounds: int,
            bars: dict[str, float]) -> dict[str, object]:
    answers, seconds = paired(sides, rounds)
    row: dict[str, object] = {"images": len(images), "rounds": rounds}
    for name, (found, says) in answers.items():
        assert float((found - images).abs().max()) <= 1 and found.min() >= 0 and found.max() <= 1
        with torch.no_grad():
            wrong = net(found).argmax(1) != labels
        row[name] = {"accuracy left": round(1 - float(wrong.float().mean()), 4),
                     "says": round(1 - float(says.float().mean()), 4),
                     "largest linf": round(float((found - images).abs().max()), 5),
                     "mean l2 of the fooled": round(float((found - images).flatten(1).norm(dim=1)[wrong].mean()), 5),
                     "seconds": round(statistics.median(seconds[name]), 4)}
    for name in list(sides)[1:]:
        ratios = [b / a for a, b in zip(seconds["ours"], seconds[name], strict=True)]
        low, high = interval(ratios)
        row[f"speed against {name}"] = {"ratio": round(statistics.median(ratios), 2), "low": low, "high": high,
                                        "bar": bars.get(name)}
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()), help="where the nets are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "attacks.json")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    load_at_start = os.getloadavg()[0]
    pixels, classes = cifar("test")
    images, labels = pixels[:arguments.images].float() / 255, classes[:arguments.images]
    results: dict[str, object] = {}
    missed = []
    for kind, name in (("plain", "undefended"), ("pgd", "adversarially trained")):
        net = trained(kind, EPOCHS[kind], arguments.cache)
        start = time.process_time()
        fast = frozen(net, (1, 3, 32, 32))
        made_s = time.process_time() - start
        with torch.no_grad():
            clean = torch.cat([net(part.float() / 255).argmax(1) for part in pixels[:2000].split(250)])
        results[f"{name} net"] = {"accuracy of 2,000 test images": round(
            float((clean == classes[:2000]).float().mean()), 4), "epochs": EPOCHS[kind],
                                   "seconds to make the frozen copy": round(made_s, 3)}
        for steps in (10, 40):
            bars = {"torchattacks": 8.0 if steps == 10 else 30.0, "foolbox": 15.0 if steps == 10 else 55.0} \
                if kind == "plain" else {"torchattacks": 1.2, "foolbox": 2.0}
            sides = {"ours": ours(fast, PGD(eps=EPS, step_size=EPS / 4, steps=steps), images, labels),
                     "torchattacks": with_torchattacks(net, steps, images, labels),
                     "foolbox": with_foolbox(net, "pgd", steps, images, labels)}
            if steps == 10:
                sides["torchattacks given our frozen net"] = with_torchattacks(fast, steps, images, labels)
            row = compare(net, sides, images, labels, arguments.rounds if steps == 10 else -(-arguments.rounds // 2),
                          bars)
            results[f"PGD-{steps}, {name}"] = row
            report(f"PGD-{steps}, {name}", row, missed)
            noise = 1.5 / arguments.images  # one image, which another random start may decide
            for peer in ("torchattacks", "foolbox"):
                if row["ours"]["accuracy left"] > row[peer]["accuracy left"] + noise:  # type: ignore[index]
                    missed.append(f"PGD-{steps}, {name}: more is left than by {peer}")
        with torch.no_grad():
            right = net(images).argmax(1) == labels
        x, y = images[right][:arguments.images // 2], labels[right][:arguments.images // 2]
        row = compare(net, {"ours": ours(fast, DeepFool(), x, y), "foolbox": with_foolbox(net, "deepfool", 50, x, y)},
                      x, y, -(-arguments.rounds // 2), {"foolbox": 3.3})
        results[f"DeepFool, {name}"] = row
        report(f"DeepFool, {name}", row, missed)
        mine, theirs = row["ours"], row["foolbox"]
        if mine["accuracy left"] > theirs["accuracy left"]:  # type: ignore[index]
            missed.append(f"DeepFool, {name}: fewer fooled than by foolbox")
        if mine["mean l2 of the fooled"] > 1.01 * theirs["mean l2 of the fooled"]:  # type: ignore[index]
            missed.append(f"DeepFool, {name}: farther than foolbox")
        save(arguments.out, results, missed, load_at_start)
    for line in missed:
        print("missed:", line)
    return 1 if missed else 0


def save(out: Path, results: dict[str, object], missed: list[str], load_at_start: float) -> None:
    load = max(load_at_start, os.getloadavg()[0])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, {
        "what": "robust accuracy by PGD (linf 8/255, steps of 2/255, random start) and DeepFool (l2): CPU seconds of "
                "the peer over ours, paired, median and its 95 % interval", "peers": peers(),
        "environment": environment(), "load average": round(load, 2), "loaded": load > 1.5, "missed": missed,
        "results": results})


def report(name: str, row: dict[str, object], missed: list[str]) -> None:
    for key, value in row.items():
        if key.startswith("speed"):
            print(f"{name:<34} {key}: {value['ratio']} ({value['low']} to {value['high']})", flush=True)
            if value["bar"] is not None and value["ratio"] < value["bar"]:
                missed.append(f"{name}: {key} {value['ratio']} is below {value['bar']}")
        elif isinstance(value, dict):
            print(f"{name:<34} {key}: {value}", flush=True)


def peers() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torchattacks", "foolbox", "torch")}


if __name__ == "__main__":
    raise SystemExit(main())
