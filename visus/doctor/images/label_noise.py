"""Labels that a cheap model, trained on the other images, is sure are wrong.

Features of 32 x 32 copies, a ridge regression in four folds: every image gets scores from a model that has not seen its
label. Then a model of the labels: a share `noise` of them is drawn at random, the others follow softmax(scores / T);
both numbers are those under which the labels are likeliest. An image is named when two rules agree:
  confident learning: among the classes whose probability reaches its mean over the images labelled so, the likeliest
  is not the label (Northcutt, Jiang and Chuang, 2021, "Confident learning", JAIR 70);
  and its label is more likely drawn at random than not, under that model.
Confident learning alone names 4 to 8 % of the images of a clean Fashion-MNIST, where classes overlap; overlap makes T
large and noise 0, wrong labels make noise large, which is what tells the two apart. Above 1 % a note, above 5 % a
warning. Where the cheap model is right for less than 85 % of the labels that are not noise, nothing is said: its doubts
are its own. Labels that are wrong in a regular way (all wolves called husky) are not found, but for one: when the
regression fitted to train gives less than 20 % of some classes of another split their own name and more than half of
each one other name, and those names are the same classes, then that split numbers its classes otherwise: an error.
Source: reliability.md A3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from visus.core.record import Finding
from visus.core.seeds import permutation
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.exhibits import Exhibit, label_names, named, show
from visus.doctor.images.imbalance import class_name
from visus.doctor.images.pixels import pixels_of
from visus.doctor.thresholds import limit

FOLDS = 4
RIDGE = 0.3


@dataclass(frozen=True, kw_only=True)
class Suspects:
    """rows: of the labels given that are likely wrong, surest first; instead: the class that the model would give;
    doubt: probability that the label was drawn at random. noise: estimated share of wrong labels. accuracy: of the
    cheap model on the labels that are not noise. count: labels judged."""

    rows: np.ndarray
    instead: np.ndarray
    doubt: np.ndarray
    noise: float
    accuracy: float
    count: int


def label_noise(images: ImageSet) -> Iterator[Finding]:
    labels = images.labels
    if labels is None or labels.ndim != 1:
        return
    pixels = pixels_of(images)
    rows = permutation(len(pixels), 0, "label noise")[:int(limit("label-noise.most"))]
    given = labels[pixels.index[rows]]
    counts = np.bincount(given, minlength=1)
    rows = rows[counts[given] >= limit("label-noise.of_a_class")]
    kept, given = np.unique(labels[pixels.index[rows]], return_inverse=True)
    given = given.reshape(-1)
    if len(kept) < 2 or len(rows) < limit("label-noise.least"):
        return
    from visus.doctor.images.features import features

    table = features(pixels.small[rows])
    split = images.split[pixels.index[rows]]
    names = [class_name(images, int(c)) for c in kept]
    for name in ("val", "test"):
        yield from renamed(table, given, split == "train", split == name, name, names)
    found = suspects(table, given)
    share = len(found.rows) / found.count
    if found.accuracy < limit("label-noise.accuracy") or share <= limit("label-noise.note"):
        return
    places = pixels.index[rows[found.rows]]
    show(images, "label-noise", (
        Exhibit((int(i),), f"labelled {label_names(images, int(i))}, looks like {names[c]}")
        for i, c in zip(places, found.instead, strict=True)))
    yield Finding(
        check="label-noise", severity="warning" if share > limit("label-noise.warning") else "note",
        title=f"About {100 * found.noise:.2g} % of the labels look wrong; {len(places):,} images are named",
        evidence=f"a ridge regression on image features, cross-validated on {found.count:,} images, is right for "
                 f"{100 * found.accuracy:.0f} % of the others; {100 * share:.1f} % named, bounds "
                 f"{100 * limit('label-noise.note'):g} and {100 * limit('label-noise.warning'):g} %: "
                 + named(images, places),
        remedy="Look at the named images, surest first, and correct their labels; train with label smoothing or "
               "without them if that takes too long")


def renamed(table: np.ndarray, given: np.ndarray, train: np.ndarray, other: np.ndarray, name: str,
            names: list[str]) -> Iterator[Finding]:
    """A split whose classes are those of train in another order: table [n, D], given [n], which are in which [n]."""
    if not train.any() or not other.any():
        return
    answers = fitted(table[train], given[train], table[other]).argmax(1)
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (given[other], answers), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    to = shares.argmax(1)
    moved = np.flatnonzero((counts.sum(1) >= limit("label-noise.renamed_least"))
                           & (np.diag(shares) < limit("label-noise.renamed_own"))
                           & (shares.max(1) > limit("label-noise.renamed_other")))
    if counts[moved].sum() < limit("label-noise.renamed_images") or sorted(to[moved]) != moved.tolist():
        return
    said = ", ".join(f"{names[k]} is what train calls {names[to[k]]}" for k in moved[:5])
    yield Finding(
        check="label-noise", severity="error", title=f"The labels of {name} are in another order than those of train",
        evidence=f"{len(moved)} classes have changed their names for a ridge regression on image features of train: "
                 f"at most {100 * np.diag(shares)[moved].max():.0f} % of one get their own name (bound "
                 f"{100 * limit('label-noise.renamed_own'):g} %), at least {100 * shares[moved].max(1).min():.0f} % "
                 f"another (bound {100 * limit('label-noise.renamed_other'):g} %): {said}" + ", ..." * (len(moved) > 5),
        remedy=f"Number the classes of both splits by one list of names; sort the folders of {name} as those of train")


def suspects(table: np.ndarray, labels: np.ndarray) -> Suspects:
    """table: float [n, D]. labels: int64 [n], 0 to K - 1, each held by some."""
    scores = out_of_fold(table, labels)
    temperature, random = fit_noise(scores, labels)
    classes, own = scores.shape[1], np.arange(len(labels))
    probs = softmax(scores / temperature)
    right = float((scores.argmax(1) == labels).mean())
    accuracy = (right - random / classes) / (1 - random)
    means = np.array([probs[labels == c, c].mean() for c in range(classes)])
    held = np.where(probs >= means, probs, -1.0)
    likeliest = held.argmax(1)
    doubt = (random / classes) / (random / classes + (1 - random) * probs[own, labels] + 1e-30)
    wrong = np.flatnonzero((held.max(1) > 0) & (likeliest != labels) & (doubt > limit("label-noise.doubt")))
    wrong = wrong[np.argsort(-doubt[wrong], kind="stable")]
    return Suspects(rows=wrong, instead=likeliest[wrong], doubt=doubt[wrong], accuracy=accuracy,
                    noise=random * (classes - 1) / classes, count=len(labels))


def out_of_fold(table: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float32 [n, K]: scores of each row from a ridge regression on one-hot labels that was fitted to other folds."""
    x = _prepared(table, table)
    y = np.eye(int(labels.max()) + 1, dtype=np.float32)[labels]
    order = np.lexsort((permutation(len(x), 0, "folds"), labels))  # stratified: dealt class by class
    fold = np.empty(len(x), np.int64)
    fold[order] = np.arange(len(x)) % FOLDS
    parts = [(x[fold == f], y[fold == f]) for f in range(FOLDS)]
    grams, sums = [a.T @ a for a, _ in parts], [a.T @ b for a, b in parts]
    gram, total = sum(grams), sum(sums)
    scores = np.empty_like(y)
    for f in range(FOLDS):
        system = gram - grams[f] + RIDGE * np.eye(x.shape[1], dtype=np.float32)
        scores[fold == f] = parts[f][0] @ np.linalg.solve(system, total - sums[f])
    return scores


