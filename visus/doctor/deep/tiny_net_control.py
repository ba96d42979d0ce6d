"""The nearest class mean on 8 x 8 pixels has no parameters to tune. Where it finds what a short training of the net
does not find, being no better than the commonest class, the task can be learnt and the net is broken.

What it cannot say: with a few hundred samples and a hundred steps a sound net may be behind and win later (a small
transformer on digits: 73 % against 88 %), so a net that is only behind is noted.

Source: reliability.md C4; Karpathy's recipe (simple baselines); CS231n assignment 1 (nearest neighbour).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.controls import chance, learnt, real_run, sigma, split
from visus.doctor.patient import Batch, Patient
from visus.doctor.thresholds import limit

NAME = "tiny-net-control"
SIZE = 8


def tiny_net_control(patient: Patient) -> Iterator[Finding]:
    parts = split(patient)
    if parts is None or patient.kind != "classes" or not parts.train[0].is_floating_point():
        return
    real = real_run(patient, parts)
    if real.right is None or real.train_right is None:
        return
    tiny_train, tiny = centroids(parts.train, parts.train), centroids(parts.train, parts.held)
    count = len(parts.held[1])
    doubt = limit("tiny-net-control.sigmas") * math.hypot(sigma(tiny, count), sigma(real.right, count))
    if real.right >= tiny - doubt:
        return
    bound = chance(patient, parts)
    lost = not learnt(patient, parts, real) and bound is not None and tiny > bound
    yield Finding(
        check=NAME, severity="warning" if lost else "note",
        title=f"The net knows less than the nearest class mean on {SIZE} x {SIZE} pixels",
        evidence=f"right on held samples: net {real.right:.1%}, class means {tiny:.1%} (a difference above {doubt:.1%} "
                 f"is no chance); on the training samples {real.train_right:.1%} and {tiny_train:.1%}; "
                 f"{len(real.losses)} steps; {parts}",
        remedy="The task can be learnt from these inputs: look at rate, loss and gradient of the net" if lost else
               "Train longer; if it stays behind, a smaller or pretrained net, augmentation, more data")


def centroids(train: Batch, judged: Batch) -> float:
    """Share of `judged` whose nearest class mean of `train`, in Euclidean distance, is their class's."""
    seen, asked = _small(train[0]), _small(judged[0])  # [N, F]
    classes = train[1].unique()
    means = torch.stack([seen[train[1] == label].mean(0) for label in classes])  # [K, F]
    return float((classes[torch.cdist(asked, means).argmin(1)] == judged[1]).float().mean())


def _small(inputs: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C * 64]; anything else flat."""
    if inputs.ndim == 4:
        inputs = F.adaptive_avg_pool2d(inputs, (min(SIZE, inputs.shape[2]), min(SIZE, inputs.shape[3])))
    return inputs.flatten(1).float()


add(tiny_net_control, NAME, stage="deep", rank=6,
    rule="A short training beats the commonest class where the nearest class mean on 8 x 8 pixels does (behind it by "
         "three standard deviations: a note)",
    cost="one run of up to 120 steps, shared", course="2.01, C6.2")
