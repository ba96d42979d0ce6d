"""Averages and regularisers in the loop: the same bits after a stop, the same numbers as a loop by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.train.test_trainer import Setup, Source, assert_same_state, network, setup
from visus.core.errors import Interrupted
from visus.core.weights import read_state_dict
from visus.optim.averaging import WeightAverage
from visus.optim.regularise import WeightRegulariser
from visus.optim.schedules import schedule
from visus.train.checkpoint import BEST


def with_both(folder, every: int, stop_at: int | None = None) -> Setup:
    made = setup(folder, ema=False, stop_at=stop_at, epochs=4)
    trainer = made.trainer
    trainer.ema = WeightAverage(trainer.model, start=6, every=every,
                                batches=lambda: (batch.images for batch in trainer.batches.epoch(0)))
    trainer.regulariser = WeightRegulariser(l1=1e-3, max_norm=0.5)
    return made


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("stop_at", [3, 10, 17])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, every, stop_at):
    whole = with_both(tmp_path / "whole", every)
    whole.trainer.run()
    first = with_both(tmp_path / "parts", every, stop_at)
    with pytest.raises(Interrupted):
        first.trainer.run()
    second = with_both(tmp_path / "parts", every)
    second.trainer.load_state(second.store.load()[1])
    second.trainer.run()
    assert_same_state(whole.trainer, second.trainer)
    for made in (whole, second):
        assert made.trainer.ema.updates == (14 if every == 1 else 3)
    best, again = (read_state_dict(made.store.folder / BEST) for made in (whole, second))
    assert all(torch.equal(best[name], again[name]) for name in best)


def test_price_and_bound_in_the_loop_are_those_of_a_loop_by_hand(tmp_path):
    made = setup(tmp_path, ema=False, epochs=2)
    made.trainer.regulariser = WeightRegulariser(l1=1e-2, max_norm=0.4)
    made.trainer.run()
    source, model = Source(), network()
    by_hand = torch.optim.SGD([
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 1e-3},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0}], lr=0.05, momentum=0.9)
    factor = schedule("cosine", 2 * len(source), 2)
    torch.manual_seed(5)
    step = 0
    for epoch in range(2):
        model.train()
        for batch in source.epoch(epoch):
            for group in by_hand.param_groups:
                group["lr"] = 0.05 * factor(step)
            by_hand.zero_grad()
            (nn.functional.cross_entropy(model(batch.images), batch.targets)
             + 1e-2 * (model[0].weight.abs().sum() + model[5].weight.abs().sum())).backward()
            by_hand.step()
            with torch.no_grad():
                for layer in (model[0], model[5]):
                    layer.weight.copy_(torch.renorm(layer.weight, 2, 0, 0.4))
            step += 1
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(made.trainer.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert made.trainer.model[0].weight.flatten(1).norm(dim=1).max() <= 0.4 + 1e-6


def test_the_best_weights_are_the_averaged_ones_with_statistics_of_their_own(tmp_path):
    made = with_both(tmp_path, every=5)
    trainer = made.trainer
    trainer.validate = lambda: {"accuracy": float(trainer.position.epoch), "loss": 0.0}  # the last epoch is the best
    trainer.run()
    best = read_state_dict(made.store.folder / BEST)
    own = trainer.model.state_dict()
    with trainer.ema.copy_to(trainer.model):
        averaged = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    assert all(torch.equal(best[name], averaged[name]) for name in best)
    assert not torch.equal(best["0.weight"], own["0.weight"])
