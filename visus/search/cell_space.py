"""The space of cells as a list of decisions: what a controller, evolution or chance chooses from.

Paper: Zoph, Vasudevan, Shlens, Le, CVPR 2018, arXiv:1707.07012, section 3: for each node of the normal and of the
reduction cell, two inputs among the cell's two and the earlier nodes, and an operation for each; the results are added.
The first input of the first node is always the previous cell, so that no cell is idle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visus.core.validate import positive, require
from visus.models.cnn.cell_net import NUM_INPUTS, OPERATIONS, Node, format_cell

DEFAULT_OPERATIONS = ("identity", "sep_3", "sep_5", "dil_3", "avg_3", "max_3")


@dataclass(frozen=True)
class Cells:
    """A normal and a reduction cell in the notation of `visus.models.cnn.cell_net`."""

    normal: tuple[str, ...]
    reduction: tuple[str, ...]

    def config(self) -> dict[str, tuple[str, ...]]:
        """Fields of `create_model("cell_net", ...)`."""
        return {"normal": self.normal, "reduction": self.reduction}


@dataclass(frozen=True)
class CellSpace:
    num_nodes: int = 3
    operations: tuple[str, ...] = DEFAULT_OPERATIONS

    def __post_init__(self) -> None:
        positive(num_nodes=self.num_nodes)
        require(isinstance(self.operations, tuple) and len(set(self.operations)) == len(self.operations) > 0,
                "operations", self.operations, "be different names")
        require(set(self.operations) <= set(OPERATIONS), "operations", self.operations,
                f"be among {', '.join(OPERATIONS)}")

    @property
    def choices(self) -> tuple[int, ...]:
        """How many options each decision has: of each node input, operation, input, operation (the first input is
        none), for the normal and then for the reduction cell."""
        one = [options for node in range(self.num_nodes)
               for options in (NUM_INPUTS + node, len(self.operations)) * 2][1:]
        return (*one, *one)

    @property
    def size(self) -> int:
        """Lists of decisions; `decode` maps those that differ in the order of a sum to one."""
        return math.prod(self.choices)

    def decode(self, tokens: Sequence[int]) -> Cells:
        """Decisions -> cells; the two halves of a node are put in order."""
        assert len(tokens) == len(self.choices) and all(0 <= t < n for t, n in zip(tokens, self.choices, strict=True))
        half = len(tokens) // 2
        return Cells(self._cell(tokens[:half]), self._cell(tokens[half:]))

    def _cell(self, tokens: Sequence[int]) -> tuple[str, ...]:
        values = [1, *(int(token) for token in tokens)]
        nodes: list[Node] = []
        for i in range(0, len(values), 4):
            pairs = [(values[i], self.operations[values[i + 1]]), (values[i + 2], self.operations[values[i + 3]])]
            nodes.append(tuple(sorted(pairs)))
        return format_cell(tuple(nodes))

    def draw(self, generator: np.random.Generator) -> tuple[int, ...]:
        """Decisions, each uniform among its options."""
        return tuple(int(generator.integers(0, options)) for options in self.choices)
