"""What the model gives for a batch of training, and how the loss reads it. Measured once, for several checks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from visus.doctor.patient import Loss, Patient

VIEWS = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Permute", "T0", "TBackward", "Clone",
         "Slice", "Select", "ToCopy", "Alias", "AsStrided", "ReshapeAlias")
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm)


@dataclass(frozen=True, eq=False)
class Answer:
    """outputs: detached, in training mode where that works. function: the last function of the graph that is no view,
    such as 'ReluBackward0'; '' where there is none. layers: names of the leaves in the order in which they were called.
    strangers: leaves of the graph that are no parameters of the model.
    """

    inputs: Tensor
    targets: Tensor
    outputs: Any
    function: str
    layers: tuple[str, ...]
    strangers: tuple[Tensor, ...] = ()

    @property
    def tensor(self) -> Tensor | None:
        """The outputs, when they are one tensor of numbers with a row a sample."""
        known = isinstance(self.outputs, Tensor) and self.outputs.is_floating_point() and self.outputs.ndim
        return self.outputs if known and len(self.outputs) == len(self.inputs) else None


def answer(patient: Patient) -> Answer:
    """One forward pass of the first batch, remembered."""
    if "answer" not in patient.remembered:
        patient.remembered["answer"] = _answered(patient)
    found: Answer = patient.remembered["answer"]
    return found


def _answered(patient: Patient) -> Answer:
    model, (inputs, targets) = patient.model, patient.first
    called: list[str] = []
    names = {module: name for name, module in model.named_modules() if not list(module.children())}
    hooks = [module.register_forward_hook(lambda m, i, o: called.append(names[m])) for module in names]
    fed = inputs
    if inputs.is_floating_point() and not any(p.requires_grad for p in model.parameters()):
        fed = inputs.detach().requires_grad_()  # else there is no graph to read
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.enable_grad():
            try:
                outputs = model.train()(fed)
            except ValueError:  # BatchNorm of one value a channel
                called.clear()
                outputs = model.eval()(fed)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    known = {id(p) for p in model.parameters()} | {id(fed), id(inputs)}
    strangers = tuple(leaf for leaf in leaves(outputs) if id(leaf) not in known)
    return Answer(inputs, targets, detached(outputs), last_function(outputs), tuple(called), strangers)


def leaves(outputs: Any) -> list[Tensor]:
    """Every tensor at which the graph of the outputs ends."""
    roots: list[Any] = []

    def root(tensor: Tensor) -> Tensor:
        roots.append(tensor.grad_fn)
        return tensor

    each(outputs, root)
    seen, found = set(roots), []
    while roots:
        node = roots.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):
            found.append(node.variable)
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                roots.append(after)
    return found


def detached(outputs: Any) -> Any:
    """The same structure of tensors without their graph."""
    return each(outputs, Tensor.detach)


def each(outputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`change` applied to every tensor of a nest of tuples, lists and dicts; other things as they are."""
    if isinstance(outputs, Tensor):
        return change(outputs)
    if isinstance(outputs, dict):
        return {key: each(value, change) for key, value in outputs.items()}
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        return type(outputs)(*(each(value, change) for value in outputs))
    return type(outputs)(each(value, change) for value in outputs) if isinstance(outputs, (list, tuple)) else outputs


def last_function(outputs: Any) -> str:
    """Name of the graph's last function, views passed over."""
    node = outputs.grad_fn if isinstance(outputs, Tensor) else None
    while node is not None and node.name().startswith(VIEWS) and node.next_functions:
        node = node.next_functions[0][0]
    return "" if node is None else str(node.name())


def value(loss: Loss, outputs: Any, targets: Tensor) -> Tensor:
    """The loss without a graph; its warnings of shapes that broadcast are kept from the reader's screen."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return loss(outputs, targets)


def number(loss: Loss, outputs: Any, targets: Tensor) -> float | None:
    """`value` as a number; None where the loss cannot take these or gives more than one number."""
    try:
        return float(value(loss, outputs, targets))
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError):
        return None


def compares_classes(loss: Loss, outputs: Tensor, targets: Tensor) -> bool:
    """The loss reads a row [C] as scores of one another: the same number added to all C changes nothing. So do
    cross-entropy (smoothed, weighted, focal) and the hinge of several classes; NLL, BCE and MSE do not."""
    if outputs.ndim < 2 or outputs.shape[1] < 2:
        return False
    shift = torch.linspace(-1, 4, len(outputs), device=outputs.device, dtype=outputs.dtype)
    before, after = number(loss, outputs, targets), number(
        loss, outputs + shift.reshape(-1, *[1] * (outputs.ndim - 1)), targets)
    return before is not None and after is not None and abs(after - before) <= 1e-3 * (1 + abs(before))


def reads_signs(loss: Loss, outputs: Tensor, targets: Tensor) -> bool:
    """The loss reads each output as a logit of its own: 20 for every 1 and -20 for every 0 is as good as no loss."""
    if targets.shape != outputs.shape or not bool(((targets == 0) | (targets == 1)).all()):
        return False
    right = number(loss, (40.0 * targets - 20.0).to(outputs.dtype), targets)
    undecided = number(loss, torch.zeros_like(outputs), targets)
    return right is not None and undecided is not None and undecided > 0 and abs(right) < 0.01 * undecided


def counted_names(names: list[str], most: int = 4) -> str:
    """'a, b and 7 more'."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def frozen_noise(seed: int = 0) -> torch.Generator:
    """A generator of its own: a check draws nothing from the person's."""
    return torch.Generator().manual_seed(seed)
