"""The machine: which device, how much memory, what it computes fast."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

from visus.core.errors import ResourceError

if TYPE_CHECKING:
    import torch


def pick_device(name: str = "auto") -> torch.device:
    """The torch.device for 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'. Raises ResourceError when it is not there."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ResourceError("this machine has no such device", where=f"device={name!r}",
                            remedy="Use --device auto or cpu") from error
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """'auto' -> 'bf16' or 'fp16' on a GPU; on a CPU 'fp32', or still 'auto' where it computes in bfloat16 at least as
    quickly: then it depends on the model, whose steps are timed (visus.train.tune).

    CPUs without bfloat16 instructions emulate them 7 to 45 times slower, so the machine is timed, not guessed.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        import torch

        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "auto" if device.type == "cpu" and bf16_may_pay_on_cpu() else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The forward pass in 'fp32', 'bf16' or 'fp16', with weights in float32."""
    import torch

    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=dtype_of(precision))


def dtype_of(precision: str) -> torch.dtype:
    """Of 'fp32', 'bf16' or 'fp16'."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


@cache
def bf16_may_pay_on_cpu() -> bool:
    """Matrix product and convolution with its gradient, each the best of five in one thread, the two types in turn.

    One thread, because with a busy neighbour two of them wait for each other and the times say nothing.
    """
    import torch

    def work(dtype: torch.dtype) -> Callable[[], float]:
        matrix = torch.ones(256, 256, dtype=dtype)
        images = torch.ones(8, 16, 16, 16, dtype=dtype)
        kernel = torch.ones(16, 16, 3, 3, dtype=dtype, requires_grad=True)

        def once() -> float:
            start = time.perf_counter()
            matrix @ matrix
            torch.nn.functional.conv2d(images, kernel).sum().backward()
            return time.perf_counter() - start

        return once

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single, half = work(torch.float32), work(torch.bfloat16)
        pairs = [(single(), half()) for _ in range(6)][1:]
    finally:
        torch.set_num_threads(threads)
    return min(h for _, h in pairs) < min(s for s, _ in pairs)


def peak_memory_mb(device: torch.device | None = None) -> float:
    """Peak memory so far in MiB: of the GPU's allocator for a CUDA device, else of this process."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def environment() -> dict[str, Any]:
    """What a reader needs to judge whether another machine will give the same numbers."""
    import numpy
    import PIL
    import torch

    from visus import __version__

    facts: dict[str, Any] = {
        "visus": __version__, "python": platform.python_version(), "torch": str(torch.__version__),
        "numpy": numpy.__version__, "pillow": PIL.__version__, "platform": platform.platform(),
        "processor": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name(0)
        facts["cuda"] = torch.version.cuda
    return facts


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
