"""What every registered classical model must do. Its row in tests/rows_classical.py says what it needs for that."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict, fields, is_dataclass

import pytest
import torch

from tests.classical.digits import Split, digits, examples
from tests.rows_classical import CLASSICAL, ClassicalRow
from visus import classical
from visus.classical.fitted import Fitted
from visus.core.errors import UserError

ENTRIES = {entry.name: entry for entry in classical.registry.entries()}
NAMES = [pytest.param(name, marks=pytest.mark.slow if CLASSICAL[name].slow else ()) for name in ENTRIES
         if name in CLASSICAL]
_fitted: dict[str, Fitted] = {}


def built(name: str, num_classes: int = 10) -> Fitted:
    """As `visus train --model NAME` builds it for these images."""
    entry, row = ENTRIES[name], CLASSICAL[name]
    known = {field.name for field in fields(entry.build.Config)}
    given = {"num_classes": num_classes, "in_channels": row.channels, "image_size": row.side}
    return entry.build(entry.build.Config(**{k: v for k, v in given.items() if k in known}
                                          | dict(entry.variant) | row.config))


def splits(row: ClassicalRow) -> tuple[Split, Split]:
    (images, labels), val = digits(row.side, row.channels)
    return (images[:row.train], labels[:row.train]), val


def fit(name: str, train: Split | None = None, val: Split | None = None, num_classes: int = 10, **told) -> Fitted:
    own = splits(CLASSICAL[name])
    model = built(name, num_classes)
    torch.manual_seed(0)
    model.fit(examples(train or own[0], val or own[1], num_classes=num_classes, **told))
    return model.eval()


def fitted(name: str) -> Fitted:
    """One fit to the digits, shared by the tests that only ask it."""
    if name not in _fitted:
        _fitted[name] = fit(name)
    return _fitted[name]


def few(name: str, count: int = 40) -> Split:
    images, labels = splits(CLASSICAL[name])[0]
    return images[:count].clone(), labels[:count].clone()


def test_every_classical_model_has_a_row_and_every_row_a_model():
    assert sorted(CLASSICAL) == sorted(ENTRIES), "add the model to tests/rows_classical.py"


def test_the_index_names_every_model():
    index = json.loads(classical.registry.index_path.read_text())
    assert index == classical.registry.fresh_index(), "write visus/classical/index.json again"


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name):
    entry = ENTRIES[name]
    assert is_dataclass(entry.build.Config) and issubclass(entry.build, Fitted)
    assert entry.about["task"] == "classification" and entry.about["family"] and entry.about["paper"]
    assert inspect.getdoc(inspect.getmodule(entry.build)) and inspect.getdoc(entry.build.Config)
    for field in fields(entry.build.Config):
        assert field.default is not inspect.Parameter.empty, f"{field.name} needs a default"
    json.dumps(asdict(built(name).config))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_right_more_often_than_its_row_says(name):
    images, labels = splits(CLASSICAL[name])[1]
    with torch.no_grad():
        logits = fitted(name)(images)
    assert logits.shape == (len(images), 10) and torch.isfinite(logits).all()
    accuracy = float((logits.argmax(1) == labels).double().mean())
    assert accuracy >= CLASSICAL[name].accuracy, accuracy


@pytest.mark.parametrize("name", NAMES)
def test_the_same_examples_and_seed_give_the_same_bits(name):
    first, again = fitted(name).state_dict(), fit(name).state_dict()
    assert list(first) == list(again)
    for key in first:
        assert torch.equal(first[key], again[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_its_config_and_its_state_are_the_whole_model(name):
    model = fitted(name)
    config = json.loads(json.dumps(asdict(model.config)))
    lists = {key: tuple(value) for key, value in config.items() if isinstance(value, list)}
    again = type(model)(type(model).Config(**config | lists)).eval()
    again.load_state_dict(model.state_dict(), strict=True)
    images = splits(CLASSICAL[name])[1][0][:50]
    with torch.no_grad():
        assert torch.equal(again(images), model(images))


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_judged_alone(name):
    images = splits(CLASSICAL[name])[1][0][:33]
    model = fitted(name)
    with torch.no_grad():
        together, alone = model(images), torch.cat([model(part) for part in images.split([1, 2, 30])])
        trained = model.train()(images)
        model.eval()
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)
    assert torch.equal(trained, together)  # one meaning in train and eval mode
    assert model(images[:0]).shape == (0, 10)


@pytest.mark.parametrize("name", NAMES)
def test_its_input_is_left_as_it_was(name):
    images = splits(CLASSICAL[name])[1][0][:5]
    before = images.clone()
    with torch.no_grad():
        logits = fitted(name)(images)
    assert torch.equal(images, before) and logits.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_constant_images_give_finite_logits(name):
    images, labels = few(name)
    images[::2] = 0.3
    images[1::4] = images.amin()
    model = fit(name, (images, labels), (images, labels))
    shape = (2, *images.shape[1:])
    with torch.no_grad():
        for odd in (images, torch.zeros(shape), torch.full(shape, 50.0)):
            assert torch.isfinite(model(odd)).all()


def told_or_fine(work) -> None:
    """Works, or says what is wrong as a user is told: no error of torch or Python comes through."""
    try:
        logits = work()
    except UserError as error:
        assert len(str(error)) > 20
    else:
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", NAMES)
def test_one_class_is_learnt_or_refused_with_a_reason(name):
    images, labels = few(name)

    def work():
        model = fit(name, (images, torch.zeros_like(labels)), (images, torch.zeros_like(labels)))
        with torch.no_grad():
            logits = model(images)
        assert (logits.argmax(1) == 0).all()
        return logits

    told_or_fine(work)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_without_images_is_never_the_answer(name):
    images, labels = few(name, 80)
    labels[labels == 7] = 3

    def work():
        model = fit(name, (images, labels), (images, labels))
        with torch.no_grad():
            logits = model(images)
        assert (logits.argmax(1) != 7).float().mean() > 0.95
        return logits

    told_or_fine(work)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [1, 2, 3])
def test_images_that_are_too_small_are_taken_or_refused_with_a_reason(name, side):
    images, labels = few(name, 80)
    images = torch.nn.functional.interpolate(images, (side, side), mode="area")
    images = images + 0.01 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    entry, row = ENTRIES[name], CLASSICAL[name]

    def work():
        known = {field.name for field in fields(entry.build.Config)}
        given = {"num_classes": 10, "in_channels": row.channels, "image_size": side}
        model = entry.build(entry.build.Config(**{k: v for k, v in given.items() if k in known} | dict(entry.variant)
                                               | {k: v for k, v in row.config.items() if k != "image_size"}))
        model.fit(examples((images, labels), (images, labels)))
        with torch.no_grad():
            return model(images)

    told_or_fine(work)


@pytest.mark.parametrize("name", NAMES)
def test_it_tells_of_its_progress_in_whole_parts(name):
    begun, done = [], []
    images, labels = few(name, 60)
    fit(name, (images, labels), (images, labels), begin=lambda what, parts: begun.append((what, parts)),
        advance=done.append)
    assert all(isinstance(what, str) and (parts is None or parts > 0) for what, parts in begun)
    assert all(isinstance(count, int) and count >= 0 for count in done)
