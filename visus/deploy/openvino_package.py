"""The package openvino, where it is installed and where it may compute."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from visus.core.errors import MissingExtra, ResourceError

ASKED = "VISUS_OPENVINO"  # set to 1, OpenVINO computes wherever it is installed


def openvino_to_write(feature: str) -> Any:
    """Raises MissingExtra."""
    try:
        import openvino
    except ImportError:
        raise MissingExtra(feature, "openvino") from None
    return openvino


def openvino_to_compute(feature: str) -> Any:
    """Raises MissingExtra; ResourceError on a virtual machine with AMX, unless it is asked for: beside torch, openvino
    2026.4 ended processes there with signal 11, some time after its answers."""
    openvino = openvino_to_write(feature)
    if not may_compute():
        raise ResourceError("OpenVINO may end the process (signal 11) on a virtual machine whose processor has AMX",
                            where=feature, remedy=f"Use onnxruntime, or set {ASKED}=1 to take the risk")
    return openvino


def may_compute() -> bool:
    """Whether it was asked for, or this machine is not one where it ends processes."""
    return os.environ.get(ASKED) == "1" or not _virtual_with_tiles()


def _virtual_with_tiles(source: Path = Path("/proc/cpuinfo")) -> bool:
    try:
        flags = source.read_text("utf-8", "replace").split("\n\n")[0].split()
    except OSError:
        return False
    return "amx_tile" in flags and "hypervisor" in flags
