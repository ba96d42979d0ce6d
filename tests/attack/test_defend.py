"""Adversarial training: what each method moves, what it costs, how it resumes, and that it helps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.attack.small import SmallNet, stripes
from visus.attack.pgd import PGD
from visus.core.batch import ImageBatch
from visus.core.errors import RecipeError
from visus.core.preprocessing import Preprocessing
from visus.losses.classification import get_loss
from visus.run.build import build_task
from visus.run.choose import Facts, choose
from visus.run.defend import Ascent, DoubleBackprop, Free, Hardened, Replayed, Trades, make_defence
from visus.run.recipe import Recipe
from visus.tasks.classification import Classification

PLAIN = Preprocessing(size=(12, 12), mean=(0.0,) * 3, std=(1.0,) * 3, labels=tuple("abcd"))  # SmallNet normalises


def facts(**changes) -> Facts:
    values = {"train_images": 1000, "num_classes": 4, "multi_label": False, "median_size": (32, 32), "channels": 3,
              "in_memory": True, "device": "cpu"}
    return Facts(**values | changes)


def resolved(method: str, **values) -> Recipe:
    changes = {"defend.method": method} | {f"defend.{name}": value for name, value in values.items()}
    return choose(Recipe().with_values(changes), facts())[0]


def task_of(recipe: Recipe) -> Classification:
    return Classification(preprocessing=PLAIN, loss_function=get_loss("cross_entropy"),
                          defence=make_defence(recipe, PLAIN, get_loss("cross_entropy")))


def batch(count: int = 16, seed: int = 3) -> ImageBatch:
    images, labels = stripes(count, seed)
    return ImageBatch(images, labels, torch.arange(count))


def net(seed: int = 0) -> SmallNet:
    torch.manual_seed(seed)
    return SmallNet().train()


class Linear(torch.nn.Module):
    """Two logits, -<w, x> and <w, x>."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 12))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = images.flatten(1) @ self.weight
        return torch.stack([-score, score], 1)


def test_on_a_linear_model_the_steps_end_at_the_corner_that_is_worst():
    """The sign of the weights, eps away: the exact inner maximum."""
    images, labels = torch.full((3, 3, 2, 2), 0.5), torch.tensor([1, 0, 1])
    model = Linear()
    for steps, step_size in ((1, 0.25), (7, 0.05)):
        moved = Ascent(norm="linf", eps=0.1, steps=steps, step_size=step_size)(
            lambda x: torch.nn.functional.cross_entropy(model(x), labels), images)
        away = torch.tensor([-1.0, 1.0, -1.0])[:, None] * model.weight.detach().sign()
        torch.testing.assert_close(moved, images + 0.1 * away.view(3, 3, 2, 2))
    assert model.weight.grad is None


@pytest.mark.parametrize("norm, eps", [("linf", 0.05), ("l2", 0.5)])
def test_moved_images_stay_in_the_ball_and_in_range(norm, eps):
    images, labels = stripes(8, 1)
    model = net().eval()
    moved = Ascent(norm=norm, eps=eps, steps=3, step_size=eps / 2)(
        lambda x: torch.nn.functional.cross_entropy(model(x), labels), images)
    far = (moved - images).flatten(1)
    assert float((far.abs().amax(1) if norm == "linf" else far.norm(dim=1)).max()) <= eps * 1.0001
    assert moved.min() >= 0 and moved.max() <= 1 and not moved.requires_grad


