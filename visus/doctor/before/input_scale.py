"""The numbers that reach the first weights are of the order of 1.

Initialisation and learning rates are made for inputs of mean 0 and deviation 1. Pictures in 0..255, or normalised
twice, multiply the first gradients by a hundred, and batch normalisation hides it until the first layer stops learning.
What counts is what the first layer with weights sees: a model that scales its inputs itself is fine, and so is one that
begins with a normalisation. CS231n notes 2 (preprocessing); reliability.md D1, whose bound of 2 for the mean is widened
because pages of white paper, normalised with ImageNet's numbers, reach 2.6.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.before._answer import NORMS
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class FirstSeen(Exception):
    """Ends the forward pass at the first layer with weights."""


def first_seen(model: nn.Module, inputs: Tensor) -> tuple[Tensor, str, bool]:
    """What the first layer with weights is given; its name; whether a normalisation stands there instead. The forward
    pass ends there."""
    seen: list[tuple[Tensor, str, bool]] = []

    def look(name: str, module: nn.Module, given: tuple[object, ...]) -> None:
        if not seen and given and isinstance(given[0], Tensor):
            seen.append((given[0].detach(), name, isinstance(module, NORMS)))
            raise FirstSeen

    hooks = []
    for name, module in model.named_modules():
        leaf = not list(module.children()) or isinstance(module, nn.MultiheadAttention)
        if leaf and (list(module.parameters()) or isinstance(module, NORMS)):
            hooks.append(module.register_forward_pre_hook(lambda m, given, name=name: look(name, m, given)))
    try:
        with torch.no_grad():
            model.eval()(inputs)
    except FirstSeen:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0] if seen else (inputs, "", False)


def story(seen: Tensor, mean: float, std: float) -> tuple[str, str]:
    """What most likely happened, and the line that mends it."""
    low, high = float(seen.min()), float(seen.max())
    if low >= 0 and 20 < high <= 255:
        return ("they look like bytes, 0 to 255, that were never scaled",
                "Scale before the model: images.float() / 255, then subtract the mean and divide by the deviation")
    if low >= 0 and 0 < high <= 1 / 200:
        return "they look as if divided by 255 twice", "Divide by 255 once: a loader that yields floats has done it"
    if seen.ndim == 4 and seen.shape[1] == 3:
        middle, width = (seen.new_tensor(numbers).reshape(1, 3, 1, 1) for numbers in IMAGENET)
        once = seen * width + middle
        twice = once * width + middle
        if (once.min() < -0.1 or once.max() > 1.1) and twice.min() > -0.02 and twice.max() < 1.02:
            return ("undone twice with ImageNet's numbers they lie in 0 to 1: they were normalised twice",
                    "Leave one Normalize out: of the loader, or of the model")
    if std > 1 and 0 < -mean / std < 1:
        return (f"that is what normalising twice with mean {-mean / std:.2f} and deviation {1 / std:.2f} gives",
                "Normalise once: look for a second Normalize in the loader or in the model")
    return ("they were not brought to mean 0 and deviation 1",
            "Subtract the training set's mean and divide by its deviation, a channel at a time")


def input_scale(patient: Patient) -> Iterator[Finding]:
    """Mean and deviation over 256 training samples of what the first weights see, zeros of sparse inputs left out."""
    inputs = patient.pooled(256)[0][:256]
    seen, layer, normed = first_seen(patient.model, inputs)
    if normed or not seen.is_floating_point() or not bool(torch.isfinite(seen).all()) or seen.numel() < 2:
        return
    values = seen.double()
    counted = values[values != 0] if float((values == 0).double().mean()) > limit("input-scale.sparse") else values
    if counted.numel() < 2 or float(counted.max() - counted.min()) == 0:
        return  # constant-input says it
    mean, std = float(counted.mean()), float(counted.std())
    image = seen.ndim == 4
    most, low, high = limit("input-scale.mean"), limit("input-scale.std-low"), limit("input-scale.std-high")
    numbers = f"{len(inputs)} samples: mean {mean:.3g}, deviation {std:.3g}, from {float(seen.min()):.3g} to "\
              f"{float(seen.max()):.3g}"
    if abs(mean) > most or std > high or (std < low and image):
        what, remedy = story(seen, mean, std)
        yield Finding(check="input-scale", severity="error", remedy=remedy, layer=layer or None,
                      title=f"The inputs are not scaled: deviation {std:.3g} around {mean:.3g}",
                      evidence=f"{numbers} (bounds: mean within {most:g}, deviation {low:g} to {high:g}); {what}")
        return
    if not image:
        return
    means, stds = values.mean(dim=(0, 2, 3)), values.std(dim=(0, 2, 3))
    off = float(means.abs().max()) > limit("input-scale.channel-mean")
    if off or float(stds.min()) < limit("input-scale.channel-std-low") or float(
            stds.max()) > limit("input-scale.channel-std-high"):
        each = ", ".join(f"{m:.2f}±{s:.2f}" for m, s in zip(means.tolist()[:4], stds.tolist()[:4]))
        yield Finding(check="input-scale", severity="note", layer=layer or None,
                      title="The channels are not at mean 0 and deviation 1", evidence=f"{numbers}; by channel {each}",
                      remedy="Normalise with the mean and deviation of the training set, or of the pretrained weights")


add(input_scale, "input-scale", stage="before", rank=2,
    rule="What the first weights see has a mean within 3 of 0 and a deviation of 0.05 to 3.",
    cost="the first layer of one forward pass", course="18.01, C6.2; CS231n notes 2")
