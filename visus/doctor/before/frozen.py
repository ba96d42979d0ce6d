"""What is frozen, and whether that leaves enough to learn with.

`requires_grad_(False)` on a backbone is right for a linear probe of pretrained weights and wrong for anything else; a
frozen head cannot learn new classes; with everything but the norms frozen little is left. reliability.md D4b.
"""

from __future__ import annotations

from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.before._answer import answer, counted_names
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit


def frozen(patient: Patient) -> Iterator[Finding]:
    """Frozen parameters, in the order in which the forward pass uses their layers."""
    parameters = dict(patient.model.named_parameters())
    still = {name: p for name, p in parameters.items() if not p.requires_grad}
    if not still:
        return
    total, held = sum(p.numel() for p in parameters.values()), sum(p.numel() for p in still.values())
    share = held / max(total, 1)
    evidence = f"{len(still)} of {len(parameters)} parameters, {share:.1%} of the numbers: {counted_names(list(still))}"
    thaw = "model.requires_grad_(True) before the optimizer is built"
    order = {layer: i for i, layer in reversed(list(enumerate(answer(patient).layers)))}
    weights = sorted((name for name, p in parameters.items() if p.ndim > 1 and name.rpartition(".")[0] in order),
                     key=lambda name: order[name.rpartition(".")[0]])
    moving = [name for name in weights if name not in still]
    severity, title, remedy, layer = "note", f"{len(still)} parameters are frozen", thaw, None
    if len(still) == len(parameters):
        severity, title = "error", "Every parameter is frozen: nothing can learn"
    elif weights and weights[-1] in still and moving:
        layer = weights[-1].rpartition(".")[0]
        severity, title = "warning", f"The head {layer} is frozen: it keeps the scores that it came with"
        remedy = f"model.get_submodule({layer!r}).requires_grad_(True)"
    elif weights and not moving:
        severity, title = "warning", "All weights are frozen; only biases, norms or positions can learn"
    elif moving and weights[-len(moving):] == moving and (len(moving) == 1 or (
            len(moving) <= limit("frozen.head") and len(moving) <= (1 - limit("frozen.share")) * len(weights))):
        layer = moving[0].rpartition(".")[0]
        fresh = "" if patient.pretrained else " on random features"
        severity, title = ("warning" if patient.pretrained else "error"), (
            f"Everything in front of {layer} is frozen: only the head learns{fresh}")
        remedy = f"{thaw}; for a linear probe that is meant so, say frozen_on_purpose=True"
    if patient.frozen_on_purpose and len(still) < len(parameters):
        severity = "note"
    yield Finding(check="frozen", severity=severity, title=title, evidence=evidence,  # type: ignore[arg-type]
                  remedy=remedy, layer=layer)


add(frozen, "frozen", stage="before", rank=2,
    rule="The head can learn, and so can more than its last layer (or three of at least 15), unless frozen on purpose.",
    cost="one forward pass", course="C6.2; CS231n notes on transfer learning")
