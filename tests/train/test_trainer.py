"""The loop against a loop written by hand, and resume against the uninterrupted run, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from visus.core.batch import ImageBatch
from visus.core.errors import CheckpointError, Interrupted, ResourceError, TrainingDiverged
from visus.core.record import Finding
from visus.core.seeds import permutation
from visus.optim.build import build_optimizer
from visus.optim.ema import EMA
from visus.optim.parameter_groups import parameter_groups
from visus.optim.schedules import Schedule, schedule
from visus.train import checkpoint
from visus.train.checkpoint import BEST, CheckpointStore, flatten, unflatten
from visus.train.stop import StopRequest
from visus.train.trainer import Settings, Trainer


class Source:
    """40 fixed samples in batches of 8, in an order that depends on the epoch alone."""

    def __init__(self, count: int = 40, batch: int = 8, poison_at: tuple[int, int] | None = None):
        generator = torch.Generator().manual_seed(1)
        self.images = torch.rand(count, 3, 8, 8, generator=generator)
        self.targets = torch.randint(0, 3, (count,), generator=generator)
        self.batch, self.poison_at = batch, poison_at

    def __len__(self) -> int:
        return -(-len(self.targets) // self.batch)

    def epoch(self, epoch: int, start_batch: int = 0):
        order = torch.from_numpy(permutation(len(self.targets), 0, epoch))
        for number in range(start_batch, len(self)):
            index = order[number * self.batch:(number + 1) * self.batch]
            images = self.images[index].clone()
            if (epoch, number) == self.poison_at:
                images[0, 0, 0, 0] = float("nan")
            yield ImageBatch(images, self.targets[index], index)


class Task:
    headline, higher_is_better = "accuracy", True

    def loss(self, model, batch):
        logits = model(batch.images)
        return nn.functional.cross_entropy(logits, batch.targets), logits.detach()


def network() -> nn.Module:
    """Batch norm (buffers) and dropout (random numbers) on purpose: both must survive a resume."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(),
                         nn.Linear(4 * 36, 3))


@dataclass
class Setup:
    trainer: Trainer
    store: CheckpointStore
    findings: list[Finding]
    stop: StopRequest


def setup(folder: Path, *, source: Source | None = None, optimizer: str = "sgd", ema: bool = True,
          channels_last: bool = False, epochs: int = 3, stop_at: int | None = None, **settings) -> Setup:
    source = source or Source()
    model = network()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    built = build_optimizer(optimizer, parameter_groups(model, 1e-3), lr=0.05)
    findings: list[Finding] = []
    store, stop = CheckpointStore(folder / "checkpoints"), StopRequest()
    task = Task()

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

    trainer = Trainer(model, task, source, built, Schedule(built, schedule("cosine", epochs * len(source), 2)),
                      Settings(epochs=epochs, channels_last=channels_last, **settings), device=torch.device("cpu"),
                      store=store, validate=validate, find=findings.append, stop=stop, observers=[StopAt()],
                      ema=EMA(model, decay=0.9) if ema else None)
    torch.manual_seed(5)
    return Setup(trainer, store, findings, stop)


def assert_same_state(a: Trainer, b: Trainer) -> None:
    (tensors_a, rest_a), (tensors_b, rest_b) = flatten(a.state()), flatten(b.state())
    assert rest_a == rest_b
    assert tensors_a.keys() == tensors_b.keys()
    for name, tensor in tensors_a.items():
        assert torch.equal(tensor, tensors_b[name]), name


def test_the_loop_computes_what_a_loop_by_hand_computes(tmp_path):
    ours = setup(tmp_path, ema=False)
    ours.trainer.run()
    source, model = Source(), network()
    by_hand = torch.optim.SGD([
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 1e-3},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0}], lr=0.05, momentum=0.9,
        fused=True)
    factor = schedule("cosine", 3 * len(source), 2)
    torch.manual_seed(5)
    step = 0
    for epoch in range(3):
        model.train()
        for batch in source.epoch(epoch):
            for group in by_hand.param_groups:
                group["lr"] = 0.05 * factor(step)
            by_hand.zero_grad()
            nn.functional.cross_entropy(model(batch.images), batch.targets).backward()
            by_hand.step()
            step += 1
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, ours.trainer.model.state_dict()[name]), name


