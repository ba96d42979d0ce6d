"""Of a set with one frequent class, the head knows the frequencies from the start.

Otherwise the first epoch is spent on learning them, and the curve begins with a fall that means nothing (Karpathy's
recipe, "init well"; focal loss, Lin et al. 2017, section 4.1). reliability.md D2c. A note: training still works.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.before._answer import answer, compares_classes, reads_signs
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit


def final_bias(patient: Patient) -> Iterator[Finding]:
    """Mean prediction of the first batch against how often each class occurs."""
    found = answer(patient)
    outputs = found.tensor
    if outputs is None or outputs.ndim != 2 or not bool(torch.isfinite(outputs).all()):
        return
    targets = torch.cat([t for t in patient.order if t.shape[1:] == found.targets.shape[1:]] or [found.targets.cpu()])
    small = 1e-6
    if patient.kind == "classes" and compares_classes(patient.loss, outputs, found.targets):
        counts = torch.bincount(targets[(targets >= 0) & (targets < outputs.shape[1])], minlength=outputs.shape[1])
        prior = counts.double() / counts.sum().clamp_min(1)
        most = float(prior.max())
        mean = outputs.double().softmax(dim=1).mean(dim=0).cpu()
        away = float((prior * ((prior + small) / (mean + small)).log()).sum())
        line = "head.bias.copy_(torch.log(counts / counts.sum()))"
    elif reads_signs(patient.loss, outputs, found.targets):
        prior = targets.double().mean(dim=0).cpu()
        most = float(torch.maximum(prior, 1 - prior).mean())
        mean = outputs.double().sigmoid().mean(dim=0).cpu()
        away = float((prior * ((prior + small) / (mean + small)).log()
                      + (1 - prior) * ((1 - prior + small) / (1 - mean + small)).log()).mean())
        line = "head.bias.copy_(torch.logit(targets.mean(0).clamp(0.001, 0.999)))"
    else:
        return
    if most > limit("final-bias.majority") and away > limit("final-bias.divergence"):
        yield Finding(check="final-bias", severity="note",
                      title=f"The head does not begin at the class frequencies: the most frequent answer is {most:.0%}",
                      evidence=f"divergence of the mean prediction from the frequencies {away:.2f} (bound "
                               f"{limit('final-bias.divergence'):g}), over {len(targets)} targets",
                      remedy=f"with torch.no_grad(): {line}")


add(final_bias, "final-bias", stage="before", rank=5,
    rule="With a majority above 60 % the mean prediction is within 0.5 nats of the class frequencies.",
    cost="one forward pass, shared", course="18.01, C6.2")
