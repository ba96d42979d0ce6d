"""Assignment 2: nets of any depth by hand, update rules, batch norm, dropout, a convolutional net."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recipes.assignments.exercise import Exercise, Row, percent
from recipes.assignments.images import Images
from visus.core.errors import TrainingDiverged
from visus.foundations.convnet import ThreeLayerConvNet
from visus.foundations.networks import FullyConnectedNet
from visus.foundations.solver import Solver, accuracy
from visus.foundations.update_rules import SGD, Adam, Momentum, RMSProp, UpdateRule

Found = Mapping[str, Mapping[str, Row]]
RULES: dict[str, UpdateRule] = {"sgd": SGD(lr=1e-2), "momentum": Momentum(lr=1e-2), "rmsprop": RMSProp(lr=1e-4),
                                "adam": Adam(lr=1e-3)}
BY_HEART, AN_EPOCH = "100 images, 12 epochs", "4,000 images, an epoch"
SCALES = (1e-3, 1e-2, 5e-2, 1e-1, 1.0)


def fitted(data: Images, hidden: tuple[int, ...], rule: UpdateRule, *, train: int, epochs: int, batch_size: int = 100,
           scale: float | None = None, **net: Any) -> Row:
    """A fully connected net on the first `train` images: accuracies after the last epoch, and val at its best. scale:
    of the first weights, None = sqrt(2 / fan_in). A run that diverged stands at a guess."""
    rows = data.rows(data.count(train))
    rng = np.random.default_rng(0)
    built = FullyConnectedNet(rows["train"][0].shape[1], hidden, len(data.classes), rng=rng, **net)
    if scale is not None:
        for name, w in built.params.items():
            if name.startswith("w"):
                built.params[name] = scale * rng.standard_normal(w.shape)
    solver = Solver(built, train=rows["train"], val=rows["val"], rule=rule, rng=rng, batch_size=batch_size,
                    epochs=data.epochs(epochs))
    try:
        with np.errstate(all="ignore"):
            solver.train()
    except TrainingDiverged:
        guess = 1 / len(data.classes)
        return {"train": guess, "val": guess, "test": guess, "diverged": True}
    history = solver.history
    return {"train": history.train_accuracies[-1], "val": solver.best_val_accuracy,
            "test": accuracy(built, *rows["test"]),
            "losses": [float(f"{loss:.4g}") for loss in history.losses[::max(1, len(history.losses) // 40)]]}


def overfit(data: Images) -> dict[str, Row]:
    found = {f"{len(hidden) + 1} layers": fitted(data, hidden, Adam(lr=2e-3), train=50, epochs=40, batch_size=25)
             for hidden in ((100, 100), (100, 100, 100, 100))}
    for scale in (1e-3, 1e-2):
        found[f"5 layers from {scale:g}"] = fitted(data, (100, 100, 100, 100), SGD(lr=1e-2), train=50, epochs=40,
                                                   batch_size=25, scale=scale)
    return found


def rules(data: Images) -> dict[str, Row]:
    return {name: fitted(data, (100,) * 5, rule, train=4_000, epochs=5) for name, rule in RULES.items()}


def batch_norm(data: Images) -> dict[str, Row]:
    return {words: fitted(data, (100,) * 5, Adam(lr=1e-3), train=1_000, epochs=8, batch_size=50, scale=2e-2,
                          normalisation=kind) for words, kind in (("with", "batch"), ("without", None))}


def first_weights(data: Images) -> dict[str, Row]:
    return {f"{scale:g} {words}": fitted(data, (50,) * 7, Adam(lr=1e-3), train=1_000, epochs=8, batch_size=50,
                                         scale=scale, normalisation=kind)
            for words, kind in (("with", "batch"), ("without", None)) for scale in SCALES}


def dropout(data: Images) -> dict[str, Row]:
    return {f"keep {keep:g}": fitted(data, (500,), Adam(lr=5e-4), train=500, epochs=20, keep=keep)
            for keep in (1.0, 0.5, 0.25)}


def convolutional(data: Images) -> dict[str, Row]:
    found = {}
    for words, train, epochs, batch_size in ((BY_HEART, 100, 12, 25), (AN_EPOCH, 4_000, 1, 50)):
        rows = data.rows(data.count(train), flat=False)
        rng = np.random.default_rng(0)
        net = ThreeLayerConvNet(rows["train"][0].shape[1:], len(data.classes), rng=rng, filters=32,
                                kernel=3 if data.small else 7, hidden=100, reg=1e-3)
        few = tuple(part[:200] for part in rows["val"])
        solver = Solver(net, train=rows["train"], val=few, rule=Adam(lr=1e-3), rng=rng, batch_size=batch_size,
                        epochs=data.epochs(epochs))
        for _ in range(data.epochs(epochs)):
            order = rng.permutation(len(rows["train"][0]))
            for start in range(0, len(order), batch_size):
                solver.step(order[start:start + batch_size])
        some = tuple(part[:500] for part in rows["train"])
        found[words] = {"train": accuracy(net, *some, batch_size=100),
                        "val": accuracy(net, *(part[:500] for part in rows["val"]), batch_size=100)}
    return found


# -- what is said of them ----------------------------------------------------------------------------------------


def told_overfit(found: Found) -> tuple[bool, str]:
    fits = all(rows[name]["train"] >= 0.999 for rows in found.values() for name in ("3 layers", "5 layers"))
    small = max(rows[f"5 layers from {scale:g}"]["train"] for rows in found.values() for scale in (1e-3, 1e-2))
    words = "Both depths learn 50 images by heart" if fits else "Not all learn 50 images by heart"
    return fits and small < 0.5, f"{words}; five layers whose first weights have a deviation of 0.001 or 0.01 reach " \
        f"{percent(small)} of them at most."


def told_rules(found: Found) -> tuple[bool, str]:
    ahead = {name: all(rows[name]["train"] > rows["sgd"]["train"] for rows in found.values())
             for name in ("momentum", "rmsprop", "adam")}
    better = [name for name, shown in ahead.items() if shown]
    return len(better) == 3, f"Ahead of plain SGD on the training images of both sets: {', '.join(better) or 'none'}."


def told_batch_norm(found: Found) -> tuple[bool, str]:
    gains = {name: rows["with"]["train"] - rows["without"]["train"] for name, rows in found.items()}
    return min(gains.values()) > 0.02, "After as many epochs from weights of deviation 0.02, batch norm stands at " \
        f"{100 * gains['cifar10']:+.1f} points on the training images of CIFAR-10 and {100 * gains['fashion']:+.1f} " \
        "on those of Fashion-MNIST."


def told_first_weights(found: Found) -> tuple[bool, str]:
    spans = {words: max(max(values) - min(values) for values in
                        ([rows[f"{scale:g} {words}"]["val"] for scale in SCALES] for rows in found.values()))
             for words in ("with", "without")}
    return spans["with"] < spans["without"], f"Over first weights from {SCALES[0]:g} to {SCALES[-1]:g} the " \
        f"validation accuracy spans {100 * spans['with']:.1f} points at most with batch norm and " \
        f"{100 * spans['without']:.1f} without."


def told_dropout(found: Found) -> tuple[bool, str]:
    gaps = {name: [rows[f"keep {keep:g}"]["train"] - rows[f"keep {keep:g}"]["val"] for keep in (1.0, 0.25)]
            for name, rows in found.items()}
    return all(kept > dropped for kept, dropped in gaps.values()), \
        "The gap between training and validation goes from " + ", ".join(
            f"{100 * kept:.1f} to {100 * dropped:.1f} points on {name}" for name, (kept, dropped) in gaps.items()) + \
        " where only a quarter of the units is kept."


def told_convolutional(found: Found) -> tuple[bool, str]:
    rows = found["cifar10"]
    few, epoch = (rows[name] for name in (BY_HEART, AN_EPOCH))
    return few["train"] > 0.9 and epoch["train"] > 0.4, f"On CIFAR-10 {percent(few['train'])} of 100 images are " \
        f"learnt by heart ({percent(few['val'])} on val); an epoch of 4,000 images gives {percent(epoch['train'])} " \
        "on training images, where the course asks for more than 40 % after an epoch of 49,000."


SECOND = {
    "overfit": Exercise(
        "Fifty images by heart", "C2.6",
        "nets of 3 and 5 layers, 100 units each, Adam; and 5 layers from too small weights, SGD",
        {"3 layers": "100 % (train)", "5 layers": "100 % (train)"}, overfit, told_overfit),
    "rules": Exercise(
        "Update rules", "C2.6", "6 layers of 100 units, 4,000 images, 5 epochs; the rates of the course", {}, rules,
        told_rules),
    "batch-norm": Exercise(
        "Batch norm", "C2.7", "6 layers of 100 units, 1,000 images, 8 epochs of Adam", {}, batch_norm, told_batch_norm),
    "first-weights": Exercise(
        "Batch norm and the scale of the first weights", "C2.7",
        "8 layers of 50 units, 1,000 images, 8 epochs of Adam", {}, first_weights, told_first_weights),
    "dropout": Exercise(
        "Dropout", "C2.8", "two layers, 500 units, 500 images, 20 epochs of Adam", {}, dropout, told_dropout),
    "convnet": Exercise(
        "A three-layer convolutional net by hand", "C2.9", "32 filters of 7 x 7, 100 hidden units",
        {AN_EPOCH: "over 40 % (train)"}, convolutional, told_convolutional),
}
