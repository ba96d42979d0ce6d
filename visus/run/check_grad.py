"""visus check-grad: find a person's layer, loss or autograd Function by name, make inputs, check its gradient."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from visus.core.errors import UserError, did_you_mean, printable
from visus.doctor.gradient_check import GradientReport, check_gradients
from visus.doctor.numpy_layer import numpy_layer, numpy_loss
from visus.run.own_code import run_file

MAX_ENTRIES = 1 << 24  # of one made-up input
INPUT = re.compile(r"(?:(?P<kind>[a-z]+)(?P<below>\d*):)?(?P<shape>\d+(?:x\d+)*|-)")
FORWARD = ("_forward", "_train")  # how the courses name the two halves of a layer


def check_grad(name: str, inputs: Sequence[str] = (), values: Mapping[str, Any] | None = None, *, seed: int = 0,
               **options: Any) -> GradientReport:
    """Check the gradient of what `name` says: FILE.py:NAME or package.module:NAME. The file is run: name your own.

    NAME: an nn.Module (a class is built with `values`), a torch.autograd.Function, a function of tensors; or, in NumPy,
    a layer whose NAME_forward and NAME_backward are there, or a loss that gives (loss, gradient). inputs: one text a
    tensor: 2x3x8x8 (normal numbers), uniform:4x5 (in [0, 1)), positive:4x5, int10:4 (classes below 10), `-` for one
    number. options: those of `visus.doctor.gradient_check.check_gradients`.
    """
    where, _, attribute = name.rpartition(":")
    if not where:
        raise UserError("names no layer", where=name, remedy="Give FILE.py:NAME or package.module:NAME, such as "
                        "visus.foundations.layers:affine")
    module = _load(where)
    subject = _find(module, attribute, dict(values or {}))
    if not inputs:
        raise UserError("needs inputs to be tried on", where=name,
                        remedy="Give a shape for each: --input 2x3x8x8, --input int10:2 for classes")
    generator = torch.Generator().manual_seed(seed)
    try:
        return check_gradients(subject, [made_input(text, generator) for text in inputs], seed=seed, **options)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError) as error:
        raise UserError(f"cannot be run on {', '.join(inputs)}: {type(error).__name__}: "
                        f"{printable(str(error).strip().splitlines()[0]) if str(error).strip() else ''}", where=name,
                        remedy="Look at the shapes and kinds of --input; --debug shows where it stopped") from error


def made_input(text: str, generator: torch.Generator) -> Tensor:
    """A tensor from its description. Raises UserError for one that says nothing."""
    match = INPUT.fullmatch(text)
    kind = match["kind"] or "normal" if match else ""
    if match is None or kind not in ("normal", "uniform", "positive", "int") or (kind == "int") != bool(match["below"]):
        raise UserError("describes no tensor", where=f"--input {text}",
                        remedy="2x3x8x8, uniform:4x5, positive:4x5, int10:4 for classes below 10, - for one number")
    shape = [] if match["shape"] == "-" else [int(n) for n in match["shape"].split("x")]
    size = 1
    for n in shape:
        size *= n
    if not 1 <= size <= MAX_ENTRIES:
        raise UserError(f"has {size:,} entries", where=f"--input {text}",
                        remedy="A gradient check wants few: 2 or 3 samples, small images")
    if kind == "int":
        if not int(match["below"]):
            raise UserError("there is no class below 0", where=f"--input {text}")
        return torch.randint(int(match["below"]), shape, generator=generator)
    x = torch.rand(shape, generator=generator, dtype=torch.float64) if kind != "normal" else \
        torch.randn(shape, generator=generator, dtype=torch.float64)
    return x + 0.1 if kind == "positive" else x


def _load(where: str) -> ModuleType:
    if where.endswith(".py"):
        return run_file(Path(where), where)
    try:
        return importlib.import_module(where)
    except ImportError as error:
        raise UserError(f"could not be imported: {printable(str(error))}", where=where,
                        remedy="Give the path of the file: FILE.py:NAME") from error


def _find(module: ModuleType, name: str, values: dict[str, Any]) -> Any:
    backward = getattr(module, f"{name}_backward", None)
    for ending in FORWARD:
        forward = getattr(module, name + ending, None)
        if forward is not None and backward is not None:
            return numpy_layer(partial(forward, **values), backward)
    found = getattr(module, name, None)
    if found is None:
        known = [n.removesuffix("_backward") for n in dir(module) if not n.startswith("_")]
        raise UserError(f"has no {name!r}", where=module.__name__, remedy=did_you_mean(name, known))
    if isinstance(found, type) and issubclass(found, torch.autograd.Function):
        return found.apply
    if isinstance(found, type) and issubclass(found, nn.Module):
        try:
            return found(**values)
        except TypeError as error:
            raise UserError(f"cannot be built: {printable(str(error))}", where=name,
                            remedy="Give its arguments: --set in_features=6 --set out_features=4") from error
    if isinstance(found, nn.Module):
        return found
    if callable(found) and _is_numpy_loss(found):
        return numpy_loss(found)
    if callable(found) and not isinstance(found, type):
        return (lambda *x: found(*x, **values)) if values else found
    raise UserError(f"is a {type(found).__name__}, not a layer, loss or function", where=name)


def _is_numpy_loss(function: Any) -> bool:
    """Said by its annotations, or by a module that knows no torch."""
    try:
        returns = str(inspect.signature(function).return_annotation)
    except (TypeError, ValueError):
        return False
    return "ndarray" in returns and "tuple" in returns
