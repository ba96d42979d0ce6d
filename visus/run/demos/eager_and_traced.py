"""A network run step by step, and the same as a recorded graph: what is gained, and how a branch on data breaks it."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor, fx, nn

from visus.report.demo import Drawing, Fact, Shown, Table, below, same, shown
from visus.report.sketch import arrow, box, plot, sheet, words
from visus.run.demo import Tell

TOPIC = "pytorch"
SUMMARY = "eager against traced, exported and compiled graphs, and what a branch on data does to each"
SOURCE = ("Michigan EECS 498, lecture 9 (dynamic and static graphs); PyTorch documentation: torch.jit.trace, "
          "torch.export, torch.compile, torch.cond")


class Plain(nn.Module):
    """No decision depends on the data: the recorded graph is the function."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0  # of the Python code below
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.second(torch.relu(self.first(x)))


class Branching(nn.Module):
    """Python decides by looking at numbers."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x.sin() * 2
        return x.cos() - 1


class BothBranches(nn.Module):
    """The same decision as a node of the graph: both ways are recorded, the data choose at each call."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x.sin() * 2, lambda x: x.cos() - 1, (x,))


class Doubling(nn.Module):
    """A loop whose length depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        while x.abs().max() < 10:
            x = 2 * x
        return x


def make(seed: int, advance: Tell) -> Shown:
    torch.manual_seed(seed)
    positive = torch.rand(3, 4) + 0.1
    negative = -positive
    plain, branching, both, doubling = Plain(), Branching(), BothBranches(), Doubling()
    with _quiet():
        traced = {name: torch.jit.trace(module, (positive,), check_trace=False)
                  for name, module in (("plain", plain), ("branching", branching), ("doubling", doubling))}
        advance(1, 4)
        refused = _refusal(lambda: torch.export.export(branching, (positive,)))
        symbolic = _refusal(lambda: fx.symbolic_trace(branching))
        exported = torch.export.export(both, (positive,)).module()
        advance(2, 4)
        compiled, graphs = _compiled(branching, (positive, negative, positive))
        whole, whole_graphs = _compiled(both, (positive, negative, positive))
        advance(3, 4)
        calls = _python_calls(plain, positive)
    lengths = [(float(scale), _steps(doubling(scale * torch.ones(1, requires_grad=True)).grad_fn))
               for scale in (8, 4, 2, 1, 0.5, 0.25, 0.125)]
    facts = [
        below("traced Plain against eager, on data it was not traced with",
              _apart(traced["plain"], plain, negative), 1e-6),
        below("traced Branching on the kind of data that it was traced with",
              _apart(traced["branching"], branching, positive), 1e-6),
        shown("on the other kind it runs the wrong branch, without an error",
              _apart(traced["branching"], branching, negative) > 0.1
              and torch.equal(traced["branching"](negative), negative.sin() * 2),
              f"wrong by {_apart(traced['branching'], branching, negative):.3g}", "the sine in place of the cosine"),
        shown("traced Doubling repeats as often as for its first input", _apart(traced["doubling"], doubling,
              positive / 100) > 1, f"wrong by {_apart(traced['doubling'], doubling, positive / 100):.3g}", "wrong"),
        shown("torch.export refuses Branching", bool(refused), refused or "taken", "an error that names the branch"),
        shown("so does torch.fx.symbolic_trace", bool(symbolic), symbolic or "taken", "an error"),
        below("exported with torch.cond: both kinds of data, largest difference from eager",
              max(_apart(exported, branching, x) for x in (positive, negative)), 1e-6),
        below("compiled Branching is right on both: largest difference from eager", compiled, 1e-6),
        shown("because it falls back to Python at the branch and compiles the pieces", len(graphs) > 1,
              f"{len(graphs)} graphs", "more than one"),
        below("compiled BothBranches: largest difference from eager", whole, 1e-6),
        same("graphs of compiled BothBranches: the decision is inside", len(whole_graphs), 1),
        *_counted(calls, lengths),
    ]
    advance(4, 4)
    return Shown(
        "Graphs that are built as one goes, and graphs that are recorded",
        "PyTorch builds its graph while the code runs and forgets it after the backward pass: every call may take "
        "another way, and Python decides which. A recorded graph is fixed: it needs no Python, can be optimised, "
        "saved and run elsewhere. But recording follows one example, and sees of an if only the side that the example "
        "took.\n\n"
        "The kinds of recording differ in what they do then. torch.jit.trace freezes the side that it saw, with no "
        "more than a warning. torch.export refuses. torch.compile notices, compiles what lies before and after, and "
        "leaves the decision to Python. torch.cond puts the decision into the graph.",
        [Drawing(_recorded({"eager, positive": ["sum > 0 ?", "sin", "x 2"],
                            "eager, negative": ["sum > 0 ?", "cos", "- 1"],
                            "traced with positive": _operations(traced["branching"])}),
                 "What runs. The traced graph has no question in it any more.", "A branch on data"),
         Drawing(_answers(branching, traced["branching"]), "The output for one number: eager changes sides at zero, "
                 "the trace does not.", "Eager and traced"),
         Drawing(_recorded({"exported with torch.cond": _nodes(exported.graph)}), "The exported graph: both ways are "
                 "in it, as graphs of their own, and cond chooses.", "The decision as a node"),
         Drawing(plot([("steps of the graph", [(scale, float(count)) for scale, count in lengths])], log_x=True,
                      x_label="input", y_label="nodes from the output back to the input", ranges=(None, None, 0, None),
                      title="Length of the eager graph"),
                 "A loop that doubles until 10 is passed: the eager graph is as long as this input needs.",
                 "A loop on data")],
        facts, [_table()])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the recorders' own words about frozen branches and refusals, which the page shows."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _apart(ours: Callable[[Tensor], Tensor], theirs: nn.Module, x: Tensor) -> float:
    return float((ours(x) - theirs(x)).detach().abs().max())


def _refusal(record: Callable[[], Any]) -> str:
    """The kind of error that recording raises, or nothing."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # the recorder prints its graph so far
            record()
    except Exception as error:  # which class it is differs between versions
        return type(error).__name__
    return ""


