"""A function and a layer of one's own in PyTorch: forward pass, backward pass, and the proof that they agree."""

from __future__ import annotations

from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor, nn

from visus.doctor.gradient_check import check_gradients
from visus.report.charts import tag
from visus.report.demo import Drawing, Fact, Shown, Table, below, same, shown
from visus.report.sketch import plot, plot_axes, sheet, words
from visus.run.demo import Tell

TOPIC = "pytorch"
SUMMARY = "an autograd Function and a Module of one's own, checked, and a wrong one that is caught"
SOURCE = ("PyTorch documentation, Extending PyTorch; Ramachandran et al., arXiv:1710.05941 (Swish); check it as a "
          "person would: visus check-grad visus.run.demos.custom_autograd:Swish --input 4x5 --input 1")


class Swish(torch.autograd.Function):
    """y = x s, s = sigmoid(beta x). Only x and beta are kept for the backward pass; s is computed again there."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, beta: Tensor) -> Tensor:
        return x * torch.sigmoid(beta * x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        """One gradient for each input, in their order and of their shapes."""
        x, beta = ctx.saved_tensors
        s = torch.sigmoid(beta * x)
        slope = s * (1 - s)
        to_x = upstream * (s + beta * x * slope)
        to_beta = (upstream * x * x * slope).sum().reshape(beta.shape)  # beta was used for every x: a sum
        return to_x, to_beta


class WrongSwish(Swish):
    """A usual mistake: x stands twice in the forward pass, and the second use was forgotten."""

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        x, beta = ctx.saved_tensors
        to_beta = Swish.backward(ctx, upstream)[1]
        return upstream * torch.sigmoid(beta * x), to_beta


class SwishLayer(nn.Module):
    """The function with a beta that is learnt. What is a Parameter moves with the model, is saved and is trained."""

    def __init__(self, beta: float = 1.0):
        super().__init__()
        self.beta = nn.Parameter(torch.tensor([beta]))

    def forward(self, x: Tensor) -> Tensor:
        return Swish.apply(x, self.beta)

    def extra_repr(self) -> str:
        return f"beta={self.beta.item():.3g}"


def composed(x: Tensor, beta: Tensor) -> Tensor:
    """The same of torch's own steps, whose backward passes torch knows."""
    return x * torch.sigmoid(beta * x)


def make(seed: int, advance: Tell) -> Shown:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    beta = torch.tensor([1.3], dtype=torch.float64)
    right = check_gradients(Swish.apply, [x, beta], seed=seed)
    wrong = check_gradients(WrongSwish.apply, [x, beta], seed=seed)
    layer = check_gradients(SwishLayer(1.3), [x], seed=seed)
    advance(1, 3)
    kept = {"own Function": _kept(Swish.apply), "composed of torch's steps": _kept(composed)}
    losses, learnt = _train(generator)
    advance(2, 3)
    facts = [*_facts(x, beta, right, wrong, layer, kept), *_learning(losses, learnt)]
    advance(3, 3)
    worst = max(wrong.rows, key=lambda row: row.error)
    table = Table("What check-grad says", ["subject", "tensor", "relative error", "verdict"], [
        [name, row.name, f"{row.error:.1e}", row.verdict]
        for name, report in (("Swish", right), ("WrongSwish", wrong), ("SwishLayer", layer)) for row in report.rows],
        f"WrongSwish at {list(worst.index)}: its backward pass says {worst.analytic:.5g}, differences say "
        f"{worst.numeric:.5g}.")
    return Shown(
        "An autograd Function and a Module of one's own",
        "An autograd Function is two pure steps: forward computes the output and notes what the backward pass will "
        "need; backward turns the gradient of the output into one gradient per input. It is written when a step has no "
        "derivative in the library, when its derivative is cheaper than the one composed of small steps, or when less "
        "should be kept in memory. A Module wraps it with parameters.\n\n"
        "Nothing but a check tells a wrong backward pass from a right one: the wrong one below runs, and a descent "
        "that follows it even lowers a loss. The code at the end of the page is all there is to it.",
        [Drawing(_curves(), "Swish for three values of beta: near a line, and near ReLU.", "The function"),
         Drawing(_slopes(), "Its derivative by the right and by the wrong backward pass, and by differences (dots).",
                 "The derivative"),
         Drawing(_bars(kept), "Numbers that are kept until the backward pass, for an input of 1,000.",
                 "What is kept"),
         Drawing(plot([("loss", [(float(i), value) for i, value in enumerate(losses)])], x_label="step", log_y=True,
                      title="Training the layer"), "The layer learns beta from examples made with beta = 2.",
                 "A layer that learns")],
        facts, [table])


