"""Would more data help? The same training on a quarter, a half and all of the held samples: where the loss on others
still falls from half to all, more samples would lower it further.

A note in any case, and none where nothing is learnt. What it cannot say: the samples are the few that were held for the
checks; for the whole set train on parts of it. A doubling helps where the last one did, and not for ever.

Source: reliability.md C6; Hestness et al. 2017 (the loss falls as a power of the number of samples).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.controls import learnt, real_run, run, split
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit

NAME = "more-data-curve"
SHARES = (0.25, 0.5)


def more_data_curve(patient: Patient) -> Iterator[Finding]:
    parts = split(patient)
    if parts is None or len(parts.train[1]) < limit("more-data-curve.samples"):
        return
    inputs, targets = parts.train
    counts = [int(share * len(targets)) for share in SHARES] + [len(targets)]
    if not learnt(patient, parts, real_run(patient, parts)):
        return
    runs = [run(patient, (inputs[:count], targets[:count]), parts.held) for count in counts[:-1]]
    runs.append(real_run(patient, parts))
    losses = [one.held_loss for one in runs]
    if not all(map(math.isfinite, losses)) or losses[-2] <= 0:
        return
    fall = 1 - losses[-1] / losses[-2]
    helps = fall > limit("more-data-curve.fall")
    rights = [one.right for one in runs if one.right is not None]
    scores = "; right " + ", ".join(f"{right:.1%}" for right in rights) if len(rights) == len(runs) else ""
    yield Finding(
        check=NAME, severity="note",
        title="More data would help" if helps else "More data of this kind would help little",
        evidence="loss on held samples with " + ", ".join(f"{count} samples {loss:.4g}"
                                                         for count, loss in zip(counts, losses, strict=True))
                 + f"{scores}: the last doubling changes it by {-fall:.0%}; {parts}",
        remedy="Collect or augment: each doubling is worth about as much again as the last one" if helps else
               "Look at the model, the labels and the inputs before collecting more")


add(more_data_curve, NAME, stage="deep", rank=9,
    rule="From half to all samples the loss on others falls by more than 5 %: more data would help (a note)",
    cost="two runs of up to 120 steps, and a shared one", course="18.07, C4.7")
