"""What every registered method of explanation must do. A method without a row in tests/rows_explain.py fails here.

To add one: register it, write the index again, and add its row to tests/rows_explain.py, whose docstring says what a
row holds. Nothing is to be added in this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.rows_explain import METHODS, MODELS
from visus.core.errors import UserError
from visus.explain import registry
from visus.explain.explanation import Explanation
from visus.run.models import create_model

NAMES = sorted(METHODS)
CLASSES = 5
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def tiny(name: str) -> nn.Module:
    """Eval mode; its norms hold statistics and its class token is not zero, as in a model that has learnt."""
    registered, config, side = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = create_model(registered, **{"num_classes": CLASSES, "in_channels": 3} | config)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.2, 0.2)
                nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def images_for(name: str, batch: int = 3) -> Tensor:
    """[batch, 3, side, side], normalised: bright and dark, smooth and rough."""
    side = MODELS[name][2]
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randn(batch, 3, 4, 4, generator=generator)
    return nn.functional.interpolate(coarse, (side, side), mode="bilinear") + 0.3 * torch.randn(
        batch, 3, side, side, generator=generator)


def method(name: str, **options: Any) -> Any:
    return registry.get(name).build(**METHODS[name].options | options)


def tensors(found: Explanation) -> dict[str, Tensor]:
    held = {field.name: getattr(found, field.name) for field in fields(found)}
    return {name: value for name, value in held.items() if isinstance(value, Tensor)} | {
        f"distance {one.layer}": one.pixels for one in found.distances}


def assert_same(found: Explanation, expected: Explanation) -> None:
    """The same to the bit, sentence included."""
    assert found.sentence == expected.sentence
    ours, theirs = tensors(found), tensors(expected)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def state(model: nn.Module) -> list[Any]:
    """All that a method must leave alone."""
    return [
        [(name, module.training, sorted(vars(module)), type(module), type(module).forward,
          [list(getattr(module, hooks)) for hooks in HOOKS]) for name, module in model.named_modules()],
        [(name, p.requires_grad, id(p), p._version, None if p.grad is None else id(p.grad))
         for name, p in model.named_parameters()],
        [(name, id(b), b._version) for name, b in model.named_buffers()]]


def test_every_registered_method_has_a_row_and_every_row_a_method():
    assert set(registry.fresh_index()) == set(METHODS)


@pytest.mark.parametrize("name", NAMES)
def test_options_are_a_frozen_dataclass_of_which_each_wrong_value_is_refused_by_name(name):
    row, chosen = METHODS[name], method(name)
    known = {field.name for field in fields(chosen)}
    with pytest.raises(TypeError):
        type(chosen)(*range(len(known) + 1))
    for option in known:
        with pytest.raises(FrozenInstanceError):
            setattr(chosen, option, 1)
    assert isinstance(type(chosen).needs_images, bool)
    tried = {option for wrong in row.wrong for option in wrong}
    assert known - {"target"} <= tried | set(row.options) & {"target"}, "each option needs a wrong value in its row"
    model, images = tiny(row.fits[0]), images_for(row.fits[0], 1)
    for wrong in [*row.wrong, *([{"target": CLASSES}, {"target": -1}] if "target" in known else [])]:
        with pytest.raises(UserError) as caught:
            method(name, **wrong)(model, images)
        said = str(caught.value)
        assert any(f"{option}=" in said or isinstance(value, str) and value in said
                   for option, value in wrong.items()), f"{wrong}: {said}"


@pytest.mark.parametrize("name, fit", [(name, fit) for name in NAMES for fit in METHODS[name].fits])
def test_it_explains_each_model_that_it_fits(name, fit):
    model, images = tiny(fit), images_for(fit, 2)
    assert method(name).problem(model, images[:1]) is None
    found = method(name)(model, images)
    check(found, images)


@pytest.mark.parametrize("name, options", [(name, options) for name in NAMES for options in METHODS[name].more])
def test_each_choice_gives_an_explanation(name, options):
    fit = METHODS[name].fits[0]
    images = images_for(fit, 2)
    check(method(name, **options)(tiny(fit), images), images)


def check(found: Explanation, images: Tensor) -> None:
    """Shapes as Explanation says; nothing endless, nothing attached to a graph, no heat that is the same everywhere."""
    assert found.sentence.endswith(".") and not found.sentence[0].islower() and "\n" not in found.sentence
    for name, value in tensors(found).items():
        assert value.isfinite().all() and not value.requires_grad, name
    if found.heat is not None:
        assert found.heat.ndim == 3 and len(found.heat) == len(images) and found.heat.is_floating_point()
        assert (found.heat.flatten(1).std(1) > 0).all(), "a map without a place that stands out"
        assert found.signed or (found.heat >= 0).all(), "heat below zero is to be called signed"
    if found.tiles is not None:
        assert found.tiles.ndim == 4 and found.tiles.shape[:2] == (len(images), len(found.tile_names))
    if found.pictures is not None:
        assert found.pictures.ndim == 4 and len(found.pictures) == len(found.picture_names)
        assert found.pictures.min() >= 0 and found.pictures.max() <= 1
    assert found.sentence and (tensors(found) or found.pictures is not None)


@pytest.mark.parametrize("name, unfit", [(name, unfit) for name in NAMES for unfit in METHODS[name].unfit])
def test_it_says_why_a_model_does_not_fit(name, unfit):
    model, images = tiny(unfit), images_for(unfit, 1)
    before = state(model)
    said = method(name).problem(model, images)
    assert isinstance(said, str) and len(said.split()) > 2, said
    assert state(model) == before


def as_it_is(model: nn.Module) -> None:
    pass


def half_trained(model: nn.Module) -> None:
    """A part in training mode, some parameters frozen, one with a gradient, a hook of the user's own."""
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[-1].grad = torch.ones_like(parameters[-1])
    list(model.modules())[len(list(model.modules())) // 2].train()
    next(model.children()).register_forward_hook(lambda *_: None)
    model.training = True


def training(model: nn.Module) -> None:
    model.train()


def frozen(model: nn.Module) -> None:
    model.requires_grad_(False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prepare", [as_it_is, half_trained, training, frozen])
def test_the_model_is_left_as_it_was_and_its_state_does_not_show_in_the_answer(name, prepare: Callable):
    """Modes, hooks, gradients, requires_grad, weights, statistics; and the random state of the process, the images and
    the mode of autograd."""
    fit = METHODS[name].fits[0]
    model, images = tiny(fit), images_for(fit, 2)
    expected = method(name)(tiny(fit), images)
    prepare(model)
    before, weights = state(model), {key: value.clone() for key, value in model.state_dict().items()}
    random, kept = torch.get_rng_state(), images.clone()
    with torch.no_grad():
        found = method(name)(model, images)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled() and torch.equal(torch.get_rng_state(), random)
    assert torch.equal(images, kept) and not images.requires_grad and images.grad is None
    assert state(model) == before
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert_same(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gives_what_its_images_give_one_by_one(name):
    row = METHODS[name]
    assert row.tolerance is not None or row.why
    chosen = method(name)
    if row.tolerance is None or not chosen.needs_images:
        return
    model, images = tiny(row.fits[0]).double(), images_for(row.fits[0]).double()
    whole, parts = chosen(model, images), [chosen(model, image[None]) for image in images]
    names = [name for name in ("heat", "tiles", "pictures") if getattr(whole, name) is not None]
    assert names
    for part in names:
        together, apart = getattr(whole, part), torch.cat([getattr(one, part) for one in parts])
        scale = float(together.abs().max())
        torch.testing.assert_close(together, apart, rtol=0, atol=row.tolerance * scale, msg=part)


@pytest.mark.parametrize("name", NAMES)
def test_the_class_asked_about_changes_the_answer(name):
    if "target" not in {field.name for field in fields(method(name))} or "target" in METHODS[name].options:
        return
    fit = METHODS[name].fits[0]
    model, images = tiny(fit), images_for(fit, 1)
    with torch.no_grad():
        own = int(model(images).argmax())
    asked = {target: tensors(method(name, target=target)(model, images)) for target in range(CLASSES)}
    first = tensors(method(name)(model, images))
    assert all(torch.equal(first[part], asked[own][part]) for part in first), "None is the model's own answer"
    assert any(not torch.equal(first[part], asked[(own + 1) % CLASSES][part]) for part in first)
