"""Does an image belong to what the model was trained on? Scores that are larger where it does, and how well they part.

Papers: Hendrycks and Gimpel, ICLR 2017, arXiv:1610.02136 (max_softmax); Hendrycks et al., ICML 2022, arXiv:1911.11132
(max_logit); Liu et al., NeurIPS 2020, arXiv:2010.03759 (energy); Lee et al., NeurIPS 2018, arXiv:1807.03888
(mahalanobis); Sun et al., ICML 2022, arXiv:2204.06507 (knn).

Departures: Mahalanobis takes the penultimate features alone, without input perturbation, and shrinks the covariance as
Ledoit and Wolf (2004) do, so that fewer samples than features are enough; knn's k is 10.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from visus.core.errors import UserError
from visus.core.validate import positive
from visus.metrics.ranking import average_precision, roc_auc
from visus.ops.neighbours import nearest

NEIGHBOURS = 10


def max_softmax(logits: Tensor) -> Tensor:
    """[N, C] -> [N]: the probability of the predicted class."""
    return logits.softmax(1).amax(1)


def max_logit(logits: Tensor) -> Tensor:
    """[N, C] -> [N]."""
    return logits.amax(1)


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """[N, C] -> [N]: T logsumexp(z / T), the negative of Liu et al.'s equation 3."""
    return temperature * (logits / temperature).logsumexp(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mahalanobis:
    """means: float64 [C, D] of the classes; whitening: float64 [D, D], W with W W^T the inverse of the covariance that
    they share."""

    means: Tensor
    whitening: Tensor

    @classmethod
    def fit(cls, features: Tensor, targets: Tensor) -> Mahalanobis:
        """features: [N, D] of training images. targets: int64 [N]. A class without a sample has no mean."""
        features = features.double()
        classes, at = targets.unique(return_inverse=True)
        counts = torch.bincount(at)
        means = torch.zeros(len(classes), features.shape[1], dtype=torch.float64, device=features.device)
        means = means.index_add_(0, at, features) / counts[:, None]
        covariance = shrunk_covariance(features - means[at])
        values, vectors = torch.linalg.eigh(covariance)
        smallest = values[-1].clamp_min(1e-300) * 1e-12  # features that never vary
        return cls(means=means, whitening=vectors * values.clamp_min(smallest).rsqrt())

    def __call__(self, features: Tensor) -> Tensor:
        """[N, D] -> float64 [N]: minus the squared distance to the nearest class mean (Lee et al., equation 2)."""
        return -torch.cdist(features.double() @ self.whitening, self.means @ self.whitening).amin(1).square()


def shrunk_covariance(centred: Tensor) -> Tensor:
    """(1 - r) S + r (tr S / D) I with the r that Ledoit and Wolf (2004) found best on average. centred: float64 [N, D],
    of mean 0; S is their mean outer product -> [D, D]."""
    count, size = centred.shape
    sample = centred.T @ centred / count
    scale = sample.diagonal().mean()
    spread = (sample.square().sum() - size * scale**2) / size
    noise = (centred.square().sum(1).square().sum() / count - sample.square().sum()) / (size * count)
    share = float((noise / spread).clamp(0, 1)) if spread > 0 else 0.0
    return (1 - share) * sample + share * scale * torch.eye(size, dtype=sample.dtype, device=sample.device)


@dataclass(frozen=True, kw_only=True, eq=False)
class NearestNeighbours:
    """bank: [N, D], features of training images, each of length 1."""

    bank: Tensor
    k: int

    @classmethod
    def fit(cls, features: Tensor, k: int = NEIGHBOURS) -> NearestNeighbours:
        """features: [N, D] of training images; k at most N."""
        positive(k=k)
        if k > len(features):
            raise UserError(f"must be at most {len(features)}, the number of training images", where=f"k={k}",
                            remedy="Give a smaller k")
        return cls(bank=nn.functional.normalize(features.float(), dim=1), k=k)

    def __call__(self, features: Tensor) -> Tensor:
        """[N, D] -> [N]: minus the distance to the k-th nearest training image, all features of length 1."""
        unit = nn.functional.normalize(features.float(), dim=1)
        return -nearest(unit, self.bank, self.k)[0][:, -1]


def separation(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """How well a score parts the two. inside, outside: [N], [M], larger where an image belongs.

    auroc; aupr (average precision with `inside` as the positives); fpr95: the share of `outside` that is let in by the
    largest threshold which lets in at least 95 % of `inside`.
    """
    scores = np.concatenate([inside, outside])
    belongs = np.arange(len(scores)) < len(inside)
    kept = int(np.ceil(0.95 * len(inside) - 1e-9))
    threshold = np.sort(inside)[len(inside) - kept]
    return {"auroc": roc_auc(scores, belongs), "aupr": average_precision(scores, belongs),
            "fpr95": float((np.asarray(outside) >= threshold).mean())}


# -- penultimate features ------------------------------------------------------------------------------------------


def head_name(model: nn.Module, images: Tensor) -> str:
    """The name of the layer that gives the logits: of the linear layers and convolutions whose output is as wide as the
    logits, the one that runs last. images: [B, C, H, W] normalised. Raises UserError where there is none."""
    ran: list[tuple[str, int]] = []

    def note(name: str) -> object:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            ran.append((name, output.shape[1] if isinstance(module, nn.Conv2d) else output.shape[-1]))
        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in model.named_modules()  # type: ignore[arg-type]
             if isinstance(module, nn.Linear | nn.Conv2d)]
    try:
        with torch.no_grad():
            num_classes = model(images).shape[1]
    finally:
        for hook in hooks:
            hook.remove()
    fitting = [name for name, width in ran if width == num_classes]
    if not fitting:
        raise UserError("has no linear layer that gives its logits, so it has no penultimate features",
                        where=type(model).__name__, remedy="The scores on logits need none: max_softmax, energy")
    return fitting[-1]


@torch.inference_mode()
def features_and_logits(model: nn.Module, batches: Iterable[Tensor], head: str | None = None) -> tuple[Tensor, Tensor]:
    """(features [N, D], logits [N, C]) on the CPU, both float32: what goes into the layer `head`, found where it is not
    given, and what the model says. batches: normalised images [B, C, H, W] each. Positions of a map or of a list of
    tokens are averaged. The model's mode is left as it is."""
    found: list[Tensor] = []
    features, logits = [], []
    hook = None
    try:
        for images in batches:
            if hook is None:
                head = head or head_name(model, images[:1])
                layer = model.get_submodule(head)
                hook = layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
            found.clear()
            out = model(images)
            into = found[-1].float()
            if into.ndim == 4 and isinstance(layer, nn.Conv2d):
                into = into.mean((2, 3))  # [B, D, H, W] -> [B, D]
            elif into.ndim > 2:
                into = into.flatten(1, -2).mean(1)  # [B, ..., D] -> [B, D]
            features.append(into.cpu())
            logits.append(out.float().cpu())
    finally:
        if hook is not None:
            hook.remove()
    return torch.cat(features), torch.cat(logits)


# -- pictures that belong to nothing -------------------------------------------------------------------------------


def strangers(images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Four kinds of images for where no other set is at hand, made of `images` [B, C, H, W] in [0, 1].

    Noise of the same mean and variance per channel; the same pixels in another order; the same image in sixteen tiles
    dealt anew; the mean colour of each. They are far from photographs: a score that fails here fails elsewhere too, one
    that succeeds may still fail on a near set.
    """
    count, channels, height, width = images.shape

    def deal(values: Tensor) -> Tensor:
        """[B, C, K, ...]: the K parts of each image in an order of its own."""
        order = torch.rand(count, values.shape[2], generator=generator).argsort(1)
        index = order.view(count, 1, -1, *[1] * (values.ndim - 3)).expand(values.shape)
        return values.gather(2, index)

    mean, std = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)
    noise = (mean + std * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    shuffled = deal(images.flatten(2)).view(images.shape)
    tile_h, tile_w = max(1, height // 4), max(1, width // 4)
    rows, columns = height // tile_h, width // tile_w
    inner = images[:, :, :rows * tile_h, :columns * tile_w].unflatten(2, (rows, tile_h)).unflatten(4, (columns, tile_w))
    tiles = inner.permute(0, 1, 2, 4, 3, 5).flatten(2, 3)  # [B, C, rows columns, h, w]
    dealt = deal(tiles).unflatten(2, (rows, columns)).permute(0, 1, 2, 4, 3, 5)  # [B, C, rows, h, columns, w]
    moved = images.clone()
    moved[:, :, :rows * tile_h, :columns * tile_w] = dealt.flatten(4, 5).flatten(2, 3)
    plain = images.mean((2, 3), keepdim=True).expand_as(images).clone()
    return {"noise": noise, "shuffled pixels": shuffled, "shuffled tiles": moved, "plain colour": plain}
