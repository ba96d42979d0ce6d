"""Whether the labels can be told without looking at what is in the images.

Where all images of one class come from one camera, one scanner or one web site, a net learns that and fails elsewhere.
A multinomial logistic regression with classes weighted equally, cross-validated in four folds, on one kind of property
at a time: size (height, width, aspect), grey or colour, kind of file, camera, bytes of the file, colour of the
outermost pixels, mean colour. Rule: balanced accuracy more than 0.2 over chance, and 4 standard errors, is a warning
for what says nothing about content (size, grey or colour, file, camera). Bytes, border and mean colour depend on
content too (measured, chance 0.1: the border tells digits with 0.30, Fashion-MNIST and CIFAR-10 with 0.24; mean colour
with 0.14, 0.28 and 0.23): more than 0.4 over chance is a note, and for bytes and border more than 0.9 a warning. The
order of the files is left out: class folders are read class by class. Source: reliability.md A6.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np

from visus.core.record import Finding
from visus.core.seeds import permutation
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.pixels import Pixels, pixels_of
from visus.doctor.thresholds import limit

FOLDS = 4
STEPS = 150
OUTSIDE = ("size", "grey or colour", "kind of file", "camera")  # says nothing about content
COMMON = 8  # values of a kind that get a column of their own


def shortcut(images: ImageSet) -> Iterator[Finding]:
    if images.labels is None or images.labels.ndim != 1:
        return
    pixels = pixels_of(images)
    rows = permutation(len(pixels), 0, "shortcut")[:int(limit("shortcut.most"))]
    given = images.labels[pixels.index[rows]]
    rows = rows[np.bincount(given, minlength=1)[given] >= limit("shortcut.of_a_class")]
    labels = np.unique(images.labels[pixels.index[rows]], return_inverse=True)[1].reshape(-1)
    classes = int(labels.max(initial=-1)) + 1
    if classes < 2:
        return
    chance = 1 / classes
    least = 4 * float(np.sqrt(chance * (1 - chance) / len(rows)))
    for what, table in _tables(images, pixels, rows).items():
        bound = chance + max(limit("shortcut.over_chance" if what in OUTSIDE else "shortcut.content"), least)
        table = table[:, table.std(0) > 0]
        if not table.shape[1]:
            continue
        accuracy = balanced_accuracy(table, labels)
        if accuracy <= bound:
            continue
        severe = what in OUTSIDE or (what != "mean colour" and accuracy > limit("shortcut.sure"))
        yield Finding(
            check="shortcut", severity="warning" if severe else "note",
            title=f"The classes can be told by {what} alone: balanced accuracy {accuracy:.2f}",
            evidence=f"logistic regression on {what}, {len(rows):,} images, {FOLDS} folds; chance {chance:.2f}, bound "
                     f"{bound:.2f}{pixels.basis}",
            remedy=_remedy(what))


def _remedy(what: str) -> str:
    if what in ("border colour", "mean colour"):
        return ("If the colour is not what tells the classes in use: augment with colour jitter, crop the border, and "
                "test on images from elsewhere")
    return ("Bring all images to one size, file kind and quality, collect each class from every source, and test on "
            "images from a source that was not trained on")


def _tables(images: ImageSet, pixels: Pixels, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Kind of property -> float [n, D]."""
    height, width = pixels.size[rows].T.astype(np.float64)
    sources = [images.sources[i] for i in pixels.index[rows]]
    size = np.stack([np.log(height), np.log(width), np.log(width / height)], 1)
    tables = {"size": np.concatenate([size, _one_hot(height * 1e6 + width)], 1),
              "grey or colour": (pixels.channels[rows] == 1).astype(np.float64)[:, None],
              "border colour": _with_squares(pixels.border[rows]), "mean colour": _with_squares(pixels.mean[rows])}
    if images.about is not None:
        tables["kind of file"] = _one_hot(np.array([os.path.splitext(name)[1].lower() for name in sources]))
        tables["camera"] = _one_hot(pixels.camera[rows])
        if np.isfinite(pixels.file_bytes[rows]).all():
            tables["bytes of the file"] = _with_squares(np.log(np.maximum(pixels.file_bytes[rows], 1))[:, None])
    return tables


def _one_hot(values: np.ndarray) -> np.ndarray:
    """A column for each of the most common values."""
    known, counts = np.unique(values, return_counts=True)
    known = known[np.argsort(-counts, kind="stable")][:COMMON]
    return (values[:, None] == known).astype(np.float64)


def _with_squares(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    values = (values - values.mean(0)) / (values.std(0) + 1e-9)
    return np.concatenate([values, values**2], 1)


def balanced_accuracy(table: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of the share answered rightly, each row by a regression that has not seen it."""
    fold = np.empty(len(labels), np.int64)
    fold[np.lexsort((permutation(len(labels), 0, "shortcut folds"), labels))] = np.arange(len(labels)) % FOLDS
    answers = np.empty(len(labels), np.int64)
    for f in range(FOLDS):
        answer = logistic_regression(table[fold != f], labels[fold != f], int(labels.max()) + 1)
        answers[fold == f] = answer(table[fold == f])
    right = answers == labels
    counts = np.bincount(labels)
    return float((np.bincount(labels, right) / counts).mean())


def logistic_regression(table: np.ndarray, labels: np.ndarray, classes: int,
                        decay: float = 1e-3) -> Callable[[np.ndarray], np.ndarray]:
    """Fitted to table [n, D] and labels [n] by accelerated gradient steps (Nesterov, 1983), classes weighted equally,
    with a small penalty. Returns what gives the likeliest class of each row of [m, D]."""
    middle, scale = table.mean(0), table.std(0) + 1e-9

    def prepared(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([(rows - middle) / scale, np.ones((len(rows), 1))], 1)

    x = prepared(table)
    weight = (1 / np.maximum(np.bincount(labels, minlength=classes), 1))[labels][:, None] / classes
    target = np.eye(classes)[labels]
    smooth = float(np.linalg.norm(x * np.sqrt(weight), 2) ** 2) / 2 + decay
    weights = ahead = np.zeros((x.shape[1], classes))
    momentum = 1.0
    for _ in range(STEPS):
        scores = x @ ahead
        powers = np.exp(scores - scores.max(1, keepdims=True))
        residual = (powers / powers.sum(1, keepdims=True) - target) * weight
        after = ahead - (x.T @ residual + decay * ahead) / smooth
        faster = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = after + (momentum - 1) / faster * (after - weights)
        weights, momentum = after, faster
    return lambda rows: (prepared(rows) @ weights).argmax(1)


add(shortcut, "shortcut", stage="images", rank=3,
    rule="labels told from size, file, camera, bytes, border or mean colour alone, 0.2 over chance",
    cost="a few small regressions on up to 2,000 images: about 1 s", course="18.19")
