"""The run folder: the seam between what computes (train, evaluate) and what draws (report). No torch here.

    run.json          format version, status, command, task, how long it took
    recipe.yaml       the recipe, resolved
    environment.json  versions, machine, threads, precision
    data.json         what was recognised, how it was split, counts, sizes, problems
    splits.csv        path and split of each image: `visus train --split RUN` takes it
    log.jsonl         one object a line: {"event": "step" | "epoch" | ...}
    findings.jsonl    one `Finding` a line
    checkpoints/      resumable states, a manifest last
    model/            model.safetensors and model.json (config, preprocessing, labels, metrics)
    metrics.json      `Evaluation`s by split, baselines, baselines that were left out
    templates.json    of a linear model: pictures of what each class looks for
    images/           thumbnails and templates that the report shows
    evaluation/       arrays: probs, targets, index by split
    profile.json      where the time of a step went, with train.profile
    report.html

An ensemble's folder (run.json has kind "ensemble") has no log and no checkpoints; its metrics.json has "ensemble"
beside the splits, and model/ holds each member as a folder of its own, or the one model of a soup.
A cross-validation's folder (run.json has kind "folds") holds whole runs as fold-1, fold-2 ..., folds.csv, and in the
place of log, checkpoints and model what they say together: metrics.json with "cross_validation" beside the splits.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from visus.core.errors import ResourceError, RunError
from visus.core.files import finite, read_json, write_json, write_text

FORMAT = 1
MARKER = "run.json"


@dataclass(frozen=True, slots=True)
class Metric:
    """A number with its 95 % bootstrap interval; `low` and `high` are None where no interval was computed."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check saw: evidence first, then the remedy. `layer` and `step` where they are known."""

    check: str
    severity: Literal["error", "warning", "note"]
    title: str
    evidence: str = ""
    remedy: str = ""
    step: int | None = None
    layer: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One evaluated image for the report. image: path relative to the run folder; source: where it came from.
    truth, predicted: class names (several, for several labels); confidence: probability of `predicted`."""

    image: str
    source: str
    truth: tuple[str, ...]
    predicted: tuple[str, ...]
    confidence: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that was measured on one split.

    metrics: name -> Metric; the headline's name is in metrics.json beside the splits.
    per_class: rows {"name", "count", "precision", "recall", "f1", "average_precision", "roc_auc"}.
    confusion: {"labels": [...], "counts": [[...]]}, truth in rows; None above 200 classes and for several labels.
    confused: the largest off-diagonal entries, rows {"truth", "predicted", "count"}.
    reliability: {"bins": [{"low", "high", "count", "confidence", "accuracy"}], "ece": float}.
    """

    split: str
    count: int
    metrics: dict[str, Metric]
    per_class: list[dict[str, Any]] = field(default_factory=list)
    confusion: dict[str, Any] | None = None
    confused: list[dict[str, Any]] = field(default_factory=list)
    reliability: dict[str, Any] | None = None
    mistakes: list[Example] = field(default_factory=list)
    hits: list[Example] = field(default_factory=list)