def test_two_accumulated_batches_equal_one_of_twice_the_size(tmp_path):
    """Without batch statistics and dropout, accumulation is exact; the last group of an epoch is uneven."""
    def plain(folder: Path, batch: int, accumulate: int) -> nn.Module:
        made = setup(folder, source=Source(36, batch), ema=False, epochs=2, accumulate=accumulate)
        made.trainer.model.double()
        for module in made.trainer.model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.Dropout):
                module.eval()
                module.train = lambda mode=True, module=module: module
        made.trainer.batches.images = made.trainer.batches.images.double()
        made.trainer.schedule.factor = lambda step: 1.0
        made.trainer.run()
        return made.trainer.model

    one, two = plain(tmp_path / "a", 16, 1), plain(tmp_path / "b", 8, 2)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("options", [
    {}, {"optimizer": "adamw"}, {"channels_last": True}, {"channels_last": True, "optimizer": "adamw"},
    {"accumulate": 2}, {"clip_norm": 0.5}, {"clip_adaptive": 0.01}, {"ema": False}, {"precision": "bf16"},
    {"precision": "fp16"}, {"patience": 1},
], ids=str)
@pytest.mark.parametrize("stop_at", [1, 4, 5, 8])
def test_a_resumed_run_has_the_same_bits(tmp_path, options, stop_at):
    whole = setup(tmp_path / "whole", **options)
    whole.trainer.run()
    first = setup(tmp_path / "parts", stop_at=stop_at, **options)
    stopped = False
    try:
        first.trainer.run()
    except Interrupted:
        stopped = True
    torch.manual_seed(999)  # another process: other generators
    second = setup(tmp_path / "parts", **options)
    torch.manual_seed(998)
    step, state, problems = second.store.load()
    assert not problems
    second.trainer.load_state(state)
    assert not stopped or second.trainer.position.step == step
    second.trainer.run()
    assert_same_state(whole.trainer, second.trainer)
    assert (tmp_path / "whole/checkpoints" / BEST).read_bytes() == (tmp_path / "parts/checkpoints" / BEST).read_bytes()


def test_a_run_resumed_three_times_within_one_epoch_has_the_same_bits(tmp_path):
    whole = setup(tmp_path / "whole")
    whole.trainer.run()
    for stop_at in (1, 2, 4):
        part = setup(tmp_path / "parts", stop_at=stop_at)
        if part.store.steps():
            part.trainer.load_state(part.store.load()[1])
        with pytest.raises(Interrupted):
            part.trainer.run()
    last = setup(tmp_path / "parts")
    last.trainer.load_state(last.store.load()[1])
    last.trainer.run()
    assert_same_state(whole.trainer, last.trainer)


def test_a_stop_request_saves_the_step_in_hand(tmp_path):
    made = setup(tmp_path, stop_at=7)
    with pytest.raises(Interrupted) as error:
        made.trainer.run()
    assert made.store.steps()[-1] == 7
    assert "--resume" in str(error.value) and error.value.exit_code == 130


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_stop_during_validation_resumes_with_the_validation_and_the_same_bits(tmp_path, epoch):
    whole = setup(tmp_path / "whole")
    whole.trainer.run()
    first = setup(tmp_path / "parts")
    real, calls = first.trainer.validate, []

    def stopped():
        calls.append(1)
        if len(calls) == epoch + 1:
            first.stop.request()
            raise StopIteration
        return real()

    first.trainer.validate = stopped
    with pytest.raises(Interrupted):
        first.trainer.run()
    second = setup(tmp_path / "parts")
    second.trainer.load_state(second.store.load()[1])
    assert second.trainer.position.epoch == epoch and second.trainer.position.batch == len(Source())
    second.trainer.run()
    assert_same_state(whole.trainer, second.trainer)


