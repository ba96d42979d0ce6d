"""torch.export's own format: one .pt2 file, the description among its extra files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from visus.core.errors import CheckpointError, UserError
from visus.core.files import finite
from visus.deploy.onnx_file import unheard

ABOUT = "visus.json"


def write_torch_export(program: nn.Module, example: Tensor, path: str | os.PathLike[str], about: Mapping[str, Any], *,
                       dynamic_batch: bool = True, dynamic_size: bool = False) -> None:
    """One .pt2 file. example: images [B, H, W, C] of at least two. Raises UserError for a program that torch.export
    cannot follow."""
    open_axes = [0] * dynamic_batch + [1, 2] * dynamic_size
    try:
        with unheard(), torch.no_grad():
            found = torch.export.export(program.eval(), (example,),
                                        dynamic_shapes=(dict.fromkeys(open_axes, torch.export.Dim.DYNAMIC),))
            torch.export.save(found, Path(path),
                              extra_files={ABOUT: json.dumps(finite(dict(about)), allow_nan=False)})
    except Exception as error:  # torch.export raises many kinds, none of which says more than its text
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"cannot be followed by torch.export: {first}",
                        where=type(getattr(program, "model", program)).__name__,
                        remedy="Export it with --to safetensors") from error


def open_torch_export(path: str | os.PathLike[str]) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, Any]]:
    """A file that this process has written, opened again: images [B, H, W, C] -> probabilities [B, K], and what it says
    of itself. Raises CheckpointError."""
    extra = {ABOUT: ""}
    try:
        with unheard():
            module = torch.export.load(Path(path), extra_files=extra).module()
        about = json.loads(extra[ABOUT])
    except Exception as error:
        raise CheckpointError(f"cannot be opened again: {error}", where=path) from error

    def answer(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(module(torch.from_numpy(images)).numpy())

    return answer, about
