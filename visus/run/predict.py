"""visus predict: class probabilities for images on disk, in memory, or named on standard input.

By a run, with torch, or by what was exported from it, without."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visus.core.errors import DataError, ImageError, UserError, printable
from visus.core.files import atomic
from visus.core.images import EXTENSIONS, looks_like_image, read_image
from visus.deploy.artifact import ONNX, is_bundle
from visus.deploy.predictor import Predictor, open_predictor

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from visus.calibrate.choosing import Calibrator
    from visus.run.bundle import TrainedModel

BATCH = 32
_COPIES = 6  # of its weights that onnxruntime makes until it computes


@dataclass(frozen=True)
class Prediction:
    """One image's answer. labels and probs: the top classes, best first; chosen: the class, or for a model with
    several labels all with a probability of at least 0.5 (of an exported one: at least their thresholds); notes: how
    the file was read; error: why it was not."""

    source: str
    labels: tuple[str, ...] = ()
    probs: tuple[float, ...] = ()
    chosen: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None
    pixels: np.ndarray | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        row: dict[str, Any] = {"source": self.source}
        if self.error is not None:
            return row | {"error": self.error}
        return row | {"predicted": list(self.chosen), "top": [{"label": label, "prob": prob} for label, prob
                                                              in zip(self.labels, self.probs, strict=True)]}


def predict(run: TrainedModel | Predictor | str | os.PathLike[str], images: Iterable[Any] | str | Path, *, top: int = 5,
            device: str = "auto", on_bad_image: str = "stop", keep_pixels: bool = False,
            calibrated: bool = False) -> list[Prediction]:
    """Classify images with a run (or its folder), or with a bundle or .onnx file that `visus export` wrote.

    images: paths, folders, globs, encoded bytes, or uint8 arrays [H, W] or [H, W, 1 or 3].

    The pixels that the network sees are those that validation saw: same decoder, same preprocessing.
    on_bad_image: 'stop' raises the file's ImageError, 'skip' gives a Prediction with `error`.
    calibrated: probabilities corrected as `visus calibrate` found; UserError where it was not run, or refused. What was
    exported always corrects them. It is asked image by image, on the processor, and torch is not imported.
    """
    return list(iter_predictions(run, images, top=top, device=device, on_bad_image=on_bad_image,
                                 keep_pixels=keep_pixels, calibrated=calibrated))


def iter_predictions(run: TrainedModel | Predictor | str | os.PathLike[str], images: Iterable[Any] | str | Path, *,
                     top: int = 5, device: str = "auto", on_bad_image: str = "stop", keep_pixels: bool = False,
                     calibrated: bool = False) -> Iterator[Prediction]:
    """As `predict`, one by one, in batches of 32; by an exported model each as soon as it is there."""
    if isinstance(images, str | Path | bytes | np.ndarray):
        images = [images]
    if isinstance(run, Predictor) or isinstance(run, str | os.PathLike) and is_bundle(run):
        yield from _by_export(run, images, top, device, on_bad_image, keep_pixels, calibrated)
        return
    from visus.core.device import pick_device
    from visus.run.bundle import TrainedModel, load_model

    trained = run if isinstance(run, TrainedModel) else load_model(run)
    calibrator = trained.calibrator if calibrated else None
    if calibrated and calibrator is None:
        raise _not_calibrated()
    where = pick_device(device)
    model = trained.model.to(where)
    waiting: list[tuple[Prediction, Tensor | None]] = []
    for source in _sources(images):
        prediction, pixels = _read(source, trained.preprocessing.background, on_bad_image, keep_pixels)
        waiting.append((prediction, None if pixels is None else trained.preprocessing.resized(pixels)))
        if len(waiting) == BATCH:
            yield from _classify(waiting, trained, model, where, top, calibrator)
            waiting = []
    if waiting:
        yield from _classify(waiting, trained, model, where, top, calibrator)


def reserve_memory(run: str | os.PathLike[str]) -> None:
    """Before a process that ends with its answers opens what was exported: half of the time that this takes is saved.
    Does nothing for what is no bundle."""
    from visus.core.heap import reserve_heap

    graph = Path(run) if Path(run).is_file() else Path(run) / ONNX
    if is_bundle(run) and graph.is_file():
        reserve_heap(_COPIES * graph.stat().st_size)


def _by_export(run: Predictor | str | os.PathLike[str], images: Iterable[Any], top: int, device: str,
               on_bad_image: str, keep_pixels: bool, calibrated: bool) -> Iterator[Prediction]:
    if device not in ("auto", "cpu"):
        raise UserError("what was exported is computed on the processor", where=f"device={device!r}",
                        remedy="Leave --device out, or give the run that it was exported from")
    predictor = run if isinstance(run, Predictor) else open_predictor(run)
    if calibrated and not predictor.bundle.calibrated:
        raise _not_calibrated()
    rules, labels = predictor.bundle.preprocessing, predictor.bundle.labels
    for source in _sources(images):
        prediction, pixels = _read(source, rules.background, on_bad_image, keep_pixels)
        if pixels is None:
            yield prediction
            continue
        probs = predictor.probs(predictor.prepared(pixels))
        best = predictor.top(probs, top)
        yield replace(prediction, labels=tuple(labels[k] for k, _ in best), probs=tuple(prob for _, prob in best),
                      chosen=predictor.chosen(probs))


def _not_calibrated() -> UserError:
    return UserError("this model has no calibration that helps", where="--calibrated",
                     remedy="Fit one: visus calibrate RUN, or leave --calibrated out")


def _sources(images: Iterable[Any]) -> Iterator[Any]:
    for item in images:
        if isinstance(item, str | Path):
            yield from expand(item)
        else:
            yield item


def expand(path: str | Path) -> list[Path]:
    """A folder -> its images, in order of name; a glob -> what it matches; a file -> itself. Raises DataError."""
    text = os.fspath(path)
    if os.path.isdir(text):
        files = (Path(folder) / name for folder, _, names in os.walk(text) for name in names
                 if not name.startswith("."))
        found = sorted(file for file in files if file.suffix.lower() in EXTENSIONS or looks_like_image(str(file)))
        if not found:
            raise DataError("holds no images", where=path, remedy="Give images, or a folder that holds some")
        return found
    if os.path.lexists(text):
        return [Path(text)]
    if glob.has_magic(text):
        found = sorted(Path(name) for name in glob.glob(text, recursive=True) if os.path.isfile(name))
        if found:
            return found
        raise DataError("matches no file", where=path, remedy="Quote the pattern, and look at the folder's content")
    raise DataError("there is no such file", where=path, remedy="Check the path")


def _read(source: Any, background: tuple[int, int, int], on_bad_image: str,
          keep_pixels: bool) -> tuple[Prediction, np.ndarray | None]:
    """The answer to be, and uint8 [H, W, 1 or 3]; None for a file that cannot be read."""
    name = printable(os.fspath(source)) if isinstance(source, str | Path) else f"<{type(source).__name__}>"
    notes: tuple[str, ...] = ()
    try:
        if isinstance(source, np.ndarray):
            pixels = checked(source)
        else:
            read = read_image(source, background=background)
            pixels, notes = read.pixels, read.notes
    except ImageError as error:
        if on_bad_image == "stop":
            raise
        return Prediction(name, error=error.problem), None
    return Prediction(name, notes=notes, pixels=pixels if keep_pixels else None), pixels


def checked(array: np.ndarray) -> np.ndarray:
    """uint8 pixels of an image as [H, W, 1 or 3]. Raises ImageError for another array."""
    if array.ndim == 2:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise ImageError(f"has shape {array.shape} and type {array.dtype}", where="array",
                         remedy="Give uint8 [H, W], [H, W, 1] or [H, W, 3] in RGB")
    return array


def _classify(waiting: Sequence[tuple[Prediction, Tensor | None]], trained: TrainedModel, model: torch.nn.Module,
              device: torch.device, top: int, calibrator: Calibrator | None) -> Iterator[Prediction]:
    images = [image for _, image in waiting if image is not None]
    answers = iter(_probs(images, trained, model, device, calibrator) if images else [])
    for prediction, image in waiting:
        if image is None:
            yield prediction
            continue
        row = next(answers)
        best = row.topk(min(top, len(row)))
        labels = tuple(trained.labels[i] for i in best.indices.tolist())
        chosen = labels[:1] if trained.task != "multilabel" else \
            tuple(trained.labels[i] for i in (row >= 0.5).nonzero().flatten().tolist())
        yield replace(prediction, labels=labels, probs=tuple(best.values.tolist()), chosen=chosen)


def _probs(images: list[Tensor], trained: TrainedModel, model: torch.nn.Module, device: torch.device,
           calibrator: Calibrator | None) -> list[Tensor]:
    """uint8 [C, H, W] each -> float32 [K] each."""
    import torch

    with torch.inference_mode():
        batch = torch.stack(images).to(device).float().div_(255)
        logits = trained.preprocessing.answers(model, batch).float().cpu()
        found = logits.sigmoid() if trained.task == "multilabel" else logits.softmax(1)
        return list(found if calibrator is None else torch.from_numpy(calibrator(found.numpy())).float())


# -- output ------------------------------------------------------------------------------------------------------


def stdin_paths(stream: Any = None) -> Iterator[str]:
    """One path a line; an empty line is passed over."""
    for line in stream if stream is not None else sys.stdin:
        if path := line.rstrip("\n"):
            yield path


def as_json_line(prediction: Prediction) -> str:
    return json.dumps(prediction.to_dict(), ensure_ascii=True)


def csv_writer(stream: Any, top: int) -> Callable[[Prediction], None]:
    """Writes rows source, predicted, prob, label_2, prob_2, ...; cells that a spreadsheet would run get a quote."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["source", "predicted", "prob"] + [f"{kind}_{n}" for n in range(2, top + 1)
                                                       for kind in ("label", "prob")] + ["error"])

    def write(prediction: Prediction) -> None:
        pairs = list(zip(prediction.labels, prediction.probs, strict=True)) + [("", "")] * top
        first = "|".join(prediction.chosen) if prediction.error is None else ""
        cells = [prediction.source, first, pairs[0][1], *(value for pair in pairs[1:top] for value in pair),
                 prediction.error or ""]
        writer.writerow([_inert(cell) for cell in cells])

    return write


