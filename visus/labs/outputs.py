"""What a function gave as arrays by name, and whether what it was given is still the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from visus.labs.contract import Inputs


def named(answer: Any, names: Sequence[str], *, cached: bool = False, gaps: bool = False) -> dict[str, np.ndarray]:
    """Outputs by name; those of a dict one by one; None is left out with `gaps`. ValueError, in words, where they are
    not what was promised."""
    wanted = len(names) + cached
    if wanted > 1:
        if not isinstance(answer, tuple | list) or len(answer) != wanted:
            kind = "nothing (None)" if answer is None else f"{len(answer)} things" \
                if isinstance(answer, tuple | list) else f"one {type(answer).__name__}"
            raise ValueError(f"gives {kind}, not {wanted}: {', '.join([*names, *(['cache'] if cached else [])])}")
        values = list(answer)[:len(names)]
    else:
        values = [answer]
    out: dict[str, np.ndarray] = {}
    for name, value in zip(names, values, strict=True):
        if isinstance(value, Mapping):
            out |= {f"{name}[{key!r}]": _array(entry, f"{name}[{key!r}]") for key, entry in value.items()}
        elif value is not None or not gaps:
            out[name] = _array(value, name)
    return out


def _array(value: Any, name: str) -> np.ndarray:
    if value is None:
        raise ValueError(f"gives None for {name}")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is no array of numbers: {error}") from error


def arrays_of(inputs: Inputs) -> dict[str, np.ndarray]:
    """The arrays among the inputs, those inside of dicts too."""
    flat: dict[str, np.ndarray] = {}
    for name, value in inputs.items():
        for key, entry in (value.items() if isinstance(value, dict) else [("", value)]):
            if isinstance(entry, np.ndarray):
                flat[f"{name}[{key!r}]" if key else name] = entry
    return flat


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, in arrays, dicts and lists of them; of all else nothing is asked."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.shape == b.shape and bool(np.array_equal(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return True


def silent(function: Callable[..., Any], inputs: Inputs) -> Any:
    """The function called with the inputs by position, its warnings of overflow and the like left out."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*inputs.values())