def test_a_second_signal_ends_the_process_at_once(monkeypatch):
    import os
    import signal

    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    before = signal.getsignal(signal.SIGINT)  # ignored where the tests run in the background of a shell
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested and not ended
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended == [128 + signal.SIGTERM]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_layer(tmp_path):
    made = setup(tmp_path, source=Source(poison_at=(1, 2)), checkpoint_steps=1)
    with pytest.raises(TrainingDiverged) as error:
        made.trainer.run()
    assert "step 7" in str(error.value) and "input" in str(error.value)
    assert [f.severity for f in made.findings] == ["error"] and made.findings[0].step == 7
    tensors, _ = flatten(made.store.load()[1])
    assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())


def test_a_layer_that_overflows_is_named(tmp_path):
    made = setup(tmp_path)
    made.trainer.save()
    with torch.no_grad():
        made.trainer.model[5].weight[0, 0] = float("inf")
    with pytest.raises(TrainingDiverged) as error:
        made.trainer._train_epoch()
    assert "layer 5" in str(error.value)


def test_patience_ends_the_run_and_the_best_weights_are_kept(tmp_path):
    from safetensors.torch import load_file

    made = setup(tmp_path, epochs=9, patience=2, ema=False)
    scores = iter([0.5, 0.7, 0.6, 0.7, 0.9])
    weights = []

    def validate():
        weights.append({k: v.clone() for k, v in made.trainer.model.state_dict().items()})
        return {"accuracy": next(scores), "loss": 1.0}

    made.trainer.validate = validate
    position = made.trainer.run()
    assert position.stopped_early and position.epoch == 4 and position.best == 0.7 and position.best_epoch == 1
    for name, tensor in load_file(made.store.folder / BEST).items():
        assert torch.equal(tensor, weights[1][name])


def test_weights_are_kept_though_the_headline_never_has_a_value(tmp_path):
    made = setup(tmp_path, ema=False)
    made.trainer.validate = lambda: {"accuracy": float("nan"), "loss": 1.0}
    position = made.trainer.run()
    assert position.best is None and position.best_epoch == 2 and (made.store.folder / BEST).exists()


# -- checkpoints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "missing", "manifest", "manifest-gone"])
def test_a_damaged_newest_checkpoint_is_passed_over_and_named(tmp_path, damage):
    made = setup(tmp_path, checkpoint_steps=5)
    made.trainer.run()
    newest = made.store.folder / f"step-{made.store.steps()[-1]:09d}.safetensors"
    older = made.store.steps()[-2]
    data = bytearray(newest.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
    elif damage == "truncate":
        newest.write_bytes(data[:-10])
    elif damage == "empty":
        newest.write_bytes(b"")
    elif damage == "missing":
        newest.unlink()
    elif damage == "manifest":
        newest.with_suffix(".json").write_text("{")
    else:
        newest.with_suffix(".json").unlink()
    step, _, problems = made.store.load()
    assert step == older
    assert damage == "manifest-gone" or (len(problems) == 1 and newest.stem in problems[0])


def test_with_all_checkpoints_damaged_nothing_starts_again_from_zero(tmp_path):
    made = setup(tmp_path)
    made.trainer.run()
    for path in made.store.folder.glob("step-*.safetensors"):
        path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="no checkpoint of this run is whole"):
        made.store.load()


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path):
    made = setup(tmp_path)
    path = made.trainer.save().with_suffix(".json")
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(CheckpointError, match="newer version"):
        made.store.load()


def test_only_the_last_two_checkpoints_are_kept(tmp_path):
    made = setup(tmp_path, checkpoint_steps=1)
    made.trainer.run()
    assert len(made.store.steps()) == 2
    assert sorted(p.name for p in made.store.folder.iterdir()) == sorted(
        [BEST] + [f"step-{s:09d}.{e}" for s in made.store.steps() for e in ("json", "safetensors")])


def failing_save(monkeypatch, fails: set[int]) -> list[int]:
    """The n-th write of any file fails as on a full disk, for n in `fails`."""
    count = [0]
    for name in ("write_bytes", "write_state_dict"):
        real = getattr(checkpoint, name)

        def write(path, data, real=real):
            count[0] += 1
            if count[0] in fails:
                raise ResourceError("could not be written: No space left on device", where=path)
            real(path, data)

        monkeypatch.setattr(checkpoint, name, write)
    return count


