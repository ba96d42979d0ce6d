"""A person's function against the right answer: numbers, never shapes alone, and what the difference usually means."""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from visus.labs import NotWritten
from visus.labs.contract import Case, Inputs, Lab, Mistake, Module, Pace, Part
from visus.labs.diagnosing import equal, error_map, places, shape_words, value_words
from visus.labs.outputs import arrays_of, named, same, silent

Judgement = Literal["right", "slow", "wrong", "stopped", "not written"]
_SINGLE = "It is right, but only in single precision: leave out the float32, and compute in float64"
_ERRORS = {  # a piece of an error's text -> what it usually means
    "broadcast": "Two arrays of shapes that do not fit meet: print the .shape of both; [N] against [N, D] "
                              "needs [:, None]",
    "mismatch in its core dimension": "The inner sizes of a product differ: print the .shape of both; is one to be "
                                      "transposed?",
    "not aligned": "The inner sizes of a product differ: print the .shape of both; is one to be transposed?",
    "out of bounds": "An index runs past the end: check the range of the loop and the sizes",
    "only integer": "An index is a float: use whole-number division // or astype(int)",
    "'numpy.float64' object cannot be interpreted": "A count is a float: use whole-number division //",
    "Cannot cast": "An in-place operation meets an array of whole numbers: make it with dtype float",
    "not enough values to unpack": "It gives fewer things than are asked for: compare its return with the docstring",
    "too many values to unpack": "It gives more things than are asked for: compare its return with the docstring",
    "'NoneType'": "Something is None: a function that it calls lacks its return",
    "read-only": "It writes into an array that is only a view: copy it first",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """words: what was found, with index, expected and got; diagnosis: the likely mistake; error: the largest relative
    error where all is right; seconds: of one call; pace: how fast against the slow way."""

    name: str
    verdict: Judgement
    words: str = ""
    diagnosis: str = ""
    error: float | None = None
    seconds: float | None = None
    pace: str = ""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def judge(lab: Lab, module: Module, part: Part, right: Sequence[str] = (), *, timed: bool = True) -> Verdict:
    """Try one function in all of its cases. right: the functions that were found right before, to be timed against."""
    if not callable(getattr(module, part.name, None)):
        return Verdict(name=part.name, verdict="not written", words="the file has no such function")
    worst = 0.0
    for number, case in enumerate(part.cases):
        found = _try(module, part, case, number)
        if isinstance(found, Verdict):
            return found
        worst = max(worst, found)
    if not timed:
        return Verdict(name=part.name, verdict="right", error=worst)
    try:
        return _timed(lab, module, part, worst, right)
    except Exception as error:  # at the size that is timed
        return _stopped(module, part, Case("right on small inputs, timed on larger ones", part.cases[0].make), error)


def inputs_of(case: Case, number: int) -> Inputs:
    """The same inputs every time: a case is told by its number."""
    return case.make(np.random.Generator(np.random.PCG64([7, number])))


# ---------------------------------------------------------------- one case


def _try(module: Module, part: Part, case: Case, number: int) -> Verdict | float:
    """The verdict where something is wrong, else the largest relative error."""
    inputs = inputs_of(case, number)
    expected = _expected(part, number)
    given = copy.deepcopy(inputs)
    try:
        answer = silent(lambda *values: part.used(module, values), given)
    except NotWritten as error:
        return _not_written(module, part, error)
    except Exception as error:
        return _stopped(module, part, case, error)

    def wrong(words: str, diagnosis: str = "") -> Verdict:
        return Verdict(name=part.name, verdict="wrong", words=f"{words} ({case.says})",
                       diagnosis=diagnosis or part.hint)

    for name, value in inputs.items():
        if not same(value, given[name]):
            return wrong(f"changes its input {name!r} in place",
                         "Whoever called it still needs that array: work on a new one, x = x + ... instead of x += "
                         "..., "
                         "or copy it first")
    try:
        got = named(answer, part.outputs, cached=part.cached)
    except ValueError as error:
        return wrong(str(error), "Its `return` is missing" if answer is None else "Compare its return with the "
                     "docstring")
    arrays = arrays_of(given)
    worst = 0.0
    for name, right in expected.items():
        if name not in got:
            return wrong(f"{name} is missing from what it gives")
        problem = _compare(part, name, got[name], right)
        if isinstance(problem, float):
            worst = max(worst, problem)
            shared = [n for n, value in arrays.items() if np.may_share_memory(got[name], value)]
            if shared and not part.may_share:
                return wrong(f"{name} is a view of the input {shared[0]!r}", "Whoever changes one changes the other: "
                             "give a new array, such as a .copy()")
            continue
        words, generic = problem
        says = _mistake(module, part, name, got, number)
        if says:
            return wrong(words, says)
        if not generic and got[name].shape == right.shape and got[name].dtype.kind in "fiub":
            generic = value_words(name, got[name].astype(float), right.astype(float), case.counts, expected, arrays)
        return wrong(words, generic)
    return worst


def _mistake(module: Module, part: Part, name: str, got: dict[str, np.ndarray], number: int) -> str:
    """The typical mistake that gives these very numbers. Of several, those first that explain every output, and the
    other cases as well."""
    fitting = []
    for mistake in part.mistakes:
        right, wrong = _expected(part, number), _expected(part, number, mistake.compute)
        if name in wrong and _as_wrong(got[name], wrong[name]) and not equal(wrong[name], right[name], part.tolerance):
            fitting.append((mistake, all(key in got and _as_wrong(got[key], other) for key, other in wrong.items())))
    if len(fitting) < 2:
        return fitting[0][0].says if fitting else ""
    others: dict[int, dict[str, np.ndarray]] = {}
    for place, case in enumerate(part.cases):
        try:
            answer = silent(lambda *values: part.used(module, values), inputs_of(case, place))
            others[place] = named(answer, part.outputs, cached=part.cached)
        except Exception:  # it does not get that far there
            continue

    def explained(mistake: Mistake) -> int:
        return sum(name in found and _as_wrong(found[name], _expected(part, place, mistake.compute)[name])
                   for place, found in others.items())

    return max(fitting, key=lambda one: (explained(one[0]), one[1]))[0].says  # the first of equals


def _expected(part: Part, number: int, compute: Callable[..., Any] | None = None) -> dict[str, np.ndarray]:
    """What the right answer gives in a case, or a mistake."""
    inputs = inputs_of(part.cases[number], number)
    return named(silent(compute or part.right, inputs), part.outputs, gaps=compute is not None)


def _as_wrong(got: np.ndarray, other: np.ndarray) -> bool:
    """Equal, where nan and infinity equal themselves."""
    if got.shape != other.shape or got.dtype.kind not in "iufb":
        return False
    odd = ~np.isfinite(other)
    if odd.any():
        return bool((~np.isfinite(got) == odd).all())
    return equal(got, other)


def _compare(part: Part, name: str, got: np.ndarray, right: np.ndarray) -> float | tuple[str, str]:
    """The largest relative error, or what is wrong and a diagnosis where the kind of array already tells it."""
    if got.dtype.kind not in "iufb":
        return f"{name} holds {got.dtype}, not numbers", "Give NumPy arrays, made of arrays of one shape"
    if got.shape != right.shape:
        return (f"{name} has the shape {_shape(got)}, expected {_shape(right)}", shape_words(got, right))
    if part.whole:
        wrong = got != right
        if not wrong.any():
            return 0.0 if got.dtype.kind in "iub" else (
                f"{name} holds {got.dtype}", "Labels, indices and sizes are whole numbers: divide by //, make "
                                             "arrays with dtype int")
    else:
        errors = error_map(got.astype(float), right.astype(float))
        wrong = ~(errors <= part.tolerance)
        if not wrong.any():
            if got.dtype.kind in "iub" and right.size > 1:
                return f"{name} holds {got.dtype}", "Make the array of floats: whole numbers cut off what is added"
            if got.dtype in (np.float16, np.float32):
                return f"{name} holds {got.dtype}", _SINGLE
            return float(errors.max(initial=0.0))
    errors = error_map(got.astype(float), right.astype(float))
    index = np.unravel_index(int(np.where(np.isnan(errors), np.inf, np.where(wrong, errors, -1)).argmax()), right.shape)
    place = "" if not right.ndim else f"[{', '.join(str(int(i)) for i in index)}]"
    detail = places(wrong)
    words = (f"{name}{place} is {_number(got[index])}, expected {_number(right[index])}"
             + ("" if part.whole else f": relative error {errors[index]:.2g}") + (f"; {detail}" if detail else ""))
    if got.dtype.kind in "iu" and right.dtype.kind == "f":
        return words, ("It holds whole numbers, which cut off what is put in: np.zeros_like of an integer array is "
                       "one; "
                       "make it with dtype float")
    if got.dtype == np.float32 and (errors <= 1e-4).all():
        return words, _SINGLE
    if not part.whole and (errors <= 1e-3).all() and (errors > 0).all():
        return words, (part.hint + " " if part.hint else "") + ("It is nearly right everywhere: an approximation, an "
                       "eps in the wrong place or of the wrong size")
    return words, ""


# ---------------------------------------------------------------- functions that do not come back with an answer


def _not_written(module: Module, part: Part, error: NotWritten) -> Verdict:
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename == getattr(module, "__file__", None)]
    other = names[-1] if names and names[-1] != part.name else ""
    return Verdict(name=part.name, verdict="not written", words=f"waits for {other}" if other else str(error))


