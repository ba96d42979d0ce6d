"""The optimizer holds exactly the parameters that are to be trained, each once.

An optimizer keeps the tensors that it was built with. A head that is replaced afterwards, or a model that is copied or
rebuilt, is never updated, and nothing complains. reliability.md D4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import nn

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.before._answer import answer, counted_names
from visus.doctor.patient import Loss, Patient


def own_parameters(loss: Loss) -> set[int]:
    """Ids of parameters that belong to the loss: a module, a method of one, or a function that holds one."""
    held = [loss, getattr(loss, "__self__", None), *(getattr(loss, "args", None) or ())]
    for cell in getattr(loss, "__closure__", None) or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # an empty cell
            continue
    return {id(p) for thing in held if isinstance(thing, nn.Module) for p in thing.parameters()}


def unregistered(patient: Patient) -> Iterator[Finding]:
    """Weights that the forward pass uses and the model does not know, such as those of layers in a Python list."""
    groups = patient.optimizer.param_groups if patient.optimizer else []
    held = {id(p) for group in groups for p in group["params"]}
    lost = [p for p in answer(patient).strangers if id(p) not in held and isinstance(p, nn.Parameter)]
    if lost:
        shapes = ", ".join(str(list(p.shape)) for p in lost[:4])
        yield Finding(check="optimizer-coverage", severity="error",
                      title=f"The forward pass uses {len(lost)} parameters that the model does not know",
                      evidence=f"shapes {shapes}; model.parameters() has {len(list(patient.model.parameters()))} "
                               "others, and the optimizer holds none of these",
                      remedy="Keep layers in nn.ModuleList, nn.ModuleDict or as attributes, tensors in nn.Parameter")


def optimizer_coverage(patient: Patient) -> Iterator[Finding]:
    """Parameters of the model and of the forward pass against those in the groups, by identity."""
    yield from unregistered(patient)
    if patient.optimizer is None:
        return
    names = {id(p): name for name, p in patient.model.named_parameters()}
    trainable = {id(p): name for name, p in patient.model.named_parameters() if p.requires_grad}
    groups = patient.optimizer.param_groups
    held = Counter(id(p) for group in groups for p in group["params"])
    losses = own_parameters(patient.loss)
    foreign = [p for group in groups for p in group["params"] if id(p) not in names and id(p) not in losses]
    missing = [name for key, name in trainable.items() if key not in held]
    if missing:
        shapes = Counter(tuple(p.shape) for p in foreign)
        parameters = dict(patient.model.named_parameters())
        twins = sum(1 for name in missing if shapes[tuple(parameters[name].shape)])
        if foreign and twins == len(missing) == len(trainable):
            title = "The optimizer holds the parameters of another copy of the model: this one will not change"
        elif foreign:
            title = f"The optimizer was built before {counted_names(missing, 2)} took the place of other parameters"
        else:
            title = f"The optimizer does not hold {counted_names(missing, 2)}: these will not change"
        severity = "note" if patient.frozen_on_purpose and not foreign else "error"
        yield Finding(check="optimizer-coverage", severity=severity, title=title,  # type: ignore[arg-type]
                      layer=missing[0].rpartition(".")[0] or None,
                      evidence=f"{len(missing)} of {len(trainable)} trainable parameters are in no group"
                               + (f"; {len(foreign)} in the groups are of no module of this model, {twins} of the "
                                  "missing have their shapes" if foreign else ""),
                      remedy="Build the optimizer last: change the model first, then "
                             f"{type(patient.optimizer).__name__}(model.parameters(), ...)")
    elif foreign:
        yield Finding(check="optimizer-coverage", severity="note",
                      title=f"The optimizer also holds {len(foreign)} parameters that are not of this model",
                      evidence=f"shapes {', '.join(str(tuple(p.shape)) for p in foreign[:4])}",
                      remedy="Fine for a loss or a second model that is trained along; else build the optimizer again")
    twice = [names[key] for key, times in held.items() if times > 1 and key in names]
    if twice:
        yield Finding(check="optimizer-coverage", severity="error",
                      title=f"The optimizer holds {counted_names(twice, 2)} more than once: each step moves it twice",
                      layer=twice[0].rpartition(".")[0] or None,
                      evidence=f"{len(twice)} parameters appear {max(held.values())} times",
                      remedy="Give each parameter to one group: list(dict.fromkeys(parameters)) removes doubles")
    empty = [i for i, group in enumerate(groups) if not group["params"]]
    if empty:
        yield Finding(check="optimizer-coverage", severity="warning",
                      title=f"Group {', '.join(map(str, empty))} of the optimizer is empty",
                      evidence=f"{len(empty)} of {len(groups)} groups hold no parameter",
                      remedy="The filter that chose its parameters matched no name: print the names of "
                             "model.named_parameters()")
    idle = [names[key] for key in held if key in names and key not in trainable]
    if idle:
        yield Finding(check="optimizer-coverage", severity="note",
                      title=f"{len(idle)} frozen parameters are in the optimizer: {counted_names(idle, 2)}",
                      evidence="requires_grad is False: they get no gradient and do not move",
                      remedy="Harmless; (p for p in model.parameters() if p.requires_grad) leaves them out")


add(optimizer_coverage, "optimizer-coverage", stage="before", rank=1,
    rule="Each trainable parameter is in exactly one group, no group is empty, none is of another model.",
    cost="one forward pass, shared", course="C6.2, 18.08")
