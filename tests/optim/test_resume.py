"""Every optimizer through the loop: interrupted and resumed it gives the bits of the run that was not stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from visus.core.batch import ImageBatch
from visus.core.errors import Interrupted
from visus.core.seeds import permutation
from visus.optim.build import OPTIMIZERS, build_optimizer, wrap_optimizer
from visus.optim.kept import KeptWeights
from visus.optim.muon import matrix_groups
from visus.optim.parameter_groups import parameter_groups
from visus.optim.schedules import Schedule, schedule
from visus.train.checkpoint import CheckpointStore, flatten
from visus.train.stop import StopRequest
from visus.train.trainer import Settings, Trainer

RATES = {"muon_sgd": 0.02, "muon_unit": 0.02, "lbfgs": 1.0, "random_search": 1.0, "newton": 1.0}
WRAPPED = {"sgd, sam": {"sam": 0.05}, "adamw, asam": {"sam": 0.5, "sam_adaptive": True},
           "sgd, lookahead": {"lookahead": 3},
           "muon, sam, lookahead": {"sam": 0.05, "lookahead": 2, "lookahead_alpha": 0.8},
           "adamw, lookahead": {"lookahead": 4}}


class Source:
    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.targets = torch.arange(24) % 3
        self.images = torch.rand(24, 3, 6, 6, generator=generator)
        self.images[torch.arange(24), self.targets] += 0.5

    def __len__(self) -> int:
        return 3

    def epoch(self, epoch: int, start_batch: int = 0):
        order = torch.from_numpy(permutation(24, 0, epoch))
        for index in order.split(8)[start_batch:]:
            yield ImageBatch(self.images[index], self.targets[index], index)


class Task:
    headline, higher_is_better = "accuracy", True

    def loss(self, model, batch):
        logits = model(batch.images)
        return nn.functional.cross_entropy(logits, batch.targets), logits.detach()


def trainer(folder: Path, label: str, stop_at: int | None = None) -> Trainer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5), nn.Tanh(),
                          nn.Linear(5, 3))
    name = label.partition(",")[0]
    if name == "newton":  # two gradients for each number
        model[:6].requires_grad_(False)
    groups = parameter_groups(model, 1e-3)
    optimizer = build_optimizer(name, matrix_groups(groups, model) if "muon" in name else groups,
                                lr=RATES.get(name, 0.01))
    optimizer = wrap_optimizer(optimizer, **WRAPPED.get(label, {}))
    source, stop = Source(), StopRequest()

    class StopAt:
        def on_step(self, report):
            if report.step == stop_at:
                stop.request()

        def on_epoch(self, report):
            pass

    def validate() -> dict[str, float]:
        with torch.no_grad():
            logits = model(source.images)
        return {"accuracy": (logits.argmax(1) == source.targets).float().mean().item(),
                "loss": nn.functional.cross_entropy(logits, source.targets).item()}

    return Trainer(model, Task(), source, optimizer, Schedule(optimizer, schedule("cosine", 9, 1)), Settings(epochs=3),
                   device=torch.device("cpu"), store=CheckpointStore(folder / "checkpoints"), validate=validate,
                   find=lambda finding: None, stop=stop, observers=[StopAt()],
                   ema=KeptWeights(optimizer) if hasattr(optimizer, "keeps") else None)


@pytest.mark.parametrize("label", [*OPTIMIZERS, *WRAPPED])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tmp_path, label):
    whole = trainer(tmp_path / "whole", label)
    whole.run()
    with pytest.raises(Interrupted):
        trainer(tmp_path / "parts", label, stop_at=5).run()
    again = trainer(tmp_path / "parts", label)
    again.load_state(again.store.load()[1])
    assert again.position.step == 5
    again.run()
    (ours, rest), (theirs, other) = flatten(again.state()), flatten(whole.state())
    assert rest == other
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key
    first = trainer(tmp_path / "first", label).model
    moved = any(not torch.equal(p, q) for p, q in zip(first.parameters(), whole.model.parameters(), strict=True))
    assert moved or label == "random_search", "nine draws may all be worse than the first weights"
