"""train.compile: the model through torch.compile, in place, and what became of it: graphs, and breaks between them."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from visus.core.errors import RecipeError
from visus.core.record import Finding
from visus.run.recipe import Recipe
from visus.train.trainer import EpochReport, StepReport

BACKEND = "inductor"
SHOWN = 3  # reasons for breaks
COMPILERS = ("c++", "g++", "clang++")


def check_compile(recipe: Recipe, device: torch.device) -> None:
    """Raises RecipeError where torch.compile has nothing to compile with."""
    if not recipe.train.compile or BACKEND != "inductor":
        return
    if sys.platform == "win32" or (device.type == "cpu" and not any(map(shutil.which, COMPILERS))):
        raise RecipeError("torch.compile writes C++ for this machine and finds no compiler",
                          where="train.compile=true", remedy="Install g++ or clang, or leave train.compile out")


class CompileReport:
    """An observer: compiles the model when made, and tells at the end of the first epoch of this process how many
    graphs there are, and why the code between them was left to Python. The names of the weights stay."""

    def __init__(self, model: nn.Module, say: Callable[[str, str], None], find: Callable[[Finding], None]):
        from torch._dynamo.utils import counters

        self.say, self.find, self.counters = say, find, counters
        self.told = False
        self.before = self._counted()
        model.compile(backend=BACKEND)

    def _counted(self) -> tuple[int, Counter[str]]:
        return int(self.counters["stats"]["unique_graphs"]), Counter(self.counters["graph_break"])

    def on_step(self, report: StepReport) -> None:
        """Nothing: compiling goes on while the shapes of the first epoch come in."""

    def on_epoch(self, report: EpochReport) -> None:
        if self.told:
            return
        self.told = True
        graphs, breaks = self._counted()
        graphs, breaks = graphs - self.before[0], breaks - self.before[1]
        count = sum(breaks.values())
        self.say("compile", f"{graphs} graph{'' if graphs == 1 else 's'}, "
                 f"{count} graph break{'' if count == 1 else 's'} ({BACKEND})")
        if count:
            reasons = "; ".join(f"{number} times: {reason.strip().splitlines()[0][:160]}"
                                for reason, number in breaks.most_common(SHOWN))
            self.find(Finding("graph-breaks", "note", f"torch.compile left the graph {count} times", reasons,
                              "Each costs a return to Python in every step; train.compile pays least for such a model",
                              step=report.step))
