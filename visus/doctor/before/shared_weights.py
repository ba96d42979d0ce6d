"""Layers that were meant to be different are.

`[nn.Linear(n, n)] * 4` is one layer four times, and `b.weight = a.weight` ties two for good: the net is smaller than it
looks. Tied is fine for an embedding and its output, and for heads at several places (a note); one behind the other in
the same forward pass is taken for a mistake. Different parameters in one memory are always one: each step moves them
twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit


def behind_each_other(patient: Patient, shared: list[nn.Parameter]) -> set[int]:
    """Ids of the parameters with two uses of which one feeds the other, by the graph of one sample's forward pass."""
    uses: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    hooks = []
    for module in patient.model.modules():
        own = [id(p) for p in module.parameters(recurse=False) if any(p is s for s in shared)]
        if own:
            def keep(m: nn.Module, given: tuple[object, ...], given_back: object, own: list[int] = own) -> None:
                if given and isinstance(given[0], Tensor) and isinstance(given_back, Tensor):
                    for key in own:
                        uses[key].append((given[0], given_back))
            hooks.append(module.register_forward_hook(keep))
    try:
        with torch.enable_grad():
            patient.model.eval()(patient.first[0][:2])
    finally:
        for hook in hooks:
            hook.remove()
    found = set()
    for key, calls in uses.items():
        for (_, before), (after, _) in zip(calls, calls[1:], strict=False):
            if before.requires_grad and after.requires_grad:
                (felt,) = torch.autograd.grad(after.sum(), before, retain_graph=True, allow_unused=True)
                if felt is not None:
                    found.add(key)
    return found


def shared_weights(patient: Patient) -> Iterator[Finding]:
    """Parameters with several names, and parameters with several owners of one memory."""
    names: dict[int, list[str]] = defaultdict(list)
    tensors: dict[int, nn.Parameter] = {}
    for path, module in patient.model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            full = f"{path}.{name}" if path else name
            if full not in names[id(parameter)]:
                names[id(parameter)].append(full)
            tensors[id(parameter)] = parameter
    shared = {key: found for key, found in names.items() if len(found) > 1 and tensors[key].ndim > 1}
    embeddings = {id(m.weight) for m in patient.model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    plain = [tensors[key] for key in shared if key not in embeddings]
    chained = behind_each_other(patient, plain) if plain else set()
    for severity in ("warning", "note"):
        group = [found for key, found in shared.items() if (key in chained) == (severity == "warning")]
        if not group:
            continue
        layers = [name.rpartition(".")[0] for name in group[0]]
        saved = sum((len(found) - 1) * tensors[key].numel() for key, found in shared.items() if found in group)
        yield Finding(check="shared-weights", severity=severity, layer=layers[0],
                      title=f"{' and '.join(layers[:4])} are one layer: they share their weights",
                      evidence=f"{len(group)} weights have several names, {saved:,} numbers fewer than it looks"
                               + ("; one feeds the other" if severity == "warning" else ""),
                      remedy="Make each anew: nn.ModuleList(nn.Linear(n, n) for _ in range(k)), not [layer] * k"
                             if severity == "warning" else "Fine where it is meant so")
    places: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for key, parameter in tensors.items():
        if parameter.numel() >= limit("shared-weights.numbers"):
            places[(parameter.device, parameter.untyped_storage().data_ptr(), parameter.storage_offset())].append(key)
    for keys in places.values():
        if len(keys) > 1 and tensors[keys[0]].untyped_storage().size():
            both = [names[key][0] for key in keys]
            yield Finding(check="shared-weights", severity="error", layer=both[0].rpartition(".")[0],
                          title=f"{both[0]} and {both[1]} lie in the same memory: each step moves both",
                          evidence=f"{len(keys)} parameters at one address, {tensors[keys[0]].numel()} numbers",
                          remedy="Copy: b.data.copy_(a.data), not b.data = a.data")


add(shared_weights, "shared-weights", stage="before", rank=2,
    rule="No two layers of which one feeds the other share a weight, and no two parameters share memory.",
    cost="one forward pass of 2 samples where weights are shared", course="C6.2")
