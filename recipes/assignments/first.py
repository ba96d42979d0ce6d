"""Assignment 1: nearest neighbours, linear classifiers, a two-layer net, features."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import visus
from recipes.assignments.exercise import Exercise, Row, percent
from recipes.assignments.images import Images
from visus.foundations.nearest import cross_validate, no_loop, vote
from visus.foundations.networks import TwoLayerNet
from visus.foundations.solver import Solver, accuracy
from visus.foundations.update_rules import Momentum

KS = [1, 3, 5, 8, 10, 12, 15, 20, 50, 100]
QUIET = {"report.budget_s": 0, "report.ladder_s": 0, "doctor.before": False, "doctor.watch": False, "train.threads": 1,
         "train.seed": 0}
SGD = {"model.name": "softmax_regression", "augmentation": [], "optimizer.name": "sgd", "optimizer.momentum": 0.9,
       "optimizer.weight_decay": 0.0, "schedule.name": "cosine", "schedule.warmup_epochs": 0.0,
       "train.batch_size": 200, "train.layout": "contiguous"}
LINEAR = {"svm": {**SGD, "loss.name": "multiclass_hinge", "optimizer.lr": 1e-4},
          "softmax": {**SGD, "loss.name": "cross_entropy", "optimizer.lr": 1e-3}}


def trained(data: Images, name: str, train: int, values: Mapping[str, Any]) -> Row:
    """A run of `visus train` in its folder, resumed or read where it is there: accuracies on val and test."""
    at = data.out / f"{data.name}-{name}"
    status = visus.load(at).status if (at / "run.json").exists() else None
    if status is None:
        visus.train(data.file(data.count(train)), values=QUIET | dict(values), out=at, progress=False)
    elif status != "finished":
        visus.resume(at, progress=False)
    splits = json.loads((at / "metrics.json").read_text())["splits"]
    return {split: splits[split]["metrics"]["accuracy"]["value"] for split in ("val", "test")}


def neighbours(data: Images) -> dict[str, Row]:
    """By hand with 5-fold cross-validation over k, and the product's model with the k that it found."""
    pixels = {split: data.images[split].astype(np.float64).reshape(len(data.images[split]), -1)
              for split in ("train", "test")}
    count = data.count(5_000)
    x, labels = pixels["train"][:count], data.labels["train"][:count]
    ks = [k for k in KS if k <= count // 2]
    folds = cross_validate(x, labels, ks)
    best = max(ks, key=lambda k: (float(np.mean(folds[k])), -k))
    test, truth = pixels["test"][:500], data.labels["test"][:500]
    distances = no_loop(test, x)
    found = {f"k = {k}": {"test": float((vote(distances, labels, k) == truth).mean())} for k in (1, best)}
    found[f"k = {best}"] |= {"k": best, "folds": float(np.mean(folds[best]))}
    found["visus knn"] = trained(data, "knn", 5_000, {"model.name": "knn", "model.config.k": best})
    return found


def searches(data: Images) -> dict[str, Row]:
    tries = 50 if data.small else 1000
    return {words: trained(data, name, 5_000, {"model.name": name, "model.config.tries": tries})
            for words, name in (("random search", "random_search_classifier"),
                                ("local search", "local_search_classifier"))}


def svm(data: Images) -> dict[str, Row]:
    return {"by SGD": trained(data, "svm-sgd", 49_000, LINEAR["svm"] | {"train.epochs": data.epochs(6)}),
            "at the optimum": trained(data, "svm", 5_000, {"model.name": "svm", "model.config.max_iterations": 100})}


def softmax(data: Images) -> dict[str, Row]:
    return {"by SGD": trained(data, "softmax-sgd", 49_000, LINEAR["softmax"] | {"train.epochs": data.epochs(6)}),
            "one against the rest": trained(data, "logistic", 5_000, {
                "model.name": "logistic_regression", "model.config.max_iterations": 100})}


def two_layers(data: Images) -> dict[str, Row]:
    rows = data.rows(data.count(20_000))
    rng = np.random.default_rng(0)
    net = TwoLayerNet(rows["train"][0].shape[1], 100, len(data.classes), rng=rng, scale=1e-2, reg=1e-3)
    solver = Solver(net, train=rows["train"], val=rows["val"], rule=Momentum(lr=1e-2), rng=rng, batch_size=200,
                    epochs=data.epochs(7), lr_decay=0.85)
    solver.train()
    return {"100 hidden units": {"train": solver.history.train_accuracies[-1], "val": solver.best_val_accuracy,
                                 "test": accuracy(net, *rows["test"])}}


def features(data: Images) -> dict[str, Row]:
    return {words: trained(data, name, 10_000, {"model.name": name})
            for words, name in (("and SVM", "hog_color_svm"), ("and a two-layer net", "hog_color_net"))}


# -- what is said of them ----------------------------------------------------------------------------------------


def told_neighbours(found: Mapping[str, Mapping[str, Row]]) -> tuple[bool, str]:
    rows = found["cifar10"]
    best = next(row for row in rows.values() if "k" in row)
    text = f"Cross-validation takes k = {best['k']} on CIFAR-10: {percent(best['test'])} of 500 test images " \
        f"({percent(best['folds'])} over the folds); two standard errors for 500 images are 4 points."
    return abs(best["test"] - 0.28) <= 0.04, text


def told_searches(found: Mapping[str, Mapping[str, Row]]) -> tuple[bool, str]:
    shown = all(rows["random search"]["test"] < rows["local search"]["test"] for rows in found.values())
    return shown, "Both are far below what following the slope gives; steps from the best so far beat new draws " \
        + ("on both sets." if shown else "not on both sets.")


def at_least(name: str, published: float) -> Any:
    """A verdict: on CIFAR-10, of val, within a point of what the course states or above it."""
    def told(found: Mapping[str, Mapping[str, Row]]) -> tuple[bool, str]:
        row = found["cifar10"][name]
        test = f" ({percent(row['test'])} on the test images)" if "test" in row else ""
        return row["val"] >= published - 0.01, f"{percent(row['val'])} on the validation images of CIFAR-10{test}, " \
            f"where the course states {percent(published)}."
    return told


def told_features(found: Mapping[str, Mapping[str, Row]]) -> tuple[bool, str]:
    svm_, net = (found["cifar10"][name]["val"] for name in ("and SVM", "and a two-layer net"))
    return svm_ >= 0.43 and net >= 0.55, f"On CIFAR-10 {percent(svm_)} with the SVM and {percent(net)} with the net, " \
        "from 10,000 training images where the course takes 49,000."


FIRST = {
    "knn": Exercise(
        "k nearest neighbours", "C2.1",
        "5,000 training and 500 test images, L2 on raw pixels, by `visus.foundations.nearest`; and by the model `knn` "
        "on 1,000 test images", {"k = 1": "27.4 %", "best k": "about 28 %"}, neighbours, told_neighbours),
    "search": Exercise(
        "Searching at random", "notes on optimisation",
        "1,000 tries, 5,000 training images; models `random_search_classifier` and `local_search_classifier`",
        {"random search": "15.5 %", "local search": "21.4 %"}, searches, told_searches),
    "svm": Exercise(
        "Multiclass SVM", "C2.2",
        "by SGD as in the course (`--model softmax_regression --set loss.name=multiclass_hinge`, 49,000 images), and "
        "at the optimum (model `svm`, 5,000 images, strength chosen on val)", {"by SGD": "39 to 40 % (val)"}, svm,
        at_least("by SGD", 0.39)),
    "softmax": Exercise(
        "Softmax", "C2.3",
        "by SGD (`--model softmax_regression`, 49,000 images), and one logistic regression a class (model "
        "`logistic_regression`, 5,000 images)", {"by SGD": "over 35 % (val)"}, softmax, at_least("by SGD", 0.35)),
    "two-layers": Exercise(
        "Two-layer net by hand", "C2.4", "`visus.foundations`: 20,000 training images, 7 epochs of momentum",
        {"100 hidden units": "48 to 52 % (val)"}, two_layers, at_least("100 hidden units", 0.48)),
    "features": Exercise(
        "Features", "C2.5",
        "histograms of oriented gradients and of hue, 10,000 training images; models `hog_color_svm` and "
        "`hog_color_net`", {"and SVM": "about 44 %", "and a two-layer net": "55 to 60 %"}, features, told_features),
}


def clean(out: Path, name: str) -> None:
    """Remove the archives of a data set that the runs read."""
    for path in out.glob(f"{name}-*.npz"):
        path.unlink()
