"""What an attack is given, what it gives back, and the parts that attacks share.

Images are in [0, 1], before normalisation, which is the classifier's own affair: `classifier` takes float
[B, C, H, W] in [0, 1] and gives logits [B, K], each sample's from that sample alone. It is never altered. A whole batch
is attacked at once; a sample that is done leaves it.

A norm is a name: linf, l2 and l1 are of the difference's components; l0 counts the places (pixels) at which any channel
differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from visus.core.errors import UserError
from visus.core.validate import one_of, require

Norm = Literal["linf", "l2", "l1", "l0"]
Sees = Literal["gradients", "scores", "answers"]
Classifier = Callable[[Tensor], Tensor]
NORMS: tuple[str, ...] = get_args(Norm)
USUAL_EPS = {"linf": 8 / 255, "l2": 0.5, "l1": 12.0, "l0": 20}  # what papers report for images of 32 px


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """What an attack gives, a row for each sample.

    images: [B, C, H, W] in [0, 1]; where it failed, the last or best that it tried, or the original.
    success: bool [B], whether the classifier's answer at `images` is not the label, or is the target.
    queries: int64 [B], how many images of that sample the classifier was asked about. steps: int64 [B], how many times
    the attack moved it; 0 for a sample that was answered wrongly from the start, where the attack leaves such alone.
    distances: from the originals, by name of norm, float [B] each.
    """

    images: Tensor
    success: Tensor
    queries: Tensor
    steps: Tensor
    distances: dict[str, Tensor]


class Attack(Protocol):
    """A registered attack: a frozen keyword-only dataclass whose fields are its options.

    One that stays within a distance has the field `eps`, in units of `norm`; one without it seeks the smallest
    perturbation in `norm`. norm: a field, or a class's constant.
    sees: what it needs of the classifier: gradients, scores (logits) or answers (the best class alone).
    targeted: whether it takes targets. random: whether it draws from the generator; without it a batch gives what its
    samples give one by one. Both may be a class's constant or a property that hangs on the options.
    """

    sees: ClassVar[Sees]

    @property
    def targeted(self) -> bool: ...

    @property
    def norm(self) -> Norm: ...

    @property
    def random(self) -> bool: ...

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        """images: float [B, C, H, W] in [0, 1]. labels: int64 [B]. targets: int64 [B], classes that the classifier is
        to answer; None: any but the label. generator: on the CPU; None is one with seed 0."""


def checked(attack: Any, images: Tensor, labels: Tensor, targets: Tensor | None) -> None:
    """Raises UserError for what no attack can work on. Called first in every attack."""
    require(images.ndim == 4 and images.is_floating_point(), "images", tuple(images.shape),
            "be float [B, C, H, W]: divide uint8 by 255")
    if len(images) and not (images.min() >= 0 and images.max() <= 1):  # also refuses NaN
        raise UserError("must lie in [0, 1]: attacks work before normalisation",
                        where=f"images from {float(images.min()):.4g} to {float(images.max()):.4g}",
                        remedy="Put the normalisation into the classifier")
    for name, classes in (("labels", labels), ("targets", targets)):
        if classes is not None:
            require(classes.shape == images.shape[:1] and classes.dtype == torch.int64, name,
                    (tuple(classes.shape), classes.dtype), f"be int64 [{len(images)}]")
    if targets is not None and not attack.targeted:
        raise UserError("this attack takes no targets", where=type(attack).__name__,
                        remedy="Leave targets out: it leads away from the label")


def check_eps(eps: float) -> None:
    check_number(0, eps=eps)


def check_number(least: float, **fields: float) -> None:
    """Each field is a finite number of at least `least`."""
    for field, value in fields.items():
        require(isinstance(value, int | float) and not isinstance(value, bool) and least <= value < float("inf"), field,
                value, f"be a number of at least {least:g}")


def check_norm(norm: str, known: tuple[str, ...] = NORMS) -> None:
    one_of(known, norm=norm)


def seeded(generator: Generator | None) -> Generator:
    """The generator, or one with seed 0."""
    return torch.Generator().manual_seed(0) if generator is None else generator


def fooled(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """bool [B]: the answer is not the label, or is the target."""
    answers = logits.argmax(-1)
    return answers != labels if targets is None else answers == targets


def gradient(classifier: Classifier, images: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """(logits [B, K], gradient of the summed `loss`(logits) -> [B] at the images), both detached. Nothing is
    accumulated in parameters."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = classifier(images)
        total = loss(logits).sum()
    (found,) = torch.autograd.grad(total, images)
    return logits.detach(), found


def remaining(keep: Tensor, *tensors: Any) -> tuple[Any, ...]:
    """The rows of each tensor where `keep`; None stays None; nothing is copied when all stay."""
    if bool(keep.all()):
        return tensors
    return tuple(None if tensor is None else tensor[keep] for tensor in tensors)


class Ledger:
    """What an attack has found so far, for the whole batch; rows: int64, numbers of samples in it.

    images begin as the originals. `done` takes those that left the batch. loss: of `images`, -inf where nothing was
    found yet, for attacks that keep the best of several."""

    def __init__(self, originals: Tensor):
        self.originals = originals.detach()
        self.images = self.originals.clone()
        self.rows = torch.arange(len(originals), device=originals.device)
        self.success = torch.zeros_like(self.rows, dtype=torch.bool)
        self.queries = torch.zeros_like(self.rows)
        self.steps = torch.zeros_like(self.rows)
        self.loss = torch.full_like(self.rows, float("-inf"), dtype=torch.float64)

    def asked(self, rows: Tensor, times: int | Tensor = 1) -> None:
        self.queries[rows] += times

    def moved(self, rows: Tensor, times: int | Tensor = 1) -> None:
        self.steps[rows] += times

    def done(self, rows: Tensor, images: Tensor, success: bool | Tensor) -> None:
        self.images[rows] = images.to(self.images.dtype)
        self.success[rows] = success

    def result(self) -> Attacked:
        return Attacked(images=self.images, success=self.success, queries=self.queries, steps=self.steps,
                        distances=distances(self.originals, self.images))


