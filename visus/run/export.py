"""visus export: a run's model as one artifact that carries its preprocessing and proves that it computes the same."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.table import Table

from visus.core.errors import CheckpointError, ResourceError, RunError, UserError
from visus.core.files import finite, read_json, sync_folder, write_json, write_text
from visus.core.images import read_image
from visus.core.preprocessing import Preprocessing
from visus.core.record import MARKER, RunFolder
from visus.core.validate import one_of
from visus.deploy.artifact import (
    CARD,
    FORMAT,
    GOLDEN,
    LICENCE,
    MODEL,
    NAME,
    ONNX,
    OPENVINO,
    PASSPORT,
    Bundle,
    read_bundle,
    seal,
)
from visus.deploy.golden import (
    ROUNDED_TOLERANCE,
    TOLERANCE,
    Agreement,
    Golden,
    compare,
    draw,
    read_golden,
    write_golden,
)
from visus.deploy.onnx_file import describe, write_onnx
from visus.deploy.predictor import Predictor, open_predictor
from visus.deploy.program import Program
from visus.deploy.quantise_aware import Quantised
from visus.deploy.session import Session, open_session
from visus.run.bundle import FOLDS, TrainedModel, load_model
from visus.run.display import Display
from visus.run.predict import checked, expand

if TYPE_CHECKING:
    from torch import Tensor

    from visus.run.precision import PrecisionReport

KINDS = {"bundle": "bundle", "onnx": "model.onnx", "torch-export": "model.pt2", "safetensors": "safetensors",
         "openvino": "openvino"}
KINDS_OF_NUMBERS = {"half": "float16", "int8": "int8"}
IN_FULL = ("torch-export", "safetensors", "openvino")  # kinds that --half and --int8 do not change
BATCH = 32


@dataclass(frozen=True)
class Subject:
    """An image of the golden batch: a path, encoded bytes or uint8 [H, W, C]; and its name."""

    source: Any
    name: str

    def pixels(self, background: tuple[int, int, int]) -> np.ndarray:
        if isinstance(self.source, np.ndarray):
            return checked(self.source)
        return read_image(self.source, background=background, name=self.name).pixels


def export(run: str | os.PathLike[str], to: str = "bundle", out: str | os.PathLike[str] | None = None, *,
           licence: str | None = None, tolerance: float | None = None, images: str | os.PathLike[str] | None = None,
           half: bool = False, int8: bool = False, accept_loss: bool = False,
           thresholds: float | Mapping[str, float] | str | os.PathLike[str] | None = None,
           fixed_batch: int | None = None, dynamic_size: bool = False, force: bool = False,
           progress: bool = False) -> Path:
    """Write the model of a run folder as an artifact; the path of it.

    to: bundle (a folder: ONNX, the torch model, the evidence), onnx (one self-describing file), torch-export (one
    .pt2), safetensors (the portable model alone) or openvino (a folder). out: default RUN/export/NAME. licence: of the
    weights, a text or an SPDX identifier. images: a folder or file of images for the golden batch in place of the run's
    own. tolerance: the largest difference of a probability that is let through, by default 1e-4, and 0.05 of a net that
    rounds (`visus compress --method qat`), where a sum in another order falls to the other side of a border. half,
    int8: a smaller file, judged by accuracy on held-out images (bundle and onnx); accept_loss: also where it loses more
    than it may. thresholds: for several labels, from which probability on one is given: for all, by label, or a JSON
    file of either. fixed_batch: always so many images at once; dynamic_size: any height and width, where the net
    allows. force: replace an artifact that is there.

    Nothing lies at `out` before all is written and compared. Raises UserError for wrong options, an artifact that is
    there already, a model that cannot be exported, and one whose answers differ by more than the tolerance.
    """
    one_of(tuple(KINDS), to=to)
    _refuse_misfits(to, half, int8, tolerance, fixed_batch, dynamic_size)
    run = Path(os.fspath(run))
    display = Display(progress)
    trained = load_model(run)
    target = Path(os.fspath(out)) if out is not None else run / "export" / KINDS[to]
    if to == "onnx" and target.suffix.lower() != ".onnx":
        raise UserError("an ONNX file ends in .onnx", where=f"--out {target}", remedy=f"Name it {target}.onnx")
    _refuse_existing(target, force)
    folder = RunFolder.open(run) if (run / MARKER).is_file() else None
    limits = _thresholds(thresholds, trained)
    subjects, where_from = _subjects(folder, trained, images)
    display.say("model", f"{trained.name}, {len(trained.labels)} labels, {_sides(trained.preprocessing)}")
    with display.steps("original answers", None):
        prepared, original = _original(trained, subjects)
    if tolerance is None:
        rounds = any(isinstance(module, Quantised) for module in trained.model.modules())
        tolerance = ROUNDED_TOLERANCE if rounds else TOLERANCE
    job = _Job(trained, run, folder, Program(trained.model, trained.preprocessing, trained.task,
                                             trained.about.get("calibration")).eval(),
               _about(trained, folder, licence, limits, fixed_batch, dynamic_size), subjects, prepared, original,
               tolerance, where_from, images, fixed_batch, dynamic_size, display)
    with _built_beside(target, force) as place:
        _WRITERS[to](job, place)
        if half or int8:
            _lower_precision(job, place, "int8" if int8 else "half", accept_loss)
    display.say("written", f"{target} ({_bytes(target)})")
    return target


def check(bundle: str | os.PathLike[str], *, progress: bool = False) -> Agreement:
    """Look at every file of a bundle and put its golden batch through it again, on this machine. Raises CheckpointError
    for a damaged bundle, UserError for answers beyond the tolerance that it was exported with."""
    found = read_bundle(bundle)
    if not (found.path / GOLDEN).is_file():
        raise CheckpointError("holds no golden batch to compare with", where=found.path,
                              remedy="Give the folder that visus export RUN --to bundle wrote")
    golden = read_golden(found.path / GOLDEN)
    predictor = open_predictor(bundle, backend="onnxruntime", verify=False)  # its own graph, and no chosen one
    with Display(progress).steps("golden batch", len(golden.images)) as advance:
        given = []
        for image in golden.images:
            given.append(predictor.probs(image))
            advance(1)
    agreement = compare(golden.probs, np.stack(given), found.task, found.thresholds)
    about = found.about.get("golden") or {}
    if found.about.get("precision", "float32") == "float32":
        _refuse_difference(agreement, float(about.get("tolerance", TOLERANCE)), str(found.path))
    return agreement


# -- what is exported --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """prepared: uint8 [N, height, width, channels] by the run's own code; original: float32 [N, K]."""

    trained: TrainedModel
    run: Path
    folder: RunFolder | None
    program: Program
    about: dict[str, Any]
    subjects: list[Subject]
    prepared: np.ndarray
    original: np.ndarray
    tolerance: float
    where_from: str
    images: str | os.PathLike[str] | None
    fixed_batch: int | None
    dynamic_size: bool
    display: Display

    @property
    def example(self) -> Tensor:
        count = self.fixed_batch or 2
        rules = self.trained.preprocessing
        return torch.zeros((count, *rules.size, rules.channels), dtype=torch.uint8)

    @property
    def thresholds(self) -> tuple[float, ...]:
        return tuple(self.about.get("thresholds") or ())

    def write_graph(self, path: Path) -> None:
        with self.display.steps("write the graph", None):
            try:
                write_onnx(self.program, self.example, path, dynamic_batch=self.fixed_batch is None,
                           dynamic_size=self.dynamic_size)
            except UserError as error:
                if not self.dynamic_size:
                    raise
                sides = " x ".join(map(str, self.trained.preprocessing.size))
                raise UserError(f"{self.trained.name} cannot be written for other images than {sides} pixels only: "
                                f"{error.problem}", where="--dynamic-size",
                                remedy="Leave --dynamic-size out") from error

    def judged(self, answer: Session, runtime: str, path: Path) -> dict[str, Any]:
        """The golden batch through `answer` (images [1, H, W, C] -> probabilities), as the description records it.
        Raises UserError beyond the tolerance."""
        bundle = Bundle(path, self.about)
        predictor = Predictor(bundle, answer)
        given = []
        with self.display.steps("golden batch", len(self.subjects)) as advance:
            for subject in self.subjects:  # decoded and resized once more, by the code that answers without torch
                pixels = subject.source if isinstance(subject.source, np.ndarray) else \
                    predictor.read(subject.source, name=subject.name).pixels
                given.append(predictor.probs(predictor.prepared(checked(pixels))))
                advance(1)
        agreement = compare(self.original, np.stack(given), self.trained.task, self.thresholds)
        self.display.say("golden", f"{agreement.sentence} ({self.where_from}; torch against {runtime})")
        _refuse_difference(agreement, self.tolerance, self.trained.name)
        return {**agreement.to_dict(), "tolerance": self.tolerance, "from": self.where_from, "runtime": runtime}


