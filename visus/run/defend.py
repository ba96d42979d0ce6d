"""Training against attacks: the images of each batch are moved to where the model errs before it learns from them.

Papers: `fgsm`: Wong, Rice, Kolter, Fast is better than free, ICLR 2020, arXiv:2001.03994, algorithm 3: one step of
1.25 eps from a random start. `pgd`: Madry et al., ICLR 2018, arXiv:1706.06083, section 2.1: the inner maximum by
several steps. `trades`: Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019,
arXiv:1901.08573, equation 5: the loss of the images as they are, and beta times the divergence between the answers
there and at the images that move them most. `free`: Shafahi et al., Adversarial Training for Free!, NeurIPS 2019,
arXiv:1904.12843, algorithm 1: a batch is seen several times, and one backward pass moves both weights and images.
`double_backprop`: Drucker, Le Cun, Improving generalization performance using double backpropagation, IEEE Transactions
on Neural Networks 3 (6), 1992, equations 1 to 3: half the squared length of the slope at the images is added to the
loss, so that small changes of an image change the loss little.

Images are in [0, 1], the normalisation inside what is attacked. While images are moved the model is asked in eval mode
(a choice on which the papers differ), of a copy with folded norms where there are several steps: its running
statistics and its dropout see nothing of the attack. Random starts come from the generators that a checkpoint holds,
and what `free` carries from batch to batch is in the checkpoint too: a resumed run ends with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.attack.attack import project, random_start, steepest
from visus.core.batch import ImageBatch
from visus.core.errors import RecipeError
from visus.core.preprocessing import Preprocessing
from visus.deploy.frozen import frozen
from visus.run.recipe import Recipe
from visus.tasks.classification import Loss, TrainingLoss
from visus.train.contracts import BatchSource

STEPS = {"fgsm": 1, "pgd": 7, "trades": 10, "free": 4}  # the papers' on CIFAR-10; free there has 8 replays
STEP_SHARE = {"fgsm": 1.25, "pgd": 0.25, "trades": 0.25, "free": 1.0}  # of eps
EPS_COLOUR, EPS_GREY = 8 / 255, 0.1  # customary for CIFAR-10 and for Fashion-MNIST
L2_FACTOR = 16.0  # eps of l2 beside that of linf, where none is given: 0.5 for 8 / 255
FOLDING_PAYS = 3  # steps from which the copy with folded norms costs less than it saves


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """Where a loss is high, near images. norm, eps: the ball. steps of length step_size. start: how the search begins:
    'ball' (even in it) or 'near' (a hair from the images: where the loss is a divergence, its slope there is zero)."""

    norm: str
    eps: float
    steps: int
    step_size: float
    start: str = "ball"

    def __call__(self, loss: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """images: [B, C, H, W] in [0, 1] -> the moved ones, detached. loss: of a batch of images, a scalar."""
        if self.start == "ball":
            moves = random_start(images, self.eps, self.norm, torch.default_generator)
        else:
            moves = 0.001 * torch.randn(images.shape).to(images)
        moved = (images + moves).clamp_(0, 1)
        for _ in range(self.steps):
            moved.requires_grad_()
            with torch.enable_grad():
                value = loss(moved) * len(images)  # a sum: half precision would lose the slopes of a mean
            (slope,) = torch.autograd.grad(value, moved)
            further = moved.detach() + self.step_size * steepest(slope, self.norm)
            moved = (images + project(further - images, self.eps, self.norm)).clamp_(0, 1)
        return moved.detach()

    @contextmanager
    def asking(self, model: nn.Module, images: Tensor) -> Iterator[nn.Module]:
        """What is asked while images are moved, in eval mode; the model is left as it was."""
        if self.steps >= FOLDING_PAYS:
            yield frozen(model, (1, *images.shape[1:]))
            return
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            yield model
        finally:
            for module in training:
                module.training = True


@dataclass(frozen=True, kw_only=True)
class Hardened:
    """`fgsm` and `pgd`: the plain loss, at the images that raise it most."""

    ascent: Ascent

    def __call__(self, plain: TrainingLoss, model: nn.Module, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        with self.ascent.asking(model, batch.images) as asked:
            moved = self.ascent(lambda images: plain(asked, replace(batch, images=images))[0], batch.images)
        return plain(model, replace(batch, images=moved))


@dataclass(frozen=True, kw_only=True)
class Trades:
    """L(f(x), y) + beta max KL(f(x) || f(x')), both means over the batch. Auxiliary classifiers take no part."""

    ascent: Ascent
    beta: float
    preprocessing: Preprocessing
    loss_function: Loss

    def __call__(self, plain: TrainingLoss, model: nn.Module, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        normalise = self.preprocessing.normalise
        with self.ascent.asking(model, batch.images) as asked:
            with torch.no_grad():
                here = asked(normalise(batch.images)).float().softmax(1)
            moved = self.ascent(lambda images: _divergence(here, asked(normalise(images))), batch.images)
        logits = model(normalise(batch.images)).float()
        apart = _divergence(logits.softmax(1), model(normalise(moved)))
        return self.loss_function(logits, batch.targets) + self.beta * apart, logits.detach()


def _divergence(probs: Tensor, logits: Tensor) -> Tensor:
    """KL(probs || softmax(logits)), the mean over the batch."""
    return F.kl_div(logits.float().log_softmax(1), probs, reduction="batchmean")


@dataclass(frozen=True, kw_only=True)
class DoubleBackprop:
    """The plain loss, and beta / 2 times the mean over the batch of |slope of the sample's loss at its pixels|^2. Of a
    net with batch norm the slope of one sample runs through the others too."""

    beta: float

    def __call__(self, plain: TrainingLoss, model: nn.Module, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        images = batch.images.detach().requires_grad_()
        value, logits = plain(model, replace(batch, images=images))
        (slope,) = torch.autograd.grad(value * len(batch), images, create_graph=True)  # value is a mean
        return value + self.beta / 2 * slope.float().flatten(1).square().sum(1).mean(), logits


class Free:
    """One backward pass gives the slope of the weights and that of the images, which moves what is added to the next
    images: to the same ones again while a batch is repeated, and it is carried on to the next batch."""

    def __init__(self, eps: float, step_size: float):
        self.eps, self.step_size = eps, step_size
        self.moves: Tensor | None = None  # [B, C, H, W] in [-eps, eps], of the largest batch so far

    def __call__(self, plain: TrainingLoss, model: nn.Module, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        images, count = batch.images, len(batch)
        if self.moves is None or len(self.moves) < count:
            before, self.moves = self.moves, torch.zeros_like(images)
            if before is not None:
                self.moves[:len(before)] = before
        moves = self.moves = self.moves.to(images.device)
        added = moves[:count].detach().clone().requires_grad_()

        def climb(slope: Tensor) -> None:
            moves[:count] = (moves[:count] + self.step_size * slope.sign()).clamp_(-self.eps, self.eps)

        added.register_hook(climb)
        return plain(model, replace(batch, images=(images + added).clamp(0, 1)))

    def state_dict(self) -> dict[str, Any]:
        return {"moves": None if self.moves is None else self.moves.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.moves = state["moves"]


class Replayed:
    """Each batch of a source `times` over."""

    def __init__(self, source: BatchSource, times: int):
        self.source, self.times = source, times

    def __len__(self) -> int:
        return self.times * len(self.source)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[ImageBatch]:
        first, seen = divmod(start_batch, self.times)
        batches = self.source.epoch(epoch, first)
        try:
            for batch in batches:
                for _ in range(seen, self.times):
                    yield batch
                seen = 0
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()


def replays(recipe: Recipe) -> int:
    """How often each batch is seen in an epoch."""
    return int(recipe.defend.steps) if recipe.defend.method == "free" else 1


def make_defence(recipe: Recipe, preprocessing: Preprocessing,
                 loss_function: Loss) -> Hardened | Trades | DoubleBackprop | Free | None:
    """recipe: resolved. None where nothing is defended."""
    defend = recipe.defend
    if defend.method == "none":
        return None
    if defend.method == "double_backprop":
        return DoubleBackprop(beta=defend.beta)
    eps, step_size = float(defend.eps), float(defend.step_size)
    if defend.method == "free":
        return Free(eps, step_size)
    ascent = Ascent(norm=defend.norm, eps=eps, steps=int(defend.steps), step_size=step_size,
                    start="near" if defend.method == "trades" else "ball")
    if defend.method == "trades":
        return Trades(ascent=ascent, beta=defend.beta, preprocessing=preprocessing, loss_function=loss_function)
    return Hardened(ascent=ascent)


def choose_defence(recipe: Recipe, channels: int, loss: str, values: dict[str, Any], reasons: list[str]) -> None:
    """Fills the `auto` of recipe.defend into values. Raises RecipeError for fields that contradict each other."""
    defend = recipe.defend
    if defend.method == "none":
        return
    if defend.method == "double_backprop":
        reasons.append(f"defended by double backpropagation: the squared slope at the images costs {defend.beta:g} / 2 "
                       "of its mean, about twice the work")
        return
    if defend.method in ("fgsm", "free") and defend.norm != "linf":
        raise RecipeError(f"{defend.method} moves by the sign of the slope, within linf",
                          where=f"defend.norm={defend.norm}", remedy="Use defend.method=pgd or trades for l2")
    if defend.method == "fgsm" and defend.steps not in ("auto", 1):
        raise RecipeError("fgsm takes one step", where=f"defend.steps={defend.steps}",
                          remedy="Use defend.method=pgd for several")
    if defend.method == "trades" and loss != "cross_entropy":
        raise RecipeError("trades compares the probabilities of one label per image", where=f"loss.name={loss}",
                          remedy="Use loss.name=cross_entropy, or defend.method=pgd, which takes any loss")
    if defend.method == "free" and recipe.train.accumulate != 1:
        raise RecipeError("free updates the weights at each replay of a batch",
                          where=f"train.accumulate={recipe.train.accumulate}", remedy="Set it to 1")
    eps = defend.eps
    if eps == "auto":
        eps = EPS_COLOUR if channels == 3 else EPS_GREY
        eps = values["defend.eps"] = round(eps * (L2_FACTOR if defend.norm == "l2" else 1.0), 6)
    steps = defend.steps
    if steps == "auto":
        steps = values["defend.steps"] = STEPS[defend.method]
    step_size = defend.step_size
    if step_size == "auto":
        share = STEP_SHARE[defend.method]
        if defend.method in ("pgd", "trades"):
            share = max(share, 1.75 / steps)  # fewer steps go as far in all as Madry's seven quarters
        step_size = values["defend.step_size"] = round(share * eps, 6)
    dearer = {"fgsm": 2, "free": 1}.get(defend.method, steps + 1)
    reasons.append(f"defended by {defend.method}: images moved by up to {eps:.4g} ({defend.norm}) of [0, 1], "
                   + (f"each batch seen {steps} times" if defend.method == "free" else
                      f"{steps} step{'s' if steps > 1 else ''} of {step_size:.4g}, about {dearer} times the work"))