def _inert(cell: Any) -> Any:
    return "'" + cell if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def annotate(prediction: Prediction, folder: Path, number: int) -> Path:
    """The image with its answer drawn under it, as a PNG in `folder`. Needs a prediction made with keep_pixels."""
    from PIL import Image, ImageDraw, ImageFont

    assert prediction.pixels is not None
    pixels = prediction.pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
    if max(image.size) < 256:
        scale = 256 // max(image.size) + 1
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    font_size = max(12, min(28, image.width // 16))
    font = ImageFont.load_default(size=font_size)
    lines = [f"{printable(label)[:40]}  {prob:.1%}" for label, prob in
             list(zip(prediction.labels, prediction.probs, strict=True))[:3]]
    line_height = round(font_size * 1.4)
    canvas = Image.new("RGB", (image.width, image.height + line_height * len(lines) + 8), "#16202a")
    canvas.paste(image, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for place, (line, prob) in enumerate(zip(lines, prediction.probs, strict=False)):
        top = image.height + 4 + place * line_height
        draw.rectangle((0, top, round(canvas.width * prob), top + line_height - 2), fill="#2b5b84")
        draw.text((6, top), line, font=font, fill="white")
    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in Path(prediction.source).stem)[:80] or "image"
    path = folder / f"{number:05d}-{name}.png"
    encoded = io.BytesIO()
    canvas.save(encoded, "PNG")
    with atomic(path) as file:
        file.write(encoded.getvalue())
    return path
