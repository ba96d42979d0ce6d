"""States whose weights are split over processes: each writes its own part, and any number of processes reads them.

`step-N.part-R.safetensors`: the rows that process R holds, by path in the state, and for process 0 also all that is not
split, with the rest of the state in its header. The manifest `step-N.json`, written last, lists the parts with size and
SHA-256, and for each split tensor its shape and the rows of each part. Nothing is pickled; torch.distributed.checkpoint
is not used, because its metadata file is a pickle. A reader puts whole tensors together, so that a state goes on in one
process, in copies, or split over another number of them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from visus.core.errors import CheckpointError, ResourceError
from visus.core.files import sha256, write_bytes, write_json
from visus.train.checkpoint import CheckpointStore, flatten, unflatten
from visus.train.world import World

FORMAT = 2


def save_sharded(store: CheckpointStore, step: int, state: Mapping[str, Any], world: World) -> Path:
    """Write this process's part; the first one writes the manifest once all are there and read back. Raises
    ResourceError in every process where any could not write."""
    split: dict[str, DTensor] = {}
    tensors, rest = flatten(state, keep=split)
    own = tensors if world.leads else {}
    rows: dict[str, list[int]] = {}
    for path, tensor in split.items():
        shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        rows[path] = [offset[0] if shape[0] else 0, shape[0]]
        own[path] = tensor.to_local().detach().cpu().contiguous().clone()
    name = part_name(step, world.rank)
    data = save_tensors(own, {"state": json.dumps(rest, allow_nan=True)} if world.leads else None)
    digest, problem = hashlib.sha256(data).hexdigest(), None
    try:
        write_bytes(store.folder / name, data)
        if sha256(store.folder / name) != digest:
            raise ResourceError("does not read back as written", where=store.folder / name, remedy="Check the disk")
    except ResourceError as error:
        problem = [f"rank {world.rank}: {error.problem}", error.where, error.remedy]
    told = world.gather({"file": name, "bytes": len(data), "sha256": digest, "rows": rows, "problem": problem})
    problem = next((part["problem"] for part in told if part["problem"] is not None), None)
    manifest = store.folder / f"step-{step:09d}.json"
    if problem is None and world.leads:
        try:
            write_json(manifest, {
                "format": FORMAT, "step": step, "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "shapes": {path: list(tensor.shape) for path, tensor in split.items()},
                "parts": [{key: part[key] for key in ("file", "bytes", "sha256", "rows")} for part in told]})
            store.prune()
        except ResourceError as error:
            problem = [error.problem, error.where, error.remedy]
    if (problem := world.share(problem)) is not None:
        raise ResourceError(problem[0], where=problem[1], remedy=problem[2])
    return manifest


def part_name(step: int, rank: int) -> str:
    return f"step-{step:09d}.part-{rank:04d}.safetensors"


def read_sharded(folder: Path, step: int, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The whole state. Raises CheckpointError for a part that is missing, damaged or does not fit."""
    whole: dict[str, Tensor] = {}
    rest = None
    try:
        filled = dict.fromkeys(manifest["shapes"], 0)
        for number, part in enumerate(manifest["parts"]):
            path = folder / part_name(step, number)
            try:
                data = path.read_bytes()
            except OSError as error:
                raise CheckpointError(f"cannot be read: {error.strerror}", where=path) from error
            if len(data) != part["bytes"] or hashlib.sha256(data).hexdigest() != part["sha256"]:
                raise CheckpointError("is damaged: it is not what its manifest says", where=path)
            tensors = load_tensors(data)
            for name, tensor in tensors.items():
                if name not in part["rows"]:
                    whole[name] = tensor
                    continue
                start, count = part["rows"][name]
                if name not in whole:
                    whole[name] = torch.empty(manifest["shapes"][name], dtype=tensor.dtype)
                if count:
                    whole[name][start:start + count] = tensor
                filled[name] += count
            if number == 0:
                header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
                rest = json.loads(header["__metadata__"]["state"])
        short = [name for name, count in filled.items() if count != manifest["shapes"][name][0]]
        if short:
            raise CheckpointError(f"rows of {short[0]} are missing", where=folder / f"step-{step:09d}.json")
        return unflatten(whole, rest)
    except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"is not a state of ours: {error}", where=folder / f"step-{step:09d}.json") from error
