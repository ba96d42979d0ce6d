"""Diagonal Levenberg-Marquardt: each weight has the rate that its own curvature allows.

Source: LeCun, Bottou, Orr, Mueller, Efficient BackProp, 1998, section 9.1 (the stochastic diagonal form of LeNet-5).
The curvature is the diagonal of the Gauss-Newton matrix, which is never below 0; here it is that of the images at hand,
exactly (the paper passes it back from layer to layer and drops what mixes units).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from visus.optim.grouped import check_numbers, number

IMAGES = 32  # of a batch are looked at: curvature changes slowly, and a few images tell it (section 9.1)


class DiagonalLM(torch.optim.Optimizer):
    """x <- x - lr / (h + mu) * (g + weight_decay x), number by number; h <- (1 - memory) h + memory * curvature.

    mu keeps the rate bounded where h is near 0. curvature(): for each parameter, in order, a tensor of its shape (see
    `GaussNewtonDiagonal`), asked every `every` updates. None: the size of z * (H z), z random signs, from one more
    gradient by the closure: the diagonal of the Hessian where that is diagonal, else a noisy view of it. The first
    curvature is taken as it is. State per parameter: step, curvature. Raises ValueError for values out of range."""

    def __init__(self, params: Any, lr: float = 0.01, weight_decay: float = 0.0, *, mu: float = 0.02,
                 memory: float = 0.1, every: int = 10, curvature: Callable[[], list[Tensor]] | None = None):
        check_numbers({"learning rate": lr, "weight_decay": weight_decay, "mu": mu, "every": every - 1}, {})
        if not 0 < memory <= 1:
            raise ValueError(f"Invalid memory: {memory}, must be in (0, 1]")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "mu": mu})
        self.memory, self.every, self.curvature = memory, every, curvature

    @property
    def needs_closure(self) -> bool:
        return self.curvature is None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = number(torch.enable_grad()(closure)()) if closure is not None else None
        every = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        slopes = [p.grad.clone() for p, _ in every]
        for p, _ in every:
            self.state[p].setdefault("step", torch.zeros(()))
        if every and float(self.state[every[0][0]]["step"]) % self.every == 0:
            self._look([p for p, _ in every], slopes, closure)
        for (p, group), slope in zip(every, slopes, strict=True):
            self.state[p]["step"] += 1
            if group["weight_decay"]:
                slope.add_(p, alpha=group["weight_decay"])
            p.addcdiv_(slope, self.state[p]["curvature"] + group["mu"], value=-group["lr"])
        return loss

    def _look(self, tensors: list[Tensor], slopes: list[Tensor], closure: Callable[[], Any] | None) -> None:
        if self.curvature is not None:
            of = dict(zip((id(p) for group in self.param_groups for p in group["params"]), self.curvature(),
                          strict=True))
            seen = [of[id(p)] for p in tensors]
        else:
            assert closure is not None, "without a source of curvature it is found by another look at the batch"
            seen = self._probe(tensors, slopes, closure)
        for p, curvature in zip(tensors, seen, strict=True):
            state = self.state[p]
            if "curvature" in state:
                state["curvature"].lerp_(curvature, self.memory)
            else:
                state["curvature"] = curvature.clone()

    def _probe(self, tensors: list[Tensor], slopes: list[Tensor], closure: Callable[[], Any]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(int(self.state[tensors[0]]["step"]))
        signs = [(torch.randint(0, 2, p.shape, generator=generator) * 2 - 1).to(p) for p in tensors]
        before = [p.clone() for p in tensors]
        reach = torch.finfo(tensors[0].dtype).eps ** (1 / 3)
        torch._foreach_add_(tensors, signs, alpha=reach)
        torch.enable_grad()(closure)()
        found = [(sign * (p.grad - slope) / reach).abs() for p, sign, slope in
                 zip(tensors, signs, slopes, strict=True) if p.grad is not None]
        torch._foreach_copy_(tensors, before)
        return found


class GaussNewtonDiagonal:
    """The curvature of the loss at the last images that `model` saw in train mode, for `DiagonalLM`.

    model: images -> logits [B, K]. kind: 'softmax' (cross-entropy of one label) or 'sigmoid' (of several). It is asked
    for the parameters `of`, in that order. The model is looked at in eval mode: norms by their running statistics."""

    def __init__(self, model: nn.Module, of: list[nn.Parameter], kind: Literal["softmax", "sigmoid"] = "softmax",
                 images: int = IMAGES):
        self.model, self.kind, self.images = model, kind, images
        names = {id(p): name for name, p in model.named_parameters()}
        self.names = [names[id(p)] for p in of]
        self._seen: Tensor | None = None
        model.register_forward_pre_hook(self._keep)

    def _keep(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        if model.training and inputs and isinstance(inputs[0], Tensor):
            self._seen = inputs[0].detach()

    def __call__(self) -> list[Tensor]:
        assert self._seen is not None, "the model has seen no images in train mode"
        return gauss_newton_diagonal(self.model, self._seen[:self.images], self.names, self.kind)


@torch.no_grad()
def gauss_newton_diagonal(model: nn.Module, images: Tensor, names: list[str],
                          kind: Literal["softmax", "sigmoid"] = "softmax") -> list[Tensor]:
    """The mean over images of diag(J^T L J), for the parameters of these names: J [K, P] are the slopes of the logits,
    L [K, K] is the curvature of the loss at them: diag(p) - p p^T (softmax), diag(p (1 - p)) / K (sigmoid). It is the
    sum of the squares of K gradients per image, those of the columns of a root of L."""
    every = dict(model.named_parameters()) | dict(model.named_buffers())
    chosen = {name: every.pop(name).detach() for name in names}
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        def along(values: dict[str, Tensor], image: Tensor, column: Tensor) -> Tensor:
            return (functional_call(model, {**every, **values}, (image[None],))[0] * column).sum()

        slopes = vmap(grad(along), in_dims=(None, 0, 0))
        logits = model(images)
        probs = logits.softmax(1) if kind == "softmax" else logits.sigmoid()
        classes = logits.shape[1]
        total = {name: torch.zeros_like(value) for name, value in chosen.items()}
        for k in range(classes):
            column = torch.zeros_like(probs)  # [B, K]: column k of a root of L, for each image
            if kind == "softmax":
                column[:, k] = 1.0
                column = probs[:, k:k + 1].sqrt() * (column - probs)
            else:
                column[:, k] = (probs[:, k] * (1 - probs[:, k]) / classes).sqrt()
            for name, slope in slopes(chosen, images, column).items():
                total[name] += slope.square().mean(0)
        return [total[name] for name in names]
    finally:
        for module, training in modes:
            module.training = training
