"""Every input has something in it, and no two inputs are all the same.

A loader that yields zeros, or the same picture again and again, trains without an error message: the loss falls to that
of the class frequencies and stays there. reliability.md D1b.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit


def constant_input(patient: Patient) -> Iterator[Finding]:
    """Per-sample deviation, difference from the first sample, and channels that never change."""
    inputs = patient.pooled(256)[0][:256]
    if not bool(torch.isfinite(inputs).all()):
        return
    values = inputs.double().flatten(1)  # [N, everything]
    bound = limit("constant-input.std")
    spread = values.std(dim=1, correction=0) if values.shape[1] > 1 else torch.zeros(0)
    apart = (values - values[:1]).abs().amax()
    if len(values) > 1 and float(apart) <= bound:
        flat = bool(len(spread)) and float(spread.max()) <= bound
        yield Finding(check="constant-input", severity="error",
                      title=f"All {len(values)} inputs are the same" + (
                          f": every value is {float(values[0, 0]):.3g}" if flat else ""),
                      evidence=f"largest difference from the first input {float(apart):.2g} (bound {bound:g})",
                      remedy="Look at what the data set returns for two indices: dataset[0][0] and dataset[1][0]")
        return
    if len(spread) and float(spread.max()) <= bound and inputs.ndim > 2:
        yield Finding(check="constant-input", severity="error",
                      title="Each input is one value throughout: there is no picture in it",
                      evidence=f"largest deviation inside one of {len(values)} inputs {float(spread.max()):.2g} "
                               f"(bound {bound:g})",
                      remedy="Look at dataset[0][0]: a resize, a crop or a cast to integers after scaling empties it")
        return
    empty = int((spread <= bound).sum()) if inputs.ndim > 2 else 0
    if empty > limit("constant-input.share") * len(values):
        yield Finding(check="constant-input", severity="warning",
                      title=f"{empty} of {len(values)} inputs are one value throughout",
                      evidence=f"deviation inside them up to {bound:g} (bound: {limit('constant-input.share'):.0%} of "
                               "the inputs)",
                      remedy="List them: [i for i in range(len(dataset)) if dataset[i][0].std() < 1e-6], and leave "
                             "them out")
    if inputs.ndim >= 3 and inputs.is_floating_point():
        axis = 1 if inputs.ndim == 4 else inputs.ndim - 1  # channels of images, features of sequences
        by_channel = inputs.double().movedim(axis, 0).flatten(1)
        if len(by_channel) > 1:
            still = [str(i) for i, row in enumerate(by_channel) if float(row.max() - row.min()) <= bound]
            if still:
                yield Finding(check="constant-input", severity="note",
                              title=f"Channel {', '.join(still[:6])} never changes",
                              evidence=f"{len(still)} of {len(by_channel)} channels are one value in {len(values)} "
                                       "inputs",
                              remedy="Leave the channel out, or see why it is empty (an alpha channel, a failed read)")


add(constant_input, "constant-input", stage="before", rank=1,
    rule="Some deviation inside an input, and between inputs, is above 1e-6.",
    cost="none: reads 256 inputs", course="C6.2")
