"""While the loader reads, the net waits. The time for a batch, measured over the first batches, is compared with the
time of forward and backward.

The batches were asked for one after another, so a loader with workers shows what it delivers in the long run. Loading
longer than a step is a wait in any case; up to then workers hide it, so it is only noted. Loads below 20 ms are left
alone: so are those of tensors in memory.

Source: EECS498 lecture 9 (CPU and GPU: data loading), reliability.md R5.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.first_pass import first_pass
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit

NAME = "slow-loader"


def slow_loader(patient: Patient) -> Iterator[Finding]:
    waits = patient.seconds[1:]  # the first one starts the workers
    step = first_pass(patient).seconds
    if len(waits) < 3 or step <= 0:
        return
    load = min(statistics.median(waits), statistics.mean(waits))
    share = load / (load + step)
    if load < limit("slow-loader.seconds") or share <= limit("slow-loader.note"):
        return
    slow = share > limit("slow-loader.warning")
    size = len(patient.first[0])
    yield Finding(
        check=NAME, severity="warning" if slow else "note",
        title=f"Loading a batch takes {load * 1000:.0f} ms, {load / step:.2g} times a step of the net",
        evidence=f"{len(waits)} batches of {size}: {size / load:.0f} samples a second; forward and backward take "
                 f"{step * 1000:.0f} ms: {share:.0%} of the time is waiting without workers, at most "
                 f"{limit('slow-loader.warning'):.0%}",
        remedy="DataLoader(num_workers=4, persistent_workers=True, pin_memory=True), or keep the images decoded and at "
               "their final size")


add(slow_loader, NAME, stage="before", rank=2,
    rule="Loading a batch takes no longer than forward and backward (noted from a quarter on)",
    cost="the first pass; the waits were measured when the batches were drawn", course="18.25")
