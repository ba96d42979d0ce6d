"""Many descents at once: each equals the descent that runs alone, whatever the rule looks at."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import RecipeError
from visus.optim.about import ABOUT
from visus.optim.build import OPTIMIZERS, build_optimizer
from visus.optim.contenders import Contender, contenders, coupling, descend, rate_grid
from visus.optim.surfaces import SURFACES

SURFACE = SURFACES["himmelblau"]


def evaluate(points, which, step):
    x, y = points.unbind(1)
    return SURFACE.value(x, y), torch.stack(SURFACE.gradient(x, y), 1)


@pytest.mark.parametrize("contender", contenders(), ids=lambda c: c.label)
def test_descents_side_by_side_equal_those_alone(contender):
    starts = torch.tensor([[-0.3, -1.2], [1.0, 2.0], [0.5, -3.0]], dtype=torch.float64)
    rates = [0.001, 0.01, 0.001]
    together = descend(contender, starts, rates, evaluate, 8)
    assert together.shape == (9, 3, 2)
    for k in range(3):
        alone = descend(contender, starts[k:k + 1], rates[k:k + 1], evaluate, 8)
        torch.testing.assert_close(together[:, k:k + 1], alone, rtol=1e-12, atol=1e-12)


def test_a_descent_equals_torchs_own_loop():
    parameter = torch.nn.Parameter(torch.tensor(SURFACE.start, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    path = [parameter.detach().clone()]
    for _ in range(20):
        optimizer.zero_grad()
        SURFACE.value(*parameter).backward()
        optimizer.step()
        path.append(parameter.detach().clone())
    ours = descend(Contender("adam", "adam"), path[0][None], [0.1], evaluate, 20)
    torch.testing.assert_close(ours[:, 0], torch.stack(path), rtol=1e-10, atol=1e-10)


def test_what_a_rule_looks_at_is_found_by_trial():
    found = {c.label: coupling(c) for c in contenders()}
    assert found["sgd"] == found["adam"] == found["adagrad"] == found["lookahead"] == "element"
    assert found["muon"] == "tensor"
    assert found["lbfgs"] == found["sam"] == found["random_search"] == found["local_search"] == "all"


def test_a_descent_that_leaves_the_numbers_harms_no_other():
    starts = torch.tensor([[-0.3, -1.2], [-0.3, -1.2]], dtype=torch.float64)
    for label in ("sgd", "muon", "sam", "lbfgs"):
        (contender,) = contenders([label])[:1] if label != "sgd" else (Contender("sgd", "sgd", {"momentum": 0.0}),)
        path = descend(contender, starts, [1e3, 1e-3], evaluate, 30)
        assert torch.isfinite(path[:, 1]).all(), label


def test_kept_weights_are_what_counts():
    mean = descend(Contender("asgd", "asgd"), torch.tensor([[3.3, 2.4]], dtype=torch.float64), [0.01], evaluate, 130)
    parameter = torch.nn.Parameter(torch.tensor([3.3, 2.4], dtype=torch.float64))
    optimizer = build_optimizer("asgd", [parameter], lr=0.01)
    for _ in range(130):
        optimizer.zero_grad()
        SURFACE.value(*parameter).backward()
        optimizer.step()
    torch.testing.assert_close(mean[-1, 0], optimizer.state[parameter]["average"], rtol=1e-12, atol=1e-12)
    assert not torch.equal(mean[-1, 0], parameter.detach())


def test_names_and_rates():
    assert [c.label for c in contenders(["sgd"])] == ["sgd", "momentum", "nesterov", "sam", "lookahead"]
    assert [c.label for c in contenders(["nesterov", "adam", "adam"])] == ["nesterov", "adam"]
    with pytest.raises(RecipeError, match="no such optimizer"):
        contenders(["adamm"])
    assert rate_grid(1e-2, 1.0, 2) == (0.01, 0.0316, 0.1, 0.316, 1.0)


def test_every_optimizer_has_its_line():
    assert set(OPTIMIZERS) <= set(ABOUT) and all(a.equation and a.paper for a in ABOUT.values())
