"""Fewer bits for an exported model, judged on held-out images before it is believed.

`visus export --half` and `--int8` call `lower_precision`. What loses more than was allowed is declined: the float32
model stays, and the report says by how much it missed.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from visus.core.errors import UserError
from visus.core.files import write_bytes
from visus.core.validate import one_of, require
from visus.data.samples import counted
from visus.deploy.artifact import Bundle, read_bundle, seal
from visus.deploy.golden import decisions, right
from visus.deploy.half import half_precision, half_speed
from visus.deploy.openvino_package import may_compute
from visus.deploy.quantise import QuantiseConfig, quantised
from visus.deploy.session import open_session
from visus.deploy.timing import Entrant, Race, interval, ratio, ratios
from visus.metrics.significance import paired_bootstrap, wilson_interval
from visus.run.display import Display
from visus.run.held_out import HeldOut, of_images, of_run, prepared

KINDS = {"half": "float16", "int8": "int8"}
HELD_OUT = 2000                    # images at most
FEW = 200                          # held-out images, below which one changed answer is half a point or more
ROUNDS, SECONDS = 15, 20.0         # of the timing


@dataclass(frozen=True, kw_only=True)
class PrecisionReport:
    """Of float32 (before) and the lower precision (after) on the same held-out images.

    accuracy_before, accuracy_after: (value, low, high) with Wilson's 95 % interval, of several labels the share of
    right decisions; loss: before - after, with the interval of the paired bootstrap; all three None without labels.
    agreement: the share of equal decisions, (value, low, high). largest_difference: of a probability. All are those of
    the runtime on which they are worst. bytes_before, bytes_after: of the .onnx file. speed: how many times as fast
    the fastest runtime is after as the fastest one before, (median, low, high) of alternating rounds on one thread of
    this machine; backend, backend_before: which ones. half_speed: of a float16 product against float32 ('half' only).
    kept_float: layers that int8 would have moved too far.
    """

    kind: str
    accepted: bool
    sentence: str
    calibration_images: int
    held_out_images: int
    accuracy_before: tuple[float, float, float] | None
    accuracy_after: tuple[float, float, float] | None
    loss: tuple[float, float, float] | None
    agreement: tuple[float, float, float]
    largest_difference: float
    bytes_before: int
    bytes_after: int
    speed: tuple[float, float, float]
    backend: str
    backend_before: str
    half_speed: float | None
    kept_float: tuple[str, ...]
    most_loss: float
    least_agreement: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def lower_precision(bundle: str | os.PathLike[str], kind: str, *, run: str | os.PathLike[str] | None = None,
                    images: str | os.PathLike[str] | None = None, out: str | os.PathLike[str] | None = None,
                    most_loss: float = 0.005, least_agreement: float = 0.99, held_out: int = HELD_OUT,
                    progress: bool = False) -> PrecisionReport:
    """Make the bundle (or .onnx file) lighter, if that costs at most `most_loss` of accuracy and keeps at least
    `least_agreement` of the answers.

    kind: 'half', weights of 16 bits, or 'int8', weights and arithmetic of 8 bits, calibrated on up to 1,000 images.
    run: a run folder, whose training images calibrate and whose test images judge (at most `held_out`, every class in
    turn). images: instead of it, a data set or a folder of images: half of it, at most 1,000, calibrates, the rest
    judges; without labels the agreement alone does. out: where the .onnx file goes; without it, the bundle's own is
    replaced and the bundle sealed again. Nothing is written when it is declined.

    Raises UserError for a wrong option and a model that is not in float32, DataError for too few images, RunError for
    changed data, MissingExtra.
    """
    one_of(tuple(KINDS), kind=kind)
    require(0 <= most_loss <= 1, "most_loss", most_loss, "lie between 0 and 1")
    require(0 <= least_agreement <= 1, "least_agreement", least_agreement, "lie between 0 and 1")
    require(held_out >= 1, "held_out", held_out, "be at least 1")
    start = time.monotonic()
    found = read_bundle(bundle)
    if found.about.get("precision", "float32") != "float32":
        raise UserError(f"has precision {found.about['precision']} already", where=bundle,
                        remedy="Start from float32: visus export RUN")
    if (run is None) == (images is None):
        raise UserError("needs either a run or images", where=f"run={run!r}, images={images!r}",
                        remedy="Give the run folder that the model came from")
    display = Display(progress)
    if run is not None:
        data = of_run(Path(os.fspath(run)), held_out)
    else:
        assert images is not None
        data = of_images(images, found, held_out)
    backends = [name for name in ("onnxruntime", "openvino") if find_spec(name) is not None]
    if "openvino" in backends and not may_compute():
        backends.remove("openvino")
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "model.onnx"
        kept_float, half = _narrowed(found, kind, data, target, backends, display)
        files = {"before": found.onnx, "after": target}
        batch = int(found.about.get("batch") or 1)
        sessions = {(side, name): open_session(file, name, batch=batch)
                    for side, file in files.items() for name in backends}
        probs = _asked(sessions, prepared(data.samples, data.held_out, found.preprocessing), len(data.held_out),
                       display)
        speed = _speeds(sessions, next(prepared(data.samples, data.held_out, found.preprocessing)), display)
        report = _judged(kind, found, data, probs, backends, speed, half, kept_float,
                         {side: file.stat().st_size for side, file in files.items()}, most_loss, least_agreement,
                         time.monotonic() - start)
        if report.accepted:
            _put(found, target, report, out)
    display.say(kind, report.sentence)
    return report


# -- making and measuring ---------------------------------------------------------------------------------------------


def _narrowed(bundle: Bundle, kind: str, data: HeldOut, target: Path, backends: Sequence[str], display: Display
              ) -> tuple[tuple[str, ...], float | None]:
    """Write the candidate. Returns the layers that stay in floats, and the speed of float16 arithmetic here."""
    if kind == "half":
        half_precision(bundle.onnx, target)
        return (), half_speed()
    images = list(prepared(data.samples, data.calibration, bundle.preprocessing))
    config = QuantiseConfig(runtime="openvino" if "openvino" in backends else "any")
    with display.steps("calibrate", len(images)) as advance:
        return quantised(bundle.onnx, target, images, config=config, advance=advance).kept_float, None


def _asked(sessions: dict[tuple[str, str], Callable[[np.ndarray], np.ndarray]], images: Iterator[np.ndarray],
           count: int, display: Display) -> dict[tuple[str, str], np.ndarray]:
    """Probabilities [N, K] by each session, image by image."""
    rows: dict[tuple[str, str], list[np.ndarray]] = {key: [] for key in sessions}
    with display.steps("compare", count) as advance:
        for image in images:
            for key, session in sessions.items():
                rows[key].append(session(image[None])[0])
            advance(1)
    return {key: np.stack(found) for key, found in rows.items()}


def _speeds(sessions: dict[tuple[str, str], Callable[[np.ndarray], np.ndarray]], image: np.ndarray, display: Display
            ) -> tuple[tuple[float, float, float], str, str]:
    """((median, low, high) of the speed after over that before, the runtime after, that before), fastest each."""
    entrants = {key: Entrant(" ".join(key), 1, lambda session=session: session(image[None]))  # type: ignore[misc]
                for key, session in sessions.items()}
    with display.steps("time", None):
        Race().run(list(entrants.values()), ROUNDS, time.perf_counter() + SECONDS)
    fastest = {side: min((key for key in entrants if key[0] == side), key=lambda key: entrants[key].p50)
               for side in ("before", "after")}
    slow, fast = entrants[fastest["before"]], entrants[fastest["after"]]
    low, high = interval(ratios(slow, fast))
    return (ratio(slow, fast), low, high), fastest["after"][1], fastest["before"][1]


def _judged(kind: str, bundle: Bundle, data: HeldOut, probs: dict[tuple[str, str], np.ndarray],
            backends: Sequence[str], speed: tuple[tuple[float, float, float], str, str], half: float | None,
            kept_float: tuple[str, ...], sizes: dict[str, int], most_loss: float, least_agreement: float,
            seconds: float) -> PrecisionReport:
    answers = {key: decisions(of, bundle.task, bundle.thresholds) for key, of in probs.items()}  # bool [N, K]
    count = len(data.held_out)
    reference = answers["before", "onnxruntime"]
    equal = {name: (answers["after", name] == reference).all(1) for name in backends}
    shares = {name: _share(hits.sum(), count) for name, hits in equal.items()}
    agreement = min(shares.values())
    largest = max(float(np.abs(probs["after", name] - probs["before", "onnxruntime"]).max()) for name in backends)
    before = after = loss = None
    if data.labelled:
        targets = np.asarray(data.samples.targets)[data.held_out]
        before_right = right(reference, targets)
        rights = {name: right(answers["after", name], targets) for name in backends}
        worst = min(rights, key=lambda name: float(rights[name].mean()))
        before, after = (_share(hits.sum(), count) for hits in (before_right, rights[worst]))
        difference = paired_bootstrap(rights[worst], before_right)
        loss = (difference.value, difference.low, difference.high)
    reasons = []
    if agreement[0] < least_agreement:
        reasons.append(f"{agreement[0]:.1%} of the answers stay, and {least_agreement:.1%} are asked for")
    if loss is not None and loss[0] > most_loss:
        reasons.append(f"the accuracy falls by {100 * loss[0]:.2f} points, and {100 * most_loss:.2f} are allowed")
    return PrecisionReport(
        kind=kind, accepted=not reasons,
        sentence=_sentence(kind, reasons, count, before, loss, agreement, sizes, speed, half, len(kept_float)),
        calibration_images=len(data.calibration) if kind == "int8" else 0, held_out_images=count,
        accuracy_before=before, accuracy_after=after, loss=loss, agreement=agreement, largest_difference=largest,
        bytes_before=sizes["before"], bytes_after=sizes["after"], speed=speed[0], backend=speed[1],
        backend_before=speed[2], half_speed=half, kept_float=kept_float, most_loss=most_loss,
        least_agreement=least_agreement, seconds=round(seconds, 1))


def _share(hits: float, count: int) -> tuple[float, float, float]:
    low, high = wilson_interval(float(hits), count)  # type: ignore[arg-type]
    return float(hits) / count, low, high


def _sentence(kind: str, reasons: Sequence[str], count: int, before: tuple[float, float, float] | None,
              loss: tuple[float, float, float] | None, agreement: tuple[float, float, float], sizes: dict[str, int],
              speed: tuple[tuple[float, float, float], str, str], half: float | None, kept: int) -> str:
    on = f"on {counted(count, 'held-out image')}"
    won = (f"the file is {sizes['before'] / sizes['after']:.1f}x smaller, an answer {_times(speed[0])} "
           f"({speed[1]}, against float32 by {speed[2]})")
    few = f" {count} images tell little: one of them is {1 / count:.1%}." if count < FEW else ""
    if reasons:
        return f"declined, float32 stays: {on} " + "; ".join(reasons) + f". Else {won}.{few}"
    lost = "" if loss is None or before is None else (
        f", accuracy {before[0]:.2%} -> {before[0] - loss[0]:.2%} (loss {100 * loss[0]:.2f} points, 95 % interval "
        f"{100 * loss[1]:.2f} to {100 * loss[2]:.2f})")
    text = f"accepted: {on} {agreement[0]:.1%} of the answers stay{lost}; {won}."
    if kept:
        text += f" {counted(kept, 'layer')} stay in floats."
    if half is not None:
        text += (f" Weights are stored in 16 bits and widened at loading; a float16 product would take "
                 f"{1 / half:.1f}x the time of float32 here." if half > 0 else
                 " Weights are stored in 16 bits and widened at loading.")
    elif speed[0][0] < 1:
        text += " It is slower here: worth its size alone."
    return text + few


def _times(speed: tuple[float, float, float]) -> str:
    return f"{speed[0]:.2f}x as fast ({speed[1]:.2f} to {speed[2]:.2f})"


def _put(bundle: Bundle, candidate: Path, report: PrecisionReport, out: str | os.PathLike[str] | None) -> None:
    """The accepted file takes its place."""
    if out is not None:
        write_bytes(Path(os.fspath(out)), candidate.read_bytes())
        return
    write_bytes(bundle.onnx, candidate.read_bytes())
    if bundle.path.is_dir():
        kept = {name: value for name, value in bundle.about.items() if name != "files"}
        seal(bundle.path, kept | {"precision": KINDS[report.kind], "lower_precision": report.to_dict()})
