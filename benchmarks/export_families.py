"""Every family of classifiers through ONNX Runtime: are the answers on 200 real images those of the original?

    python benchmarks/export_families.py --cifar cifar10_test.npz            # one variant of each family, as published
    python benchmarks/export_families.py --cifar cifar10_test.npz --tiny     # the small instances of the tests
    python benchmarks/export_families.py --cifar cifar10_test.npz --cifar-train cifar10_train.npz     # trained first

Weights are drawn from a hash (those of the passports' fingerprints), as initial ones give every class the same, and
batch normalisation takes its statistics from these images, as after training. Of a net that was not trained all images
would get one class, so a factor and an offset for each class centre the logits of these images and give them a standard
deviation of 2, or less where logits would pass 100 before they are centred; they are exported with the net. The
original computes in batches by torch, the exported model image by image from its file. Bars: the largest difference of
a probability at most 1e-4, no decision changed.

Weights that were not trained may multiply every rounding: deep batch norms do, and attention without a scale. Of a net
that misses a bar the 16 images with the largest differences are computed in float64 too. Where torch's own float32 is
off by more than a tenth of the tolerance the weights are no fair question, and the net is asked with the drawn
statistics of batch normalisation; where that is none either, the exported model may be off by twice as much as torch
is, and still no decision may change. The row says so.

With --cifar-train the nets have 10 classes and take --steps steps of AdamW from their own initial weights on images of
CIFAR-10, enlarged to the published size, and are then asked as they are: what somebody exports who has trained.

Exit code 1 when a bar is missed, a family cannot be exported, or a variant's file is not found again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from visus.core.device import environment
from visus.core.errors import UserError
from visus.core.preprocessing import Preprocessing
from visus.core.weights import hashed_model
from visus.deploy.golden import Agreement, compare
from visus.deploy.onnx_file import write_onnx
from visus.deploy.program import Program
from visus.deploy.session import open_session
from visus.models import registry
from visus.run.models import create_model, passports

OUT = Path(__file__).parent / "results" / "export_families.json"
TOLERANCE, SPREAD, MOST_LOGIT, WORST = 1e-4, 2.0, 100.0, 16


def real_images(path: Path | None, count: int, size: int, channels: int = 3) -> np.ndarray:
    """uint8 [count, size, size, channels]: of CIFAR-10 in an .npz of "q" (planes differenced), else the built-in
    digits; enlarged to `size`."""
    import visus.data.builtin

    if path is not None:
        with np.load(path) as held:
            planes = held["q"][:, :count].cumsum(-1, dtype=np.uint8).cumsum(-2, dtype=np.uint8)
        pixels = np.stack([planes[1] + planes[0], planes[0], planes[2] + planes[0]], -1)
    else:
        pixels = np.load(Path(visus.data.builtin.__file__).parent / "digits.npz")["images"][:count]
        pixels = pixels.reshape(len(pixels), *pixels.shape[1:3], 1)
    rules = Preprocessing(size=(size, size), channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)
    return np.stack([rules.resized_array(image) for image in pixels])


class Spread(torch.nn.Module):
    """Logits times a factor plus an offset for each class."""

    def __init__(self, model: torch.nn.Module, factor: torch.Tensor, offset: torch.Tensor):
        super().__init__()
        self.model = model
        self.register_buffer("factor", factor)
        self.register_buffer("offset", offset)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images) * self.factor + self.offset


def norms(model: torch.nn.Module) -> list[Any]:
    return [part for part in model.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]


def settled(model: torch.nn.Module, rules: Preprocessing, images: np.ndarray, batch: int) -> torch.nn.Module:
    """The net, whose batch normalisation has the mean and variance of what these images give."""
    for norm in norms(model):
        norm.reset_running_stats()
        norm.momentum = None  # the mean over batches
        norm.train()
    with torch.inference_mode():
        for part in torch.from_numpy(images).split(batch):
            rules.answers(model, part.permute(0, 3, 1, 2).float() / 255)
    return model.eval()


def spread_out(model: torch.nn.Module, rules: Preprocessing, images: np.ndarray, batch: int) -> Program:
    """The net with a factor and an offset under which these images get different classes."""
    with torch.inference_mode():
        logits = torch.cat([rules.answers(model, part.permute(0, 3, 1, 2).float() / 255)
                            for part in torch.from_numpy(images).split(batch)]).double()
    factor = torch.minimum(SPREAD / logits.std(0).clamp_min(1e-6), MOST_LOGIT / logits.abs().amax(0).clamp_min(1e-6))
    return Program(Spread(model, factor.float(), (-factor * logits.mean(0)).float()), rules, "classification").eval()


def original(program: Program, images: np.ndarray, batch: int) -> np.ndarray:
    """float32 [N, K]."""
    with torch.inference_mode():
        return np.concatenate([program(torch.from_numpy(images[at:at + batch])).numpy()
                               for at in range(0, len(images), batch)])


def labelled(path: Path, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """real_images of CIFAR-10, and their classes."""
    with np.load(path) as held:
        return real_images(path, count, size), held["y"][:count].astype(np.int64)


def trained(model: torch.nn.Module, rules: Preprocessing, images: np.ndarray, labels: np.ndarray, steps: int,
            batch: int = 16, rate: float = 5e-4) -> torch.nn.Module:
    """The net after so many steps of AdamW under one cycle. Batch normalisation takes its statistics from the last
    images, as its running ones have not settled after few steps."""
    optimizer = torch.optim.AdamW(model.train().parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.3)
    for number in range(steps):
        index = np.arange(number * batch, (number + 1) * batch) % len(images)
        pixels = torch.from_numpy(images[index]).permute(0, 3, 1, 2).float() / 255
        loss = torch.nn.functional.cross_entropy(model(rules.normalise(pixels)), torch.from_numpy(labels[index]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return settled(model, rules, images[-10 * batch:], batch)


def exact(program: Program, rules: Preprocessing, images: np.ndarray) -> np.ndarray:
    """float64 [N, K]."""
    model = deepcopy(program.model).double()
    with torch.inference_mode():
        return np.concatenate([rules.answers(model, one[None].permute(0, 3, 1, 2).double() / 255).softmax(1).numpy()
                               for one in torch.from_numpy(images)])


def compared(model: torch.nn.Module, size: int, images: np.ndarray, folder: Path, batch: int = 20
             ) -> tuple[Agreement, dict[str, Any]]:
    """Export a net and compare; what is worth knowing of it. Raises UserError where it cannot be exported."""
    channels = images.shape[-1]
    rules = Preprocessing(size=(size, size), channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)
    drawn = hashed_model(model).float()
    ways = {"of the images": lambda: settled(deepcopy(drawn), rules, images[:2 * batch], batch)} if norms(drawn) else {}
    for way, known in (ways | {"drawn": lambda: drawn}).items():
        program = spread_out(known(), rules, images, batch)
        expected = original(program, images, batch)
        file = folder / f"{way}.onnx"
        start = time.process_time()
        write_onnx(program, torch.from_numpy(images[:2].copy()), file)
        about: dict[str, Any] = {"export_s": round(time.process_time() - start, 2),
                                 "classes": len(set(expected.argmax(1).tolist()))}
        if ways:
            about["batch norm"] = way
        session = open_session(file)
        given = np.concatenate([session(image[None]) for image in images])
        found = compare(expected, given)
        if found.largest <= TOLERANCE and not found.changed:
            break
        worst = np.argsort(-np.abs(expected - given).max(1))[:WORST]
        truth = exact(program, rules, images[worst])
        about |= {"off, torch": float(np.abs(expected[worst] - truth).max()),
                  "off, onnxruntime": float(np.abs(given[worst] - truth).max())}
        if about["off, torch"] <= TOLERANCE / 10:
            break
    return found, about


def compared_trained(model: torch.nn.Module, size: int, images: np.ndarray, truth: np.ndarray, train: Path, steps: int,
                     folder: Path, batch: int = 20) -> tuple[Agreement, dict[str, Any]]:
    """Train, export and compare; what is worth knowing of it. Raises UserError where it cannot be exported."""
    rules = Preprocessing(size=(size, size), mean=(0.5,) * 3, std=(0.25,) * 3)
    start = time.process_time()
    model = trained(model, rules, *labelled(train, 640, size), steps)
    program = Program(model, rules, "classification").eval()
    spent = time.process_time() - start
    expected = original(program, images, batch)
    write_onnx(program, torch.from_numpy(images[:2].copy()), folder / "trained.onnx")
    session = open_session(folder / "trained.onnx")
    given = np.concatenate([session(image[None]) for image in images])
    answers = expected.argmax(1)
    return compare(expected, given), {"classes": len(set(answers.tolist())), "steps": steps, "training_s": round(spent),
                                      "accuracy": round(float((answers == truth).mean()), 3)}


def equal(found: Agreement, about: dict[str, Any]) -> bool:
    """Whether the bars are reached."""
    if found.changed:
        return False
    return found.largest <= TOLERANCE or "off, torch" in about and (
        about["off, torch"] > TOLERANCE / 10 and about["off, onnxruntime"] <= 2 * about["off, torch"])


def variants() -> dict[str, str]:
    """module -> the variant that costs least, of every family of classifiers."""
    known = passports()
    names = sorted((name for name in registry.index() if known[name].task == "classification"),
                   key=lambda name: (known[name].macs, name), reverse=True)
    return dict(sorted({registry.index()[name]: name for name in names}.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--cifar-train", type=Path, help="train on these images first")
    parser.add_argument("--steps", type=int, default=60, help="of training, of 16 images each")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", default="", help="modules or names, by commas")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    kind = "_tiny" if arguments.tiny else "_trained" if arguments.cifar_train else ""
    out = arguments.out or OUT.with_stem(OUT.stem + kind)
    torch.set_num_threads(1)
    known, results, bad = passports(), {}, 0
    wanted = {word for word in arguments.only.split(",") if word}
    if arguments.tiny:
        from tests.rows_models import MODELS
    for module, name in variants().items():
        if wanted and not wanted & {module, name, module.rpartition(".")[2]}:
            continue
        torch.manual_seed(0)
        if arguments.tiny:
            size = MODELS[name].size
            model = create_model(name, **{"num_classes": 7, "in_channels": 3} | MODELS[name].tiny)
        else:
            size = known[name].preprocessing["size"][0]
            model = create_model(name, **({"num_classes": 10} if arguments.cifar_train else {}))
        channels = getattr(model.config, "in_channels", 3)
        images = real_images(arguments.cifar, arguments.images, size, channels)
        row: dict[str, Any] = {"family": known[name].family, "module": module}
        try:
            with tempfile.TemporaryDirectory() as folder:
                if arguments.cifar_train:
                    found, about = compared_trained(model, size, *labelled(arguments.cifar, arguments.images, size),
                                                    arguments.cifar_train, arguments.steps, Path(folder))
                else:
                    found, about = compared(model, size, images, Path(folder))
            row |= found.to_dict() | about
            good = equal(found, about)
        except UserError as error:
            row["problem"], good = str(error), False
        results[name] = row
        bad += not good
        print(f"{'' if good else 'BAD '}{name}: {json.dumps(row)}", flush=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"command": ["python", *sys.argv], "tolerance": TOLERANCE, "missed": bad,
                                   "results": results, "environment": environment()}, indent=2) + "\n")
    print(f"{len(results)} families, {bad} missed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
