"""Weights in half precision that do not change: the update is smaller than the last bit.

bf16 has 8 bits of precision: an update below about 2^-9 of a weight rounds to nothing, and with a small learning rate
nearly all are. Counted exactly: the share of the entries that have the same bits after the update.
Source: reliability.md R6; Zamirai et al. 2020, arXiv:2010.06192 (training in bf16 alone).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit

LOOKS = 5


class UpdatesLost:
    when = "full"

    def __init__(self) -> None:
        self.shares: dict[str, list[float]] = {}
        self.told = False

    def __call__(self, look: Look) -> Iterator[Finding]:
        facts: Mapping[str, Any] = look.facts
        lost = facts.get("unchanged")
        if not lost or self.told or not facts.get("lr", look.lr) or facts.get("skipped"):
            return
        for name, share in lost.items():
            self.shares.setdefault(name, []).append(share)
        means = {name: sum(v[-LOOKS:]) / LOOKS for name, v in self.shares.items() if len(v) >= LOOKS}
        over = [name for name, share in means.items() if share > limit("updates-lost.share")]
        if means and len(over) > len(means) / 2:
            self.told = True
            worst = max(over, key=lambda name: means[name])
            yield Finding("updates-lost", "error", "Most updates are lost in the rounding of half-precision weights",
                          f"{100 * means[worst]:.1f} % of the entries of {worst} kept their bits in {LOOKS} updates up "
                          f"to step {look.step} (bound {100 * limit('updates-lost.share'):g} %); so in {len(over)} of "
                          f"{len(means)} tensors",
                          "Keep the weights in fp32 and let torch.autocast compute in bf16: model.float(), with "
                          "torch.autocast(device, dtype=torch.bfloat16): loss = ...", step=look.step, layer=worst)


add(UpdatesLost, "updates-lost", stage="during", rank=1, cost="a comparison of each weight tensor at a full look",
    rule="in most half-precision weight tensors at least a tenth of the entries change at an update", course="18.08")
