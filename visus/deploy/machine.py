"""This machine as a key, and what `visus optimize` found fastest on it. Imports no torch and no runtime."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from visus.core.errors import UserError
from visus.core.files import child, read_json, sha256, write_json
from visus.deploy.artifact import CHOICES, Bundle
from visus.deploy.session import BACKENDS, WITHOUT_TORCH

FORMAT = 1
MOST_MACHINES = 64  # that choices.json remembers; the oldest goes first
RUNTIMES = ("onnxruntime", "openvino", "torch")
_FLAGS = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512", "avx_vnni", "amx", "asimd", "sve", "bf16", "i8mm", "fphp")


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """What the fastest way to compute depends on: processor, its vector instructions, cores, versions of runtimes."""
    cpu, flags = _processor()
    return {"cpu": cpu, "flags": list(flags), "cores": cores(), "system": f"{platform.system()} {platform.machine()}",
            "versions": {name: _version(name) for name in RUNTIMES}}


@cache
def _processor() -> tuple[str, tuple[str, ...]]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine(), ()
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", fields.get("features", "")).split()
    return (fields.get("model name") or platform.processor() or platform.machine(),
            tuple(sorted(flag for flag in flags if flag.startswith(_FLAGS))))


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def key(bundle: Bundle, batch: int) -> str:
    """Equal for the same graph and the same number of images at once on the same machine."""
    text = json.dumps({"machine": machine(), "graph": bundle.identity, "batch": batch}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def chosen(bundle: Bundle, batch: int = 1, with_torch: bool = False) -> dict[str, Any]:
    """What `visus optimize` found fastest here: backend, threads, p50_ms, ratio; file where another graph than
    model.onnx of the bundle is computed. Empty where it was not run on this machine, or the choice no longer fits.

    with_torch: backends that need torch count too.
    """
    path = bundle.path / CHOICES
    if not path.is_file():
        return {}
    try:
        found = read_json(path)["choices"][key(bundle, batch)]["fastest" if with_torch else "without_torch"]
        fits = (found["backend"] in (BACKENDS if with_torch else WITHOUT_TORCH)
                and isinstance(found["threads"], int) and 1 <= found["threads"] <= cores())
        if fits and "file" in found:
            fits = sha256(child(bundle.path, found["file"])) == found["sha256"]
        return dict(found) if fits else {}
    except (UserError, OSError, LookupError, TypeError, ValueError):  # written by hand, damaged or of a newer version
        return {}


def chosen_files(bundle: Bundle) -> set[str]:
    """Of other graphs than model.onnx, that some choice names: for any machine and any number of images at once."""
    choices = read_json(bundle.path / CHOICES).get("choices") or {}
    rows = [held.get(which) for held in choices.values() if isinstance(held, dict)
            for which in ("fastest", "without_torch")]
    return {str(row["file"]) for row in rows if isinstance(row, dict) and "file" in row}


def remember(bundle: Bundle, batch: int, record: Mapping[str, Any]) -> Path | None:
    """Write what was found into the bundle's choices.json; the file, or None for a bundle that is a single file."""
    if not bundle.path.is_dir():
        return None
    path, held = bundle.path / CHOICES, {}
    if path.is_file():
        try:
            held = dict(read_json(path)["choices"])
        except (UserError, LookupError, TypeError, ValueError):
            held = {}
    name = key(bundle, batch)
    held.pop(name, None)
    held = dict(list(held.items())[-(MOST_MACHINES - 1):])
    held[name] = {"machine": machine(), "graph": bundle.identity, "batch": batch,
                  "at": datetime.now(UTC).isoformat(timespec="seconds"), **record}
    write_json(path, {"format": FORMAT, "choices": held})
    return path
