"""Training, validation and the pretrained weights see the same kind of numbers.

Normalised here and not there, twice on one side, 0..255 against 0..1, BGR against RGB: nothing fails, and validation is
of another world than training. Contents may differ (a validation set in the order of its classes begins with one of
them), so that the bounds are those that contents cannot reach: values of validation beyond all of training, deviations
that differ threefold, negative numbers on one side alone, channels that fit when their order is turned round.
reliability.md D1c.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit

EVERY = 200_000  # values that are looked at on each side


def described(values: Tensor) -> str:
    """'-2.1 to 2.6, mean 0.02, deviation 1.01'."""
    return f"{float(values.min()):.3g} to {float(values.max()):.3g}, mean {float(values.mean()):.3g}, deviation " \
           f"{float(values.std()):.3g}"


def of_unit_range(values: Tensor) -> bool:
    """All in 0..1, most of it used."""
    return float(values.min()) >= -1e-6 and 0.3 < float(values.max()) <= 1 + 1e-6


def channel_signs(images: Tensor) -> Tensor:
    """[N, 3] of [N, 3, H, W]: numbers that change their sign when the channels are turned round, and that no scale and
    no shift of a channel changes: of the outer channels, the difference of their correlations with the middle one, of
    their fall from the upper to the lower half, of their skewness."""
    centred = images.double() - images.double().mean(dim=(2, 3), keepdim=True)
    unit = centred / (centred ** 2).mean(dim=(2, 3), keepdim=True).sqrt().clamp_min(1e-6)
    first, middle, last = unit[:, 0], unit[:, 1], unit[:, 2]
    upper = max(1, images.shape[2] // 2)
    return torch.stack([((first - last) * middle).mean(dim=(1, 2)), (first - last)[:, :upper].mean(dim=(1, 2)),
                        (first ** 3 - last ** 3).mean(dim=(1, 2)).clamp(-3, 3)], dim=1)


def turned(train: Tensor, held: Tensor) -> tuple[float, float]:
    """How far the splits' colours are apart, as they are and with the channels of one turned round: sums of squares in
    standard errors. Turned round, whatever the normalisation, the outer means are off by as much in opposite
    directions, and the middle one is not."""
    a, b = channel_signs(train), channel_signs(held)
    noise = (a.var(dim=0) / len(a) + b.var(dim=0) / len(b)).clamp_min(1e-12)
    as_is = float(((a.mean(dim=0) - b.mean(dim=0)) ** 2 / noise).sum())
    reverse = float(((a.mean(dim=0) + b.mean(dim=0)) ** 2 / noise).sum())
    means = [images.double().mean(dim=(2, 3)) for images in (train, held)]  # [N, 3] each

    def squared(*weights: float) -> float:
        x, y = (m @ torch.tensor(weights, dtype=torch.float64, device=m.device) for m in means)
        return float((x.mean() - y.mean()) ** 2 / (x.var() / len(x) + y.var() / len(y)).clamp_min(1e-12))

    return as_is + squared(1, 0, -1), reverse + squared(1, 0, 1) + squared(0, 1, 0)


def of_the_same_classes(patient: Patient) -> bool:
    """The held batches of validation have at least half of the classes of training, where there are classes."""
    if patient.kind != "classes":
        return True
    train = torch.cat([t.cpu().flatten() for _, t in patient.batches]).unique()
    held = torch.cat([t.cpu().flatten() for _, t in patient.validation]).unique()
    return 2 * int(torch.isin(train, held).sum()) >= len(train)


def against_validation(train: Tensor, held: Tensor, mixed: bool) -> Iterator[Finding]:
    """train, held: inputs of the two splits. mixed: their colours may be compared."""
    same = "Build both with the same preprocessing; only the random transforms belong to training alone"
    if train.ndim != held.ndim or (train.ndim == 4 and train.shape[1] != held.shape[1]):
        yield Finding(check="inputs-differ", severity="error", remedy=same,
                      title="Validation inputs have another shape than those of training",
                      evidence=f"training {list(train.shape[1:])}, validation {list(held.shape[1:])}")
        return
    a, b = sampled(train), sampled(held)
    numbers = f"training {described(a)}; validation {described(b)}"
    low, high = float(a.min()), float(a.max())
    room = limit("inputs-differ.margin") * (high - low)
    outside = float(((b < low - room) | (b > high + room)).double().mean())
    ratio = float(b.std() / a.std()) if float(a.std()) > 0 else math.inf
    plain = "training" if of_unit_range(a) else "validation"
    other = b if plain == "training" else a
    negative = float((other < -0.1).double().mean())
    wider = float(other.std() / (a if plain == "training" else b).std().clamp_min(1e-12))  # noise that is added is not
    if of_unit_range(a) != of_unit_range(b) and negative > limit("inputs-differ.negative") and wider > limit(
            "inputs-differ.wider"):
        yield Finding(check="inputs-differ", severity="error", evidence=numbers, remedy=same,
                      title=f"Only one of the two is normalised: {plain} lies in 0 to 1")
        return
    far, narrow = limit("inputs-differ.ratio"), limit("inputs-differ.narrower")
    spans = float((b.max() - b.min()) / max(high - low, 1e-12))
    if (ratio > far and spans > far) or (ratio * narrow < 1 and spans * far < 1):
        times = max(ratio, 1 / max(ratio, 1e-12))
        wide = "validation" if ratio > 1 else "training"
        what = "0 to 255 against 0 to 1" if 100 < times < 600 and min(low, float(b.min())) >= 0 else (
            f"{wide} was normalised twice, or the other not scaled" if times < 10 else f"{wide} was not scaled")
        yield Finding(check="inputs-differ", severity="error", remedy=same,
                      title=f"Training and validation are scaled differently: {what}",
                      evidence=f"{numbers}; deviations differ {times:.3g} times (bound "
                               f"{far if ratio > 1 else narrow:g})")
        return
    if outside > limit("inputs-differ.outside"):
        yield Finding(check="inputs-differ", severity="warning", remedy=same,
                      title=f"{outside:.0%} of the validation values lie beyond all values of training",
                      evidence=f"{numbers} (bound {limit('inputs-differ.outside'):.0%})")
        return
    few = min(len(train), len(held)) < limit("inputs-differ.images")
    if mixed and not few and train.ndim == 4 and train.shape[1] == 3:
        straight, reverse = turned(train, held)
        if straight > limit("inputs-differ.turned") and reverse < limit("inputs-differ.turned-fit"):
            yield Finding(check="inputs-differ", severity="error",
                          title="The channels of validation are in the reverse order: BGR against RGB",
                          evidence=f"colours of the two splits differ by {straight:.0f} squared standard errors, with "
                                   f"one turned round by {reverse:.0f} (bound {limit('inputs-differ.turned'):g})",
                          remedy="image[..., ::-1] after cv2.imread, which gives BGR; in both splits")


def sampled(inputs: Tensor) -> Tensor:
    """Up to `EVERY` of the values, evenly taken."""
    values = inputs.detach().flatten().double().cpu()
    return values[::max(1, len(values) // EVERY)]


def against_weights(patient: Patient, images: Tensor) -> Iterator[Finding]:
    """images [N, C, H, W] against the mean and deviation of a channel that the weights know."""
    mean, std = patient.expected_mean, patient.expected_std
    if mean is None or std is None or len(mean) not in (1, images.shape[1]) or len(std) != len(mean):
        return
    values = images.detach().double().cpu()
    middle, width = (torch.tensor(numbers, dtype=torch.float64) for numbers in (mean, std))
    shift = ((values.mean(dim=(0, 2, 3)) - middle) / width).tolist()
    wide = (values.std(dim=(0, 2, 3)) / width).tolist()
    each = ", ".join(f"{m:+.2f}±{s:.2f}" for m, s in zip(shift, wide))
    numbers = f"by channel, in units of what the weights know: {each} (0±1 expected)"
    remedy = "Normalise with the numbers of the weights: mean and std of their preprocessing, once"
    all_values = sampled(images)
    far = limit("inputs-differ.ratio")
    if of_unit_range(all_values) and float((middle - width).min()) < -0.1:
        yield Finding(check="inputs-differ", severity="error", evidence=f"{numbers}; all values lie in 0 to 1",
                      title="The inputs are not normalised as the pretrained weights know them", remedy=remedy)
    elif max(wide) > far or max(map(abs, shift)) > limit("inputs-differ.shift"):
        yield Finding(check="inputs-differ", severity="error", evidence=f"{numbers}; bounds {far:g} deviations wide, "
                      f"{limit('inputs-differ.shift'):g} away", remedy=remedy,
                      title="The inputs are scaled otherwise than the pretrained weights know them")
    elif max(wide) < 1 / far:
        yield Finding(check="inputs-differ", severity="warning", evidence=f"{numbers}; bound 1/{far:g}", remedy=remedy,
                      title="The inputs vary far less than those that the pretrained weights know")
    elif len(shift) == 3:
        first, centre, last = shift
        size = min(abs(first), abs(last))
        if size > limit("inputs-differ.colour") and first * last < 0 and max(abs(first), abs(last)) < 2 * size and abs(
                centre) < limit("inputs-differ.centre") * size:
            yield Finding(check="inputs-differ", severity="warning",
                          title="The outer channels are off in opposite directions: BGR where the weights know RGB?",
                          evidence=f"{numbers}; bound {limit('inputs-differ.colour'):g}",
                          remedy="image[..., ::-1] after cv2.imread, which gives BGR")


def inputs_differ(patient: Patient) -> Iterator[Finding]:
    """Up to 256 inputs of training against those of validation, and against what the weights know."""
    train = patient.pooled(256)[0][:256]
    if not train.is_floating_point() or not bool(torch.isfinite(train).all()) or float(train.max() - train.min()) == 0:
        return  # a constant is said elsewhere
    found = []
    held = [inputs for inputs, _ in patient.validation if inputs.is_floating_point()]
    if len(held) < len(patient.validation):
        yield Finding(check="inputs-differ", severity="error", title="Validation inputs are of another type",
                      evidence=f"training {str(train.dtype)[6:]}, validation {str(patient.validation[0][0].dtype)[6:]}",
                      remedy="Build both with the same preprocessing: floats, scaled and normalised alike")
        return
    if held and all(inputs.shape[1:] == held[0].shape[1:] for inputs in held):
        joined = torch.cat(held)[:256]
        if bool(torch.isfinite(joined).all()) and joined.numel() > 1:
            found += list(against_validation(train, joined, of_the_same_classes(patient)))
    if train.ndim == 4:
        found += list(against_weights(patient, train))
    yield from found


add(inputs_differ, "inputs-differ", stage="before", rank=1,
    rule="Validation varies at most 3 times as much as training, or 4 times less; at most 5 % of it lies beyond "
         "training, and no other order of the channels fits better.",
    cost="none: reads 256 inputs of each", course="C6.2; CS231n notes 2")
