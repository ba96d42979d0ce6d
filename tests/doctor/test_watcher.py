"""The watcher beside a loop: it sees what happens, changes no bit, keeps to its time, lets go again."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.doctor.during.loops import data, fit, net
from visus.core.record import Finding
from visus.doctor import registry
from visus.doctor.look import Look
from visus.doctor.watcher import HEAD_START_S, KEPT, LOGGED, Watcher, _Curve, rules

OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), 0.05, momentum=0.9, weight_decay=1e-3),
    "sgd fused": lambda m: torch.optim.SGD(m.parameters(), 0.05, momentum=0.9, fused=True),
    "sgd foreach": lambda m: torch.optim.SGD(m.parameters(), 0.05, foreach=True),
    "adam": lambda m: torch.optim.Adam(m.parameters(), 3e-3),
    "adamw fused": lambda m: torch.optim.AdamW(m.parameters(), 3e-3, fused=True),
    "adam foreach": lambda m: torch.optim.Adam(m.parameters(), 3e-3, foreach=True),
}


def trained(make: Callable[[nn.Module], torch.optim.Optimizer], *, watch: bool, share: float = 0.02,
            accumulate: int = 1, fp16: bool = False, compiled: bool = False,
            set_to_none: bool = True) -> dict[str, Tensor]:
    """A training with dropout, batch norm, validation between; all that it leaves behind."""
    torch.manual_seed(0)
    model = net(dropout=0.2)
    run = torch.compile(model, backend="eager") if compiled else model
    optimizer, loss = make(model), nn.CrossEntropyLoss()
    scaler = torch.amp.GradScaler("cpu", enabled=fp16, init_scale=2.0**10)
    watcher = Watcher(run, optimizer, loss, share=share, scaler=scaler if fp16 else None) if watch else None
    images, labels = data()
    for step in range(24):
        optimizer.zero_grad(set_to_none=set_to_none)
        for part in range(accumulate):
            chosen = torch.randint(0, len(images), (16,), generator=torch.Generator().manual_seed(7 * step + part))
            with torch.autocast("cpu", torch.float16, enabled=fp16):
                value = loss(run(images[chosen]), labels[chosen])
            scaler.scale(value / accumulate).backward()
        scaler.step(optimizer)
        scaler.update()
        if step % 10 == 9:
            run.eval()
            with torch.no_grad():
                run(images[:32])
            run.train()
    if watcher is not None:
        assert watcher.failed is None and watcher.step == 24 and watcher.looks
        assert not [f for f in watcher.findings if f.severity != "note"]
        watcher.close()
    left = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        left |= {f"{number}.{name}": torch.as_tensor(value) for name, value in state.items() if value is not None}
    return left | {"random": torch.rand(4)}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_states_and_random_numbers_are_the_same_bits_with_and_without(name):
    make = OPTIMIZERS[name]
    assert_same(trained(make, watch=False), trained(make, watch=True, share=1.0))


@pytest.mark.parametrize("how", [{"accumulate": 3}, {"fp16": True}, {"set_to_none": False}, {"compiled": True}])
def test_nor_does_it_change_accumulation_mixed_precision_zeros_or_a_compiled_net(how):
    make = OPTIMIZERS["adamw fused"]
    assert_same(trained(make, watch=False, **how), trained(make, watch=True, share=1.0, **how))


def test_it_sees_the_gradient_and_the_update_that_were_made():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    optimizer, loss = torch.optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss()
    inputs, targets = torch.randn(8, 4), torch.randint(0, 2, (8,))
    twin = copy.deepcopy(model)
    F.cross_entropy(twin(inputs), targets).backward()
    gradients = [p.grad for p in twin.parameters()]
    with Watcher(model, optimizer, loss) as watcher:
        loss(model(inputs), targets).backward()
        optimizer.step()
    look = watcher.looks[0]
    whole = torch.stack([g.norm() for g in gradients]).norm()
    assert look.step == 1 and look.full and look.samples == 8 and look.lr == 0.1 and list(look.layers) == ["0", "2"]
    assert look.loss == pytest.approx(F.cross_entropy(twin(inputs), targets).item())
    assert look.gradient_norm == pytest.approx(whole.item(), rel=1e-5)
    for name, index in (("0", 0), ("2", 2)):
        weight, layer = list(twin.parameters())[index], look.layers[name]
        assert layer.gradient == pytest.approx(gradients[index].norm().item(), rel=1e-5)
        assert layer.weight == pytest.approx(weight.norm().item(), rel=1e-5)
        assert layer.ratio == pytest.approx(0.1 * layer.gradient / layer.weight, rel=1e-3)
    first = twin[0](inputs)
    assert look.layers["0"].mean == pytest.approx(first.mean().item(), abs=1e-6)
    assert look.layers["0"].std == pytest.approx(first.std(correction=0).item(), rel=1e-4)


def test_the_update_of_a_large_tensor_is_measured_on_part_of_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, 2))
    optimizer, loss = torch.optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss()
    before = model[0].weight.detach().clone()
    with Watcher(model, optimizer, loss) as watcher:
        loss(model(torch.randn(16, 300)), torch.randint(0, 2, (16,))).backward()
        optimizer.step()
    true = ((model[0].weight - before).norm() / before.norm()).item()
    assert watcher.looks[0].layers["0"].ratio == pytest.approx(true, rel=0.1)


def test_after_close_nothing_of_it_is_left_on_model_optimizer_or_loss():
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Watcher(model, optimizer, loss) as watcher:
        fit(model, optimizer, loss, steps=3)
    fit(model, optimizer, loss, steps=2)
    assert watcher.step == 3
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in [*model.modules(), loss])
    assert not watcher._outputs._made


def test_the_first_ten_steps_are_looked_at_in_full_and_the_looks_are_bounded():
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with Watcher(model, optimizer, loss, share=1.0) as watcher:
        fit(model, optimizer, loss, steps=20)
        assert [look.step for look in watcher.looks] == list(range(1, 21))
        for step in range(2 * KEPT):
            watcher._keep(Look(step=100 + step))
    steps = [look.step for look in watcher.looks]
    assert len(steps) <= KEPT and steps[:10] == list(range(1, 11)) and steps[-1] == 99 + 2 * KEPT
    assert steps == sorted(steps)


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_looks_are_spaced_so_that_the_time_they_take_stays_below_the_share(share):
    """Simulated: a step of 10 ms, a light look of 0.1 ms, a full one of 8 ms, for 40 s."""
    model = net()
    watcher = Watcher(model, torch.optim.SGD(model.parameters(), 0.1), share=share)
    watcher._pace, watcher._dispatch_s = 0.01, 0.0
    spent = 0.0
    counts = {"asleep": 0, "light": 0, "full": 0}
    for step in range(1, 4001):
        watcher.step = step
        kind = "asleep" if watcher._asleep else "full" if watcher._full else "light"
        watcher._now.own = {"asleep": 0.0, "light": 1e-4, "full": 8e-3}[kind]
        spent += watcher._now.own
        counts[kind] += 1
        watcher._account(0.01)
    watcher.close()
    assert spent < share * 40 + HEAD_START_S
    assert spent > 0.5 * min(share * 40, 1e-4 * 4000 + share * 20)
    assert counts["full"] > 20 and counts["light"] > 1000


def test_a_pause_between_two_steps_buys_no_looks():
    model = net()
    watcher = Watcher(model, torch.optim.SGD(model.parameters(), 0.1))
    watcher._now.own = 1e-3
    watcher._account(0.01)
    before = watcher._credit["full"]
    watcher._now.own = 0.0
    watcher._account(60.0)
    watcher.close()
    assert watcher._credit["full"] - before <= 0.5 * watcher.share * 0.051


def test_each_finding_is_handed_over_once_and_they_are_ranked():
    told: list[Finding] = []
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 500.0)
    with Watcher(model, optimizer, loss, find=told.append, share=1.0) as watcher:
        fit(model, optimizer, loss, steps=30, zero_grad=False)
    assert len({(f.check, f.layer) for f in told}) == len(told) > 1
    assert sorted(map(str, told)) == sorted(map(str, watcher.findings))
    assert watcher.findings[0].check == "gradients-not-zeroed"


def test_an_error_inside_the_watcher_ends_the_watching_and_not_the_training(monkeypatch):
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    watcher = Watcher(model, optimizer, loss)

    def broken(*_: object) -> None:
        raise RuntimeError("out of paper")

    monkeypatch.setattr(watcher, "_see_gradients", broken)
    before = model[-1].weight.detach().clone()
    fit(model, optimizer, loss, steps=3)
    watcher.close()
    assert "out of paper" in watcher.diagnosis().left_out["watcher"]
    assert watcher.failed == "RuntimeError: out of paper"
    assert not torch.equal(before, model[-1].weight)


def test_history_holds_losses_rates_and_epochs_and_the_diagnosis_joins_both():
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    with Watcher(model, optimizer, loss, share=1.0) as watcher:
        for epoch in range(2):
            fit(model, optimizer, loss, steps=12)
            watcher.epoch(train_loss=1.0 - 0.1 * epoch, val_loss=0.9, accuracy=0.5 + 0.1 * epoch, clean_train_loss=0.8)
    history = watcher.history(classes=3)
    assert history.steps == tuple(range(1, 25)) and len(history.losses) == 24 and set(history.lrs) == {0.02}
    assert history.steps_per_epoch == 12 and history.classes == 3
    assert history.epochs[1] == {"epoch": 1, "step": 24, "train_loss": 0.9, "val_loss": 0.9, "clean_train_loss": 0.8,
                                 "metrics": {"accuracy": 0.6}}
    diagnosis = watcher.diagnosis()
    assert not diagnosis.left_out
    assert {e.name for e in registry.entries() if e.about["stage"] in ("during", "after")} == set(diagnosis.seconds)


def test_the_loss_may_be_told_by_hand_and_outputs_may_be_nested():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
            return {"logits": [self.a(x)]}

    model = Two()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Watcher(model, optimizer, share=1.0) as watcher:
        for _ in range(3):
            optimizer.zero_grad()
            value = F.cross_entropy(model(torch.randn(8, 4))["logits"][0], torch.randint(0, 3, (8,)))
            watcher.loss(value)
            value.backward()
            optimizer.step()
    assert len(watcher.history().losses) == 3 and watcher.history().losses[-1] == pytest.approx(value.item())
    assert not watcher.findings


def test_the_mean_of_an_accumulated_step_is_its_loss_and_a_resumed_run_goes_on_counting():
    model, loss = nn.Linear(4, 3), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    values = []
    with Watcher(model, optimizer, loss, step=50) as watcher:
        for _ in range(2):
            values.append(loss(model(torch.randn(8, 4)), torch.randint(0, 3, (8,))))
            values[-1].backward()
        optimizer.step()
    assert watcher.looks[0].step == 51 and watcher.looks[0].samples == 16
    assert watcher.looks[0].loss == pytest.approx((values[0].item() + values[1].item()) / 2)


def test_rows_are_plain_values_that_json_takes():
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Watcher(model, optimizer, loss) as watcher:
        fit(model, optimizer, loss, steps=4)
    rows = json.loads(json.dumps(watcher.to_rows(), allow_nan=False))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[2]["layers"]["0"].keys() >= {"ratio", "weight", "gradient", "mean", "std"}


def test_a_long_curve_is_averaged_and_keeps_its_mean():
    curve = _Curve()
    for step in range(1, 3 * LOGGED + 1):
        curve.add(step, float(step), 0.1)
    steps, losses, _ = curve.columns()
    assert len(steps) <= LOGGED and steps[-1] == 3 * LOGGED
    assert sum(losses) / len(losses) == pytest.approx((3 * LOGGED + 1) / 2, rel=1e-3)


def test_only_the_files_of_the_rules_while_training_are_imported():
    names = {entry.name for entry in rules()}
    assert len(names) >= 22 and {"update-ratio", "gradients-not-zeroed", "gradient-noise"} <= names


def test_time_spent_by_hand_is_counted_as_waiting():
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    images, labels = data()
    seen: list[Look] = []
    with Watcher(model, optimizer, loss) as watcher:
        watcher._rules.append(("seen", lambda look: seen.append(look) or ()))
        for step in range(3):
            if step == 2:
                watcher.waited(0.25)
            else:
                time.sleep(0.02)
            optimizer.zero_grad()
            loss(model(images[:16]), labels[:16]).backward()
            optimizer.step()
    assert seen[1].waited_s > 0.019 and seen[2].waited_s == 0.25


def test_a_copy_of_the_model_and_a_file_of_it_are_not_watched(tmp_path):
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with Watcher(model, optimizer, loss, share=1.0) as watcher:
        fit(model, optimizer, loss, steps=3)
        twin = copy.deepcopy(model)
        torch.save(model, tmp_path / "model.pt")
        again = torch.load(tmp_path / "model.pt", weights_only=False)
        with torch.no_grad():
            assert torch.equal(twin(data()[0]), again(data()[0]))  # in train mode, and nobody sees it
        twin(data()[0]).sum().backward()
        fit(model, optimizer, loss, steps=3)
    assert watcher.failed is None and watcher.step == 6 and watcher.looks[3].facts == {}
    assert all(look.samples == 32 for look in watcher.looks)
    assert not [f for f in watcher.findings if f.severity != "note"]
