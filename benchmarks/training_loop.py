"""The trainer and the evaluation loop against bare torch loops written by hand: same model, batches and data.

    python benchmarks/training_loop.py [--model resnet20] [--image-size 32] [--batch-size 128] [--rounds 9]

The two sides alternate in one process; medians of the per-round ratios are printed, and the output is checked to be
equal bit for bit. Exit code 1 when our side is more than 5 % slower. Results: benchmarks/results/training_loop.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from visus.core.device import environment
from visus.core.preprocessing import Preprocessing
from visus.core.seeds import permutation
from visus.data.loader import Loader
from visus.data.samples import Samples
from visus.losses.classification import get_loss
from visus.optim.build import build_optimizer
from visus.optim.parameter_groups import parameter_groups
from visus.optim.schedules import Schedule, schedule
from visus.run.evaluate import predict_split
from visus.run.models import create_model
from visus.tasks.classification import Classification
from visus.train.checkpoint import CheckpointStore
from visus.train.trainer import Settings, Trainer

MEAN, STD, CLASSES = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training_loop.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size, count = arguments.image_size, arguments.steps * arguments.batch_size
    generator = np.random.Generator(np.random.PCG64(0))
    images = generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels = generator.integers(0, CLASSES, count)

    def model() -> nn.Module:
        torch.manual_seed(0)
        return create_model(arguments.model, num_classes=CLASSES, in_channels=3, image_size=size)

    sides = {"train": (hand_training, our_training), "evaluate": (hand_evaluation, our_evaluation)}
    results = {}
    for name, (hand, ours) in sides.items():
        by_hand, our = hand(model(), images, labels, arguments), ours(model(), images, labels, arguments)
        assert all(torch.equal(a, b) for a, b in zip(by_hand(), our(), strict=True)), f"{name}: results differ"
        ratios, seconds = [], []
        for number in range(arguments.rounds):
            first, second = (by_hand, our) if number % 2 else (our, by_hand)
            times = {}
            for side in (first, second):
                start = time.perf_counter()
                side()
                times[side] = time.perf_counter() - start
            ratios.append(times[by_hand] / times[our])
            seconds.append(times[our])
        results[name] = {"speed against the loop by hand": round(statistics.median(ratios), 4),
                         "lowest": round(min(ratios), 4), "highest": round(max(ratios), 4),
                         "images/s": round(count / statistics.median(seconds), 1)}
        print(f"{name:<9} {results[name]}", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({
        "command": ["python", *sys.argv], "model": arguments.model, "image_size": size,
        "batch_size": arguments.batch_size, "rounds": arguments.rounds, "results": results,
        "environment": environment()}, indent=2) + "\n")
    return 0 if all(r["speed against the loop by hand"] >= 0.95 for r in results.values()) else 1


def hand_training(model: nn.Module, images, labels, arguments):
    """What one would write without any package: index, scale, normalise, forward, backward, fused SGD."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    targets = torch.from_numpy(labels)
    mean, scale = torch.tensor(MEAN).view(1, 3, 1, 1), 1 / torch.tensor(STD, dtype=torch.float64)
    scale = scale.float().view(1, 3, 1, 1)
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD([{"params": weights, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}],
                                lr=0.01, momentum=0.9, fused=True)
    epoch = 0

    def once():
        nonlocal epoch
        model.train()
        order = torch.from_numpy(permutation(len(targets), 0, "order", epoch))
        for start in range(0, len(order), arguments.batch_size):
            index = order[start:start + arguments.batch_size]
            batch = pixels[index].float() / 255
            batch = torch.addcmul(-mean * scale, batch, scale)
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(model(batch), targets[index])
            loss.backward()
            optimizer.step()
            loss.item()
        epoch += 1
        return [p.detach().clone() for p in model.state_dict().values()]

    return once


def our_training(model: nn.Module, images, labels, arguments):
    loader, task = _loader(images, labels, arguments, shuffle=True), _task(arguments)
    optimizer = build_optimizer("sgd", parameter_groups(model, 5e-4), lr=0.01)
    store = CheckpointStore(Path(tempfile.mkdtemp()))
    trainer = Trainer(model, task, loader, optimizer, Schedule(optimizer, schedule("constant", 1)),
                      Settings(epochs=1, log_steps=10), device=torch.device("cpu"), store=store,
                      validate=dict, find=print)

    def once():
        trainer._train_epoch()
        trainer.position.epoch, trainer.position.batch = trainer.position.epoch + 1, 0
        return [p.detach().clone() for p in model.state_dict().values()]

    return once


def hand_evaluation(model: nn.Module, images, labels, arguments):
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    targets = torch.from_numpy(labels)
    mean, scale = torch.tensor(MEAN).view(1, 3, 1, 1), 1 / torch.tensor(STD, dtype=torch.float64)
    scale = scale.float().view(1, 3, 1, 1)

    @torch.inference_mode()
    def once():
        model.eval()
        probs, total = [], 0.0
        for start in range(0, len(targets), arguments.batch_size):
            batch = pixels[start:start + arguments.batch_size].float() / 255
            logits = model(torch.addcmul(-mean * scale, batch, scale))
            total += float(nn.functional.cross_entropy(logits, targets[start:start + arguments.batch_size]))
            probs.append(logits.softmax(1))
        return [torch.cat(probs)]

    return once


def our_evaluation(model: nn.Module, images, labels, arguments):
    loader, task = _loader(images, labels, arguments, shuffle=False), _task(arguments)
    return lambda: [predict_split(model, task, loader, torch.device("cpu"))[0].probs]


def _loader(images, labels, arguments, shuffle: bool) -> Loader:
    samples = Samples(format="npz", classes=tuple(map(str, range(CLASSES))), targets=labels, images=images)
    return Loader(samples, np.arange(len(labels)), _preprocessing(arguments), batch_size=arguments.batch_size,
                  seed=0, shuffle=shuffle)


def _preprocessing(arguments) -> Preprocessing:
    return Preprocessing(size=(arguments.image_size,) * 2, mean=MEAN, std=STD, labels=tuple(map(str, range(CLASSES))))


def _task(arguments) -> Classification:
    return Classification(preprocessing=_preprocessing(arguments), loss_function=get_loss("cross_entropy"))


if __name__ == "__main__":
    sys.exit(main())
