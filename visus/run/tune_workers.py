"""The trials of one stage made by this process or by several, and what a person sees meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from visus.core.errors import ResourceError
from visus.run.display import Display, clock
from visus.run.tune_record import best_of, trial_rows
from visus.run.tune_storage import Storage
from visus.run.tune_trial import Bench, Stage, work
from visus.train.stop import StopRequest

STORAGE_VARIABLE = "VISUS_TUNE_STORAGE"  # a URL may hold a password, and arguments are seen by everyone
POLL_S = 0.3
RESTARTS = 2  # of workers that die, for each worker
PATIENCE_S = 60.0  # for a worker to end its trial when it is asked to


def run_stage(bench: Bench, storage: Storage, stage: Stage, stop: StopRequest, display: Display, *, workers: int = 1,
              deadline: float | None = None, of: int = 1) -> None:
    """Make the stage's trials. Raises Interrupted when it is stopped, UserError when it cannot go on."""
    with _Shown(storage, stage, display, of, deadline) as shown:
        if workers == 1:
            work(bench, storage, stage.name, stop, deadline=deadline, ended=shown.update)
        else:
            _many(bench.folder, storage, stage, stop, workers, deadline, shown.update)


def _many(folder: Path, storage: Storage, stage: Stage, stop: StopRequest, workers: int, deadline: float | None,
          update: Callable[[], None]) -> None:
    """Workers as processes: `visus tune --resume FOLDER --as-worker STAGE`. What they print goes to worker-K.log."""
    study = storage.study(stage.name, maximise=stage.maximise, create=False)
    running = {k: _start(folder, storage, stage, k, deadline) for k in range(1, workers + 1)}
    restarts = RESTARTS * workers
    try:
        while running:
            time.sleep(POLL_S)
            for k, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[k]
                storage.revive(study)
                if code == 0 or stop.requested:
                    continue
                if restarts == 0 or code in (1, 2):
                    raise ResourceError(f"worker {k} ended with exit code {code}: {_tail(folder / f'worker-{k}.log')}",
                                        where=folder / f"worker-{k}.log",
                                        remedy=f"Go on with: visus tune --resume {folder}")
                restarts -= 1
                running[k] = _start(folder, storage, stage, k, deadline)
            update()
            if stop.requested:
                break
    finally:
        for process in running.values():
            process.terminate()
        end = time.monotonic() + PATIENCE_S
        for process in running.values():
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if running:
            storage.revive(study)
    if stop.requested:
        raise stop.interrupted(saved=True, where=folder)


def _start(folder: Path, storage: Storage, stage: Stage, number: int,
           deadline: float | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "visus", "tune", "--resume", str(folder), "--as-worker", stage.name, "--quiet"]
    if deadline is not None:
        command += ["--minutes", f"{max(0.001, (deadline - time.time()) / 60):.4f}"]
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    said = folder / f"worker-{number}.log"
    with said.open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                                env=os.environ | {STORAGE_VARIABLE: storage.url, "PYTHONPATH": path})


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return "nothing was written"
    return " ".join(line.strip() for line in lines[-3:])[-400:] or "nothing was written"


class _Shown:
    """A bar with the best so far and what is left, and a line that stays for each trial."""

    def __init__(self, storage: Storage, stage: Stage, display: Display, of: int, deadline: float | None):
        self.storage, self.stage, self.display, self.of, self.deadline = storage, stage, display, of, deadline
        self.seen: set[int] = set()
        self.begun, self.done_before = time.monotonic(), 0
        self._progress: Progress | None = None

    def __enter__(self) -> _Shown:
        rows = [row for row in trial_rows(self.storage, self.stage.name) if row["status"] != "running"]
        self.seen, self.done_before = {row["number"] for row in rows}, len(rows)
        if self.display.live:
            self._progress = Progress(
                TextColumn(f"[bold cyan]stage {self.stage.number}/{self.of}" if self.of > 1 else "[bold cyan]trials"),
                BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[best]}"), TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"), console=self.display.console, transient=True, refresh_per_second=4)
            self._task = self._progress.add_task("trials", total=self.stage.trials, completed=len(rows), best="",
                                                 left="")
            self._progress.start()
            self.display._progress = self._progress
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
            self.display._progress = None

    def update(self, number: int | None = None) -> None:
        if not self.display.show:
            return
        rows = [row for row in trial_rows(self.storage, self.stage.name) if row["status"] != "running"]
        fresh = [row for row in rows if row["number"] not in self.seen]
        self.seen |= {row["number"] for row in fresh}
        best = best_of(rows, self.stage.maximise)
        of_best = "" if best is None else f"best {best['value']:.4f} (trial {best['number']})"
        left = self._left(rows)
        for row in fresh:
            self.display.say(f"trial {row['number']}", _line(row, self.stage) + (f"; {of_best}" if of_best else "")
                             + (f"; {left}" if left and self._progress is None else ""))
        if self._progress is not None:
            done = sum(row["retry_of"] is None for row in rows)
            self._progress.update(self._task, completed=done, best=of_best, left=left)

    def _left(self, rows: list[dict[str, Any]]) -> str:
        """How long it will take, by the pace of this process's watch."""
        by_clock = None if self.deadline is None else max(0.0, self.deadline - time.time())
        made = len(rows) - self.done_before
        by_pace = None
        if self.stage.trials is not None and made > 0:
            done = sum(row["retry_of"] is None for row in rows)
            by_pace = max(0, self.stage.trials - done) * (time.monotonic() - self.begun) / made
        known = [s for s in (by_clock, by_pace) if s is not None]
        return f"about {clock(min(known))} left" if known and min(known) > 0 else ""


def _line(row: dict[str, Any], stage: Stage) -> str:
    values = ", ".join(f"{name.rpartition('.')[2]} {value:.3g}" if isinstance(value, float)
                       else f"{name.rpartition('.')[2]} {value}" for name, value in row["values"].items())
    if row["status"] == "complete":
        return f"{stage.headline} {row['value']:.4f} with {values}"
    if row["status"] == "pruned":
        return f"pruned after epoch {row['epochs']} at {row['value']:.4f} with {values}"
    return f"{row['status']} ({row['problem']}) with {values}"
