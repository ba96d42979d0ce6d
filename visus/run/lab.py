"""visus lab: hand out an exercise, check what a person wrote, draw what it does, tell how far they are.

Their file is code and is run, in a process of its own with a limit of time and memory.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visus.core.errors import UserError, did_you_mean, printable
from visus.core.files import read_json, sha256, write_json, write_text
from visus.labs import shelf
from visus.labs.judging import Verdict
from visus.run.lab_process import MAX_PRINTED, ending, lines_of, printed_lines, worker

RECORD = ".visus-labs.json"  # what was found last, beside the files
LIMIT_S = 30.0  # of one function, and of loading the file
SHOW_LIMIT_S = 300.0
MAX_SOURCE = 4 << 20  # bytes of an exercise
MAX_FILES = 400  # looked through in a folder


@dataclass(frozen=True)
class Checked:
    """name: the lab; verdicts: one a function, in the order of the file; printed: the last lines that the code
    wrote."""

    name: str
    file: Path
    verdicts: tuple[Verdict, ...]
    printed: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        """Whether every function is right, and fast enough."""
        return all(verdict.verdict == "right" for verdict in self.verdicts)


@dataclass(frozen=True)
class Progress:
    """A row of the list. file: the exercise in the folder, None where there is none; right: how many functions were
    right when it was last checked, None if never; changed: whether the file was changed since."""

    name: str
    title: str
    teaches: str
    functions: int
    file: Path | None
    right: int | None
    changed: bool


def list_labs(folder: str | Path = ".") -> list[Progress]:
    """Every lab, and how far the exercises in `folder` are. Nothing of theirs is run."""
    folder = Path(folder)
    files: dict[str, Path] = {}
    if folder.is_dir():
        for path in sorted(folder.glob("*.py"))[:MAX_FILES]:
            try:
                name = lab_of(path)
            except UserError:
                continue
            if name not in files or path.stem == name:
                files[name] = path
    record = _record(folder)
    rows = []
    for lab in shelf.labs():
        file = files.get(lab.name)
        last = record.get(file.name) if file is not None else None
        last = last if isinstance(last, dict) and last.get("lab") == lab.name else None
        rows.append(Progress(lab.name, lab.title, lab.teaches, len(lab.parts), file,
                             None if last is None else _count(last.get("right")),
                             last is not None and file is not None and last.get("sha256") != sha256(file)))
    return rows


def start_lab(name: str, out: str | Path = ".", *, overwrite: bool = False) -> Path:
    """Write the exercise NAME.py into the folder `out` and return its path. Raises UserError where a file of that name
    is there already and `overwrite` is not set."""
    text = shelf.exercise(name)
    path = Path(out) / f"{name}.py"
    if Path(out).exists() and not Path(out).is_dir():
        raise UserError("is a file, not a folder", where=out, remedy="Give a folder: --out labs/")
    if path.exists() and not overwrite:
        raise UserError("is there already, and may hold your work", where=path,
                        remedy="Take another folder with --out DIR, or begin anew with --overwrite")
    write_text(path, text)
    return path


def check_lab(file: str | Path, *, limit_s: float = LIMIT_S, tell: Callable[[Verdict], None] | None = None) -> Checked:
    """Run the exercise and compare each function with the right answer. limit_s: for one function; tell: is handed each
    verdict as it comes. Raises UserError for a file that is no exercise or does not run."""
    if not limit_s > 0:
        raise UserError(f"is {limit_s:g}", where="limit_s", remedy="A number of seconds above 0")
    path = _file(file)
    lab = shelf.get(lab_of(path))
    verdicts: dict[str, Verdict] = {}
    printed: list[str] = []
    names = [part.name for part in lab.parts]
    while len(verdicts) < len(names):  # each turn ends with at least one more verdict
        skipped = [n + ("+" if v.verdict in ("right", "slow") else "") for n, v in verdicts.items()]
        with worker("check", path, lab.name, skipped) as (process, answers, output):
            current: str | None = None
            loaded = False
            for line in lines_of(process, answers, limit_s):
                if line is None:
                    if not loaded:
                        raise UserError(f"does not get through its top level within {limit_s:g} s", where=path,
                                        remedy="Loops belong into functions")
                    break
                if line["kind"] == "bad file":
                    raise UserError(str(line["words"]), where=path, remedy="Run it with python to see where it stops")
                loaded = True
                if line["kind"] == "begins":
                    current = str(line["name"])
                elif line["kind"] == "verdict":
                    verdict = Verdict(**{key: value for key, value in line.items() if key != "kind"})
                    verdicts[verdict.name], current = verdict, None
                    if tell is not None:
                        tell(verdict)
            printed += printed_lines(output)
            if len(verdicts) == len(names):
                break
            if not loaded:
                raise UserError(f"ended while it was loaded: {ending(process)}", where=path,
                                remedy="Run it with python to see where it stops")
            current = current or next(name for name in names if name not in verdicts)
            verdict = Verdict(name=current, verdict="stopped", words=f"did not end within {limit_s:g} s", diagnosis=(
                "A loop does not end, or runs over far too many entries")) if process.returncode is None else Verdict(
                name=current, verdict="stopped", words=f"ended the process: {ending(process)}", diagnosis=(
                    "Look for exit() and for memory that is asked for without bound"))
            verdicts[current] = verdict
            if tell is not None:
                tell(verdict)
    found = Checked(lab.name, path, tuple(verdicts[name] for name in names), tuple(printed[-MAX_PRINTED:]))
    _remember(found)
    return found


def show_lab(name: str | Path, out: str | Path | None = None, *, limit_s: float = SHOW_LIMIT_S) -> tuple[Path, dict]:
    """Draw what the person's own code does as one page. name: the exercise, or the lab whose NAME.py lies in the
    current folder; out: the page (default: beside the exercise, NAME.html). Returns its path and what it shows, as
    plain values. Raises UserError where the code is not far enough."""
    from visus.report.lab import render_lab

    path = _file(name)
    lab = shelf.get(lab_of(path))
    with worker("show", path, lab.name, []) as (process, answers, _):
        for line in lines_of(process, answers, limit_s):
            if line is None:
                raise UserError(f"did not end within {limit_s:g} s", where=path, remedy=f"visus lab check {path}")
            if line["kind"] == "bad file":
                raise UserError(str(line["words"]), where=path, remedy="Run it with python to see where it stops")
            if line["kind"] == "failed":
                raise UserError(str(line["words"]), where=path, remedy=f"See what is missing: visus lab check {path}")
            if line["kind"] == "shown":
                page = Path(out) if out is not None else path.with_suffix(".html")
                about = {"name": lab.name, "title": lab.title, "source": lab.source, "file": path.name}
                write_text(page, render_lab(about, line["shown"]))
                return page, line["shown"]
        raise UserError(f"ended the process: {ending(process)}", where=path, remedy=f"visus lab check {path}")


def lab_of(path: Path) -> str:
    """Which lab a file says to be, by its line LAB = "...". The file is read, not run. Raises UserError if it says
    none."""
    try:
        if path.stat().st_size > MAX_SOURCE:
            raise UserError("is too large for an exercise", where=path)
        tree = ast.parse(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=path) from error
    except SyntaxError as error:
        raise UserError(f"is not Python: {error.msg} in line {error.lineno}: "
                        f"{printable(str(error.text or '').strip())}", where=path) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"is not Python: {printable(str(error))}", where=path) from error
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and \
                any(isinstance(target, ast.Name) and target.id == "LAB" for target in node.targets):
            name = str(node.value.value)
            if name not in shelf.names():
                raise UserError(f"says LAB = {name!r}, and there is no such lab", where=path,
                                remedy=did_you_mean(name, shelf.names()))
            return name
    raise UserError("is no exercise: it lacks its line LAB = \"...\"", where=path,
                    remedy="visus lab start NAME writes one; visus lab list names them")


def _file(name: str | Path) -> Path:
    """A path as it is, or NAME.py in the current folder for the name of a lab."""
    path = Path(name)
    if path.is_file():
        return path
    if str(name) in shelf.names():
        if Path(f"{name}.py").is_file():
            return Path(f"{name}.py")
        raise UserError(f"there is no {name}.py in this folder", where=name, remedy=f"visus lab start {name}")
    raise UserError("there is no such file, and no lab of that name", where=name,
                    remedy=did_you_mean(str(name), shelf.names()))


# ---------------------------------------------------------------- what was found last


def _record(folder: Path) -> dict[str, Any]:
    try:
        found = read_json(folder / RECORD)
    except UserError:  # none yet, or damaged: it only holds what a check finds again
        return {}
    return found if isinstance(found, dict) else {}


def _remember(found: Checked) -> None:
    folder = found.file.parent
    record = _record(folder)
    record[found.file.name] = {"lab": found.name, "sha256": sha256(found.file),
                               "right": sum(verdict.verdict == "right" for verdict in found.verdicts)}
    try:
        write_json(folder / RECORD, record)
    except UserError:  # a folder that cannot be written to: nothing is remembered
        pass


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
