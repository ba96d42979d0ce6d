"""Units that give nothing for any sample any more.

A ReLU whose input is below zero for all samples has a zero gradient and never comes back. A rate that is too high does
it within a few steps. A unit counts as dead when it gave nothing in 512 samples, at every position of a map.
Source: CS231n, neural networks 1 (dying ReLU); reliability.md D5, whose bounds are for a fresh net: sparse layers of
healthy nets are half empty for small batches, so the bounds are higher here. Narrow layers that only gate others may
die altogether without harm.
"""

from __future__ import annotations

from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit


class DeadWhileTraining:
    when = "full"

    def __init__(self) -> None:
        self.told = ""

    def __call__(self, look: Look) -> Iterator[Finding]:
        if self.told == "error":
            return
        for name, layer in look.layers.items():
            if layer.dead is None or not layer.units:
                continue
            all_dead = layer.dead > limit("dead-while-training.error") and \
                layer.units >= limit("dead-while-training.units")
            many = layer.dead > limit("dead-while-training.warning") and layer.units >= 32 and not self.told
            if all_dead or many:
                self.told = "error" if all_dead else "warning"
                bound = limit(f"dead-while-training.{self.told}")
                yield Finding("dead-while-training", "error" if all_dead else "warning",
                              f"{100 * layer.dead:.0f} % of the units of {name} are dead",
                              f"{round(layer.dead * layer.units)} of {layer.units} gave 0 for every one of 512 samples "
                              f"up to step {look.step} (bound {100 * bound:g} %)",
                              f"Lower the learning rate (now {look.lr}), initialise after He with biases of 0, add "
                              f"batch norm, or use LeakyReLU or GELU", step=look.step, layer=name)
                return


add(DeadWhileTraining, "dead-while-training", stage="during", rank=2, cost="a maximum over 64 samples at a full look",
    rule="at most 75 % of 32 and more units of a layer, and 95 % of 16 and more, give nothing in 512 samples",
    course="18.09, C4.7")
