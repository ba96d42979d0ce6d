"""The loop over two processes in float64: the weights of one process to 1e-12, with uneven shares and accumulation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.train.processes import forked
from visus.core.batch import ImageBatch
from visus.core.seeds import permutation
from visus.optim.ema import EMA
from visus.optim.schedules import Schedule, schedule
from visus.train.checkpoint import BEST, CheckpointStore
from visus.train.engine import Copies, Engine
from visus.train.sharded import Shards
from visus.train.trainer import Settings, Trainer
from visus.train.world import World, join, leave

COUNT, BATCH, EPOCHS = 29, 9, 2


class Source:
    """29 samples in batches of 9 and one of 2, of which a process gets its rows."""

    def __init__(self, world: World):
        generator = torch.Generator().manual_seed(1)
        self.images = torch.rand(COUNT, 3, 6, 6, generator=generator, dtype=torch.float64)
        self.targets = torch.randint(0, 3, (COUNT,), generator=generator)
        self.world = world

    def __len__(self) -> int:
        return -(-COUNT // BATCH)

    def epoch(self, epoch: int, start_batch: int = 0):
        order = torch.from_numpy(permutation(COUNT, 0, epoch))
        for number in range(start_batch, len(self)):
            index = order[number * BATCH:(number + 1) * BATCH]
            rank, size = self.world.place
            index = index[len(index) * rank // size:len(index) * (rank + 1) // size]
            yield ImageBatch(self.images[index], self.targets[index], index)


class Task:
    headline, higher_is_better = "accuracy", True

    def loss(self, model, batch):
        logits = model(batch.images)
        return nn.functional.cross_entropy(logits, batch.targets), logits.detach()


def train(folder: Path, kind: str) -> None:
    world = join("cpu")
    train_in(world, folder, kind)
    world.barrier()
    leave()


def train_in(world: World, folder: Path, kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.GELU(), nn.Flatten(), nn.Linear(80, 7), nn.LayerNorm(7),
                          nn.Linear(7, 3)).double()
    task, source = Task(), Source(world)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, foreach=False)
    if kind == "split":
        engine: Engine = Shards(model, task, world, torch.device("cpu"))
        engine.take_over(optimizer)
    else:
        engine = Copies(model, task, world) if kind == "copies" else Engine(model, task)
    value = iter(range(100))
    Trainer(model, task, source, optimizer, Schedule(optimizer, schedule("cosine", EPOCHS * 2, 1)),
            Settings(epochs=EPOCHS, accumulate=3, clip_norm=0.2), device=torch.device("cpu"),
            store=CheckpointStore(folder), validate=lambda: {"accuracy": float(next(value)), "loss": 0.0},
            find=print, ema=EMA(engine.weights, decay=0.8), engine=engine).run()


@pytest.mark.parametrize("kind", ["copies", "split"])
def test_averaged_weights_and_losses_equal_those_of_one_process_in_float64(tmp_path, kind):
    """The best weights are the exponential average of all updates; the state holds the sum of the losses."""
    from safetensors.torch import load_file

    assert forked(lambda: train(tmp_path / "one", "one"), 1) == [0]
    assert forked(lambda: train(tmp_path / "two", kind)) == [0, 0]
    one, two = (load_file(tmp_path / name / BEST) for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-12)
    (_, a, _), (_, b, _) = (CheckpointStore(tmp_path / name).load() for name in ("one", "two"))
    assert a["position"]["step"] == b["position"]["step"] == 4
    for index, values in a["optimizer"]["state"].items():
        torch.testing.assert_close(b["optimizer"]["state"][index]["exp_avg"], values["exp_avg"], rtol=0, atol=1e-12)


def test_a_damaged_part_is_found_and_the_state_before_it_is_taken(tmp_path):
    assert forked(lambda: train(tmp_path, "split")) == [0, 0]
    store = CheckpointStore(tmp_path)
    newest, before = store.steps()[-1], store.steps()[-2]
    part = tmp_path / f"step-{newest:09d}.part-0001.safetensors"
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    step, _, problems = store.load()
    assert step == before and "part-0001" in problems[0] and "damaged" in problems[0]
    part.unlink()
    assert "part-0001" in store.load()[2][0]
