"""Resumable states on disk. At every moment at least one verified state exists.

A state is `step-N.safetensors` (all tensors; everything else as JSON in its header) and, written last, its manifest
`step-N.json` with size and SHA-256. A state without a manifest that fits does not count. Older states are removed
only after the new one was read back.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from visus.core.errors import CheckpointError, ResourceError
from visus.core.files import finite, read_json, sha256, write_bytes, write_json
from visus.core.weights import write_state_dict

FORMAT = 1
SPLIT_FORMAT = 2  # in parts: sharded_checkpoint
BEST = "best.safetensors"
_NAME = re.compile(r"step-(\d{9})\.json")


class CheckpointStore:
    """The last `keep` states of one run, in one folder."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = folder
        self.keep = max(1, keep)

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write the state, verify it, then drop older ones. Raises ResourceError; older states are then untouched."""
        tensors, rest = flatten(state)
        data = save_tensors(tensors, {"state": json.dumps(rest, allow_nan=True)})
        path = self.folder / f"step-{step:09d}.safetensors"
        digest = hashlib.sha256(data).hexdigest()
        write_bytes(path, data)
        if sha256(path) != digest:
            path.unlink(missing_ok=True)
            raise ResourceError("does not read back as written", where=path, remedy="Check the disk")
        write_json(path.with_suffix(".json"), {"format": FORMAT, "step": step, "bytes": len(data), "sha256": digest,
                                               "written": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
        self.prune()
        return path

    def save_best(self, weights: Mapping[str, Tensor]) -> None:
        """The weights with the best headline metric so far, alone; their checksum is in the file."""
        write_state_dict(self.folder / BEST, weights)

    def save_snapshot(self, epoch: int, weights: Mapping[str, Tensor]) -> Path:
        """The weights after an epoch (from 0), alone, kept for an ensemble."""
        path = self.folder / f"snapshot-{epoch:04d}.safetensors"
        write_state_dict(path, weights)
        return path

    def snapshots(self) -> list[Path]:
        """The kept snapshots, oldest first."""
        return sorted(self.folder.glob("snapshot-*.safetensors"))

    def state_at(self, step: int) -> dict[str, Any]:
        """The state of one of `steps`. Raises CheckpointError where it does not verify."""
        return self._read(step)

    def steps(self) -> list[int]:
        """Steps that have a manifest, oldest first."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def load(self) -> tuple[int, dict[str, Any], list[str]]:
        """The newest state that verifies, and what is wrong with each newer one.

        Raises CheckpointError when no state verifies: a run is never silently started again from nothing.
        """
        problems: list[str] = []
        for step in reversed(self.steps()):
            try:
                return step, self._read(step), problems
            except CheckpointError as error:
                problems.append(str(error))
        if problems:
            raise CheckpointError("no checkpoint of this run is whole: " + "; ".join(problems), where=self.folder,
                                  remedy="Train again with another --out")
        raise CheckpointError("holds no checkpoint", where=self.folder,
                              remedy="The run was stopped before its first step: train again with another --out")

    def _read(self, step: int) -> dict[str, Any]:
        path = self.folder / f"step-{step:09d}.safetensors"
        manifest = read_json(path.with_suffix(".json"), error=CheckpointError)
        if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
            raise CheckpointError("is not a manifest of ours", where=path.with_suffix(".json"))
        if manifest["format"] == SPLIT_FORMAT:
            from visus.train.sharded_checkpoint import read_sharded

            return read_sharded(self.folder, step, manifest)
        if manifest["format"] > FORMAT:
            raise CheckpointError("was written by a newer version of visus", where=path, remedy="Upgrade visus")
        try:
            if path.stat().st_size != manifest.get("bytes"):
                raise CheckpointError(f"has {path.stat().st_size} bytes, its manifest says {manifest.get('bytes')}",
                                      where=path)
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", where=path) from error
        if hashlib.sha256(data).hexdigest() != manifest.get("sha256"):
            raise CheckpointError("is damaged: its SHA-256 is not the one in its manifest", where=path)
        try:
            header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
            return unflatten(load_tensors(data), json.loads(header["__metadata__"]["state"]))
        except (SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(f"is not a state of ours: {error}", where=path) from error

    def prune(self) -> None:
        """Drop all but the last `keep` states, and what a kill left of others."""
        for step in self.steps()[:-self.keep]:
            path = self.folder / f"step-{step:09d}.json"
            path.unlink(missing_ok=True)  # the manifest first: a state without one does not count
            path.with_suffix(".safetensors").unlink(missing_ok=True)
        wanted = {f"step-{step:09d}" for step in self.steps()}
        for path in self.folder.glob("step-*.safetensors"):
            if path.name.partition(".")[0] not in wanted:
                path.unlink(missing_ok=True)
        for path in self.folder.glob(".step-*.tmp"):  # left by a kill inside a write
            path.unlink(missing_ok=True)


def flatten(state: Any, keep: dict[str, Any] | None = None) -> tuple[dict[str, Tensor], Any]:
    """A nest of dicts, lists, numbers, strings and tensors -> its tensors by path, and the rest as JSON with the
    paths in their places. Dict keys may be integers (optimizer states have them). keep: takes the tensors that are
    split over processes, by path, as they are."""
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            if keep is not None and hasattr(value, "to_local"):
                keep[path] = value
                return {"__tensor__": path}
            tensors[path] = value.detach().cpu().contiguous().clone()
            return {"__tensor__": path}
        if isinstance(value, Mapping):
            return {"__items__": [[key, walk(item, f"{path}/{key}")] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            return [walk(item, f"{path}/{i}") for i, item in enumerate(value)]
        if value is None or isinstance(value, str | int | float | bool):
            return value
        return finite(value)

    rest = walk(state, "")
    return tensors, rest


def unflatten(tensors: Mapping[str, Tensor], rest: Any) -> Any:
    """The inverse of `flatten` (tuples come back as lists)."""
    if isinstance(rest, dict):
        if "__tensor__" in rest:
            return tensors[rest["__tensor__"]]
        return {key: unflatten(tensors, item) for key, item in rest["__items__"]}
    if isinstance(rest, list):
        return [unflatten(tensors, item) for item in rest]
    return rest


def seed_generators(seed: int) -> None:
    """Start every global generator from `seed`: Python's, NumPy's, torch's on all devices."""
    import random

    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Every global generator: torch's on the CPU and on each GPU, NumPy's and Python's."""
    import random

    import numpy as np

    numbers = np.random.get_state(legacy=False)  # noqa: NPY002
    version, words, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [torch.from_numpy(numbers["state"]["key"].astype(np.int64)), numbers["state"]["pos"],
                  numbers["has_gauss"], numbers["gauss"]],
        "python": [version, list(words), next_gauss],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    import random

    import numpy as np

    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, words, next_gauss = state["python"]
    random.setstate((version, tuple(words), next_gauss))
