"""After training, within a budget: why the model answers as it does, how easily it breaks, what confidence is worth.

Each section is made in turn while time is left, and written into the run's trust.json, which the report draws. One that
was left out names the command that makes it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from visus.core.device import pick_device
from visus.core.errors import UserError
from visus.core.files import atomic, write_bytes
from visus.core.record import Evaluation, RunFolder
from visus.run.bundle import TrainedModel
from visus.run.display import Display
from visus.train.stop import StopRequest

if TYPE_CHECKING:
    from visus.data.samples import Samples

FILE = "trust.json"
EXPLAINED = 6  # mistakes, and as many hits
OVERLAY_PX = 180
BELONGING_SHARE = 0.3  # of the time that is left, for the scores of strangers
CHECK_SHARE = 60  # a check asks the network about as often as so many explanations, at most
ATTACKED = 128  # images of the test split
LEAST_ATTACKED = 16
PGD_STEPS = 10
SQUARE_QUERIES = 200
COLOUR_EPS = tuple(e / 255 for e in (0, 1, 2, 4, 8, 16))
GREY_EPS = tuple(e / 255 for e in (0, 8, 16, 32, 64))
ATTACK_SHARE = 0.4  # of the time that is left
WORST_SHARE = 0.6  # of all steps that are taken where images leave once they are fooled
CORRUPTION_SEVERITY = 3
EMBEDDED = 500
LEAST_EMBEDDED = 8
THUMBNAILS = 200
THUMBNAIL_PX = 48


@dataclass(frozen=True)
class Subject:
    """What the sections look at: a run's model, its samples and how they were split, its evaluation on test."""

    folder: RunFolder
    trained: TrainedModel
    samples: Samples
    splits: dict[str, np.ndarray]
    evaluation: Evaluation | None
    device: torch.device
    deadline: float  # of time.monotonic()
    stop: StopRequest | None = None

    @property
    def left_s(self) -> float:
        """Seconds that are left; none after a request to stop."""
        return 0.0 if self.stop is not None and self.stop.requested else self.deadline - time.monotonic()

    @property
    def test(self) -> np.ndarray:
        return self.splits["test"]

    def pixels(self, index: int) -> torch.Tensor:
        """uint8 [C, H, W], as the model sees the sample before normalisation."""
        preprocessing = self.trained.preprocessing
        return preprocessing.resized(self.samples.read(int(index), preprocessing.background))

    def batch(self, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Images, float [B, C, H, W] in [0, 1], and labels, int64 [B]."""
        images = torch.stack([self.pixels(i) for i in index]).to(self.device).float() / 255
        return images, torch.from_numpy(np.asarray(self.samples.targets)[index]).to(self.device)

    def some(self, count: int) -> np.ndarray:
        """At most `count` numbers of samples of the test split, the same ones each time, from all over it."""
        if len(self.test) <= count:
            return self.test
        return np.sort(np.random.Generator(np.random.PCG64(0)).choice(self.test, count, replace=False))


def add_trust(subject: Subject, budget_s: float, display: Display) -> dict[str, Any]:
    """Make the sections and write trust.json. A section that cannot be made for this model or these data is left out
    with the reason; so are all that come after the budget is spent."""
    record: dict[str, Any] = {"budget_s": budget_s, "sections": {}, "left_out": []}
    begun = time.monotonic()
    subject.trained.model.to(subject.device)
    with display.steps("trust", len(SECTIONS)) as advance:
        for name, (make, command) in SECTIONS.items():
            words = ["visus", *(str(subject.folder.path) if word == "RUN" else word for word in command)]
            if subject.left_s <= 0:
                record["left_out"].append({"section": name, "why": "the budget was spent", "command": words})
            else:
                try:
                    start = time.monotonic()
                    found = make(subject)
                    record["sections"][name] = {**found, "command": words,
                                                "seconds": round(time.monotonic() - start, 2)}
                except (UserError, RuntimeError, MemoryError) as error:  # the run is finished and must get its report
                    why = error.problem if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                    record["left_out"].append({"section": name, "why": why, "command": words})
            advance()
    record["seconds"] = round(time.monotonic() - begun, 2)
    subject.folder.write(FILE, record)
    return record


def renew(run: str | os.PathLike[str], budget_s: float, *, device: str = "auto", progress: bool = False) -> Path:
    """Make the sections of a finished run anew with another budget, and draw its page. Raises RunError for a run that
    has no model yet or whose images have changed."""
    from visus.report.contents import read_contents
    from visus.run.bundle import load_model, one_model
    from visus.run.evaluate import own_splits
    from visus.run.recipe import Recipe
    from visus.run.report import write_report

    if not 0 < budget_s < float("inf"):
        raise UserError("must be above 0 seconds", where=f"budget={budget_s!r}", remedy="60 is plenty for a small net")
    folder = one_model(RunFolder.open(os.fspath(run)))
    trained = load_model(folder.path)
    samples, splits = own_splits(folder, Recipe.load(folder.path / "recipe.yaml"))
    subject = Subject(folder, trained, samples, splits, read_contents(folder).evaluations.get("test"),
                      pick_device(device), time.monotonic() + budget_s)
    add_trust(subject, budget_s, Display(progress))
    return write_report(folder)


def calibration(subject: Subject) -> dict[str, Any]:
    """What `visus calibrate` measures and corrects by itself; it writes the run's calibration/."""
    from visus.run.calibrate import BUILT_IN, IMAGES, NONE, calibrate

    path, trained = str(subject.folder.path), subject.trained
    if trained.task != "classification":
        raise UserError("takes one label per image")
    images, _ = subject.batch(subject.test[:8])
    looked_at = sum(min(len(subject.splits[name]), IMAGES) for name in ("train", "test", *["test"] * 4))
    passes = looked_at * _seconds_per_image(lambda x: trained.model(trained.preprocessing.normalise(x)), images)
    found = calibrate(path, device=str(subject.device), command=["visus", "calibrate", path],
                      ood=NONE if passes > BELONGING_SHARE * subject.left_s else BUILT_IN)
    return {"sentence": found.record["choice"]["sentence"]}


def explanations(subject: Subject) -> dict[str, Any]:
    """Heat over the most confident mistakes and the least confident hits that the report shows."""
    from visus.report import heat
    from visus.run.explain import explain

    shown = subject.evaluation
    if shown is None or not (shown.mistakes or shown.hits):
        raise UserError("the evaluation kept no images")
    by_source = {subject.samples.source(int(i)): int(i) for i in subject.test}
    chosen = [(example, example in shown.hits) for example in (*shown.mistakes[:EXPLAINED], *shown.hits[:EXPLAINED])
              if example.source in by_source]
    if not chosen:
        raise UserError("the images of the evaluation are not there any more")
    arrays = [subject.pixels(by_source[example.source]).permute(1, 2, 0).contiguous().numpy() for example, _ in chosen]
    start = time.monotonic()
    found = explain(subject.trained, arrays, "auto", device=str(subject.device))
    if subject.left_s > CHECK_SHARE * (time.monotonic() - start):
        found = explain(subject.trained, arrays, "auto", device=str(subject.device), check=True)
    assert found.explanation.heat is not None
    maps, items = found.explanation.heat.float().cpu().numpy(), []
    for number, ((example, hit), array) in enumerate(zip(chosen, arrays, strict=True)):
        name = f"images/explained-{number:02d}.png"
        write_bytes(subject.folder.path / name, heat.png(heat.overlay(
            array, maps[number], OVERLAY_PX, signed=found.explanation.signed)))
        items.append({"image": name, "source": example.source, "truth": list(example.truth), "hit": hit,
                      "predicted": list(example.predicted), "confidence": example.confidence})
    return {"method": found.method, "sentence": found.explanation.sentence, "items": items,
            "checks": list(found.checks), "warnings": list(found.warnings)}


def robustness(subject: Subject) -> dict[str, Any]:
    """Accuracy on images moved within growing distances by PGD, or by the square attack where the model has no gradient
    to follow, and on corrupted ones, of as many test images as the time allows."""
    from visus.attack.attack import Attack
    from visus.attack.corruptions import CORRUPTIONS, corrupt
    from visus.attack.measures import answers, robust_curve
    from visus.attack.pgd import PGD
    from visus.attack.square import Square
    from visus.deploy.frozen import frozen
    from visus.run.attack import classifier_of

    if subject.trained.task != "classification":
        raise UserError("attacks need one label for each image")
    preprocessing = subject.trained.preprocessing
    network = frozen(subject.trained.model, (1, preprocessing.channels, *preprocessing.size)).to(subject.device)
    classifier = classifier_of(subject.trained, network)
    eps = GREY_EPS if preprocessing.channels == 1 else COLOUR_EPS
    index = subject.some(ATTACKED)
    images, labels = subject.batch(index)
    per_image = _seconds_per_image(classifier, images[:8])
    follows = _has_gradient(classifier, images[:1])
    cost = per_image * (3 * PGD_STEPS if follows else SQUARE_QUERIES) * (len(eps) - 1) * WORST_SHARE
    count = min(len(index), int(ATTACK_SHARE * subject.left_s / cost))
    if count < min(LEAST_ATTACKED, len(index)):
        raise UserError(f"an attack of {LEAST_ATTACKED} images would take about {LEAST_ATTACKED * cost:.0f} s")

    def attack(eps: float) -> Attack:
        return PGD(eps=eps, steps=PGD_STEPS) if follows else Square(eps=eps, queries=SQUARE_QUERIES)

    images, labels = images[:count], labels[:count]
    points = [{"eps": point.eps, "accuracy": point.robust.value, "low": point.robust.interval[0],
               "high": point.robust.interval[1]}
              for point in robust_curve(attack, classifier, images, labels, eps)]
    corrupted = []
    for name in CORRUPTIONS:
        if subject.left_s <= len(images) * per_image:
            break
        right = answers(classifier, corrupt(images, name, CORRUPTION_SEVERITY)) == labels
        corrupted.append({"name": name, "accuracy": float(right.float().mean())})
    how = f"{PGD_STEPS} steps of projected gradient descent" if follows else \
        f"{SQUARE_QUERIES} questions of the square attack, since this model has no gradient to follow"
    return {"attack": f"PGD-{PGD_STEPS}" if follows else f"Square-{SQUARE_QUERIES}", "norm": "linf", "count": count,
            "points": points, "corruptions": corrupted,
            "sentence": f"Accuracy on {count} test images when each pixel may move by so much, found with {how}: the "
                        "model is no better than this, and may be worse."}


def embedding(subject: Subject) -> dict[str, Any]:
    """The images of the test split as the classifier's last layer sees them, on a plane."""
    from visus.explain.embedding import Embedding, last_features
    from visus.run.thumbnails import thumbnail

    preprocessing, network = subject.trained.preprocessing, subject.trained.model
    images, _ = subject.batch(subject.test[:8])
    per_image = _seconds_per_image(lambda x: network(preprocessing.normalise(x)), images)
    index = subject.some(min(EMBEDDED, int(subject.left_s / per_image)))
    if len(index) < LEAST_EMBEDDED:
        raise UserError(f"a map of fewer than {LEAST_EMBEDDED} images shows nothing, and the time allows "
                        f"{len(index)} of {len(subject.test)}")
    read = [subject.samples.read(int(i), preprocessing.background) for i in index]
    images = torch.stack([preprocessing.resized(pixels) for pixels in read]).to(subject.device)
    features = last_features(network, preprocessing.normalise(images.float() / 255)).float()
    points, words = Embedding().places(features)
    shown = []
    for place, pixels in enumerate(read[:THUMBNAILS]):
        name = f"images/embedded-{place:03d}.png"
        with atomic(subject.folder.path / name) as file:
            small = thumbnail(pixels)
            small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
            small.save(file, "PNG", optimize=True)
        shown.append(name)
    targets = np.asarray(subject.samples.targets)[index]
    return {"points": np.round(points.double().cpu().numpy(), 4).tolist(),
            "targets": (targets if targets.ndim == 1 else targets.argmax(1)).astype(int).tolist(),
            "sources": [subject.samples.source(int(i)) for i in index], "images": shown,
            "classes": list(subject.trained.labels),
            "sentence": f"{len(index)} test images as the last layer sees them, {features.shape[1]} features on a "
                        f"plane by {words}."}


@torch.no_grad()
def _seconds_per_image(classifier: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> float:
    classifier(images)
    start = time.perf_counter()
    classifier(images)
    return (time.perf_counter() - start) / len(images)


def _has_gradient(classifier: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> bool:
    """Whether the scores say in which direction an image would change them: votes and thresholds do not."""
    with torch.enable_grad():
        pixels = images.clone().requires_grad_()
        scores = classifier(pixels)
        if not scores.requires_grad:
            return False
        slope, = torch.autograd.grad(scores.amax(1).sum(), pixels, allow_unused=True)
    return slope is not None and bool(slope.isfinite().all()) and bool(slope.any())


SECTIONS: dict[str, tuple[Callable[[Subject], dict[str, Any]], tuple[str, ...]]] = {
    "calibration": (calibration, ("calibrate", "RUN")),
    "explanations": (explanations, ("explain", "RUN", "IMAGE")),
    "robustness": (robustness, ("attack", "RUN", "--curve")),
    "embedding": (embedding, ("explain", "RUN", "IMAGE", "--method", "embedding")),
}
