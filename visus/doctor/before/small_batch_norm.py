"""Batch normalisation has enough samples to measure a mean and a deviation.

Of one sample there is no deviation; of two a layer without places gives -1 and 1. In Wu and He 2018 (figure 1) the
error of a ResNet-50 rises from 23.6 % at 32 samples to 24.8 at 8, 27.3 at 4 and 34.7 at 2. Gradients of several batches
added up do not help: each batch is normalised alone. Frozen norms (in eval mode while the model trains) are left out.
reliability.md D10.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.before._answer import answer
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit


def small_batch_norm(patient: Patient) -> Iterator[Finding]:
    """Sizes of the batches against the places that each norm sees in a sample."""
    patient.model.train()
    norms = [(name, module) for name, module in patient.model.named_modules()
             if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training]
    if not norms:
        return
    places: dict[str, int] = {}

    def look(name: str, given: tuple[object, ...]) -> None:
        if given and isinstance(given[0], Tensor):
            places[name] = given[0].numel() // max(1, len(given[0]) * given[0].shape[1])

    hooks = [module.register_forward_pre_hook(lambda m, given, name=name: look(name, given)) for name, module in norms]
    try:
        with torch.no_grad():
            patient.model.eval()(patient.first[0][:2])
    finally:
        for hook in hooks:
            hook.remove()
    sizes = sorted(len(t) for t in (patient.order or [answer(patient).targets]) if t.ndim)
    if not sizes or not places:
        return
    usual, least = sizes[len(sizes) // 2], sizes[0]
    narrow = min(places, key=lambda name: places[name])
    severity: Literal["error", "warning", "note"]
    seen = f"{len(norms)} norms in training mode; {narrow} sees {places[narrow]} values of a channel in each sample"
    groups = "nn.GroupNorm(8, channels), or larger batches, or norms of pretrained weights in eval mode"
    if usual < limit("small-batch-norm.note"):
        severity = "error" if usual < limit("small-batch-norm.error") else (
            "warning" if usual < limit("small-batch-norm.warning") else "note")
        yield Finding(check="small-batch-norm", severity=severity, layer=narrow, remedy=groups,
                      title=f"Batch normalisation over batches of {usual}",
                      evidence=f"{seen}; bounds {limit('small-batch-norm.note'):g} samples (note), "
                               f"{limit('small-batch-norm.warning'):g} (warning), "
                               f"{limit('small-batch-norm.error'):g} (error)")
    elif least == 1:
        severity = "error" if places[narrow] == 1 else "warning"
        yield Finding(check="small-batch-norm", severity=severity, layer=narrow,
                      remedy="DataLoader(..., drop_last=True) for training",
                      title="One batch has a single sample, which batch normalisation " + (
                          "refuses" if severity == "error" else "cannot measure"),
                      evidence=f"{seen}; {sizes.count(1)} of {len(sizes)} batches have one sample, the others {usual}")


add(small_batch_norm, "small-batch-norm", stage="before", rank=2,
    rule="With batch normalisation in training mode batches have 4 samples or more, the last one more than 1.",
    cost="one forward pass of 2 samples", course="C2.7, C6.2")
