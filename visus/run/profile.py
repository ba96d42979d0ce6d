"""visus train --profile: where the time of a step goes, what share of the machine's peak that is, and what to change.

Seconds are those of the training itself (train/clock.py). After it, on a copy of the model: the floating-point
operations of a pass, counted as executed, the rate of a plain matrix product with the same type and threads (the
peak that is measured here, not one from a data sheet), and images per second for other sizes of a batch.
"""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from visus.core.device import autocast, dtype_of, peak_memory_mb
from visus.core.errors import UserError
from visus.core.record import RunFolder
from visus.report.profile import FILE, PARTS, summary_lines
from visus.run.advice import advice
from visus.run.display import Display
from visus.train.clock import NO_CLOCK, Clock, StepClock

if TYPE_CHECKING:
    from visus.run.build import Parts
    from visus.run.recipe import Recipe

PEAK_SECONDS = 0.4
PEAK_SIZES = {"cpu": 1024, "cuda": 8192}  # side of the square matrices
PROBED = (2, 4)         # times the batch of the recipe
PROBE_SECONDS = 10.0    # that the batches may take together
PROBE_ROUNDS = 4        # the first of which also warms up


def profile_clock(recipe: Recipe, device: torch.device, leads: bool) -> Clock:
    """What the trainer is given. leads: of several processes only the first one is measured."""
    return StepClock(device) if recipe.train.profile and leads else NO_CLOCK


def write_profile(clock: Clock, folder: RunFolder, recipe: Recipe, parts: Parts, device: torch.device, display: Display,
                  processes: int = 1) -> None:
    """profile.json of a training that came to its end, and what it says on the terminal; nothing without a profile. The
    model, the generators and what is trained from them stay as they are."""
    if not isinstance(clock, StepClock):
        return
    clock.finish()
    if not clock.steps:
        return
    with display.steps("profile", None), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        record = measured(clock, recipe, parts, device, processes)
    record["advice"] = advice(record)
    folder.write(FILE, record)
    for topic, text in summary_lines(record):
        display.say(topic, text)


def measured(clock: StepClock, recipe: Recipe, parts: Parts, device: torch.device, processes: int) -> dict[str, Any]:
    """Everything in plain values; see report/profile.py for who reads it."""
    settings, step = recipe.train, sum(clock.seconds.values()) / clock.steps
    batch = int(settings.batch_size) // processes
    images = batch * settings.accumulate
    record: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": settings.precision, "layout": settings.layout, "threads": int(settings.threads),
        "processes": processes, "batch": batch, "accumulate": settings.accumulate, "workers": int(recipe.data.workers),
        "cache": bool(recipe.data.cache), "steps": clock.steps, "step_s": step, "images_per_s": images / step,
        "parts": [{"name": name, "seconds": clock.seconds[name] / clock.steps,
                   "share": clock.seconds[name] / clock.steps / step} for name in PARTS if name in clock.seconds],
        "whole_step_s": clock.whole_seconds / clock.whole_steps if clock.whole_steps else None,
        "run_s": clock.wall, "outside": [{"name": name, "seconds": seconds, "share": seconds / clock.wall}
                                         for name, seconds in sorted(clock.outside.items(), key=lambda row: -row[1])],
        "memory": _memory(parts, device), "peak": None, "flops": None, "fraction": {}, "batches": [], "note": ""}
    record["peak"] = {"flops_per_s": matmul_peak(device, settings.precision), "size": PEAK_SIZES[device.type]} \
        if device.type in PEAK_SIZES else None
    if processes > 1:
        record["note"] = "Operations are not counted where several processes compute a step together."
        return record
    try:
        model = copy.deepcopy(getattr(parts.model, "_orig_mod", parts.model)).train()
        example = _images(parts, batch, device, settings.layout)
        record["flops"] = dict(zip(("forward", "backward"), pass_flops(model, example), strict=True))
        record["batches"] = probe_batches(model, example, settings.precision)
    except (RuntimeError, TypeError, UserError) as error:
        record["note"] = f"The operations of this model could not be counted ({type(error).__name__})."
        return record
    if recipe.defend.method != "none" or recipe.distill.teacher is not None:
        record["note"] = "Attacks and teachers compute more than the one pass that is counted here."
    if recipe.train.sizes:
        record["note"] = "Images change their size in this training: operations are those at full size, and no share " \
                         "of the peak is stated."
    elif record["peak"] is not None:
        record["fraction"] = fractions(record)
    return record


