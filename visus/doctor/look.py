"""What a watcher sees of a training at one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LayerLook:
    """Of one weight tensor, or of the output of one layer; None where it was not measured.

    ratio: norm of the last update over the norm of the weights. weight, gradient: norms. mean, std: of the outputs.
    dead: share of the units that give no more than 0 for every sample. saturated: share of the outputs at an end of
    tanh's or the sigmoid's range.
    """

    ratio: float | None = None
    weight: float | None = None
    gradient: float | None = None
    mean: float | None = None
    std: float | None = None
    dead: float | None = None
    saturated: float | None = None
    units: int | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """step: updates made so far, from 1. full: the layers were measured at this step (every so many; always during the
    first ten). loss: of the last batch. gradient_norm: over all parameters, before the update. lr: of the first group.
    layers: dotted name -> what was measured, in the order of the forward pass. facts: what only some rules need, under
    the name of the rule's own measurement.
    """

    step: int
    loss: float | None = None
    gradient_norm: float | None = None
    lr: float | None = None
    samples: int = 0
    seconds: float = 0.0
    waited_s: float | None = None
    full: bool = False
    layers: Mapping[str, LayerLook] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