def _facts(x: Tensor, beta: Tensor, right: Any, wrong: Any, layer: Any, kept: dict[str, int]) -> list[Fact]:
    inputs = (x.clone().requires_grad_(), beta.clone().requires_grad_())
    theirs = torch.autograd.grad(composed(*inputs).sum(), inputs)
    ours = torch.autograd.grad(Swish.apply(*inputs).sum(), inputs)
    each = torch.func.vmap(Swish.apply, in_dims=(0, None))(x, beta)
    return [
        shown("visus check-grad on Swish", right.right, "right" if right.right else "not right", "right"),
        shown("on SwishLayer, its parameter too", layer.right and {row.name for row in layer.rows} >= {"beta"},
              ", ".join(sorted(row.name for row in layer.rows)), "right, for beta and the input"),
        shown("on WrongSwish", wrong.rows[0].verdict == "wrong" and wrong.rows[1].verdict == "right",
              "; ".join(f"{row.name} {row.verdict}" for row in wrong.rows), "x wrong, beta right"),
        below("a descent that follows WrongSwish: last loss over the first, and nothing complains", _misled(), 0.1),
        below("gradients against those of the composed function, largest difference",
              max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)), 1e-12),
        same("torch.autograd.gradcheck agrees", torch.autograd.gradcheck(Swish.apply, inputs), True),
        same("second derivatives too (gradgradcheck): the backward pass is itself differentiable",
             torch.autograd.gradgradcheck(Swish.apply, inputs), True),
        below("mapped over rows by torch.func.vmap, against one call",
              float((each - Swish.apply(x, beta)).abs().max()), 1e-15),
        same("numbers kept for the backward pass: the input and beta", kept["own Function"], 1001),
        shown("the composed function keeps more", kept["composed of torch's steps"] > 1500,
              f"{kept['composed of torch' + chr(39) + 's steps']:,}", "the sigmoid besides"),
    ]


def _learning(losses: list[float], learnt: SwishLayer) -> list[Fact]:
    again = SwishLayer()
    again.load_state_dict(learnt.state_dict())
    return [
        same("names of the layer's parameters", [name for name, _ in learnt.named_parameters()], ["beta"]),
        below("distance of the learnt beta from the 2 of the examples", abs(learnt.beta.item() - 2), 0.01),
        below("last loss over the first", losses[-1] / losses[0], 1e-3),
        same("the state that is saved and loaded gives the same layer", repr(again), repr(learnt)),
    ]


def _misled() -> float:
    """Twenty steps on x alone, towards outputs of 1, along the wrong gradient."""
    x, beta = torch.linspace(-1, 1, 8, requires_grad=True), torch.ones(1)
    losses = []
    for _ in range(20):
        loss = ((WrongSwish.apply(x, beta) - 1) ** 2).sum()
        losses.append(loss.item())
        x.data -= 0.3 * torch.autograd.grad(loss, x)[0]
    return losses[-1] / losses[0]


def _kept(function: Any) -> int:
    """Numbers that autograd keeps for an input of 1,000, each memory counted once."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    x, beta = torch.ones(1000, requires_grad=True), torch.ones(1, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = function(x, beta)
    del out
    return sum(seen.values())


def _train(generator: torch.Generator) -> tuple[list[float], SwishLayer]:
    layer = SwishLayer(0.5)
    x = torch.randn(256, generator=generator)
    target = composed(x, torch.tensor([2.0]))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(250):
        loss = ((layer(x) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, layer


def _curves() -> Markup:
    x = torch.linspace(-4, 4, 121)
    return plot([(f"beta {beta:g}", list(zip(x.tolist(), composed(x, torch.tensor(beta)).tolist(), strict=True)))
                 for beta in (0.1, 1.0, 5.0)], x_label="x", y_label="y", title="Swish")


def _slopes() -> Markup:
    curves, one = [], torch.ones(1, dtype=torch.float64)
    for name, function in (("right", Swish), ("wrong", WrongSwish)):
        x = torch.linspace(-4, 4, 121, dtype=torch.float64).requires_grad_()
        slope, = torch.autograd.grad(function.apply(x, one).sum(), x)
        curves.append((name, list(zip(x.tolist(), slope.tolist(), strict=True))))
    x_axis, y_axis, _ = plot_axes(curves)
    at = torch.linspace(-4, 4, 17, dtype=torch.float64)
    differences = (composed(at + 1e-5, one) - composed(at - 1e-5, one)) / 2e-5
    dots = [tag("circle", class_="ink", cx=x_axis(a), cy=y_axis(b), r=3)
            for a, b in zip(at.tolist(), differences.tolist(), strict=True)]
    return plot(curves, x_label="x", y_label="dy/dx at beta 1", over=dots, title="Derivative of Swish")


def _bars(kept: dict[str, int]) -> Markup:
    parts, wide = [], 260
    for place, (name, count) in enumerate(kept.items()):
        y = 14 + 46 * place
        parts += [words(name, 14, y + 10), tag("rect", class_="first" if place == 0 else "value", x=14, y=y + 16,
                                               width=wide * count / max(kept.values()), height=16, rx=3),
                  words(f"{count:,}", 22 + wide * count / max(kept.values()), y + 29, "tick")]
    return sheet(360, 112, *parts, title="Numbers kept for the backward pass")