def _compiled(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[float, list[fx.GraphModule]]:
    """torch.compile with a compiler that keeps each graph and runs it as it is: the largest difference from eager."""
    graphs: list[fx.GraphModule] = []

    def keep(graph: fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    fast = torch.compile(module, backend=keep)
    apart = max(_apart(fast, module, x) for x in inputs)
    torch.compiler.reset()
    return apart, graphs


def _python_calls(module: Plain, x: Tensor) -> dict[str, int]:
    """How often the Python code of forward runs for ten calls."""
    found = {}
    module.calls = 0
    for _ in range(10):
        module(x)
    found["eager"] = module.calls
    module.calls = 0
    traced = torch.jit.trace(module, (x,), check_trace=False)
    while_recording = module.calls
    for _ in range(10):
        traced(x)
    found["traced"] = module.calls - while_recording
    return found


def _steps(node: Any) -> int:
    """Nodes of the backward graph, from the output along the first input of each."""
    count = 0
    while node is not None:
        count, node = count + 1, node.next_functions[0][0] if node.next_functions else None
    return count


def _counted(calls: dict[str, int], lengths: list[tuple[float, int]]) -> list[Fact]:
    return [
        same("runs of Plain's Python code in ten eager calls", calls["eager"], 10),
        same("and in ten calls of its trace", calls["traced"], 0),
        same("nodes of Doubling's eager graph for inputs 8, 4, 2, 1: the leaf, the input, 1, 2, 3, 4 doublings",
             [count for _, count in lengths[:4]], [2 + doublings for doublings in (1, 2, 3, 4)]),
    ]


def _operations(traced: Any) -> list[str]:
    """The operations of a trace in their order, constants left out."""
    kinds = [node.kind().split("::")[1] for node in traced.graph.nodes()]
    return [{"mul": "x 2"}.get(kind, kind) for kind in kinds if kind not in ("Constant", "ListConstruct")]


def _nodes(graph: fx.Graph) -> list[str]:
    named, found = {"placeholder": "x", "output": "out"}, []
    for node in graph.nodes:
        target = str(getattr(node.target, "__name__", node.target)).split(".")[0]
        if node.op in named or (node.op == "call_function" and target != "getitem"):
            found.append(named.get(node.op) or target)
    return found


def _recorded(chains: dict[str, list[str]]) -> Markup:
    parts, longest = [], 0.0
    for row, (name, steps) in enumerate(chains.items()):
        y, x = 30.0 + 78 * row, 14.0
        parts.append(words(name, x, y - 8))
        for place, step in enumerate(steps):
            if place:
                parts.append(arrow(x - 22, y + 17, x - 3, y + 17))
            asked = "?" in step or step == "cond"
            parts.append(box(x, y, 84, 34, step, "node second" if asked else "node first"))
            x += 108
        longest = max(longest, x)
    return sheet(longest, 20 + 78 * len(chains), *parts, title="Steps of each graph")


def _answers(branching: nn.Module, traced: Any) -> Markup:
    inputs = torch.linspace(-2, 2, 81)
    curves = [(name, [(float(v), float(function(v.reshape(1)).mean())) for v in inputs])
              for name, function in (("eager", branching), ("traced with a positive input", traced))]
    return plot(curves, x_label="input", y_label="output", title="Eager and traced")


def _table() -> Table:
    return Table("How each records", ["way", "a branch on data", "Python at run time", "for"], [
        ["eager", "taken anew at each call", "all of it", "writing, debugging"],
        ["torch.jit.trace", "frozen, with a warning", "none", "old deployments"],
        ["torch.export", "refused, or torch.cond", "none", "deployment"],
        ["torch.compile", "graph break: Python decides", "between the pieces", "speed"]])