class RunFolder:
    """A run folder on disk. Opening one checks that it is ours and that this version can read it."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock: int | None = None

    @classmethod
    def create(cls, path: str | Path, **about: Any) -> RunFolder:
        """A new run folder. Raises RunError when something is there already: nothing of an earlier run is lost."""
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError("is not empty", where=path, remedy="Choose another --out, or --resume this run")
        run = cls(path)
        try:
            for name in ("checkpoints", "model", "images", "evaluation"):
                (path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(f"cannot be created: {error.strerror}", where=path,
                                remedy="Choose another --out") from error
        run.update(format=FORMAT, status="started", created=time.strftime("%Y-%m-%dT%H:%M:%S%z"), **about)
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        path = Path(path)
        if not path.is_dir():
            raise RunError("there is no such run folder" if not path.exists() else "is not a folder", where=path,
                           remedy="Give the folder that `visus train` printed, such as runs/digits-1")
        if not (path / MARKER).is_file():
            raise RunError(f"is not a run folder (it holds no {MARKER})", where=path,
                           remedy="Give the folder that `visus train` printed")
        run = cls(path)
        about = run.about
        version = about.get("format") if isinstance(about, dict) else None
        if not isinstance(version, int):
            raise RunError(f"format={version!r} is not a number", where=path / MARKER,
                           remedy="The file was changed by hand or damaged")
        if version > FORMAT:
            raise RunError(f"was written by a newer version of visus (format {version}; this one reads up to "
                           f"{FORMAT})", where=path / MARKER, remedy="Upgrade: pip install -U visus")
        return run

    @property
    def about(self) -> dict[str, Any]:
        return read_json(self.path / MARKER, error=RunError)

    def update(self, **values: Any) -> None:
        """Change fields of run.json."""
        about = self.about if (self.path / MARKER).exists() else {}
        write_json(self.path / MARKER, about | values)

    def write(self, name: str, value: Any) -> None:
        write_json(self.path / name, value)

    def read(self, name: str, default: Any = None) -> Any:
        path = self.path / name
        return read_json(path, error=RunError) if path.exists() else default

    def log(self, event: str, **values: Any) -> None:
        """Append one line to log.jsonl, in one write: a killed run leaves at most one cut line, at the end."""
        self._append("log.jsonl", {"event": event, **values})

    def rewind(self, step: int, epoch: int) -> None:
        """Forget logged steps after `step` and ends of epochs from `epoch` on: a resumed run logs them again."""
        if (self.path / "log.jsonl").exists():
            kept = [event for event in self.events() if not event.get("step", 0) > step
                    and not (event["event"] == "epoch" and event["epoch"] >= epoch)]
            write_text(self.path / "log.jsonl", "".join(json.dumps(event) + "\n" for event in kept))

    def find(self, finding: Finding) -> None:
        """Append a finding, once: the same check, title, layer and step are not written again."""
        known = {(f.check, f.title, f.layer, f.step) for f in self.findings()}
        if (finding.check, finding.title, finding.layer, finding.step) not in known:
            self._append("findings.jsonl", asdict(finding))

    def _append(self, name: str, value: dict[str, Any]) -> None:
        line = json.dumps(finite(value), ensure_ascii=True, allow_nan=False) + "\n"
        try:
            handle = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                end = os.fstat(handle).st_size
                if end and os.pread(handle, 1, end - 1) != b"\n":  # a killed run cut its last line
                    line = "\n" + line
                os.write(handle, line.encode())
            finally:
                os.close(handle)
        except OSError as error:
            raise ResourceError(f"could not be written: {error.strerror}", where=self.path / name,
                                remedy="Free some space, then resume the run") from error

    def events(self, name: str = "log.jsonl") -> Iterator[dict[str, Any]]:
        """The objects of a .jsonl file in order; lines that a kill cut short are passed over."""
        path = self.path / name
        if not path.exists():
            return
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    value = json.loads(line)
                except (json.JSONDecodeError, RecursionError):
                    continue
                if isinstance(value, dict):
                    yield value

    def findings(self) -> list[Finding]:
        return [Finding(**{k: v for k, v in row.items() if k in Finding.__slots__})
                for row in self.events("findings.jsonl") if {"check", "severity", "title"} <= row.keys()]

    def refuse_resume(self) -> None:
        """Raises RunError for a run that is finished, or that was stopped before its first record."""
        if self.about.get("status") == "finished":
            raise RunError("is finished: there is nothing to resume", where=self.path,
                           remedy="Train a new run, or look at its report.html")
        if not (self.path / "data.json").exists():
            raise RunError("was stopped before training began: there is nothing to resume", where=self.path,
                           remedy="Start it again with another --out")

    def lock(self) -> None:
        """Take the run for this process until it ends. Raises RunError naming the process that holds it."""
        import fcntl

        handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of this process alone: workers do not inherit it
        except OSError as error:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip()
            os.close(handle)
            raise RunError(f"is in use by process {holder or 'unknown'}", where=self.path,
                           remedy="Wait for it, or stop it first") from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        self._lock = handle  # the kernel frees it when the process ends, however it ends

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
