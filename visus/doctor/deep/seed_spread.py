"""How much of a difference is the seed? The same training three times, with other orders of the samples, other dropout
and, for fresh weights, another draw: the entries of each weight in another order, so its distribution stays.
Differences between two settings below twice the spread are not distinguishable with one run each.

A note in any case. What it cannot say: the spread of a long training on all data is usually smaller; and weights that
were orthogonal or copied on purpose are not so after the redraw.

Source: reliability.md C7; Bouthillier et al. 2021 (variance of benchmarks).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.controls import real_run, run, split
from visus.doctor.patient import Patient

NAME = "seed-spread"
SEEDS = 3


def seed_spread(patient: Patient) -> Iterator[Finding]:
    parts = split(patient)
    if parts is None:
        return
    runs = [real_run(patient, parts)]
    runs += [run(patient, parts.train, parts.held, seed=seed, redraw=not patient.pretrained)
             for seed in range(1, SEEDS)]
    rights = [one.right for one in runs if one.right is not None]
    scored = len(rights) == SEEDS
    values = rights if scored else [one.held_loss for one in runs]
    spread = statistics.stdev(values)
    shown = ", ".join(f"{value:.1%}" if scored else f"{value:.4g}" for value in values)
    bound = f"{2 * spread:.1%}" if scored else f"{2 * spread:.2g}"
    yield Finding(
        check=NAME, severity="note",
        title=f"Differences below {bound} are not distinguishable with one run each",
        evidence=f"{'right on held samples' if scored else 'loss on held samples'} with {SEEDS} seeds: {shown}; "
                 f"{len(runs[0].losses)} steps; {parts}",
        remedy="Compare settings over several seeds, and give the spread beside the mean")


add(seed_spread, NAME, stage="deep", rank=9,
    rule="Twice the standard deviation over three seeds is what a difference must exceed (a note)",
    cost="two runs of up to 120 steps, and a shared one", course="18.24, 18.11")
