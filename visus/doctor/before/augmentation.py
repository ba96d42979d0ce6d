"""After augmentation there is still a picture, and it is still the one that it was.

A crop of two pixels, an erased square as large as the image, noise made for values to 255: the labels stay and what
they name is gone. Counted: pictures that are one value throughout; and how often the nearest other draw, by the
distribution and the coarse layout of its values, is one of the same picture. By chance that is (T - 1) / (N T - 1), and
flips, crops and colour leave it far above. Where there are validation pictures, the neighbouring pixels of augmented
ones must still resemble one another as theirs do. reliability.md D11.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit


def flat(images: Tensor) -> Tensor:
    """bool [N]: one value throughout, each channel by itself."""
    values = images.double().flatten(2)  # [N, C, H W]
    return (values.amax(dim=2) - values.amin(dim=2)).amax(dim=1) <= limit("augmentation.flat")


def smoothness(images: Tensor) -> Tensor:
    """[N]: correlation of neighbouring pixels, 1 for a smooth picture and 0 for noise."""
    values = images.double() - images.double().mean(dim=(2, 3), keepdim=True)
    power = (values ** 2).mean(dim=(1, 2, 3)).clamp_min(1e-12)
    across = (values[..., 1:] * values[..., :-1]).mean(dim=(1, 2, 3))
    down = (values[..., 1:, :] * values[..., :-1, :]).mean(dim=(1, 2, 3))
    return (across + down) / 2 / power


def features(images: Tensor) -> list[Tensor]:
    """Two views of a picture, [N, D] each: 16 quantiles of each channel, which stay where a picture is mirrored or
    turned; means of 4 x 4 places, which stay where its colours change."""
    values = images.double()
    shares = torch.linspace(0.03, 0.97, 16, dtype=torch.float64)
    quantiles = torch.quantile(values.flatten(2), shares, dim=2)  # [16, N, C]
    places = F.adaptive_avg_pool2d(values, 4).flatten(1)
    places = (places - places.mean(dim=1, keepdim=True)) / places.std(dim=1, keepdim=True).clamp_min(1e-6)
    return [quantiles.permute(1, 0, 2).flatten(1), places]


def recognised(views: Tensor) -> float:
    """Share of the draws whose nearest other draw is of the same picture, by the better of the two views."""
    count, draws = views.shape[:2]
    same = torch.arange(count).repeat_interleave(draws)
    shares = []
    for table in features(views.flatten(0, 1)):
        distance = torch.cdist(table, table).fill_diagonal_(math.inf)
        shares.append(float((same[distance.argmin(dim=1)] == same).double().mean()))
    return max(shares)


def augmentation(patient: Patient) -> Iterator[Finding]:
    """Draws of the same few pictures; without them the training batches."""
    views = patient.augmented
    if views is None:
        images = patient.pooled(256)[0][:256]
        held = [inputs for inputs, _ in patient.validation if inputs.ndim == 4]
        if images.ndim == 4 and held and images.is_floating_point():
            empty = flat(images)
            if not bool(empty.all()):  # else constant-input says it
                yield from emptied(empty, float(flat(torch.cat(held)[:256]).double().mean()))
        return
    if views.ndim != 5 or not bool(torch.isfinite(views).all()):
        return
    views = views.cpu().float()
    empty = flat(views.flatten(0, 1))
    wrong = list(emptied(empty, 0.0))
    yield from wrong
    count, draws = views.shape[:2]
    if wrong or count < 4 or draws < 2:
        return
    if bool((views == views[:, :1]).all()):
        yield Finding(check="augmentation", severity="note", title="The augmentation changes nothing",
                      evidence=f"{draws} draws of each of {count} pictures are equal",
                      remedy="Is it switched on, and does each worker draw numbers of its own?")
        return
    chance = (draws - 1) / (count * draws - 1)
    found = recognised(views)
    bound = chance + limit("augmentation.sigmas") * math.sqrt(chance * (1 - chance) / (count * draws))
    if found < bound:
        yield Finding(check="augmentation", severity="error",
                      title="After augmentation the pictures cannot be told from one another",
                      evidence=f"for {found:.0%} of {count * draws} draws the nearest other is of the same picture; by "
                               f"chance {chance:.0%}, bound {bound:.0%}",
                      remedy="Look at sixteen draws of one image, and switch the transforms off one after another")
        return
    held = [inputs for inputs, _ in patient.validation if inputs.ndim == 4 and inputs.is_floating_point()]
    if held and min(*views.shape[-2:]) > 2:
        usual = float(smoothness(torch.cat(held)[:256].cpu()).median())
        now = float(smoothness(views.flatten(0, 1)).median())
        if usual > limit("augmentation.smooth") and now < limit("augmentation.rough") * usual:
            yield Finding(check="augmentation", severity="error", title="After augmentation the pictures are noise",
                          evidence=f"neighbouring pixels correlate by {now:.2f}, those of validation by {usual:.2f} "
                                   f"(bound {limit('augmentation.rough'):g} of it)",
                          remedy="Is noise added after normalisation with a deviation meant for 0 to 255?")


def emptied(empty: Tensor, usual: float) -> Iterator[Finding]:
    """Too many pictures of one value."""
    share = float(empty.double().mean())
    if share > limit("augmentation.empty") + usual:
        yield Finding(check="augmentation", severity="error",
                      title=f"{share:.0%} of the pictures are one value throughout after augmentation",
                      evidence=f"{int(empty.sum())} of {len(empty)} (bound {limit('augmentation.empty'):.0%}"
                               + (f" above the {usual:.0%} of validation)" if usual else ")"),
                      remedy="Erase, crop or darken less: sides and strengths may be meant for larger images or for 0 "
                             "to 255")


add(augmentation, "augmentation", stage="before", rank=1,
    rule="At most 5 % of augmented pictures are empty; draws of one picture resemble each other more than by chance.",
    cost="none: reads the draws", course="C6.2; CS231n lecture on data augmentation")
