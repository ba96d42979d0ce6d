"""Does a map show what the model goes by? Numbers for it, and a warning where it does not.

Deletion and insertion (Petsiuk et al., BMVC 2018, arXiv:1806.07421, section 4.2): pixels leave the image, the hottest
first, or come into a blurred one; the area under the score should be low, or high. Areas hang on the picture and the
model, so that they are set against control maps: the same map, mirrored and moved round by chance, which has all its
values and all its smoothness and nothing of its place. Pointing game (Zhang et al., IJCV 2018, arXiv:1608.00507): is
the hottest place in a box. Sensitivity-n (Ancona et al., ICLR 2018, arXiv:1711.06104, equation 6): do the heats of n
places sum to what the score loses without them. Randomisation (Adebayo et al., NeurIPS 2018, arXiv:1810.03292, section
3): a map that stays as it is while the layers lose what they have learnt, from the top down, does not show it. Layers
lose it here by a shuffle of each of their tensors, which keeps their scale.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from visus.core.errors import UserError
from visus.core.validate import natural, positive, require
from visus.explain.explanation import Method, classes_in, in_eval_mode
from visus.explain.masking import Fill, Score, class_scores, hidden, masked_scores

CORRELATION_LIMIT = 0.5  # a map that is this like the one of a network of shuffled weights does not show the weights
CONTROL_SHARE = 0.8  # of the control maps that a map has to beat


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """deletion, insertion: [B, steps + 1], the score of each image after each step. control_deletion,
    control_insertion: [B, controls], the areas under the curves of the control maps."""

    deletion: Tensor
    insertion: Tensor
    control_deletion: Tensor
    control_insertion: Tensor

    @property
    def deletion_area(self) -> Tensor:
        """[B], in [0, 1] for probabilities: the lower, the more faithful."""
        return area(self.deletion)

    @property
    def insertion_area(self) -> Tensor:
        """[B]: the higher, the more faithful."""
        return area(self.insertion)

    @property
    def deletion_margin(self) -> float:
        """By how much the area is below that of control maps, mean over images."""
        return float(self.control_deletion.mean() - self.deletion_area.mean())

    @property
    def insertion_margin(self) -> float:
        """By how much the area is above that of control maps, mean over images."""
        return float(self.insertion_area.mean() - self.control_insertion.mean())

    @property
    def beaten(self) -> float:
        """The share of control maps, over all images, whose insertion less deletion is lower than the map's own."""
        own = self.insertion_area - self.deletion_area
        return float((own[:, None] > self.control_insertion - self.control_deletion).double().mean())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the map, in words; nothing where all is well."""
        out = []
        if self.deletion_margin <= 0:
            out.append("taking away the hottest pixels first costs the answer no more than taking away those of the "
                       "same map in another place: its hot places are not what the model needs")
        if self.insertion_margin <= 0:
            out.append("showing the hottest pixels first brings the answer back no sooner than showing those of the "
                       "same map in another place: its hot places are not enough for the model")
        if not out and self.beaten < CONTROL_SHARE:
            out.append(f"only {self.beaten:.0%} of the control maps do worse: the map may be so by chance")
        return tuple(out)

    @property
    def lines(self) -> tuple[str, ...]:
        """The numbers, each in a line."""
        control = "the same map in other places"
        return (f"deletion area {float(self.deletion_area.mean()):.3f}, {control} "
                f"{float(self.control_deletion.mean()):.3f} (lower is better)",
                f"insertion area {float(self.insertion_area.mean()):.3f}, {control} "
                f"{float(self.control_insertion.mean()):.3f} (higher is better)",
                f"better than {self.beaten:.0%} of {self.control_deletion.numel()} control maps")


def faithfulness(model: nn.Module, images: Tensor, targets: Tensor | int | None, heat: Tensor, *, steps: int = 24,
                 controls: int = 6, fill: Fill = "grey", start: Fill = "blur", of: Score = "probability",
                 seed: int = 0, batch: int = 64) -> Faithfulness:
    """Deletion and insertion of maps [B, h, w], and of `controls` control maps for each image.

    targets: int64 [B], one class for all, or None for the model's own answers. fill: what deletion leaves. start: what
    insertion starts from. steps: equal shares of the pixels.
    """
    positive(steps=steps, controls=controls)
    natural(seed=seed)
    targets = _targets(model, images, targets)
    maps = -removal_order(heat, (images.shape[2], images.shape[3])).float()  # so that equal heats move with the rest
    others = control_maps(maps, controls, seed)  # [B, R, H, W]
    every = torch.cat([maps[:, None], others], dim=1).flatten(0, 1)  # [B * (1 + R), H, W]
    many, asked = (one.repeat_interleave(1 + controls, 0) for one in (images, targets))
    curves = [curve(model, many, asked, every, steps=steps, fill=what, insert=insert, of=of, batch=batch)
              .unflatten(0, (len(images), 1 + controls)) for what, insert in ((fill, False), (start, True))]
    return Faithfulness(deletion=curves[0][:, 0], insertion=curves[1][:, 0], control_deletion=area(curves[0][:, 1:]),
                        control_insertion=area(curves[1][:, 1:]))


def curve(model: nn.Module, images: Tensor, targets: Tensor | int | None, heat: Tensor, *, steps: int = 24,
          fill: Fill = "grey", insert: bool = False, of: Score = "probability", batch: int = 64) -> Tensor:
    """[B, steps + 1]: the score while equal shares of the pixels, the hottest first, turn into `fill`, or with `insert`
    out of it into the image."""
    targets = _targets(model, images, targets)
    ranks, pixels = removal_order(heat, (images.shape[2], images.shape[3])), images[0, 0].numel()
    counts = torch.tensor([round(step * pixels / steps) for step in range(steps + 1)], device=images.device)
    own, scores = hidden(images, fill), []
    for one in range(len(images)):  # each has masks of its own; a batch is its steps
        part = slice(one, one + 1)

        def masks(numbers: Tensor, ranks: Tensor = ranks[one]) -> Tensor:
            gone = ranks < counts[numbers].view(-1, 1, 1)
            return gone if insert else ~gone

        scores.append(masked_scores(model, images[part], targets[part], own[part], masks, steps + 1, of=of,
                                    batch=batch))
    return torch.cat(scores)


def removal_order(heat: Tensor, size: tuple[int, int]) -> Tensor:
    """int32 [B, H, W]: when each pixel's turn is, the hottest first, from 0; chance decides between equal ones, always
    in the same way."""
    maps = enlarged(heat, size).flatten(1)
    shuffle = torch.randperm(maps.shape[1], generator=Generator().manual_seed(0)).to(maps.device)
    order = shuffle[maps[:, shuffle].argsort(dim=1, descending=True, stable=True)]
    return order.argsort(dim=1).view(len(maps), *size).int()


def area(curves: Tensor) -> Tensor:
    """Under curves [..., steps + 1] over [0, 1], by trapezoids."""
    return torch.trapezoid(curves, dim=-1) / (curves.shape[-1] - 1)


def control_maps(maps: Tensor, count: int, seed: int = 0) -> Tensor:
    """[B, H, W] -> [B, count, H, W]: each map, mirrored by chance and moved round, along one axis or both, by at least
    a quarter of a side."""
    batch, height, width = maps.shape
    generator = Generator().manual_seed(seed)
    shifts = [torch.randint(side // 4, side - side // 4 + 1, (batch * count,), generator=generator)
              for side in (height, width)]
    still = torch.randint(3, (batch * count,), generator=generator)  # 0: rows stay, 1: columns stay, 2: both move
    mirrored = torch.rand(2, batch * count, generator=generator) < 0.5
    rows, columns = (_moved(side, shift * (still != axis), turn).to(maps.device) for axis, (side, shift, turn) in
                     enumerate(zip((height, width), shifts, mirrored, strict=True)))
    image = torch.arange(batch, device=maps.device).repeat_interleave(count)
    return maps[image[:, None, None], rows[:, :, None], columns[:, None]].view(batch, count, height, width)


def _moved(side: int, shifts: Tensor, mirrored: Tensor) -> Tensor:
    """[n, side]: where each place of a side is taken from."""
    places = (torch.arange(side) + shifts[:, None]) % side
    return torch.where(mirrored[:, None], side - 1 - places, places)


def enlarged(heat: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [B, h, w] at the size of the images, bilinear, as they are drawn. Raises UserError for values that are not
    finite."""
    require(bool(torch.isfinite(heat).all()), "heat", tuple(heat.shape), "be finite")
    heat = heat.detach().float()
    if tuple(heat.shape[1:]) == size:
        return heat
    return F.interpolate(heat[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def pointing_hits(heat: Tensor, boxes: Sequence[Tensor], size: tuple[int, int], tolerance_px: float = 15.0) -> Tensor:
    """bool [B]: whether the hottest pixel lies in one of the image's boxes or within `tolerance_px` of it. boxes: of
    each image [n, 4], xyxy in pixels of images of `size`. Zhang's accuracy is the mean."""
    maps = enlarged(heat, size)
    require(len(boxes) == len(maps), "boxes", len(boxes), f"hold the boxes of each of the {len(maps)} images")
    best = maps.flatten(1).argmax(1)
    points = torch.stack([best % size[1], best // size[1]], dim=1) + 0.5  # x, y of the pixel's middle
    hits = [(((box[:, :2] - tolerance_px <= point) & (point <= box[:, 2:] + tolerance_px)).all(1)).any()
            for point, box in zip(points, boxes, strict=True)]
    return torch.stack(hits)


@torch.no_grad()
def sensitivity_n(model: nn.Module, images: Tensor, targets: Tensor | int | None, heat: Tensor, sizes: Sequence[int], *,
                  subsets: int = 100, patch_px: int = 1, fill: Fill = "grey", of: Score = "logit", seed: int = 0,
                  batch: int = 64) -> Tensor:
    """[B, sizes]: for each n of `sizes` the correlation, over random sets of n places, of the sum of their heats with
    what the score loses when they are hidden. 1 for every n is a map that adds up; 0 where all sums are the same.

    A place is a square of patch_px pixels.
    """
    positive(subsets=subsets, patch_px=patch_px)
    targets, maps = _targets(model, images, targets), enlarged(heat, (images.shape[2], images.shape[3]))
    height, width = images.shape[2:]
    require(height % patch_px == 0 and width % patch_px == 0, "patch_px", patch_px, f"divide {height} and {width}")
    grid = (height // patch_px, width // patch_px)
    places = F.avg_pool2d(maps[:, None], patch_px, divisor_override=1).flatten(1)  # [B, places], sums
    for size in sizes:
        require(isinstance(size, int) and 1 <= size < places.shape[1], "sizes", size,
                f"lie between 1 and {places.shape[1] - 1}, below the number of places")
    with in_eval_mode(model):
        whole = class_scores(model(images), targets, of)
    generator, fills, out = Generator().manual_seed(seed), hidden(images, fill), []
    for size in sizes:
        chosen = torch.rand(subsets, places.shape[1], generator=generator).topk(size, dim=1).indices
        gone = torch.zeros(subsets, places.shape[1], dtype=torch.bool).scatter_(1, chosen, True).to(images.device)

        def masks(numbers: Tensor, gone: Tensor = gone) -> Tensor:
            shown = ~gone[numbers].view(-1, *grid)
            return shown.repeat_interleave(patch_px, 1).repeat_interleave(patch_px, 2)

        scores = masked_scores(model, images, targets, fills, masks, subsets, of=of, batch=batch)
        out.append(_correlation(places.double() @ gone.double().T, (whole[:, None] - scores).double()))
    return torch.stack(out, dim=1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, of rows [B, n]; 0 where one does not vary."""
    a, b = (one - one.mean(1, keepdim=True) for one in (a.double(), b.double()))
    scale = a.norm(dim=1) * b.norm(dim=1)
    small = 1e-12 * torch.finfo(torch.float32).tiny
    return torch.where(scale > small, (a * b).sum(1) / scale.clamp(min=small), 0.0)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's, of maps [B, h, w]: [B] in [-1, 1]. Equal values share a rank; 0 where a map does not vary."""
    return _correlation(_ranks(a.flatten(1)), _ranks(b.flatten(1)))


def _ranks(values: Tensor) -> Tensor:
    """[B, n]: the place of each in its row's order; equal ones the mean of theirs."""
    ordered, order = values.sort(1)
    group = F.pad((ordered[:, 1:] != ordered[:, :-1]).long(), (1, 0)).cumsum(1)
    place = torch.arange(values.shape[1], dtype=torch.float64, device=values.device).expand(values.shape)
    sums, counts = (torch.zeros_like(place).scatter_add_(1, group, one) for one in (place, torch.ones_like(place)))
    return torch.zeros_like(place).scatter_(1, order, (sums / counts.clamp(min=1)).gather(1, group))


@dataclass(frozen=True, kw_only=True)
class Sanity:
    """layers: how far down the network was shuffled, the deepest layer of each stage. correlation: [stages, B], of the
    map before with the one after; the larger of that of their values and that of their sizes without sign."""

    layers: tuple[str, ...]
    correlation: Tensor

    @property
    def final(self) -> float:
        """With every layer shuffled, mean over images."""
        return float(self.correlation[-1].mean())

    @property
    def passed(self) -> bool:
        return self.final < CORRELATION_LIMIT

    @property
    def warnings(self) -> tuple[str, ...]:
        return () if self.passed else (
            f"with all weights shuffled the map is still much the same (rank correlation {self.final:.2f}): it shows "
            "the picture, not what the model has learnt",)

    @property
    def lines(self) -> tuple[str, ...]:
        steps = ", ".join(f"{value:.2f} down to {layer}" for layer, value in
                          zip(self.layers, self.correlation.mean(1).tolist(), strict=True))
        return (f"rank correlation with the map of shuffled weights: {steps} (below {CORRELATION_LIMIT} at the end is "
                "right)",)


def sanity_check(method: Method, model: nn.Module, images: Tensor, *, stages: int = 3, seed: int = 0) -> Sanity:
    """The maps of a method while the layers of a copy of `model` are shuffled from the top down, in `stages`: first the
    last layer alone, in the end all. The class asked about stays that of the model as it is. Raises UserError for a
    method without maps, and for a model without weights."""
    positive(stages=stages)
    natural(seed=seed)
    shuffled = copy.deepcopy(model)
    layers = [(name or "the input", module) for name, module in shuffled.named_modules()
              if any(one.numel() > 1 for one in module.parameters(recurse=False))][::-1]
    require(bool(layers), "model", type(model).__name__, "have weights")
    asked = [_asking(method, model, image[None]) for image in images]
    before = _maps(asked, model, images)
    last = min(stages, len(layers)) - 1
    ends = [1 if last else len(layers), *(1 + round(stage * (len(layers) - 1) / last) for stage in range(1, last + 1))]
    generator, done, names, found = Generator().manual_seed(seed), 0, [], []
    for end in ends:
        for _, module in layers[done:end]:
            for tensor in module.parameters(recurse=False):
                order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
                tensor.data = tensor.data.flatten()[order].view(tensor.shape)
        done = end
        after = _maps(asked, shuffled, images)
        names.append(layers[end - 1][0])
        found.append(torch.maximum(rank_correlation(before, after), rank_correlation(before.abs(), after.abs())))
    return Sanity(layers=tuple(names), correlation=torch.stack(found))


def _asking(method: Any, model: nn.Module, image: Tensor) -> Method:
    """The method, asking about the class that the model gives this image, where it asks about one."""
    if "target" not in {field.name for field in fields(method)}:
        return method
    return replace(method, target=int(_targets(model, image, method.target)))


def _maps(asked: Sequence[Method], model: nn.Module, images: Tensor) -> Tensor:
    maps = []
    for method, image in zip(asked, images, strict=True):
        heat = method(model, image[None]).heat
        if heat is None:
            raise UserError("gives no map of the image that could be checked", where=type(method).__name__)
        maps.append(torch.nan_to_num(heat.detach().double()))  # shuffled weights may overflow
    return torch.cat(maps)


def _targets(model: nn.Module, images: Tensor, targets: Tensor | int | None) -> Tensor:
    if isinstance(targets, Tensor):
        return targets
    with torch.no_grad(), in_eval_mode(model):
        return classes_in(model(images), targets)
