"""The process in which a person's exercise runs: python -m visus.run.lab_worker ACTION FILE LAB ANSWERS [SKIP ...].

It is another process, so that an endless loop, a crash or an exit of their code ends it and not us. What it finds is
appended to ANSWERS, a line of JSON each, at once: what was found before a crash is not lost. Loads no torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from visus.core.errors import UserError
from visus.core.files import finite
from visus.labs import NotWritten, shelf
from visus.labs.contract import Digits, Lab
from visus.labs.judging import judge
from visus.run.own_code import run_file

MEMORY = 8 << 30  # bytes of address space that an exercise may take
FILE_SIZE = 64 << 20  # bytes of a file that it may write, its printing too


def main(arguments: Sequence[str]) -> int:
    """action: check or show. An endless recursion, exit() and the like are told as what they are."""
    action, file, name, answers, *skipped = arguments
    _limit()
    lab = shelf.get(name)

    def tell(**line: Any) -> None:
        with open(answers, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(finite(line)) + "\n")

    sys.path.append(str(Path(file).parent))  # their exercises may import each other
    try:
        module = run_file(Path(file), file)
    except UserError as error:
        tell(kind="bad file", words=error.problem)
        return 0
    except SystemExit:
        tell(kind="bad file", words="ends the process while it is run: leave out exit() at the top level")
        return 0
    tell(kind="loaded")
    if action == "check":
        _check(lab, module, skipped, tell)
    else:
        _show(lab, module, tell)
    return 0


def _check(lab: Lab, module: Any, skipped: Sequence[str], tell: Any) -> None:
    """skipped: functions that were tried already; those found right before stand as name+, to be timed against."""
    right = [name[:-1] for name in skipped if name.endswith("+")]
    for part in lab.parts:
        if part.name in skipped or f"{part.name}+" in skipped:
            continue
        tell(kind="begins", name=part.name)
        try:
            verdict = judge(lab, module, part, right)
        except SystemExit:
            tell(kind="verdict", name=part.name, verdict="stopped", words="it calls exit()", diagnosis="Take it out")
            continue
        right += [part.name] if verdict.verdict in ("right", "slow") else []
        tell(kind="verdict", **verdict.plain())


def _show(lab: Lab, module: Any, tell: Any) -> None:
    with np.load(Path(__file__).resolve().parent.parent / "data" / "builtin" / "digits.npz") as sets:
        digits = Digits.of(sets["images"], sets["labels"])
    try:
        with np.errstate(all="ignore"):
            shown = lab.draw(module, digits)
    except NotWritten:
        tell(kind="failed", words="a function that the picture needs is not written yet")
    except (Exception, SystemExit) as error:
        tell(kind="failed", words=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    else:
        tell(kind="shown", shown=asdict(shown))


def _limit() -> None:
    try:
        import resource
    except ImportError:  # no such limits on this system
        return
    for what, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, FILE_SIZE)):
        try:
            resource.setrlimit(what, (most, resource.getrlimit(what)[1]))
        except (ValueError, OSError):  # a lower limit is set already
            pass


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
