"""What the user is told when something cannot go on. Nothing here is raised for a bug of ours."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MAX_CHARACTERS = 4_000  # of each part of a message


class UserError(Exception):
    """Something that the user can put right.

    Says what is wrong (`problem`), in which file or field (`where`, with its value) and what to do (`remedy`).
    The command line prints the three without a traceback and exits with `exit_code`.
    """

    exit_code = 2

    def __init__(self, problem: str, *, where: object = None, remedy: str | None = None):
        self.problem = _bounded(problem)
        self.where = None if where is None else _bounded(printable(str(where)))
        self.remedy = None if remedy is None else _bounded(remedy)
        super().__init__(self.problem, self.where, self.remedy)

    def __str__(self) -> str:
        text = self.problem if self.where is None else f"{self.where}: {self.problem}"
        return text if self.remedy is None else f"{text}. {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:  # loader workers hand errors over by pickle
        return _rebuild, (type(self), self.problem, self.where, self.remedy)


def _bounded(text: str) -> str:
    """The text, of at most MAX_CHARACTERS: what a file holds is quoted, and it may hold anything."""
    end = f"... ({len(text):,} characters)"
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS - len(end)] + end


def _rebuild(kind: type[UserError], problem: str, where: str | None, remedy: str | None) -> UserError:
    return kind(problem, where=where, remedy=remedy)


class RecipeError(UserError):
    """A field of a recipe, or a `--set`, that does not exist or holds a wrong value."""


class DataError(UserError):
    """A data set that cannot be used as it is."""


class ImageError(DataError):
    """One image file that cannot be read; `where` is its path."""


class CheckpointError(UserError):
    """A checkpoint, weights file or bundle that is refused."""


class RunError(UserError):
    """A run folder that cannot be used: not one, in use, of a newer version, changed since."""


class ResourceError(UserError):
    """The machine says no: disk full, no permission, out of memory, a worker that died."""


class TrainingDiverged(UserError):
    """The loss is no longer finite. The last good checkpoint is kept."""


class Interrupted(UserError):
    """Stopped by a signal after saving; `visus train --resume RUN` goes on."""

    exit_code = 130


class MissingExtra(UserError):
    """A feature whose optional dependency is not installed."""

    def __init__(self, feature: str, extra: str):
        super().__init__(f"{feature} needs the extra '{extra}', which is not installed",
                         remedy=f"Install it: pip install 'visus[{extra}]'")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (UserError, self.problem, self.where, self.remedy)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy sentence: the nearest known names, else the first few of them."""
    known = list(known)
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return "Did you mean " + " or ".join(repr(n) for n in near) + "?"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"Known: {shown}"


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes made visible, fit for a terminal or a log line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
                   for c in text)
