"""Layout, precision and threads are chosen by timing steps; here a clock tells what each way costs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from visus.core.batch import ImageBatch
from visus.train import tune
from visus.train.tune import HALF_PAYS, Execution, choose_execution

CPU = torch.device("cpu")
LAYOUTS = ("contiguous", "channels_last")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Clocked:
    """A loss that takes so many seconds of a clock that nobody else moves: {(layout, precision, threads): s}."""

    def __init__(self, monkeypatch, costs: dict[tuple[str, str, int], float]):
        self.costs, self.now, self.steps = costs, 0.0, []
        monkeypatch.setattr(tune.time, "perf_counter", lambda: self.now)

    def __call__(self, model: nn.Module, batch: ImageBatch) -> tuple[torch.Tensor, torch.Tensor]:
        last = batch.images.is_contiguous(memory_format=torch.channels_last)
        way = (LAYOUTS[last], "bf16" if torch.is_autocast_enabled("cpu") else "fp32", torch.get_num_threads())
        self.steps.append(way)
        self.now += self.costs[way]
        logits = model(batch.images).float()
        return logits.square().mean(), logits


def chosen(loss: Clocked, **asked: str | int) -> Execution:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    batch = ImageBatch(torch.rand(2, 3, 5, 5), torch.zeros(2, dtype=torch.int64), torch.arange(2))
    model(batch.images)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = choose_execution(model, loss, batch, lambda m: torch.optim.SGD(m.parameters(), 0.1), device=CPU, **asked)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == 2
    return found


def costs(half: float, last: float = 1.0, two: float = 1.0) -> dict[tuple[str, str, int], float]:
    """One second in float32, contiguous, on one thread; factors for the rest."""
    return {(layout, kind, threads): (last if layout == "channels_last" else 1) * (half if kind == "bf16" else 1)
            * (two if threads == 2 else 1)
            for layout in LAYOUTS for kind in ("fp32", "bf16") for threads in (1, 2)}


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("half", "expected"), [(0.5, "bf16"), (HALF_PAYS - 0.01, "bf16"), (HALF_PAYS + 0.01, "fp32"),
                                                (2.0, "fp32"), (40.0, "fp32")])
def test_bfloat16_is_taken_where_this_model_is_much_quicker_in_it(monkeypatch, half, expected):
    found = chosen(Clocked(monkeypatch, costs(half)), precision="auto", layout="contiguous", threads=1)
    assert (found.precision, found.channels_last, found.threads) == (expected, False, 1)
    assert found.seconds == pytest.approx({"contiguous, fp32, 1 thread": 1.0, "contiguous, bf16, 1 thread": half})


@pytest.mark.usefixtures("two_threads")
def test_the_best_of_layouts_precisions_and_threads_is_found(monkeypatch):
    found = chosen(Clocked(monkeypatch, costs(0.6, last=0.7, two=0.6)), precision="auto")
    assert (found.channels_last, found.precision, found.threads) == (True, "bf16", 2)
    assert len(found.seconds) == 5
    found = chosen(Clocked(monkeypatch, costs(0.9, last=1.3, two=10.0)), precision="auto")
    assert (found.channels_last, found.precision, found.threads) == (False, "fp32", 1)


@pytest.mark.usefixtures("two_threads")
def test_a_way_that_is_far_slower_is_tried_once(monkeypatch):
    loss = Clocked(monkeypatch, costs(40.0))
    chosen(loss, precision="auto", layout="contiguous", threads=1)
    assert [kind for _, kind, _ in loss.steps] == ["fp32"] * 3 + ["bf16"]


@pytest.mark.usefixtures("two_threads")
def test_what_is_given_is_not_timed_and_the_rest_is_timed_in_it(monkeypatch):
    loss = Clocked(monkeypatch, costs(0.5, last=0.9))
    assert chosen(loss, precision="fp32", layout="channels_last", threads=2) == Execution(True, "fp32", 2, {})
    assert loss.steps == []
    found = chosen(loss, precision="bf16", threads=1)
    assert (found.channels_last, found.precision) == (True, "bf16") and {kind for _, kind, _ in loss.steps} == {"bf16"}
    assert chosen(loss, threads=1).precision == "fp32"
