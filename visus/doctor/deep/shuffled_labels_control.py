"""Two questions to a copy that trains on labels in random order.

Does it still score on validation, whose labels are true? It cannot have learnt that: the score does not measure
learning, or targets reach the model by another way. And do the true labels train no faster than the shuffled ones, and
score no better than chance? Then they say no more about the images than shuffled ones do: the labels are those of other
images, or what tells the classes apart is not in the inputs.

Chance is wide for the first question: a net that knows no labels still gives like images the same one, so whole classes
are right or wrong together, and their number counts, not that of the samples; with two classes nothing is told.

What it cannot say: on some hundred samples a hard task looks like the second case; so it is told only where the net has
learnt the training samples and at least 64 held ones are there to judge.

Source: Zhang et al. 2017 (random labels); reliability.md C3.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.controls import chance, real_run, run, split
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit

NAME = "shuffled-labels-control"


def shuffled_labels_control(patient: Patient) -> Iterator[Finding]:
    parts = split(patient)
    if parts is None:
        return
    real, bound = real_run(patient, parts), chance(patient, parts)
    leak = chance(patient, parts, count=int(parts.train[1].unique(dim=0).shape[0]))
    if bound is None or leak is None or real.right is None or real.train_right is None:
        return
    inputs, targets = parts.train
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(1)).to(targets.device)
    shuffled = run(patient, (inputs, targets[order]), parts.held)
    if shuffled.right is None:
        return
    if shuffled.right > leak and not patient.pretrained:
        yield Finding(
            check=NAME, severity="error",
            title=f"Trained on shuffled labels the net still gives {shuffled.right:.1%} right answers",
            evidence=f"at most {leak:.1%} is chance; with the true labels "
                     f"{real.right:.1%}; {parts}",
            remedy="Look at what is measured: whether targets, file names or an order reach the model, whether the "
                   "weights knew the classes before (then say pretrained=True)")
    faster = (shuffled.mean_loss - real.mean_loss) / max(abs(shuffled.mean_loss), 1e-12)
    if (real.right <= bound and real.train_right > bound and faster < limit("shuffled-labels-control.faster")
            and len(parts.held[1]) >= limit("shuffled-labels-control.held")):
        yield Finding(
            check=NAME, severity="warning", title="The labels say no more about the inputs than shuffled ones do",
            evidence=f"mean loss over {len(real.losses)} steps {real.mean_loss:.4g}, with shuffled labels "
                     f"{shuffled.mean_loss:.4g}; right on held samples {real.right:.1%} and {shuffled.right:.1%}, "
                     f"chance up to {bound:.1%}; {parts}",
            remedy="Look at twenty images beside their labels as the loader gives them: were the two lists sorted "
                   "differently, or the labels of another split read?")


add(shuffled_labels_control, NAME, stage="deep", rank=2,
    rule="Trained on shuffled labels a net scores like chance; with the true ones it trains at least 5 % faster or "
         "scores better than chance",
    cost="two runs of up to 120 steps", course="C6.2")
