"""visus monitor: whether recent images still look like those of the training, and what moved.

Needs no torch for a bundle; a run is asked for the features of its network too, which does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visus.core.errors import CheckpointError, ImageError, RunError, UserError, printable
from visus.core.files import sha256, write_text
from visus.core.images import read_image
from visus.core.preprocessing import Preprocessing
from visus.core.seeds import permutation
from visus.core.validate import positive, require
from visus.deploy.artifact import REFERENCE, is_bundle, read_bundle
from visus.deploy.drift import (
    OF_ANSWERS,
    OF_FEATURES,
    SCALES,
    Observed,
    Sketch,
    answer_statistics,
    file_statistics,
    image_statistics,
    merged,
)
from visus.deploy.statistics_file import (
    FeatureSketch,
    Reference,
    read_reference_file,
    read_statistics,
    write_reference_file,
)
from visus.run.display import Display
from visus.run.drift import Compared, compare, said

if TYPE_CHECKING:
    from visus.core.record import RunFolder
    from visus.data.samples import Samples
    from visus.run.bundle import TrainedModel

IMAGES = 2000         # of the training data in a reference, and of a folder by default
FEATURE_IMAGES = 400  # of training and of held-out images in a reference's features
RANK = 32             # directions of the features
MAX_DIMS = 4096
LEAST_FEATURE_IMAGES = 16
MAX_CONFUSION = 40_000  # cells that are not 0
BATCH = 32
SHOWN = 12  # images on the page
FOLDER = "monitor"

Answer = Callable[[list[np.ndarray]], tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True, eq=False)
class _Looked:
    """seen: statistics of all images. coordinates: [N, R + 1] of the features, or None. far: (score, source, why) of
    the images that lie farthest out, the farthest first. unread: files that could not be read."""

    seen: Observed
    coordinates: np.ndarray | None
    far: list[tuple[float, Any, str]]
    unread: list[str]


def monitor(model: str | os.PathLike[str], images: Iterable[Any] | str | os.PathLike[str] = (), *,
            requests: Sequence[str | os.PathLike[str]] | str | os.PathLike[str] = (),
            out: str | os.PathLike[str] | None = None, alpha: float = 0.01, features: bool | None = None,
            last: int | None = None, limit: int = IMAGES, device: str = "auto", progress: bool = False,
            command: Sequence[str] = ()) -> Compared:
    """Compare recent images with those that a model was trained and tested on.

    model: a run folder or a bundle. images: paths, folders, globs, or uint8 arrays. requests: files of statistics that
    a server kept, or folders of them; several are taken together. out: a page that shows it. alpha: the chance of any
    alarm where nothing moved. features: look at the network's features too, which needs torch; None: for a run, and not
    for a bundle. last: only so many of the latest windows of each file. limit: so many images, spread over those given.

    A run's reference is written to RUN/monitor/reference.json when it is first needed. Raises UserError, RunError and
    CheckpointError for what can be put right.
    """
    require(isinstance(alpha, int | float) and 0 < alpha < 1, "alpha", alpha, "lie between 0 and 1")
    positive(limit=limit)
    if last is not None:
        positive(last=last)
    display = Display(progress)
    given, files = list(_sources(images)), _statistics_files(requests)
    if not given and not files:
        raise UserError("nothing to compare", where="visus monitor", remedy="Give a folder of recent images, or the "
                        "statistics that a server kept: --requests FILE")
    bundled = is_bundle(model)
    reference, preprocessing, opened = (_of_bundle if bundled else _of_run)(Path(os.fspath(model)), features, device,
                                                                            display)
    notes: list[str] = []
    windows = _windows(files, reference, last, notes)
    parts = list(windows)
    looked = None
    if given:
        chosen = [given[i] for i in np.linspace(0, len(given) - 1, min(len(given), limit)).round().astype(int)]
        if len(chosen) < len(given):
            notes.append(f"{len(chosen):,} of {len(given):,} images were looked at, spread over all; --limit changes "
                         "that")
        answer, thresholds = opened()
        looked = _look(chosen, preprocessing, answer, thresholds, reference, display)
        parts.append(looked.seen)
        if looked.unread:
            notes.append(f"{len(looked.unread):,} files could not be read, the first: {looked.unread[0]}")
        if reference.features is not None and looked.coordinates is None:
            notes.append("the network's features were not looked at; --features does")
    recent = merged(parts, len(reference.labels))
    found = compare(reference, recent, alpha, None if looked is None else looked.coordinates, notes)
    found.record["model"] = reference.model
    found.record["far"] = [] if looked is None else [
        {"source": _name(source), "score": score, "why": why} for score, source, why in looked.far]
    found.record["windows"] = [_window_record(window) for window in windows]
    found.record["command"] = list(command)
    if out is not None:
        from visus.report.monitor import render_monitor

        pictures = [] if looked is None else [_pixels(source, preprocessing) for _, source, _ in looked.far]
        write_text(Path(out), render_monitor(found.record, _bars(reference, recent), pictures))
    return found


def write_reference(run_folder: str | os.PathLike[str], bundle_folder: str | os.PathLike[str] | None = None,
                    progress: bool = False, thresholds: Sequence[float] | None = None) -> Path:
    """Make the reference of a run and write it as reference.json into a bundle, or, without one, into the run's own
    monitor/ folder. Where the images are gone it holds what the run folder still tells, and says so.

    It has counts, means and a low-rank sketch of the features of up to 400 held-out images; below 2 MB. thresholds: of
    a model with several labels, where the bundle has others than 0.5.
    """
    from visus.core.record import RunFolder

    run = Path(os.fspath(run_folder))
    own = run / FOLDER / REFERENCE
    if bundle_folder is not None and thresholds is not None and set(thresholds) != {0.5}:
        path = Path(os.fspath(bundle_folder)) / REFERENCE
        write_reference_file(path, _reference(RunFolder.open(run), Display(progress), thresholds))
        return path
    if not (own.is_file() and _fresh(own, run)):
        write_reference_file(own, _reference(RunFolder.open(run), Display(progress)))
    if bundle_folder is None:
        return own
    path = Path(os.fspath(bundle_folder)) / REFERENCE
    write_reference_file(path, read_reference_file(own))
    return path


def _fresh(path: Path, run: Path) -> bool:
    """Whether a reference is of this very model, calibration included."""
    try:
        return read_reference_file(path).weights == sha256(run / "model" / "model.json")
    except (CheckpointError, OSError):
        return False


# -- what is given -----------------------------------------------------------------------------------------------------


def _sources(images: Iterable[Any] | str | os.PathLike[str]) -> Iterator[Any]:
    from visus.run.predict import expand

    if isinstance(images, str | os.PathLike | np.ndarray):
        images = [images]
    for given in images:
        if isinstance(given, str | os.PathLike):
            yield from expand(Path(given))
        else:
            yield given


def _statistics_files(given: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]) -> list[Path]:
    found: list[Path] = []
    for one in [given] if isinstance(given, str | os.PathLike) else given:
        path = Path(os.fspath(one))
        inside = sorted(p for p in path.glob("*.json") if not p.name.startswith(".")) if path.is_dir() else [path]
        if not inside:
            raise UserError("holds no .json files", where=f"--requests {path}",
                            remedy="Give the file or folder that the server writes")
        found += inside
    return found


def _windows(files: Sequence[Path], reference: Reference, last: int | None, notes: list[str]) -> list[Observed]:
    """All windows of all files by time; those of several workers that began in the same hour stay apart."""
    windows: list[Observed] = []
    for file in files:
        found, about = read_statistics(file, reference.labels)
        windows += found if last is None else found[-last:]
        if reference.weights is not None and about.get("weights") not in (None, reference.weights):
            notes.append(f"{file.name} was kept while another model (or another calibration) was served")
    if files and not any(window.count for window in windows):
        raise UserError("no request was counted yet", where=files[0], remedy="Wait until images were sent")
    return sorted(windows, key=lambda window: window.start)


def _of_bundle(path: Path, features: bool | None, device: str, display: Display
               ) -> tuple[Reference, Preprocessing, Callable[[], tuple[Answer, Sequence[float] | None]]]:
    bundle = read_bundle(path)
    if not path.is_dir() or not (path / REFERENCE).is_file():
        raise CheckpointError("holds no reference of its training", where=path, remedy="Give the bundle's whole "
                              "folder, or the run, or export the run again with its images at hand")
    reference = read_reference_file(path / REFERENCE)
    _same_labels(reference, bundle.labels, path)
    thresholds = bundle.thresholds if bundle.task == "multilabel" else None

    def opened() -> tuple[Answer, Sequence[float] | None]:
        if features:
            if bundle.model_folder is None:
                raise UserError("holds no torch model, which gives the features", where=path,
                                remedy="Leave --features out, or give the run")
            return _torch_answer(bundle.model_folder, reference, device), thresholds
        from visus.deploy.predictor import open_predictor

        predictor = open_predictor(path, verify=False)
        return (lambda arrays: (np.stack([predictor.probs(array) for array in arrays]), None)), thresholds

    return reference, bundle.preprocessing, opened


def _of_run(path: Path, features: bool | None, device: str, display: Display
            ) -> tuple[Reference, Preprocessing, Callable[[], tuple[Answer, Sequence[float] | None]]]:
    from visus.core.record import RunFolder
    from visus.run.bundle import load_model

    folder = RunFolder.open(path)
    if not (folder.path / "model" / "model.json").is_file():
        load_model(path)  # says why there is none
        raise RunError("keeps no model of its own", where=path, remedy="Give a run that was trained, or an ensemble")
    display.say("reference", f"what the training saw: {folder.path / FOLDER / REFERENCE}")
    reference = read_reference_file(write_reference(path, progress=display.show))
    from visus.core.files import read_json

    about = read_json(folder.path / "model" / "model.json", error=CheckpointError)
    preprocessing = Preprocessing.from_dict(about["preprocessing"])
    _same_labels(reference, preprocessing.labels, path)
    thresholds = (0.5,) * len(preprocessing.labels) if about["task"] == "multilabel" else None
    known = reference if features is None or features else replace(reference, features=None)
    return known, preprocessing, lambda: (_torch_answer(path, known, device), thresholds)


def _same_labels(reference: Reference, labels: Sequence[str], path: Path) -> None:
    if reference.labels != tuple(labels):
        raise CheckpointError("is of a model with other classes", where=path / REFERENCE,
                              remedy="Export the run once more")


def _torch_answer(path: Path, reference: Reference, device: str) -> Answer:
    """Answers of the torch model (calibrated where it has a calibration) and the coordinates of its features."""
    import torch

    from visus.core.device import pick_device
    from visus.run.bundle import load_model

    trained = load_model(path)
    where = pick_device(device)
    model = trained.model.to(where)

    def answer(arrays: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
        from visus.calibrate.out_of_distribution import features_and_logits

        batch = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous().to(where).float().div_(255)
        coordinates = logits = None
        with torch.inference_mode():
            if reference.features is not None:
                features, logits = features_and_logits(model, [trained.preprocessing.normalise(batch)])
                coordinates = reference.features.coordinates(features.numpy())
            if logits is None or trained.preprocessing.views != "none":
                logits = trained.preprocessing.answers(model, batch).float().cpu()
            probs = (logits.sigmoid() if trained.task == "multilabel" else logits.softmax(1)).numpy()
        return probs if trained.calibrator is None else trained.calibrator(probs), coordinates

    return answer


# -- looking at images -------------------------------------------------------------------------------------------------


def _look(sources: Sequence[Any], preprocessing: Preprocessing, answer: Answer, thresholds: Sequence[float] | None,
          reference: Reference, display: Display) -> _Looked:
    seen = Observed(np.zeros(len(reference.labels), np.int64))
    found: list[np.ndarray] = []
    far: list[tuple[float, Any, str]] = []
    unread: list[str] = []
    with display.steps("images", len(sources)) as advance:
        for start in range(0, len(sources), BATCH):
            part, arrays, values = [], [], []
            for source in sources[start:start + BATCH]:
                advance(1)
                try:
                    pixels = _pixels(source, preprocessing)
                except ImageError:
                    unread.append(_name(source))
                    continue
                prepared = preprocessing.resized_array(pixels)
                part.append(source)
                arrays.append(prepared)
                values.append(image_statistics(prepared) | file_statistics(pixels.shape[1], pixels.shape[0]))
            if not arrays:
                continue
            probs, coordinates = answer(arrays)
            away = None if coordinates is None else FeatureSketch.distances(coordinates)
            for i, source in enumerate(part):
                answers, classes = answer_statistics(probs[i], thresholds)
                values[i] |= answers | ({} if away is None else {"distance": float(away[i])})
                seen.add(values[i], classes)
                score, why = _strangeness(values[i], reference)
                far.append((score, source, why))
            far = sorted(far, key=lambda row: -row[0])[:SHOWN]
            if coordinates is not None:
                found.append(coordinates)
    if not seen.count:
        raise UserError("no image could be read", where=unread[0], remedy="Give images")
    return _Looked(seen, np.concatenate(found) if found else None, far, unread)


def _strangeness(values: dict[str, float], reference: Reference) -> tuple[float, str]:
    """(by how many standard deviations it lies outside, at the statistic where that is most; which one)."""
    worst, why = 0.0, ""
    for name, value in values.items():
        known = (reference.held_out if name in OF_FEATURES else reference.images).sketches.get(name)
        if name in OF_ANSWERS or known is None or known.count < 2 or value != value:
            continue
        scale = SCALES[name]
        place = max(scale.low, scale.moved(value)) if scale.kind == "log" else value
        spread = max(known.std, 0.004 * (scale.high - scale.low))
        score = abs(place - known.mean) / spread
        if score > worst:
            worst, why = score, f"{scale.title} {said(name, place)}, usually {said(name, known.mean)}"
    return worst, why


def _pixels(source: Any, preprocessing: Preprocessing) -> np.ndarray:
    from visus.run.predict import checked

    if isinstance(source, np.ndarray):
        return checked(source)
    return read_image(source, background=preprocessing.background).pixels


def _name(source: Any) -> str:
    return printable(os.fspath(source)) if isinstance(source, str | os.PathLike) else f"<{type(source).__name__}>"


def _window_record(window: Observed) -> dict[str, Any]:
    return {"start": window.start, "end": window.end, "count": window.count,
            "means": {name: 10**sketch.mean if SCALES[name].kind == "log" else sketch.mean
                      for name, sketch in window.sketches.items()}}


def _bars(reference: Reference, recent: Observed, most: int = 32) -> dict[str, list[tuple[float, float, float, float]]]:
    """By statistic, bars (from, to, share of the reference, share of the recent ones) over the bins that are held."""
    bars = {}
    for name, after in recent.sketches.items():
        before = (reference.held_out if name in OF_ANSWERS + OF_FEATURES else reference.images).sketches.get(name)
        if before is None or not before.count or not after.count:
            continue
        held = np.flatnonzero(before.counts + after.counts)
        first, end = int(held[0]), int(held[-1]) + 1
        width = math.ceil((end - first) / most)
        edges = SCALES[name].edges
        bars[name] = [(float(edges[k]), float(edges[min(k + width, end)]),
                       float(before.counts[k:min(k + width, end)].sum() / before.count),
                       float(after.counts[k:min(k + width, end)].sum() / after.count))
                      for k in range(first, end, width)]
    return bars


# -- the reference of a run --------------------------------------------------------------------------------------------


def _reference(folder: RunFolder, display: Display, thresholds: Sequence[float] | None = None) -> Reference:
    from visus.run.bundle import load_model

    trained = load_model(folder.path)
    notes: list[str] = []
    held_out, accuracy, confusion = _answers(folder, trained, thresholds, notes)
    images, features = Observed(np.zeros(0, np.int64)), None
    try:
        from visus.run.evaluate import own_splits
        from visus.run.recipe import Recipe

        samples, splits = own_splits(folder, Recipe.load(folder.path / "recipe.yaml"))
    except UserError as error:
        notes.append(f"the training images could not be looked at ({error.problem}), so there is nothing to compare "
                     "pixels and features with")
    else:
        images = _images(samples, trained, display)
        features, distances = _feature_sketch(samples, splits, trained, notes, display)
        held_out.count = max(held_out.count, len(distances))
        for distance in distances:
            held_out.sketches.setdefault("distance", Sketch()).add(SCALES["distance"], distance)
    return Reference(model=trained.name, labels=trained.labels, weights=sha256(folder.path / "model" / "model.json"),
                     images=images, held_out=held_out, accuracy=accuracy, confusion=confusion, features=features,
                     notes=tuple(notes), of=str(folder.about.get("name") or folder.path.name))


def _answers(folder: RunFolder, trained: TrainedModel, thresholds: Sequence[float] | None, notes: list[str]
             ) -> tuple[Observed, float | None, np.ndarray | None]:
    """From the predictions that the run keeps for its validation and test split."""
    from visus.run.calibrate import saved_predictions

    seen = Observed(np.zeros(len(trained.labels), np.int64))
    parts = []
    for split in ("val", "test"):
        try:
            parts.append(saved_predictions(folder, split))
        except RunError as error:
            notes.append(f"{split}: {error.problem}")
    parts = [part for part in parts if part.probs.shape[1] == len(trained.labels)]
    if not parts:
        return seen, None, None
    several = trained.task == "multilabel"
    probs, targets = (np.concatenate(rows) for rows in zip(*((p.probs, p.targets) for p in parts), strict=True))
    if trained.calibrator is not None:
        probs = trained.calibrator(probs)
    for row in probs:
        seen.add(*answer_statistics(row, (thresholds or (0.5,) * len(trained.labels)) if several else None))
    if several:
        return seen, None, None
    predicted = probs.argmax(1)
    confusion = np.zeros((len(trained.labels),) * 2, np.int64)
    np.add.at(confusion, (targets, predicted), 1)
    small = len(trained.labels) <= 2000 and np.count_nonzero(confusion) <= MAX_CONFUSION
    return seen, float((predicted == targets).mean()), confusion if small else None


def _images(samples: Samples, trained: TrainedModel, display: Display) -> Observed:
    """Of up to 2,000 images of all splits, drawn by a seed."""
    seen = Observed(np.zeros(0, np.int64))
    chosen = np.sort(permutation(len(samples), "reference")[:IMAGES])
    with display.steps("reference", len(chosen)) as advance:
        for i in chosen.tolist():
            advance(1)
            try:
                pixels = samples.read(i, trained.preprocessing.background)
            except ImageError:
                continue
            seen.add(image_statistics(trained.preprocessing.resized_array(pixels))
                     | file_statistics(pixels.shape[1], pixels.shape[0]))
    return seen


def _feature_sketch(samples: Samples, splits: dict[str, np.ndarray], trained: TrainedModel, notes: list[str],
                    display: Display) -> tuple[FeatureSketch | None, list[float]]:
    """Directions from training images, in which held-out images are then described: those have not shaped them."""
    import torch

    from visus.calibrate.out_of_distribution import features_and_logits, head_name
    from visus.data.loader import Loader

    held = np.concatenate([splits["val"], splits["test"]])
    drawn = [np.sort(part[permutation(len(part), "features", name)[:FEATURE_IMAGES]])
             for name, part in (("train", splits["train"]), ("held out", held))]
    if min(len(part) for part in drawn) < LEAST_FEATURE_IMAGES:
        notes.append(f"too few images for statistics of the features: {LEAST_FEATURE_IMAGES} held-out ones are needed")
        return None, []
    found = []
    with display.steps("features", sum(map(len, drawn))) as advance:
        for part in drawn:
            loader = Loader(samples, part, trained.preprocessing, batch_size=BATCH, on_bad_image="skip")

            def batches(loader: Loader = loader) -> Iterator[torch.Tensor]:
                for batch in loader.epoch(0):
                    advance(len(batch))
                    yield trained.preprocessing.normalise(batch.images)

            rows = batches()
            first = next(rows)
            try:
                head = head_name(trained.model, first[:1])
            except UserError as error:
                notes.append(f"no statistics of the features: {trained.name} {error.problem}")
                return None, []
            found.append(features_and_logits(trained.model, chain([first], rows), head)[0].numpy().astype(np.float64))
    train, other = found
    dims = np.sort(permutation(train.shape[1], "dims")[:MAX_DIMS])
    mean = train[:, dims].mean(0).astype(np.float32).astype(np.float64)
    rank = min(RANK, len(dims), len(train) // 8)
    _, strengths, rows_ = np.linalg.svd(train[:, dims] - mean, full_matrices=False)
    basis = rows_[:rank].astype(np.float32).astype(np.float64)
    scale = np.append(np.maximum(strengths[:rank] / math.sqrt(len(train)), 1e-6), 1.0)
    sketch = FeatureSketch(dims, mean, basis, scale, 0.0, np.zeros((0, rank + 1), np.float32))
    left = sketch.coordinates(other)[:, -1]
    scale[-1] = max(float(left.std()), 1e-6)
    sketch = replace(sketch, rest=float(np.float32(left.mean())), scale=scale.astype(np.float32).astype(np.float64))
    coordinates = sketch.coordinates(other)
    return replace(sketch, sample=coordinates.astype(np.float32)), FeatureSketch.distances(coordinates).tolist()
