"""What is about to be trained, as its own loop has it: the model, some batches, the loss, the optimizer."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from visus.core.errors import UserError

Batch = tuple[Tensor, Tensor]  # inputs as the model takes them, targets as the loss takes them
Loss = Callable[[Any, Tensor], Tensor]  # (outputs, targets) -> scalar

HELD = 8  # batches that are looked at
LISTED = 50  # batches whose targets are looked at, for their order


@dataclass(frozen=True, kw_only=True)
class Patient:
    """batches: the first of an epoch of training, on the model's device. order: the targets of up to `LISTED` batches
    in the order in which they came. seconds: waited for each of them. validation: batches of the other split.
    penalty: what the loop adds to the loss (an L2 term), or None. expected_mean, expected_std: of the values of a
    channel that the weights were trained on, after normalisation (0 and 1 as a rule), or None where unknown.
    augmented: the same few images drawn several times through the augmentation, [N, T, C, H, W], or None.
    pretrained: the weights are not fresh: rules about initialisation do not hold.
    """

    model: nn.Module
    loss: Loss
    batches: tuple[Batch, ...]
    optimizer: torch.optim.Optimizer | None = None
    validation: tuple[Batch, ...] = ()
    order: tuple[Tensor, ...] = ()
    seconds: tuple[float, ...] = ()
    penalty: Callable[[nn.Module], Tensor] | None = None
    expected_mean: tuple[float, ...] | None = None
    expected_std: tuple[float, ...] | None = None
    augmented: Tensor | None = None
    pretrained: bool = False
    frozen_on_purpose: bool = False
    remembered: dict[str, Any] = field(default_factory=dict)  # what one check measured and another needs

    @property
    def first(self) -> Batch:
        return self.batches[0]

    @property
    def kind(self) -> Literal["classes", "labels", "values"]:
        """classes: one number of a class a sample. labels: 0 or 1 for each of several. values: anything else."""
        targets = self.first[1]
        if not targets.is_floating_point() and targets.ndim == 1:
            return "classes"
        return "labels" if targets.ndim == 2 and bool(((targets == 0) | (targets == 1)).all()) else "values"

    def pooled(self, least: int) -> Batch:
        """Batches joined until there are `least` samples, or all that there are."""
        inputs, targets = [], []
        for images, answers in self.batches:
            inputs.append(images)
            targets.append(answers)
            if sum(len(x) for x in inputs) >= least:
                break
        return torch.cat(inputs), torch.cat(targets)

    def copy(self) -> tuple[nn.Module, torch.optim.Optimizer | None]:
        """Model and optimizer that may be trained: the person's own stay as they are. The learning rate is the peak,
        where a schedule has noted one. Parameters that the model does not have are left out of the optimizer."""
        model = copy.deepcopy(self.model)
        if self.optimizer is None:
            return model, None
        twin = dict(zip(map(id, self.model.parameters()), model.parameters(), strict=True))
        groups = []
        for group in self.optimizer.param_groups:
            options = {k: copy.deepcopy(v) for k, v in group.items() if k not in ("params", "initial_lr")}
            options["lr"] = group.get("initial_lr", group["lr"])
            groups.append({**options, "params": [twin[id(p)] for p in group["params"] if id(p) in twin]})
        groups = [group for group in groups if group["params"]]
        if not groups:
            return model, None
        names = type(self.optimizer).__init__.__code__.co_varnames
        defaults = {k: copy.deepcopy(v) for k, v in self.optimizer.defaults.items() if k in names}
        return model, type(self.optimizer)(groups, **defaults)


def as_patient(model: nn.Module, loader: Iterable[Any], loss: Loss, *, optimizer: torch.optim.Optimizer | None = None,
               validation: Iterable[Any] | None = None, device: torch.device | None = None,
               **known: Any) -> Patient:
    """A patient from a person's own loop. loader, validation: anything that yields (inputs, targets).

    Raises UserError when the loader is empty or yields something else.
    """
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    batches, order, seconds = [], [], []
    feed, start = iter(loader), time.perf_counter()
    for number, batch in enumerate(islice(feed, LISTED)):
        seconds.append(time.perf_counter() - start)
        inputs, targets = _pair(batch, "loader")
        if number < HELD:
            batches.append((inputs.to(device), targets.to(device)))
        order.append(targets.detach().cpu())
        start = time.perf_counter()
    if not batches:
        raise UserError("gives no batch", where="loader", remedy="A loader yields (inputs, targets) again each epoch")
    held = [_pair(batch, "validation") for batch in islice(iter(validation), HELD)] if validation is not None else []
    return Patient(model=model, loss=loss, batches=tuple(batches), optimizer=optimizer, order=tuple(order),
                   validation=tuple((x.to(device), y.to(device)) for x, y in held), seconds=tuple(seconds), **known)


def _pair(batch: Any, where: str) -> Batch:
    if isinstance(batch, Sequence) and len(batch) >= 2 and all(isinstance(part, Tensor) for part in batch[:2]):
        return batch[0], batch[1]
    raise UserError(f"yields {type(batch).__name__}, not (inputs, targets)", where=where,
                    remedy="Wrap it: ((b['image'], b['label']) for b in loader) as an object with __iter__")


@contextmanager
def untouched(model: nn.Module, *optimizers: torch.optim.Optimizer | None) -> Iterator[None]:
    """Whatever happens inside, the model's weights, buffers, gradients, modes and requires_grad, the optimizers' states
    and the generators of random numbers are afterwards what they were, to the bit."""
    tensors = {name: tensor.detach().clone() for name, tensor in _named_tensors(model)}
    flags = {name: (p.requires_grad, None if p.grad is None else p.grad.detach().clone())
             for name, p in model.named_parameters()}
    modes = [(module, module.training) for module in model.modules()]
    states = [(o, copy.deepcopy(o.state_dict())) for o in optimizers if o is not None]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in _named_tensors(model):
                    tensor.copy_(tensors[name])
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(flags[name][0])
                parameter.grad = flags[name][1]
            for module, training in modes:
                module.training = training
            for optimizer, state in states:
                optimizer.load_state_dict(state)


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
