"""visus calibrate: what a run's confidence is worth, corrected where that helps, and what follows from it.

The correction is fitted on the predictions for the validation split alone and measured on those for the test split;
both lie in the run folder, so that no image is needed but for out-of-distribution scores, dropout and groups.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from visus.calibrate.choosing import METHODS, choose, to_record
from visus.calibrate.conformal import Aps, Lac, Raps, expected_coverage, fit_conformal, measure_sets
from visus.calibrate.ensemble import agree, dropout_passes
from visus.calibrate.groups import by_group
from visus.calibrate.out_of_distribution import (
    NEIGHBOURS,
    Mahalanobis,
    NearestNeighbours,
    energy,
    features_and_logits,
    head_name,
    max_logit,
    max_softmax,
    separation,
    strangers,
)
from visus.calibrate.selective import risk_coverage
from visus.core.device import pick_device
from visus.core.errors import CheckpointError, RunError, UserError
from visus.core.files import read_json, write_json, write_text
from visus.core.images import read_image
from visus.core.record import RunFolder
from visus.core.seeds import uniform
from visus.core.validate import natural, one_of
from visus.data.loader import Loader
from visus.data.opening import open_samples
from visus.data.samples import Samples, spread
from visus.deploy.frozen import frozen
from visus.metrics.calibration import (
    adaptive_calibration_error,
    brier_scores,
    calibration_gaps,
    classwise_calibration_error,
    negative_log_likelihoods,
    reliability,
)
from visus.metrics.ranking import roc_auc
from visus.metrics.significance import paired_bootstrap
from visus.report.page import PAGE_NAME
from visus.run.bundle import load_model, one_model
from visus.run.display import Display
from visus.run.evaluate import own_splits
from visus.run.predict import expand
from visus.run.recipe import Recipe
from visus.run.report import write_report

if TYPE_CHECKING:
    from torch import Tensor

    from visus.run.bundle import TrainedModel

IMAGES = 1000        # of each set that scores of belonging look at
DROPOUT_IMAGES = 500
BATCH = 64
FOLDER = "calibration"
BUILT_IN, NONE = "built-in", "none"


@dataclass(frozen=True)
class SavedPredictions:
    """What evaluation/SPLIT.npz of a run holds. probs: [N, C]. targets: int64 [N]. index: int64 [N]."""

    probs: np.ndarray
    targets: np.ndarray
    index: np.ndarray


@dataclass(frozen=True)
class Calibrated:
    """What `calibrate` gives. record: everything that was measured, in plain values (calibration/results.json).
    files: what was written."""

    run: Path
    record: dict[str, Any]
    files: tuple[Path, ...]


def calibrate(run: str | os.PathLike[str], method: str = "auto", *, alpha: float = 0.1, ood: str | Path = BUILT_IN,
              group: str | None = None, dropout: int = 0, ensemble: Sequence[str | os.PathLike[str]] = (),
              device: str = "auto", progress: bool = False, command: Sequence[str] = ()) -> Calibrated:
    """Correct a run's probabilities and measure what they are worth on its test split.

    method: temperature, vector, matrix, isotonic, or auto: the simplest of those that cross-validation on the
    validation split finds best; one that worsens its log-likelihood is refused. alpha: conformal sets hold the true
    class with probability 1 - alpha. ood: a folder of images (or a data set) that the model was not made for;
    'built-in' makes some of the test images; 'none' leaves it out. group: a column of the run's CSV: accuracy and
    selection rate for each of its values. dropout: passes with dropout on. ensemble: other runs on the same test
    images, whose probabilities are averaged with this one's.

    Writes run/calibration.json and the field "calibration" of model/model.json (what `visus predict --calibrated`
    uses), run/calibration/ with results.json and the charts, and the run's page anew. Raises UserError for a wrong
    option, RunError for a run without saved predictions and for data that have changed.
    """
    one_of(METHODS, method=method)
    natural(dropout=dropout)
    if not 0 < alpha < 1:
        raise UserError("must lie between 0 and 1", where=f"alpha={alpha!r}", remedy="0.1 asks for 90 % coverage")
    folder = one_model(RunFolder.open(os.fspath(run)))
    trained = load_model(folder.path)
    if trained.task != "classification":
        raise UserError("takes one label per image", where=f"task={trained.task}",
                        remedy="Several labels have a threshold each; evaluate them with `visus evaluate`")
    val, test = (saved_predictions(folder, split) for split in ("val", "test"))
    recipe = Recipe.load(folder.path / "recipe.yaml")
    display = Display(progress)

    choice = choose(val.probs, val.targets, method)
    record: dict[str, Any] = {
        "command": list(command), "method": method, "alpha": alpha, "labels": list(trained.labels),
        "counts": {"val": len(val.probs), "test": len(test.probs)},
        "choice": {"method": None if choice.calibrator is None else choice.calibrator.name, "nll": choice.nll,
                   "sentence": choice.sentence, "trials": [asdict(trial) for trial in choice.trials]}}
    corrected = test.probs if choice.calibrator is None else choice.calibrator(test.probs)
    record |= _before_after(test.probs, None if choice.calibrator is None else corrected, test.targets)
    record["conformal"] = _conformal(val, test, alpha)
    record["left_out"] = []

    def section(name: str, make: Callable[[], dict[str, Any]], asked: bool) -> None:
        """What was asked for fails with its error; what comes by itself is left out with the reason."""
        try:
            record[name] = make()
        except UserError as error:
            if asked:
                raise
            record["left_out"].append({"section": name, "why": str(error)})

    if str(ood) != NONE:
        section("ood", lambda: _belonging(folder, recipe, trained, str(ood), device, display), str(ood) != BUILT_IN)
    if group is not None:
        section("groups", lambda: _groups(folder, recipe, corrected, test, group), True)
    if dropout:
        section("dropout", lambda: _dropout(folder, recipe, trained, test, dropout, device, display), True)
    if ensemble:
        section("ensemble", lambda: _ensemble(folder, test, ensemble), True)
    files = _write(folder, record, choice.calibrator)
    if (folder.path / PAGE_NAME).is_file():
        write_report(folder)
    return Calibrated(folder.path, record, files)


def saved_predictions(folder: RunFolder, split: str) -> SavedPredictions:
    """The predictions that a run keeps for one of its splits. Raises RunError where they are not there or not whole."""
    path = folder.path / "evaluation" / f"{split}.npz"
    if not path.is_file():
        raise RunError("this run keeps no predictions: it did not come to its end", where=path,
                       remedy=f"Finish it: visus train --resume {folder.path}")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            probs, targets, index = (arrays[name] for name in ("probs", "targets", "index"))
    except Exception as error:  # zipfile and zlib have errors of their own
        raise RunError(f"is damaged ({type(error).__name__})", where=path, remedy="Copy the run again") from error
    if probs.ndim != 2 or len(probs) != len(targets) or len(probs) != len(index) or not len(probs):
        raise RunError(f"holds arrays of shapes {probs.shape}, {targets.shape}, {index.shape}", where=path,
                       remedy="Copy the run again")
    return SavedPredictions(probs, targets, index)


# -- probabilities -------------------------------------------------------------------------------------------------


def measures(probs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Accuracy, NLL, Brier score and three calibration errors. probs: [N, C]. targets: integers [N]."""
    predicted = probs.argmax(1)
    confidence, correct = probs[np.arange(len(probs)), predicted], predicted == targets
    return {"accuracy": float(correct.mean()), "nll": float(negative_log_likelihoods(probs, targets).mean()),
            "brier": float(brier_scores(probs, targets).mean()),
            "ece": reliability(confidence, correct)["ece"],
            "adaptive_ece": adaptive_calibration_error(confidence, correct),
            "classwise_ece": classwise_calibration_error(probs, targets)}