def _stopped(module: Module, part: Part, case: Case, error: Exception) -> Verdict:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if frame.filename == getattr(module, "__file__", None)]
    text = " ".join(str(error).split())[:300]
    where = f" in line {frames[-1].lineno}: {str(frames[-1].line or '').strip()[:100]}" if frames else ""
    meaning = next((words for piece, words in _ERRORS.items() if piece in text), part.hint)
    return Verdict(name=part.name, verdict="stopped", diagnosis=meaning,
                   words=f"{type(error).__name__}: {text}{where} ({case.says})")


# ---------------------------------------------------------------- time


def _timed(lab: Lab, module: Module, part: Part, error: float, right: Sequence[str]) -> Verdict:
    pace = part.pace or Pace(make=part.cases[0].make)
    inputs = pace.make(np.random.Generator(np.random.PCG64(3)))
    seconds = _seconds(lambda *values: part.used(module, values), inputs, 3)
    slow: float | None = None
    if callable(pace.against):
        slow = _seconds(pace.against, inputs, 2)
    elif pace.against in right:
        other = next(p for p in lab.parts if p.name == pace.against)
        slow = _seconds(lambda *values: other.used(module, values), inputs, 2)
    if slow is None:
        return Verdict(name=part.name, verdict="right", error=error, seconds=seconds)
    ratio = slow / max(seconds, 1e-9)
    name = pace.against if isinstance(pace.against, str) else "plain loops"
    words = f"{ratio:,.{0 if ratio >= 10 else 1}f} times as fast as {name}"
    if ratio >= pace.at_least:
        wanted = f" (at least {pace.at_least:g} expected)" if pace.at_least else ""
        return Verdict(name=part.name, verdict="right", error=error, seconds=seconds, pace=words + wanted)
    return Verdict(name=part.name, verdict="slow", error=error, seconds=seconds, pace=words,
                   words=f"right, but {words}; at least {pace.at_least:g} times is expected",
                   diagnosis="A Python loop is left where one NumPy expression can do all entries")


def _seconds(function: Callable[..., Any], inputs: Inputs, times: int) -> float:
    """The least of a few calls, in seconds of the processor."""
    best = float("inf")
    for _ in range(times):
        given = copy.deepcopy(inputs)
        start = time.process_time()
        silent(function, given)
        best = min(best, time.process_time() - start)
        if best > 1:
            break
    return best


def _shape(array: np.ndarray) -> str:
    return f"({', '.join(str(n) for n in array.shape)})" if array.ndim else "() (one number)"


def _number(value: Any) -> str:
    return f"{value:.8g}" if isinstance(value, float | np.floating) else str(value)