# -- norms ---------------------------------------------------------------------------------------------------------


def lengths(differences: Tensor, norm: str) -> Tensor:
    """The norm of each row: [B, C, H, W] -> [B]."""
    flat = differences.flatten(1)
    if norm == "linf":
        return flat.abs().amax(1)
    if norm == "l2":
        return flat.norm(dim=1)
    if norm == "l1":
        return flat.abs().sum(1)
    return (differences != 0).any(1).flatten(1).sum(1).to(differences.dtype)


def distances(originals: Tensor, images: Tensor) -> dict[str, Tensor]:
    """By name of norm, [B] each."""
    differences = images - originals
    return {norm: lengths(differences, norm) for norm in NORMS}


def over(vector: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1], to be broadcast over `like`."""
    return vector.view(-1, *[1] * (like.ndim - 1))


def project(differences: Tensor, eps: float | Tensor, norm: str) -> Tensor:
    """The nearest point of the ball of radius eps (a number, or [B]) around zero, row by row.

    l1: onto the simplex by sorting (Duchi et al., ICML 2008, figure 1). l0: the eps places of largest squared length
    are kept, which is the nearest of the points that differ at so few places."""
    eps = torch.as_tensor(eps, dtype=differences.dtype, device=differences.device).expand(len(differences))
    if norm == "linf":
        limit = over(eps, differences)
        return differences.clamp(-limit, limit)
    if norm == "l2":
        return differences * over((eps / lengths(differences, norm).clamp(min=1e-30)).clamp(max=1), differences)
    if norm == "l1":
        flat = differences.flatten(1)
        ordered = flat.abs().sort(1, descending=True).values
        summed = ordered.cumsum(1) - eps[:, None]
        count = torch.arange(1, flat.shape[1] + 1, dtype=flat.dtype, device=flat.device)
        last = (ordered * count > summed).sum(1, keepdim=True).clamp(min=1)  # rho of the paper
        theta = (summed.gather(1, last - 1) / last).clamp(min=0)
        return (flat.sign() * (flat.abs() - theta).clamp(min=0)).view_as(differences)
    squares = differences.square().sum(1).flatten(1)
    rank = squares.argsort(dim=1, descending=True, stable=True).argsort(1)
    return differences * (rank < eps[:, None]).view(len(differences), 1, *differences.shape[2:])


def steepest(gradients: Tensor, norm: str, share: float = 0.05) -> Tensor:
    """The step of length 1 in `norm` that raises a linear function most: the sign of the gradient for linf, the
    gradient by its length for l2. For l1 the one component of largest gradient is replaced by the largest `share` of
    them in equal parts (Tramer, Boneh, NeurIPS 2019, section 4). Zero where the gradient is."""
    if norm == "linf":
        return gradients.sign()
    if norm == "l2":
        return gradients / over(lengths(gradients, norm).clamp(min=1e-30), gradients)
    require(norm == "l1", "norm", norm, "be linf, l2 or l1")
    flat = gradients.flatten(1)
    count = max(1, round(share * flat.shape[1]))
    places = flat.abs().topk(count, dim=1).indices
    return torch.zeros_like(flat).scatter(1, places, flat.gather(1, places).sign() / count).view_as(gradients)


def random_start(images: Tensor, eps: float, norm: str, generator: Generator) -> Tensor:
    """Differences drawn evenly from the ball of radius eps, [B, C, H, W]; for l0, eps places, each of their components
    even in [-1, 1]. Drawn on the CPU, so that they are the same on every device."""
    shape = images.shape
    count = images.shape[1:].numel()
    if norm == "linf":
        drawn = torch.rand(shape, generator=generator).mul_(2).sub_(1).mul_(eps)
    elif norm == "l2":
        drawn = torch.randn(shape, generator=generator)
        radius = eps * torch.rand(len(images), generator=generator) ** (1 / count)
        drawn = drawn * over(radius / lengths(drawn, norm).clamp(min=1e-30), drawn)
    elif norm == "l1":  # shares of count + 1 exponential variables: even over the simplex
        parts = torch.empty(len(images), count + 1).exponential_(generator=generator)
        sign = torch.randint(0, 2, (len(images), count), generator=generator).mul_(2).sub_(1)
        drawn = (eps * sign * parts[:, :count] / parts.sum(1, keepdim=True)).view(shape)
    else:
        places = torch.rand(shape[0], 1, *shape[2:], generator=generator)
        rank = places.flatten(1).argsort(1).argsort(1).view_as(places)
        drawn = (torch.rand(shape, generator=generator) * 2 - 1) * (rank < eps)
    return drawn.to(images)


# -- losses --------------------------------------------------------------------------------------------------------


def cross_entropy(labels: Tensor, targets: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Logits [B, K] -> [B], to be raised: of the label, or minus that of the target."""
    if targets is None:
        return lambda logits: F.cross_entropy(logits, labels, reduction="none")
    return lambda logits: -F.cross_entropy(logits, targets, reduction="none")


def margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """[B], above zero where the attack has its way: the best other logit less the label's, or the target's less the
    best other."""
    chosen = labels if targets is None else targets
    own = logits.gather(1, chosen[:, None])[:, 0]
    others = logits.scatter(1, chosen[:, None], float("-inf")).amax(1)
    return others - own if targets is None else own - others
