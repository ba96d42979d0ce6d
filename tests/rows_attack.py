"""A row for every registered attack: what the harness in attack/test_every_attack.py needs to know.

options: those that make it quick on the small net of attack/small.py. fools: the least share of that net's right
answers that it must turn. aims: the same with targets. jointly: the samples of a batch are attacked together, so that
one by one gives something else. far: how far, in its norm, it may go on average where it has no eps. tolerance: between
a batch and one by one, where rounding is multiplied by many steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class AttackTestRow:
    fools: float
    aims: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    jointly: bool = False
    far: float | None = None
    tolerance: float = 1e-5


ATTACK_ROWS = {
    "fgsm": AttackTestRow(0.6, 0.2, {"eps": 0.1}),
    "bim": AttackTestRow(0.9, 0.5, {"eps": 0.1}),
    "bim_least_likely": AttackTestRow(0.5, 0.0, {"eps": 0.1}),
    "mi_fgsm": AttackTestRow(0.9, 0.5, {"eps": 0.1}),
    "pgd": AttackTestRow(0.9, 0.5, {"eps": 0.1}),
    "deepfool": AttackTestRow(1.0, far=1.2),
    "carlini_wagner": AttackTestRow(1.0, 1.0, {"searches": 2, "steps": 20, "initial_constant": 2.0, "step_size": 0.04},
                                    far=1.1, tolerance=1e-3),
    "lbfgs": AttackTestRow(1.0, 1.0, {"searches": 4, "steps": 8}, far=0.9, tolerance=1e-2),
    "jsma": AttackTestRow(0.9, 0.5, {"share": 0.3}, far=24),
    "sparse_fool": AttackTestRow(0.9, far=30, tolerance=1e-4),
    "universal": AttackTestRow(0.4, options={"eps": 0.12, "block": 2}, jointly=True),
    "ead": AttackTestRow(1.0, 1.0, {"searches": 2, "steps": 20, "initial_constant": 2.0}, far=20, tolerance=1e-3),
    "square": AttackTestRow(0.4, 0.0, {"eps": 0.1, "queries": 150}),
    "apgd": AttackTestRow(0.9, 0.5, {"eps": 0.1, "steps": 15}),
    "apgd_dlr": AttackTestRow(0.9, 0.5, {"eps": 0.1, "steps": 15}),
    "apgd_t": AttackTestRow(0.9, 0.5, {"eps": 0.1, "steps": 10}),
    "fab": AttackTestRow(1.0, 0.8, {"steps": 15}, far=0.06),
    "auto_attack": AttackTestRow(0.9, options={"eps": 0.1, "steps": 10, "queries": 20}),
    "boundary": AttackTestRow(1.0, options={"steps": 150}, far=3.0),
    "one_pixel": AttackTestRow(0.2, 0.0, {"eps": 30, "population": 30, "steps": 8}),
    "patch": AttackTestRow(0.5, options={"share": 0.6, "steps": 15, "step_size": 0.2}, jointly=True),
}