def fractions(record: dict[str, Any]) -> dict[str, float]:
    """Of the measured peak: of the forward passes, the backward passes and the whole step. "flops" is of one batch, of
    which a step has "accumulate"."""
    seconds = {row["name"]: row["seconds"] for row in record["parts"]}
    flops = {name: record["accumulate"] * count for name, count in record["flops"].items()}
    peak, found = record["peak"]["flops_per_s"], {}
    for name in ("forward", "backward"):
        if seconds.get(name):
            found[name] = flops[name] / seconds[name] / peak
    found["step"] = sum(flops.values()) / (record["whole_step_s"] or record["step_s"]) / peak
    return found


def pass_flops(model: nn.Module, images: Tensor) -> tuple[int, int]:
    """Floating-point operations of a forward and a backward pass over `images`, as executed: products of matrices,
    convolutions and attention, two for each multiply-add. Frozen parts have no backward pass. The model's gradients
    and running statistics change: give a copy."""
    with FlopCounterMode(display=False) as counter:
        out = model(images)
        forward = counter.get_total_flops()
        out.float().sum().backward()
    return int(forward), int(counter.get_total_flops() - forward)


def matmul_peak(device: torch.device, precision: str, seconds: float = PEAK_SECONDS) -> float:
    """The best rate of a product of square matrices in floating-point operations per second, with the threads and the
    settings of this process."""
    size, dtype = PEAK_SIZES[device.type], dtype_of(precision)
    a = torch.randn(size, size, device=device).to(dtype)
    out, best = torch.empty_like(a), float("inf")
    wait = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    deadline, rounds = time.perf_counter() + seconds, 0
    while rounds < 3 or time.perf_counter() < deadline:
        wait()
        start = time.perf_counter()
        torch.mm(a, a, out=out)
        wait()
        best, rounds = min(best, time.perf_counter() - start), rounds + 1
    return 2 * size**3 / best


def probe_batches(model: nn.Module, images: Tensor, precision: str) -> list[dict[str, float]]:
    """Images per second of a forward and a backward pass for the batch as it is and for larger ones, {"batch",
    "images_per_s"}; sizes that would take too long or do not fit are left out. The model changes: give a copy."""
    device = images.device
    context = autocast(device, precision)

    def once(batch: Tensor) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        with context:
            out = model(batch)
        out.float().sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else \
        torch.contiguous_format
    deadline = time.perf_counter() + PROBE_SECONDS
    best: dict[int, float] = {}
    for _ in range(PROBE_ROUNDS):  # in turns: what else runs on the machine slows all of them alike
        for factor in (1, *PROBED):
            if time.perf_counter() + factor * best.get(1, 0.0) > deadline:
                break
            try:
                taken = once(images.repeat(factor, 1, 1, 1).contiguous(memory_format=layout))
            except (RuntimeError, MemoryError):  # it does not fit
                break
            best[factor] = min(taken, best.get(factor, taken))
    return [{"batch": factor * len(images), "images_per_s": factor * len(images) / taken}
            for factor, taken in best.items()]


def _images(parts: Parts, batch: int, device: torch.device, layout: str) -> Tensor:
    preprocessing = parts.task.preprocessing
    images = torch.rand(batch, preprocessing.channels, *preprocessing.size, device=device)
    return preprocessing.normalise(images).contiguous(
        memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format)


def _memory(parts: Parts, device: torch.device) -> dict[str, float]:
    """MiB. peak: of the GPU's allocator, or of the whole process."""

    def size(tensors: Any) -> float:
        return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor)) / 2**20

    state = parts.optimizer.state
    return {"weights": size(parts.model.state_dict().values()),
            "gradients": size(p for p in parts.model.parameters() if p.requires_grad),
            "optimizer": size(value for one in state.values() if isinstance(one, dict) for value in one.values()),
            "peak": peak_memory_mb(device)}