def _before_after(before: np.ndarray, after: np.ndarray | None, targets: np.ndarray) -> dict[str, Any]:
    """Measures, reliability and risk-coverage of both, and the paired differences with their intervals."""
    found: dict[str, Any] = {"before": measures(before, targets), "after": None, "differences": {},
                             "reliability": {}, "selective": {}}
    both = {"before": before} | ({} if after is None else {"after": after})
    for name, probs in both.items():
        confidence, correct = probs.max(1), probs.argmax(1) == targets
        found["reliability"][name] = reliability(confidence, correct)
        found["selective"][name] = risk_coverage(confidence, correct).to_dict()
    if after is None:
        return found
    found["after"] = measures(after, targets)
    columns: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "accuracy": lambda p: (p.argmax(1) == targets).astype(np.float64),
        "nll": lambda p: negative_log_likelihoods(p, targets), "brier": lambda p: brier_scores(p, targets),
        "ece": lambda p: calibration_gaps(p.max(1), p.argmax(1) == targets)}
    for name, column in columns.items():
        statistic = (lambda means: np.abs(means).sum(-1)) if name == "ece" else None
        found["differences"][name] = asdict(paired_bootstrap(column(before), column(after), statistic))
    return found


def _conformal(val: SavedPredictions, test: SavedPredictions, alpha: float) -> list[dict[str, Any]]:
    """On the probabilities as they are: those that were corrected have seen the validation split already."""
    u_val, u_test = uniform(val.index, "conformal"), uniform(test.index, "conformal")  # an image has one of its own
    rows = []
    for score in (Lac(), Aps(), Raps(free_ranks=min(5, val.probs.shape[1] // 2))):
        fitted = fit_conformal(score, val.probs, val.targets, u_val, alpha)
        low, high = expected_coverage(fitted.count, len(test.probs), alpha)
        rows.append({"method": score.name, "alpha": alpha, "threshold": fitted.threshold, "calibration": fitted.count,
                     "expected_low": low, "expected_high": high,
                     **measure_sets(fitted.sets(test.probs, u_test), test.targets)})
    return rows


def _groups(folder: RunFolder, recipe: Recipe, probs: np.ndarray, test: SavedPredictions, column: str
            ) -> dict[str, Any]:
    samples, _ = own_splits(folder, recipe, kept_columns=(column,))
    if column not in samples.columns:
        raise UserError(f"{samples.format} data have no columns", where=f"group={column!r}",
                        remedy="Train on a CSV (path,label,...) that has this column")
    cells = samples.columns[column][test.index]
    return {"column": column, **by_group(np.where(cells == "", "(empty)", cells), probs, test.targets)}


# -- passes through the model --------------------------------------------------------------------------------------


def _pixels(samples: Samples, index: np.ndarray, trained: TrainedModel, limit: int, advance: Any
            ) -> tuple[Tensor, np.ndarray]:
    """(float images [N, C, H, W] in [0, 1], their places in `index`) of up to `limit` samples spread over them."""
    places = np.array(spread(len(index), limit), np.int64)
    loader = Loader(samples, index[places], trained.preprocessing, batch_size=BATCH, shuffle=False)
    images = []
    for batch in loader.epoch(0):
        images.append(batch.images)
        advance(len(batch))
    return torch.cat(images), places


def _belonging(folder: RunFolder, recipe: Recipe, trained: TrainedModel, ood: str, device: str, display: Display
               ) -> dict[str, Any]:
    """Scores on test images against images from elsewhere; class means and neighbours are of training images."""
    samples, splits = own_splits(folder, recipe)
    where = pick_device(device)
    height, width = trained.preprocessing.size
    model = frozen(trained.model, (1, trained.preprocessing.channels, height, width)).to(where)

    def batches(images: Tensor) -> Iterator[Tensor]:
        for part in images.split(BATCH):
            yield trained.preprocessing.normalise(part.to(where))

    total = sum(min(len(splits[name]), IMAGES) for name in ("train", "test"))
    with display.steps("belonging", total) as advance:
        inside, _ = _pixels(samples, splits["test"], trained, IMAGES, advance)
        if ood == BUILT_IN:
            others = strangers(inside, torch.Generator().manual_seed(0))
        else:
            others = {Path(ood).name or ood: _foreign(ood, trained)}
        known, places = _pixels(samples, splits["train"], trained, IMAGES, advance)
        note = None
        try:
            head: str | None = head_name(model, next(batches(inside[:1])))
        except UserError as error:
            head, note = None, error.problem
        scores: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "max_softmax": lambda f, z: max_softmax(z), "max_logit": lambda f, z: max_logit(z),
            "energy": lambda f, z: energy(z)}
        if head is not None:
            features, _ = features_and_logits(model, batches(known), head)
            targets = torch.from_numpy(np.asarray(samples.targets)[splits["train"][places]])
            distance = Mahalanobis.fit(features, targets)
            nearest = NearestNeighbours.fit(features, k=min(NEIGHBOURS, len(features)))
            scores |= {"mahalanobis": lambda f, z: distance(f), "knn": lambda f, z: nearest(f)}

        def both(images: Tensor) -> tuple[Tensor, Tensor]:
            if head is not None:
                return features_and_logits(model, batches(images), head)
            with torch.inference_mode():
                logits = torch.cat([model(part).float().cpu() for part in batches(images)])
            return logits, logits

        home = both(inside)
        rows = []
        for kind, images in others.items():
            away = both(images)
            for name, score in scores.items():
                parted = separation(score(*home).double().numpy(), score(*away).double().numpy())
                rows.append({"set": kind, "count": len(images), "score": name, **parted})
    return {"against": ood, "inside": len(inside), "features": head, "note": note, "rows": rows}


def _foreign(path: str, trained: TrainedModel) -> Tensor:
    """Up to 1,000 images of a folder, a glob or a data set, as the model sees them, in [0, 1]."""
    preprocessing = trained.preprocessing
    if os.path.isfile(path) and path.lower().endswith((".csv", ".tsv", ".npz")) or not os.path.lexists(path) \
            and not any(c in path for c in "*?["):
        samples = open_samples(path)
        images, _ = _pixels(samples, np.arange(len(samples)), trained, IMAGES, lambda count: None)
        return images
    files = expand(path)
    found = [preprocessing.resized(read_image(files[i], background=preprocessing.background).pixels)
             for i in spread(len(files), IMAGES)]
    return torch.stack(found).float() / 255


def _dropout(folder: RunFolder, recipe: Recipe, trained: TrainedModel, test: SavedPredictions, passes: int,
             device: str, display: Display) -> dict[str, Any]:
    """Test images with dropout left on, several times, beside the one pass without."""
    if passes < 2:
        raise UserError("must be at least 2, or 0 for none", where=f"dropout={passes}", remedy="20 is usual")
    samples, _ = own_splits(folder, recipe)
    where = pick_device(device)
    model = trained.model.to(where)
    with display.steps("dropout", min(len(test.index), DROPOUT_IMAGES)) as advance:
        images, places = _pixels(samples, test.index, trained, DROPOUT_IMAGES, advance)
        members = np.concatenate([
            dropout_passes(model, trained.preprocessing.normalise(part.to(where)), passes, seed=number).cpu().numpy()
            for number, part in enumerate(images.split(BATCH))], axis=1)  # [M, N, C]
    return {"passes": passes, "images": len(images),
            **_averaged(members, test.targets[places], {"one pass": test.probs[places]})}


def _ensemble(folder: RunFolder, test: SavedPredictions, others: Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    members, names = [test.probs], [str(folder.path)]
    for given in others:
        other = RunFolder.open(os.fspath(given))
        problem = other_test_images(folder, other)
        if problem is not None:
            raise RunError(problem, where=other.path, remedy="Average runs with the same data and split only")
        members.append(saved_predictions(other, "test").probs)
        names.append(str(other.path))
    return {"runs": names, **_averaged(np.stack(members), test.targets, dict(zip(names, members, strict=True)))}


def _averaged(members: np.ndarray, targets: np.ndarray, single: dict[str, np.ndarray]) -> dict[str, Any]:
    """Measures of the mean and of the single ones; how much the members differ, on right and on wrong answers."""
    found = agree(members)
    correct = found.probs.argmax(1) == targets
    finds = {name: None if correct.all() or not correct.any() else roc_auc(values, ~correct) for name, values in
             (("mutual_information", found.mutual_information), ("confidence", -found.probs.max(1)))}
    return {"rows": [{"name": name, **measures(probs, targets)} for name, probs in
                     (*single.items(), ("average", found.probs))],
            "disagreement": float(found.disagreement.mean()),
            "mutual_information": {kind: float(found.mutual_information[mask].mean()) if mask.any() else None
                                   for kind, mask in (("right", correct), ("wrong", ~correct))},
            "finds_errors": finds}


def other_test_images(first: RunFolder, second: RunFolder) -> str | None:
    """Why two runs were not tested on the same images, or None where they were."""
    a, b = (saved_predictions(folder, "test") for folder in (first, second))
    labels = [folder.read("data.json", {}).get("classes") for folder in (first, second)]
    digests = [folder.read("data.json", {}).get("digest") for folder in (first, second)]
    if a.probs.shape[1:] != b.probs.shape[1:] or labels[0] != labels[1]:
        return "was trained on other classes"
    if len(a.probs) != len(b.probs):
        return f"was tested on {len(b.probs):,} images, the first run on {len(a.probs):,}"
    if not np.array_equal(a.index, b.index) or not np.array_equal(a.targets, b.targets):
        return "was tested on other images"
    if digests[0] is None or digests[0] != digests[1]:
        return "was trained on other images, labels or splits"
    return None


# -- writing -------------------------------------------------------------------------------------------------------


def _write(folder: RunFolder, record: dict[str, Any], calibrator: Any) -> tuple[Path, ...]:
    """Results and charts first, the model's own field last: it is there when all else is."""
    from visus.report.calibration import calibration_svgs

    out = folder.path / FOLDER
    charts = calibration_svgs(record)
    if "reliability_after.svg" not in charts:
        (out / "reliability_after.svg").unlink(missing_ok=True)
    write_json(out / "results.json", record)
    for name, text in charts.items():
        write_text(out / name, text)
    fitted = None if calibrator is None else to_record(calibrator)
    write_json(folder.path / "calibration.json", {**(fitted or {"method": None}), **{
        name: record["choice"][name] for name in ("sentence", "trials")}})
    path = folder.path / "model" / "model.json"
    about = read_json(path, error=CheckpointError)
    about.pop("calibration", None)
    write_json(path, about if fitted is None else about | {"calibration": fitted})
    return (folder.path / "calibration.json", out / "results.json", *(out / name for name in charts))
