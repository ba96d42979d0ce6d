"""Every registered attack keeps the contract of visus/attack/attack.py. A missing row in rows_attack.py fails."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import cache
from typing import get_args

import pytest
import torch

from tests.attack.small import other_classes, right_answers, small_net
from tests.rows_attack import ATTACK_ROWS
from visus.attack import registry
from visus.attack.attack import NORMS, Sees, distances
from visus.core.errors import UserError

NAMES = sorted(registry.fresh_index())


def made(name: str, **options):
    entry = registry.get(name)
    return entry.build(**{**entry.variant, **ATTACK_ROWS[name].options, **options})


@cache
def attacked(name: str, aimed: bool = False):
    images, labels = right_answers()
    return made(name)(small_net(), images, labels, targets=other_classes(labels) if aimed else None,
                      generator=torch.Generator().manual_seed(3))


AIMED = [(name, aimed) for name in NAMES for aimed in (False, True) if not aimed or made(name).targeted]


def test_every_attack_has_a_row_and_the_index_is_fresh():
    assert set(NAMES) == set(ATTACK_ROWS)
    assert json.loads(registry.index_path.read_text()) == registry.fresh_index(), "write visus/attack/index.json again"


@pytest.mark.parametrize("name", NAMES)
def test_it_declares_what_it_is(name):
    attack, entry = made(name), registry.get(name)
    assert attack.norm in NORMS and attack.sees in get_args(Sees)
    assert isinstance(attack.random, bool) and isinstance(attack.targeted, bool)
    assert {"summary", "paper"} <= set(entry.about)
    assert all(field.kw_only for field in fields(attack)) and entry.build.__dataclass_params__.frozen


@pytest.mark.parametrize("name, aimed", AIMED)
def test_it_stays_in_bounds_and_its_flags_and_distances_are_true(name, aimed):
    images, labels = right_answers()
    found, attack, row = attacked(name, aimed), made(name), ATTACK_ROWS[name]
    assert found.images.shape == images.shape and found.images.dtype == images.dtype
    assert not found.images.requires_grad
    assert float(found.images.min()) >= 0 and float(found.images.max()) <= 1
    away = distances(images, found.images)
    assert set(found.distances) == set(NORMS)
    for norm in NORMS:
        torch.testing.assert_close(found.distances[norm], away[norm])
    if getattr(attack, "eps", None) is not None:
        assert float(away[attack.norm].max()) <= attack.eps * (1 + 1e-5) + 1e-6
    with torch.no_grad():
        logits = small_net()(found.images)
    sure = logits.topk(2).values.diff(dim=1).abs()[:, 0] > 1e-4  # others hang on rounding
    answers = logits.argmax(1)
    truth = answers == other_classes(labels) if aimed else answers != labels
    assert found.success.dtype == torch.bool and (found.success == truth)[sure].all()
    assert found.success.float().mean() >= (row.aims if aimed else row.fools)
    if row.far is not None and not aimed:
        assert float(found.distances[attack.norm][found.success].mean()) <= row.far
    assert found.queries.shape == found.steps.shape == labels.shape and found.queries.dtype == torch.int64
    assert (found.queries >= 1).all() and (found.steps[found.success] >= 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_model_and_the_images_stay_as_they_were(name):
    net, (images, labels) = small_net(), right_answers(4)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    copy = images.clone()
    made(name)(net, images, labels)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert not net.training and not any(module._forward_hooks for module in net.modules())
    assert torch.equal(images, copy) and not images.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_repeats_it_whatever_the_global_generator(name):
    images, labels = right_answers(4)
    state = torch.random.get_rng_state()
    found = [made(name)(small_net(), images, labels, generator=torch.Generator().manual_seed(5)).images
             for _ in range(2)]
    assert torch.equal(*found) and torch.equal(state, torch.random.get_rng_state())
    if made(name).random:
        other = made(name)(small_net(), images, labels, generator=torch.Generator().manual_seed(6)).images
        assert not torch.equal(found[0], other)


@pytest.mark.parametrize("name", [name for name in NAMES if not ATTACK_ROWS[name].jointly])
def test_a_batch_is_what_its_samples_are_one_by_one(name):
    if made(name).random:
        pytest.skip("the draws hang on the batch")
    images, labels = right_answers(3)
    whole = made(name)(small_net(), images, labels)
    for n in range(len(images)):
        alone = made(name)(small_net(), images[n:n + 1], labels[n:n + 1])
        torch.testing.assert_close(alone.images[0], whole.images[n], rtol=0, atol=ATTACK_ROWS[name].tolerance)
        assert alone.success[0] == whole.success[n]


@pytest.mark.parametrize("name", NAMES)
def test_wrong_inputs_are_refused(name):
    images, labels = right_answers(2)
    with pytest.raises(UserError, match="0, 1"):
        made(name)(small_net(), images * 255, labels)
    with pytest.raises(UserError, match="int64"):
        made(name)(small_net(), images, labels.float())
    if not made(name).targeted:
        with pytest.raises(UserError, match="takes no targets"):
            made(name)(small_net(), images, labels, targets=labels)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_gives_an_empty_answer(name):
    images, labels = right_answers(2)
    found = made(name)(small_net(), images[:0], labels[:0])
    assert len(found.images) == len(found.success) == len(found.steps) == 0
