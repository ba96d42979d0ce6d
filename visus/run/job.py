"""visus train by several processes: how they begin together, how the model is spread over them, how they end.

The first process (rank 0) chooses, writes the run folder and speaks; the others read what it wrote, so the folder lies
where every machine sees it. Where one fails, all end, and one message says which and why.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from visus.core.errors import ResourceError, RunError, UserError
from visus.core.record import MARKER, RunFolder
from visus.run.display import Display
from visus.run.recipe import Recipe
from visus.train.tune import Execution
from visus.train.world import Report, World, here, join, launched, leave, lost_others

BUG_CODE = 1


class Follower(RunFolder):
    """The run folder as the other processes see it: to read."""

    def update(self, **values: Any) -> None:
        """The first process writes."""

    def write(self, name: str, value: Any) -> None:
        """The first process writes."""

    def rewind(self, step: int, epoch: int) -> None:
        """The first process writes."""

    def lock(self) -> None:
        """The first process holds the lock."""

    def _append(self, name: str, value: dict[str, Any]) -> None:
        """The first process writes."""


@contextmanager
def job(recipe: Recipe, folder: Callable[[], object] = lambda: None) -> Iterator[World]:
    """The processes of this training, met at the start and left at the end. An error in any of them ends all: the one
    that has something to say raises, the others exit with its code and without a word."""
    if here().size > 1 or not launched():
        yield here()
        return
    world = join(recipe.device)
    try:
        yield world
    except Exception as error:
        if threading.current_thread() is threading.main_thread():  # torchrun ends the others of a job that failed:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)          # this one is about to, with a word
        raise _last_word(world, error, folder()) from error
    finally:
        leave()


def _last_word(world: World, error: Exception, where: object) -> BaseException:
    """What this process raises: the error, where it is the one to tell it; a silent exit otherwise."""
    heard = world.roll_call(_report(error))
    causes = sorted(rank for rank, report in heard.items() if report.cause)
    if causes:
        if world.rank != causes[0]:
            return SystemExit(heard[causes[0]].code)
        if len({heard[rank].text for rank in causes}) == 1 and len(causes) == world.size:
            return error  # the same for all
        if isinstance(error, UserError):
            error.problem = f"rank {world.rank} of {world.size}: {error.problem}"
            return error
        return RuntimeError(f"rank {world.rank} of {world.size}: {type(error).__name__}: {error}")
    if world.rank != min(heard):
        return SystemExit(ResourceError.exit_code)
    gone = sorted(set(range(world.size)) - heard.keys())
    if not gone:
        return ResourceError(f"the processes lost each other: {error}", where=where,
                             remedy="Is the network between the machines whole? Go on with --resume")
    names = " and ".join(f"rank {rank}" for rank in gone)
    return ResourceError(f"{names} of {world.size} ended without a word: killed, or its machine went away", where=where,
                         remedy="Often memory runs out. The last checkpoint is whole: go on with torchrun ... -m visus "
                         f"train --resume {where}; torchrun --max-restarts 1 does so by itself")


def announce_end(error: Exception) -> bool:
    """Tell the other processes that this one ends, before it tidies up; -> whether it merely lost them."""
    report = _report(error)
    here().announce(report)
    return not report.cause


def _report(error: Exception) -> Report:
    """The error as the others hear of it: the text as it was first told."""
    expected = isinstance(error, UserError)
    return Report(expected or here().size == 1 or not lost_others(error), f"{type(error).__name__}: {error}",
                  error.exit_code if isinstance(error, UserError) else BUG_CODE)


def led(world: World, start: Callable[[], tuple[Any, ...]], follow: Callable[[str, Recipe], tuple[Any, ...]]) -> Any:
    """What `start` gives in the first process, (folder, recipe, ...), and `follow`, told its path and recipe, in the
    others. An error of `start` is raised in the first alone; the others exit with its code."""
    if world.size == 1:
        return start()
    told: dict[str, Any] = {}
    try:
        if world.leads:
            made = start()
            told = {"run": str(made[0].path.resolve()), "recipe": made[1].model_dump(mode="json")}
    except UserError as error:
        world.share({"code": error.exit_code})
        raise
    told = world.share(told)
    if "code" in told:
        raise SystemExit(told["code"])
    if world.leads:
        return made
    return follow(told["run"], Recipe.parse(told["recipe"]))


def led_choice(world: World, choose: Callable[[], Execution]) -> Execution:
    """What the first process chose by timing, in all of them."""
    made = asdict(choose()) if world.leads else None
    return Execution(**world.share(made))


def followed(path: str, world: World) -> Follower:
    """The run folder that the first process made. Raises RunError where this machine does not see it."""
    if not (Path(path) / MARKER).is_file():
        raise RunError(f"rank {world.rank} does not see the run folder of the first process", where=path,
                       remedy="Give --out on a file system that all machines share")
    return Follower(path)


def speaker(world: World, progress: bool) -> Display:
    """Output of the first process; of the others, none."""
    display = Display(progress and world.leads)
    display.console.quiet = not world.leads
    return display


def restarted(out: str | Path | None, command: Sequence[str], latest: Callable[[], Path | None]) -> Path | None:
    """The unfinished run that this very command began, where torchrun started it again after a process died
    (`--max-restarts`); None at a first start, which never goes on with what is there. What a killed start left behind
    before training began is removed."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) == 0:
        return None
    path = Path(out) if out is not None else latest()
    if path is None or not (path / MARKER).is_file():
        return None
    about = RunFolder.open(path).about
    if about.get("started_with") != list(command) or about.get("status") == "finished":
        return None
    if (path / "data.json").exists():
        return path
    if int(os.environ.get("RANK", 0)) == 0:
        shutil.rmtree(path)
    return None