def _about(trained: TrainedModel, folder: RunFolder | None, licence: str | None, thresholds: tuple[float, ...] | None,
           fixed_batch: int | None, dynamic_size: bool) -> dict[str, Any]:
    from visus import __version__

    rules = trained.preprocessing
    size = "height, width" if dynamic_size else f"{rules.size[0]}, {rules.size[1]}"
    return {
        "format": FORMAT, "model": trained.name, "task": trained.task, "preprocessing": rules.to_dict(),
        "thresholds": list(thresholds) if thresholds is not None else None,
        "calibration": trained.about.get("calibration") if trained.task != "multilabel" else None,
        "precision": "float32", "licence": licence, "version": __version__, "batch": fixed_batch,
        "takes": f"images: uint8 [{fixed_batch or 'batch'}, {size}, {rules.channels}], "
                 f"{'RGB' if rules.channels == 3 else 'grey'}, upright, resized as preprocessing says",
        "gives": f"probs: float32 [{fixed_batch or 'batch'}, {len(rules.labels)}], in the order of "
                 "preprocessing.labels" + (", calibrated" if trained.about.get("calibration") else ""),
        "run": folder.path.name if folder is not None else None,
        "trained_on": trained.about.get("trained_on"),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z")}


def _original(trained: TrainedModel, subjects: list[Subject]) -> tuple[np.ndarray, np.ndarray]:
    """What `visus predict RUN --calibrated` would say, by torch in float32: the images as its network takes them, uint8
    [N, H, W, C], and probabilities float32 [N, K]."""
    rules, calibrator = trained.preprocessing, trained.calibrator
    images = torch.stack([rules.resized(subject.pixels(rules.background)) for subject in subjects])
    probs = []
    with torch.inference_mode():
        for part in images.split(BATCH):
            logits = rules.answers(trained.model, part.float().div_(255)).float()
            found = logits.sigmoid() if trained.task == "multilabel" else logits.softmax(1)
            probs.append(found.numpy() if calibrator is None or trained.task == "multilabel"
                         else calibrator(found.numpy()).astype(np.float32))
    return images.permute(0, 2, 3, 1).contiguous().numpy(), np.concatenate(probs)


def _subjects(folder: RunFolder | None, trained: TrainedModel,
              images: str | os.PathLike[str] | None) -> tuple[list[Subject], str]:
    """The images of the golden batch, and where they are from in words. Raises RunError where the run's own are gone
    and none are given."""
    if images is not None:
        files = expand(os.fspath(images))
        chosen = [files[i] for i in draw(np.zeros(len(files), np.int64))]
        return [Subject(path, str(path)) for path in chosen], f"images from {Path(os.fspath(images)).name}"
    remedy = "Give images of the kind that the model will see: --images PATH"
    if folder is None:
        raise RunError("is a model without its run, so it has no images for the comparison", where="--images",
                       remedy=remedy)
    from visus.run.evaluate import own_splits
    from visus.run.recipe import Recipe

    recipe = folder.path / "recipe.yaml"
    if not recipe.is_file():
        recipe = folder.path / "fold-1" / "recipe.yaml"
    try:
        samples, splits = own_splits(folder, Recipe.load(recipe))
    except UserError as error:
        raise RunError(f"its own images cannot be used for the comparison: {error.problem}", where=folder.path,
                       remedy=remedy) from error
    split = next((name for name in ("test", "val") if len(splits.get(name, ()))), None)
    if split is None:
        raise RunError("has no held-out images for the comparison", where=folder.path, remedy=remedy)
    index = splits[split]
    chosen_ones = index[draw(np.asarray(samples.targets)[index])]
    background = trained.preprocessing.background
    subjects = []
    for i in chosen_ones.tolist():
        path = None if samples.in_memory else samples.path(i) if samples.encoded is None else None
        subjects.append(Subject(path if path is not None else samples.read(i, background), samples.source(i)))
    return subjects, f"{split} split"


def _thresholds(given: Any, trained: TrainedModel) -> tuple[float, ...] | None:
    """A probability for each label, or None where the task has none and none were given. Raises UserError."""
    if given is None:
        return (0.5,) * len(trained.labels) if trained.task == "multilabel" else None
    if trained.task != "multilabel":
        raise UserError("this model gives each image one class, the likeliest: it has no thresholds",
                        where=f"--thresholds {given}", remedy="Leave --thresholds out")
    where = f"--thresholds {given}"
    if isinstance(given, str | os.PathLike):
        try:
            given = float(os.fspath(given))
        except ValueError:
            given = read_json(os.fspath(given))
    if isinstance(given, int | float):
        values = [given] * len(trained.labels)
    elif isinstance(given, Mapping):
        unknown = sorted(set(given) - set(trained.labels))
        if unknown:
            raise UserError(f"the model has no label {unknown[0]!r}", where=where,
                            remedy=f"Its labels: {', '.join(trained.labels[:12])}")
        values = [given.get(label, 0.5) for label in trained.labels]
    else:
        values = list(given) if isinstance(given, list) else []
    if len(values) != len(trained.labels) or not all(
            isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1 for v in values):
        raise UserError(f"must be a probability, or one for each of the {len(trained.labels)} labels", where=where,
                        remedy='A number such as 0.4, or a JSON file: {"cat": 0.4, "dog": 0.7}')
    return tuple(float(value) for value in values)


def _refuse_misfits(to: str, half: bool, int8: bool, tolerance: float | None, fixed_batch: int | None,
                    dynamic_size: bool) -> None:
    if half and int8:
        raise UserError("one precision at a time", where="--half --int8", remedy="Give one of them")
    if (half or int8) and to in IN_FULL:
        raise UserError(f"a {to} artifact keeps full precision", where="--int8" if int8 else "--half",
                        remedy="Take --to bundle or --to onnx")
    if tolerance is not None and not 0 < tolerance < 1:
        raise UserError("must lie above 0 and below 1", where=f"--tolerance {tolerance}", remedy="The default is 1e-4")
    if fixed_batch is not None and (fixed_batch < 1 or to == "safetensors"):
        raise UserError("must be at least 1" if fixed_batch < 1 else "the portable model takes any number of images",
                        where=f"--fixed-batch {fixed_batch}", remedy="Leave it out for any number of images")
    if dynamic_size and to == "safetensors":
        raise UserError("the portable model is not a graph of one size", where="--dynamic-size",
                        remedy="Leave it out")


# -- the kinds ---------------------------------------------------------------------------------------------------------


def _bundle(job: _Job, place: Path) -> None:
    place.mkdir()
    job.write_graph(place / ONNX)
    _refuse_fixed_size(job, place / ONNX)
    golden = job.judged(_opened(place / ONNX, job.fixed_batch), _onnxruntime(), place)
    about = {**job.about, "golden": golden}
    describe(place / ONNX, {name: value for name, value in about.items() if name != "created"})
    _copy_model(job, place / MODEL)
    write_golden(place / GOLDEN, Golden(job.prepared, job.original, tuple(s.name for s in job.subjects)))
    _write_evidence(job, place)
    seal(place, about)


def _onnx(job: _Job, place: Path) -> None:
    job.write_graph(place)
    _refuse_fixed_size(job, place)
    golden = job.judged(_opened(place, job.fixed_batch), _onnxruntime(), place)
    describe(place, {**job.about, "golden": golden})


def _torch_export(job: _Job, place: Path) -> None:
    from visus.deploy.torch_export import open_torch_export, write_torch_export

    scratch = place.with_name(place.name + ".first.pt2")
    options = {"dynamic_batch": job.fixed_batch is None, "dynamic_size": job.dynamic_size}
    with job.display.steps("torch.export", None):
        write_torch_export(job.program, job.example, scratch, job.about, **options)
    answer, _ = open_torch_export(scratch)
    golden = job.judged(_filled(answer, job.fixed_batch), f"torch {torch.__version__}", scratch)
    scratch.unlink()
    write_torch_export(job.program, job.example, place, {**job.about, "golden": golden}, **options)


def _safetensors(job: _Job, place: Path) -> None:
    _copy_model(job, place)
    again = load_model(place)
    program = Program(again.model, again.preprocessing, again.task, again.about.get("calibration")).eval()

    def answer(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(program(torch.from_numpy(images)).numpy())

    golden = job.judged(answer, f"torch {torch.__version__}", place)
    path = place / "model.json"
    write_json(path, {**read_json(path, error=CheckpointError), "golden": golden,
                      **{name: job.about[name] for name in ("licence", "thresholds", "version", "created")}})
    _write_evidence(job, place, reference=False)


def _openvino(job: _Job, place: Path) -> None:
    from visus.deploy.openvino_file import open_openvino, write_openvino
    from visus.deploy.openvino_package import openvino_to_write

    place.mkdir()
    scratch = place / "scratch.onnx"
    job.write_graph(scratch)
    write_openvino(scratch, place)
    scratch.unlink()
    version = openvino_to_write("Writing OpenVINO's format").get_version().split("-")[0]
    golden = job.judged(open_openvino(place / OPENVINO[0]), f"openvino {version}", place)
    write_golden(place / GOLDEN, Golden(job.prepared, job.original, tuple(s.name for s in job.subjects)))
    _write_evidence(job, place, reference=False)
    seal(place, {**job.about, "runtime": "openvino", "golden": golden})


_WRITERS: dict[str, Callable[[_Job, Path], None]] = {
    "bundle": _bundle, "onnx": _onnx, "torch-export": _torch_export, "safetensors": _safetensors, "openvino": _openvino}


def _opened(path: Path, batch: int | None) -> Session:
    return open_session(path, batch=batch or 1)


def _filled(answer: Session, batch: int | None) -> Session:
    """One image at a time by a graph of a fixed batch."""
    return answer if batch in (None, 1) else lambda images: answer(np.repeat(images, batch or 1, 0))[:1]


def _onnxruntime() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def _refuse_fixed_size(job: _Job, path: Path) -> None:
    """With --dynamic-size: the graph and the original agree on images of another size. Raises UserError."""
    if not job.dynamic_size:
        return
    rules = job.trained.preprocessing
    other = tuple(2 * side for side in rules.size)
    images = np.random.default_rng(0).integers(0, 256, (job.fixed_batch or 1, *other, rules.channels), dtype=np.uint8)
    try:
        with torch.inference_mode():
            expected = job.program(torch.from_numpy(images)).numpy()
        given = open_session(path, batch=job.fixed_batch or 1)(images)
    except Exception as error:  # torch and the runtime raise many kinds where a size does not fit
        raise UserError(f"{job.trained.name} takes images of {rules.size[0]} x {rules.size[1]} pixels only",
                        where="--dynamic-size", remedy="Leave --dynamic-size out") from error
    _refuse_difference(compare(expected, given, job.trained.task, job.thresholds), job.tolerance, "--dynamic-size")


def _refuse_difference(agreement: Agreement, tolerance: float, where: str) -> None:
    if agreement.largest > tolerance:
        raise UserError(f"the exported model answers differently from the original: {agreement.sentence}; allowed is "
                        f"{tolerance:g}", where=where, remedy="Nothing was left behind. Export it as --to safetensors, "
                        f"which keeps the original, or allow more: --tolerance {agreement.largest * 1.1:.1g}")


def _copy_model(job: _Job, place: Path) -> None:
    """The portable model; of a cross-validation, its folds as the members of an ensemble."""
    source = job.run / "model" if (job.run / "model" / "model.json").is_file() else job.run
    if (source / "model.json").is_file():
        shutil.copytree(source, place, ignore=lambda folder, names: [
            name for name in names if not (name == "model.safetensors" or name == "model.json"
                                           or (Path(folder) / name / "model.json").is_file())])
        return
    assert job.folder is not None and job.folder.about.get("kind") == FOLDS
    names = []
    for k in range(1, int(job.folder.about["folds"]) + 1):
        names.append(f"member-{k}")
        shutil.copytree(job.run / f"fold-{k}" / "model", place / names[-1])
    write_json(place / "model.json", {
        "format": 1, "name": job.trained.name, "config": {}, "task": job.trained.task, "of": "probs",
        "preprocessing": job.trained.preprocessing.to_dict(), "members": names,
        "trained_on": job.trained.about.get("trained_on")})


# -- the evidence ------------------------------------------------------------------------------------------------------


def _write_evidence(job: _Job, place: Path, reference: bool = True) -> None:
    from visus.run.models import passports

    passport = passports().get(job.trained.name)
    if passport is not None:
        write_json(place / PASSPORT, asdict(passport))
    write_json(place / CARD, _card(job))
    licence = job.about["licence"]
    write_text(place / LICENCE, f"{licence}\n" if licence else
               "No licence is stated for these weights.\n\nWho exported them gave none (visus export RUN --licence "
               "TEXT). Without a licence nobody else may\ncopy or use them. The licence of the code that reads them "
               "does not cover them.\n")
    if not reference or job.folder is None or not (job.run / "model" / "model.json").is_file():
        return  # folds have no training split in common
    try:
        from visus.run.monitor import write_reference
    except ImportError:
        return
    try:
        with job.display.steps("training statistics", None):
            write_reference(job.folder.path, place)
    except UserError as error:  # the training images may be gone; the bundle answers without them
        job.display.say("note", f"no statistics for visus monitor: {error.problem}")


def _card(job: _Job) -> dict[str, Any]:
    """What the run measured and what is known of its making."""
    trained, folder = job.trained, job.folder
    card: dict[str, Any] = {
        "model": trained.name, "task": trained.task, "classes": list(trained.labels),
        "trained_on": trained.about.get("trained_on"), "licence": job.about["licence"],
        "exported": job.about["created"], "intended_use": _intended_use(trained),
        "preprocessing": trained.preprocessing.to_dict(), "calibration": trained.about.get("calibration")}
    if folder is None:
        return card | {"metrics": trained.about.get("metrics")}
    about = folder.about
    measured = folder.read("metrics.json", {}) or {}
    headline = measured.get("headline")
    splits = measured.get("splits", {})
    kept = splits.get("test") or splits.get("val") or {}
    seeds: dict[str, Any] = {}
    if (folder.path / "recipe.yaml").is_file():
        from visus.run.recipe import Recipe

        recipe = Recipe.load(folder.path / "recipe.yaml")
        seeds = {"train": recipe.train.seed, "split": recipe.data.split_seed}
    return dict(finite(card | {
        "run": folder.path.name, "trained": about.get("created"), "seconds": about.get("seconds"),
        "parameters": about.get("parameters"), "seeds": seeds, "headline": headline,
        "metrics": kept.get("metrics"), "measured_on": {"split": kept.get("split"), "images": kept.get("count")},
        "per_class": kept.get("per_class"), "baselines": measured.get("baselines"),
        "findings": [asdict(finding) for finding in folder.findings()]}))


def _intended_use(trained: TrainedModel) -> str:
    what = "give an image one of" if trained.task != "multilabel" else "say which labels an image carries, of"
    return (f"Made to {what} {len(trained.labels)} classes, for images like those it was trained on "
            f"({trained.about.get('trained_on') or 'not recorded'}). It knows no other class and answers with one of "
            "its own for any image; `visus monitor` tells when images stop looking like those of the training.")


# -- precision, places, words ------------------------------------------------------------------------------------------


def _lower_precision(job: _Job, place: Path, kind: str, accept_loss: bool) -> None:
    """--half and --int8: the graph in `place` becomes smaller, judged by accuracy on held-out images."""
    from visus.run.precision import lower_precision

    limits: dict[str, Any] = {"most_loss": 1.0, "least_agreement": 0.0} if accept_loss else {}
    report = lower_precision(place, kind, run=job.run if job.images is None else None, images=job.images,
                             progress=job.display.show, **limits)
    job.display.result(_precision_table(report))
    if not report.accepted:
        raise UserError(f"is declined: {report.sentence}", where=f"--{kind}",
                        remedy="Nothing was left behind. Leave the option out, or take the loss: --accept-loss")


def _precision_table(report: PrecisionReport) -> Table:
    def percent(value: tuple[float, float, float] | None) -> str:
        return "not known" if value is None else f"{value[0]:.2%}"

    table = Table(title=f"{report.held_out_images:,} held-out images", title_justify="left", box=None, pad_edge=False)
    for number, column in enumerate(("", "float32", KINDS_OF_NUMBERS[report.kind])):
        table.add_column(column, justify="left" if number == 0 else "right")
    table.add_row("accuracy", percent(report.accuracy_before), percent(report.accuracy_after))
    table.add_row("same answers", "", percent(report.agreement))
    table.add_row("MiB", f"{report.bytes_before / 2**20:.2f}", f"{report.bytes_after / 2**20:.2f}")
    table.add_row("speed", f"1 ({report.backend_before})", f"{report.speed[0]:.2f} x ({report.backend})")
    return table


@contextmanager
def _built_beside(target: Path, force: bool) -> Iterator[Path]:
    """A path in a new folder beside the target, on the same disk; it takes the target's name when the block ends
    without an error, and what was written is removed when it does not."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:60]}."))
    except OSError as error:
        raise ResourceError(f"cannot be written: {error.strerror or error}", where=target.parent,
                            remedy="Choose another --out") from error
    try:
        place = scratch / target.name
        yield place
        _refuse_existing(target, force)  # another export may have ended meanwhile
        try:
            if os.path.lexists(target):
                os.rename(target, scratch / "replaced")
            os.rename(place, target)
            sync_folder(target.parent)
        except OSError as error:
            raise ResourceError(f"cannot be written: {error.strerror or error}", where=target,
                                remedy="Choose another --out") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _refuse_existing(target: Path, force: bool) -> None:
    """Raises UserError for what is there; with `force` only for what is no artifact, which is never removed."""
    if not os.path.lexists(target):
        return
    if not force:
        raise UserError("is there already", where=target, remedy="Choose another --out, or replace it: --force")
    ours = target.is_file() if target.suffix.lower() in (".onnx", ".pt2") else \
        (target / NAME).is_file() or (target / "model.json").is_file() and not (target / MARKER).exists()
    if not ours or target.is_symlink():
        raise UserError("is not an artifact of ours, and is not replaced", where=target, remedy="Choose another --out")


def _sides(rules: Preprocessing) -> str:
    return f"{rules.size[1]} x {rules.size[0]} pixels, {'colour' if rules.channels == 3 else 'grey'}"


def _bytes(path: Path) -> str:
    size = path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    return f"{size / 2**20:.1f} MiB"
