"""Pictorial structures: the best layout against every layout tried, springs and trees from examples."""

from __future__ import annotations

import itertools

import pytest
import torch

from visus.classical.pictorial_structures import Structure, learn_structure
from visus.core.errors import DataError, UserError


@pytest.mark.parametrize("parents", [(0, 0, 0), (0, 0, 1)], ids=["star", "chain"])
def test_the_best_layout_is_the_best_of_all_layouts(parents: tuple[int, ...]):
    draw = torch.Generator().manual_seed(0)
    places = torch.tensor(list(itertools.product(range(4), range(5))))
    layouts = places[torch.cartesian_prod(*[torch.arange(20)] * 3)]  # [8000, 3, 2]
    for _ in range(5):
        structure = Structure(parents, 2 * torch.randn(3, 2, generator=draw), torch.rand(3, 2, generator=draw) + 0.05)
        matches = 2 * torch.randn(3, 4, 5, generator=draw)
        scores = structure.score(matches, layouts)
        found, score = structure.best(matches)
        assert score == pytest.approx(float(scores.max()), abs=1e-4)
        assert torch.equal(found, layouts[scores.argmax()])


def test_messages_are_worth_the_best_layout_with_the_root_held():
    draw = torch.Generator().manual_seed(1)
    structure = Structure((0, 0), torch.tensor([[0.0, 0], [1.4, -0.6]]), torch.tensor([[1.0, 1], [0.3, 0.7]]))
    matches = torch.randn(2, 5, 4, generator=draw)
    worth, _ = structure.messages(matches)
    for y, x in itertools.product(range(5), range(4)):
        layouts = torch.tensor([[[y, x], [v, u]] for v in range(5) for u in range(4)])
        assert float(worth[0][y, x]) == pytest.approx(float(structure.score(matches, layouts).max()), abs=1e-5)


def test_springs_are_the_means_and_variances_of_the_examples():
    draw = torch.Generator().manual_seed(2)
    root = 40 * torch.rand(4000, 2, generator=draw)
    arm = root + torch.tensor([3.0, -8.0]) + torch.randn(4000, 2, generator=draw) * torch.tensor([1.0, 3.0])
    structure, order = learn_structure(torch.stack([root, arm], 1), (0, 0))
    assert order == (0, 1)
    torch.testing.assert_close(structure.offsets[1], torch.tensor([3.0, -8.0]), rtol=0, atol=0.2)
    torch.testing.assert_close(structure.stiffness[1], torch.tensor([0.5, 0.5 / 9]), rtol=0.1, atol=0)


def test_the_tree_of_a_limb_is_found_from_examples():
    draw = torch.Generator().manual_seed(3)
    steps = torch.randn(500, 5, 2, generator=draw) + torch.tensor([4.0, 0.0])
    chain = steps.cumsum(1)  # 0 - 1 - 2 - 3 - 4
    shuffled = torch.tensor([3, 0, 4, 2, 1])
    structure, order = learn_structure(chain[:, shuffled])
    joints = {frozenset((int(shuffled[order[part]]), int(shuffled[order[structure.parents[part]]])))
              for part in range(1, 5)}
    assert joints == {frozenset((k, k + 1)) for k in range(4)}


def test_wrong_trees_maps_and_springs_are_refused():
    springs = torch.zeros(2, 2), torch.ones(2, 2)
    with pytest.raises(UserError, match="parents"):
        Structure((0, 1), *springs)
    with pytest.raises(UserError, match="stiffness"):
        Structure((0, 0), springs[0], torch.zeros(2, 2))
    with pytest.raises(UserError, match="matches"):
        Structure((0, 0), *springs).best(torch.zeros(3, 4, 4))
    with pytest.raises(DataError, match="1 example"):
        learn_structure(torch.zeros(1, 2, 2))
