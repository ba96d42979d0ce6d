"""What a person sees while a verb works: what was recognised and chosen, a live line, a summary. Draws plain data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from visus.core.errors import printable

if TYPE_CHECKING:
    from visus.core.record import Finding
    from visus.train.trainer import EpochReport, StepReport


Tell = Callable[[int, int | None], None]  # (so far, in all or None)


class Display:
    """All output of one run. With `show=False` nothing but the result is printed."""

    def __init__(self, show: bool = True):
        self.console = Console(highlight=False)
        self.show = show
        self.live = show and (self.console.is_terminal or self.console.is_jupyter)  # else lines that stay, no bars
        self._progress: Progress | None = None

    def say(self, topic: str, text: str) -> None:
        """One line: what it is about, then the sentence."""
        if self.show:
            self._print(Text.assemble((f"{topic:<11}", "bold cyan"), printable(text)))

    def finding(self, finding: Finding) -> None:
        style = {"error": "bold red", "warning": "yellow", "note": "dim"}[finding.severity]
        lines = [f"{finding.title}. {finding.evidence}".strip()]
        if finding.remedy:
            lines.append(" " * 11 + "-> " + finding.remedy)
        if self.show or finding.severity == "error":
            self._print(Text.assemble((f"{finding.severity:<11}", style), printable("\0".join(lines)).replace(
                "\\x00", "\n")))

    def result(self, *rows: Any) -> None:
        for row in rows:
            self._print(row)

    def _print(self, row: Any) -> None:
        console = self._progress.console if self._progress is not None else self.console
        console.print(row, soft_wrap=isinstance(row, Text | str))

    @contextmanager
    def steps(self, what: str, total: int | None) -> Iterator[Any]:
        """A bar for long work that is not training; yields a function that advances it."""
        if not self.live:
            yield lambda count=1: None
            return
        with Progress(TextColumn(f"[bold cyan]{what:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                      console=self.console, transient=True) as progress:
            task = progress.add_task(what, total=total)
            yield lambda count=1: progress.advance(task, count)


    def download(self) -> AbstractContextManager[Tell | None]:
        """A bar that appears with the first bytes; yields what to tell (bytes so far, bytes in all or None)."""
        return self._amount("download  ", DownloadColumn(), TransferSpeedColumn())

    def reading(self) -> AbstractContextManager[Tell | None]:
        """The same for large annotation files: (how much is read, of how much)."""
        return self._amount("read      ", TaskProgressColumn())

    def working(self, what: str) -> AbstractContextManager[Tell | None]:
        """The same for any other work: (how much is done, of how much)."""
        return self._amount(f"{what:<10}", TaskProgressColumn())

    @contextmanager
    def _amount(self, what: str, *columns: ProgressColumn) -> Iterator[Tell | None]:
        if not self.live:
            yield None
            return
        progress = Progress(TextColumn(f"[bold cyan]{what}"), BarColumn(), *columns, TimeRemainingColumn(),
                            console=self.console, transient=True)
        task = progress.add_task(what, total=None)

        def tell(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)
            if total is not None and done >= total:
                progress.stop()  # only one bar can be live: the next one may come before this block ends
            elif not progress.live.is_started:
                progress.start()

        try:
            yield tell
        finally:
            progress.stop()


class TrainingDisplay:
    """The live line of a training run, and one line that stays for each epoch."""

    def __init__(self, display: Display, epochs: int, steps_per_epoch: int, headline: str):
        self.display = display
        self.epochs = epochs
        self.steps_per_epoch = max(1, steps_per_epoch)
        self.headline = headline
        self.best: float | None = None
        self._fields: dict[str, Any] = {"loss": "", "metric": "", "rate": "", "memory": ""}

    def __enter__(self) -> TrainingDisplay:
        if self.display.live:
            self._progress = Progress(
                TextColumn("[bold cyan]epoch {task.fields[epoch]}"), BarColumn(bar_width=24), MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}"), TextColumn("{task.fields[metric]}"),
                TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[memory]}"),
                TextColumn("left"), TimeRemainingColumn(), console=self.display.console, transient=True,
                refresh_per_second=4)
            self._task = self._progress.add_task("training", total=self.epochs * self.steps_per_epoch,
                                                 epoch=f"1/{self.epochs}", **self._fields)
            self._progress.start()
            self.display._progress = self._progress
        return self

    def __exit__(self, *_: object) -> None:
        if self.display.live:
            self._progress.stop()
            self.display._progress = None

    def on_step(self, report: StepReport) -> None:
        if self.display.live:
            self._fields |= {"loss": f"{report.loss:.4f}", "rate": f"{report.images_per_s:,.0f} images/s"}
            self._progress.update(self._task, completed=report.step, epoch=f"{report.epoch + 1}/{self.epochs}",
                                  **self._fields)

    def on_epoch(self, report: EpochReport) -> None:
        if not self.display.show:
            return
        value = report.metrics.get(self.headline)
        shown = "" if value is None else f"{self.headline} {value:.4f}"
        self._fields |= {"metric": shown, "memory": f"{report.peak_memory_mb:,.0f} MB"}
        if self.display.live:
            self._progress.update(self._task, completed=report.step, **self._fields)
        self.display.result(Text.assemble(
            (f"epoch {report.epoch + 1:<5}", "bold cyan"), f"loss {report.train_loss:.4f}  "
            f"val loss {report.metrics.get('loss', float('nan')):.4f}  {shown}  lr {report.lr:.2g}  "
            f"{report.images_per_s:,.0f} images/s  {report.seconds:.1f} s  {report.peak_memory_mb:,.0f} MB",
            ("  best" if report.is_best else "", "green")))


def metrics_table(title: str, rows: list[tuple[str, str, str]]) -> Table:
    """rows: (metric, value, interval)."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
    for name in ("metric", "value", "95 % interval"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for row in rows:
        table.add_row(*row)
    return table


def clock(seconds: float) -> str:
    """75 -> '1 min 15 s'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Stopwatch:
    def __init__(self) -> None:
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start