@pytest.mark.parametrize("method", ["fgsm", "pgd", "trades", "free"])
def test_the_loss_trains_and_the_attack_leaves_no_trace(method):
    """Gradients reach the parameters through the training pass alone, and the norms see as many batches as the method
    trains on; the model is in train mode again."""
    task, model = task_of(resolved(method, eps=0.05)), net()
    loss, logits = task.loss(model, batch())
    loss.backward()
    assert logits.shape == (16, 4) and not logits.requires_grad
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    seen = {int(m.num_batches_tracked) for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert seen == {2 if method == "trades" else 1}
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("method", ["fgsm", "pgd"])
def test_the_loss_is_above_the_plain_one_in_training_and_equal_to_it_in_eval(method):
    task, plain = task_of(resolved(method, eps=0.1)), task_of(Recipe())
    model = net()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # the same function whatever is in the batch
    assert task.loss(model, batch())[0] > plain.loss(model, batch())[0] + 0.01
    model.eval()
    assert task.loss(model, batch())[0] == plain.loss(model, batch())[0]


def test_trades_is_the_plain_loss_and_beta_times_the_divergence():
    model, data = net().eval(), batch()
    one, six = (Trades(ascent=Ascent(norm="linf", eps=0.05, steps=1, step_size=0.05, start="near"), beta=beta,
                       preprocessing=PLAIN, loss_function=get_loss("cross_entropy")) for beta in (1.0, 6.0))
    plain = task_of(Recipe()).loss
    values = []
    for defence in (one, six):
        torch.manual_seed(1)
        values.append(float(defence(plain, model, data)[0].detach()))
    clean = float(plain(model, data)[0].detach())
    assert values[0] > clean and values[1] - clean == pytest.approx(6 * (values[0] - clean), rel=1e-3)


def test_free_moves_its_images_by_the_same_backward_pass_and_carries_them_on():
    defence, model, data = Free(eps=0.1, step_size=0.04), net(), batch()
    plain = task_of(Recipe())._plain_loss
    defence(plain, model, data)[0].backward()
    first = defence.moves.clone()
    assert first.abs().unique().tolist() in ([pytest.approx(0.04)], [0.0, pytest.approx(0.04)])
    for _ in range(5):
        defence(plain, model, data)[0].backward()
    assert float(defence.moves.abs().max()) == pytest.approx(0.1) and not torch.equal(first, defence.moves)
    small = replace(data, images=data.images[:5], targets=data.targets[:5], index=data.index[:5])
    before = defence.moves.clone()
    defence(plain, model, small)[0].backward()
    assert torch.equal(before[5:], defence.moves[5:])
    again = Free(eps=0.1, step_size=0.04)
    again.load_state_dict(defence.state_dict())
    assert torch.equal(again.moves, defence.moves)


def test_replayed_batches_start_where_they_stopped():
    class Source:
        def __len__(self):
            return 3

        def epoch(self, epoch, start_batch=0):
            yield from range(10 * epoch + start_batch, 10 * epoch + 3)

    source = Replayed(Source(), 2)
    assert len(source) == 6 and list(source.epoch(1)) == [10, 10, 11, 11, 12, 12]
    assert list(source.epoch(1, 3)) == [11, 12, 12] and list(source.epoch(1, 6)) == []


def test_double_backpropagation_adds_half_the_squared_slope_of_each_image():
    """Against finite differences of the loss at the pixels, and of its slope at the weights."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.Tanh(),
                                torch.nn.Linear(8, 4)).double().train()
    images = torch.rand(3, 3, 2, 2, dtype=torch.float64)
    labels, weight = torch.tensor([0, 3, 1]), model[1].weight
    part = ImageBatch(images, labels, torch.arange(3))

    def plain(asked, given):
        logits = asked(given.images)
        return torch.nn.functional.cross_entropy(logits, given.targets), logits.detach()

    def priced() -> float:
        """The sum of squared central differences at every pixel of every image."""
        total = 0.0
        for n in range(3):
            for place in range(12):
                moved = torch.zeros(12, dtype=torch.float64)
                moved[place] = 1e-5
                ends = [torch.nn.functional.cross_entropy(model(images[n:n + 1] + sign * moved.view(1, 3, 2, 2)),
                                                          labels[n:n + 1]).item() for sign in (1, -1)]
                total += ((ends[0] - ends[1]) / 2e-5) ** 2
        return plain(model, part)[0].item() + 0.7 / 2 * total / 3

    value, logits = DoubleBackprop(beta=0.7)(plain, model, part)
    assert value.item() == pytest.approx(priced(), abs=1e-6) and torch.equal(logits, model(images).detach())
    (slope,) = torch.autograd.grad(value, weight)
    with torch.no_grad():
        weight[2, 5] += 1e-4
        above = priced()
        weight[2, 5] -= 2e-4
        below = priced()
    assert slope[2, 5].item() == pytest.approx((above - below) / 2e-4, rel=1e-3)


def test_double_backpropagation_makes_the_answers_depend_less_on_each_pixel():
    """The slope of the gap between the first and the second answer, at images that both nets answer rightly."""
    part, lengths = batch(64, seed=9), {}
    for name, recipe in (("plain", Recipe()), ("priced", resolved("double_backprop", beta=0.3))):
        model = trained(recipe)
        images = part.images.clone().requires_grad_()
        first, second = model(images).topk(2, 1).values.T
        (first - second).sum().backward()
        lengths[name] = float(images.grad.flatten(1).norm(dim=1).mean())
        assert (model(part.images).argmax(1) == part.targets).all()
    assert lengths["priced"] < 0.7 * lengths["plain"], lengths


def test_the_choices_are_those_of_the_papers():
    for method, steps, share in (("fgsm", 1, 1.25), ("pgd", 7, 0.25), ("trades", 10, 0.25), ("free", 4, 1.0)):
        defend = resolved(method).defend
        assert (defend.steps, defend.eps) == (steps, pytest.approx(8 / 255, abs=1e-5))
        assert defend.step_size == pytest.approx(share * defend.eps, abs=1e-5)
    grey = choose(Recipe().with_values({"defend.method": "pgd"}), facts(channels=1))[0]
    assert grey.defend.eps == 0.1
    free = choose(Recipe().with_values({"defend.method": "free"}), facts())[0]
    assert free.train.epochs == round(choose(Recipe(), facts())[0].train.epochs / 4)


@pytest.mark.parametrize("values, named", [
    ({"defend.method": "fgsm", "defend.steps": 3}, "defend.steps"),
    ({"defend.method": "free", "train.accumulate": 2}, "train.accumulate"),
    ({"defend.method": "free", "defend.norm": "l2"}, "defend.norm"),
    ({"defend.method": "trades", "loss.name": "multiclass_hinge"}, "loss.name")])
def test_contradictions_are_refused(values, named):
    with pytest.raises(RecipeError, match=named):
        choose(Recipe().with_values(values), facts())


def test_an_unknown_method_is_refused():
    with pytest.raises(RecipeError, match="defend.method"):
        Recipe().with_values({"defend.method": "magic"})


def trained(recipe: Recipe, steps: int = 60) -> SmallNet:
    task, model = task_of(recipe), net()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    images, labels = stripes(512, seed=1)
    for step in range(steps):
        part = torch.arange(64) + 64 * (step % 8)
        optimizer.zero_grad()
        task.loss(model, ImageBatch(images[part], labels[part], part))[0].backward()
        optimizer.step()
    return model.eval()


def test_a_net_trained_with_it_withstands_attacks_that_the_plain_one_does_not():
    images, labels = stripes(48, seed=9)
    left = {}
    for name, recipe in (("plain", Recipe()), ("fgsm", resolved("fgsm", eps=0.06)),
                         ("trades", resolved("trades", eps=0.06, steps=1))):
        model = trained(recipe)
        left[name] = 1 - float(PGD(eps=0.06)(model, images, labels).success.float().mean())
    assert min(left["fgsm"], left["trades"]) > left["plain"] + 0.15, left


@pytest.mark.parametrize("method", ["pgd", "free"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, method):
    """Stopped inside an epoch, for free between two replays of a batch."""
    from visus.core.errors import Interrupted
    from visus.core.files import sha256
    from visus.run import train as room
    from visus.train.trainer import Trainer

    generator = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", images=generator.integers(0, 255, (60, 8, 8, 3), dtype=np.uint8),
             labels=np.arange(60) % 3)
    values = {"train.epochs": 2, "train.batch_size": 8, "train.threads": 1, "train.layout": "contiguous",
              "model.name": "mlp", "data.image_size": 8, "model.config.hidden_dims": [16], "defend.method": method,
              "defend.steps": 3, "train.precision": "fp32"}
    whole = room.train(tmp_path / "data.npz", values=values, out=tmp_path / "whole", progress=False)
    stop_at, step = 4, Trainer._step

    def stopping(self, group, waited_s):
        result = step(self, group, waited_s)
        if self.position.step == stop_at:
            self.stop.request()
        return result

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Trainer, "_step", stopping)
        room.train(tmp_path / "data.npz", values=values, out=tmp_path / "parts", progress=False)
    parts = room.resume(tmp_path / "parts", progress=False)
    assert sha256(tmp_path / "whole/model/model.safetensors") == sha256(tmp_path / "parts/model/model.safetensors")
    assert whole.metrics == parts.metrics


def test_the_recipe_and_the_verb_reach_the_task():
    recipe = resolved("pgd")
    preprocessing = replace(PLAIN, size=(32, 32))
    assert isinstance(build_task(recipe, preprocessing).defence, Hardened)
    assert build_task(choose(Recipe(), facts())[0], preprocessing).defence is None
    import argparse

    from visus.cli.train import FLAGS, add_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args(["x", "--defend", "pgd"]).defend == "pgd" and FLAGS["defend"] == "defend.method"