def test_a_disk_that_fills_up_on_the_way_does_not_end_the_run(tmp_path, monkeypatch):
    whole = setup(tmp_path / "whole")
    whole.trainer.run()
    failing_save(monkeypatch, {2, 3, 4})
    made = setup(tmp_path / "full", checkpoint_steps=2)
    made.trainer.run()
    assert made.findings and all(f.check == "checkpoint" and f.severity == "warning" for f in made.findings)
    for name, tensor in whole.trainer.model.state_dict().items():
        assert torch.equal(tensor, made.trainer.model.state_dict()[name])


def test_a_disk_that_is_full_at_the_start_ends_the_run_before_any_work(tmp_path, monkeypatch):
    failing_save(monkeypatch, {1})
    made = setup(tmp_path)
    with pytest.raises(ResourceError):
        made.trainer.run()
    assert made.trainer.position.step == 0


def test_a_disk_that_is_full_for_the_last_save_is_an_error_and_the_old_checkpoint_loads(tmp_path, monkeypatch):
    made = setup(tmp_path)
    made.trainer.save()
    failing_save(monkeypatch, set(range(3, 100)))
    with pytest.raises(ResourceError):
        made.trainer.run()
    assert made.store.load()[0] in made.store.steps()


def test_at_every_write_that_can_fail_one_verified_checkpoint_exists(tmp_path, monkeypatch):
    """OSError from each call of fsync, replace and open in turn, over two saves."""
    import os

    for call in ("fsync", "replace"):
        real = getattr(os, call)
        for failing in range(1, 9):
            made = setup(tmp_path / f"{call}{failing}")
            made.trainer.save()
            count = [0]

            def fail(*arguments, real=real, count=count, failing=failing, **named):
                count[0] += 1
                if count[0] == failing:
                    raise OSError(28, "No space left on device")
                return real(*arguments, **named)

            monkeypatch.setattr(os, call, fail)
            made.trainer.position.step = 3
            try:
                made.trainer.save()
            except ResourceError:
                pass
            monkeypatch.setattr(os, call, real)
            assert made.store.load()[0] in (0, 3)


def test_after_a_power_cut_at_any_moment_one_verified_checkpoint_exists(tmp_path, monkeypatch):
    """Folder changes since the last fsync of the folder may be lost, in order; file contents were synced before their
    rename, or the test fails."""
    import os
    import re

    operations: list[tuple[str, str]] = []  # ("rename" | "unlink" | "sync", final name)
    synced: set[str] = set()
    real_fsync, real_replace, real_unlink = os.fsync, os.replace, os.unlink

    def fsync(handle):
        path = os.readlink(f"/proc/self/fd/{handle}")
        if os.path.isdir(path):
            operations.append(("sync", ""))
        synced.add(path)
        real_fsync(handle)

    def replace(source, target):
        assert str(source) in synced, f"{target} took its name before its content was on the disk"
        operations.append(("rename", os.path.basename(target)))
        real_replace(source, target)

    def unlink(path, **named):
        operations.append(("unlink", os.path.basename(path)))
        real_unlink(path, **named)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "unlink", unlink)
    made = setup(tmp_path, checkpoint_steps=2)
    made.trainer.run()

    def exists(names: set[str]) -> bool:
        return any(re.sub("json$", "safetensors", name) in names for name in names if name.endswith(".json"))

    first = next(i for i, (kind, name) in enumerate(operations) if kind == "sync" and exists(
        {n for k, n in operations[:i] if k == "rename"}))
    assert len(operations) > 30
    for cut in range(first + 1, len(operations) + 1):
        durable = max(i for i in range(cut) if operations[i][0] == "sync")
        for kept in range(durable, cut):
            names: set[str] = set()
            for kind, name in operations[:kept + 1]:
                names.add(name) if kind == "rename" else names.discard(name)
            assert exists(names), operations[kept]


def test_flatten_and_unflatten_are_inverse():
    state = {"a": {1: torch.arange(3), "b": [torch.ones(2), None, 3, "x", True]}, "c": 1.5, "d": {}}
    tensors, rest = flatten(state)
    again = unflatten(tensors, rest)
    assert again["a"][1].tolist() == [0, 1, 2] and again["a"]["b"][1:] == [None, 3, "x", True]
    assert again["c"] == 1.5 and again["d"] == {}