def fitted(table: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float32 [m, K]: scores of `others` [m, D] from the regression on table [n, D] and labels [n]."""
    x = _prepared(table, table)
    y = np.eye(int(labels.max()) + 1, dtype=np.float32)[labels]
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1], dtype=np.float32), x.T @ y)
    return _prepared(others, table) @ weights


def _prepared(rows: np.ndarray, like: np.ndarray) -> np.ndarray:
    """float32 [m, D + 1]: scaled by mean and deviation of `like`, with a constant."""
    spread = like.std(0)
    scaled = (rows - like.mean(0)) / (spread + 1e-3 * float(np.sqrt((spread**2).mean())) + 1e-8)
    scaled /= np.sqrt(scaled.shape[1])
    return np.concatenate([scaled, np.ones((len(scaled), 1), scaled.dtype)], 1).astype(np.float32)


def fit_noise(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """(T, random) of largest likelihood, where p(label) = (1 - random) softmax(scores / T) + random / K: T on a grid,
    the share by expectation maximisation."""
    own, best = np.arange(len(labels)), (-np.inf, 1.0, 0.0)
    uniform = 1 / scores.shape[1]
    for temperature in np.geomspace(0.02, 1.0, 24):
        given = softmax(scores / temperature)[own, labels].astype(np.float64)
        random = 0.1
        for _ in range(50):
            random = float((random * uniform / (random * uniform + (1 - random) * given + 1e-300)).mean())
        likelihood = float(np.log((1 - random) * given + random * uniform + 1e-300).mean())
        best = max(best, (likelihood, float(temperature), random))
    return best[1], best[2]


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


add(label_noise, "label-noise", stage="images", rank=4,
    rule="labels that confident learning and a model of random labels both call wrong: above 1 % a note, 5 % a "
         "warning; a split that numbers its classes otherwise",
    cost="features of up to 6,000 images and five linear systems: about 6 s", course="1.03, C2.5")
