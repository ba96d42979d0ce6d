"""AutoAugment, RandAugment, TrivialAugment and AugMix: tables, shares, and marks that follow."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch

from tests.data.transforms.peers import draws, noise, smooth
from tests.data.transforms.test_operations import PEER_NAMES, peer
from visus.core.errors import RecipeError
from visus.data.objects import Objects
from visus.data.transforms import Draws, build_augmentation
from visus.data.transforms.augmix import AugMix, gamma
from visus.data.transforms.auto_augment import POLICIES, AutoAugment
from visus.data.transforms.operations import OPERATIONS, apply_
from visus.data.transforms.policies import RandAugment, TrivialAugment
from visus.data.transforms.scene import Scene

ALL = [AutoAugment("imagenet"), AutoAugment("cifar10"), AutoAugment("svhn"), RandAugment(), RandAugment(3, 5, 10),
       TrivialAugment(), AugMix(), AugMix(10, 2, 4, 0.5, all_operations=True)]


@pytest.mark.parametrize("name, peers", [("imagenet", "IMAGENET"), ("cifar10", "CIFAR10"), ("svhn", "SVHN")])
def test_the_published_tables_are_those_of_torchvision_and_kornia(name, peers):
    assert len(POLICIES[name]) == 25
    rows = peer("AutoAugment")(getattr(peer("AutoAugmentPolicy"), peers))._policies
    ours = [tuple((PEER_NAMES[p.name], p.probability, p.magnitude) for p in pair) for pair in POLICIES[name]]
    assert ours == [tuple((a, p, m or 0) for a, p, m in pair) for pair in rows]
    kornia = pytest.importorskip("kornia.augmentation.auto.autoaugment.autoaugment")
    table = {"imagenet": kornia.imagenet_policy, "cifar10": kornia.cifar10_policy, "svhn": kornia.svhn_policy}[name]
    assert [tuple((p.name.replace("autoc", "auto_c"), p.probability, p.magnitude) for p in pair)
            for pair in POLICIES[name]] == [tuple((a, p, m or 0) for a, p, m in pair) for pair in table]


@pytest.mark.parametrize("transform", ALL, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_sample_is_augmented_the_same_in_any_batch(transform, channels):
    batch = noise(12, channels, 14, 15)
    index = np.array([5, 100, 7, 3, 2**40, 0, 9, 1, 44, 45, 46, 47])
    whole = transform(batch, Draws(index, 3, 2, "p"))
    order = np.array([6, 1, 4])
    assert torch.equal(transform(batch[order], Draws(index[order], 3, 2, "p")), whole[order])
    assert whole.dtype == torch.uint8 and whole.shape == batch.shape
    assert not torch.equal(transform(batch, Draws(index, 3, 3, "p")), whole)
    floats = transform(batch.float() / 255, Draws(index, 3, 2, "p"))
    near = 0.51 if isinstance(transform, AugMix) else 1e-4  # whole levels in, whole levels out
    torch.testing.assert_close(255 * floats, whole.float(), rtol=0, atol=near)


@pytest.mark.parametrize("transform", ALL[:6], ids=str)
def test_the_batch_is_not_changed_in_place(transform):
    batch = noise(16)
    before = batch.clone()
    transform(batch, draws(16))
    assert torch.equal(batch, before)


def test_auto_augment_does_its_pairs_in_order_with_their_probabilities():
    transform = AutoAugment("svhn")
    rounds = list(transform.rounds(draws(20_000), 331, 331))
    pair = np.floor(draws(20_000).uniform(5)[:, 0] * 25).astype(int)
    assert np.bincount(pair, minlength=25).min() > 650
    for place, (names, magnitudes) in enumerate(rounds):
        for number, both in enumerate(POLICIES["svhn"]):
            part, of = both[place], pair == number
            assert set(names[of]) <= {part.name, ""}
            assert abs((names[of] == part.name).mean() - part.probability) < 0.08
            done = magnitudes[of & (names == part.name)]
            if part.name == "rotate" and len(done):
                np.testing.assert_allclose(np.abs(done), 30 * part.magnitude / 9)
                assert abs((done < 0).mean() - 0.5) < 0.1


def test_rand_augment_draws_each_operation_as_often_at_one_strength():
    rounds = list(RandAugment(2, 12, 30).rounds(draws(14_000), 100, 200))
    assert len(rounds) == 2
    for names, magnitudes in rounds:
        counts = collections.Counter(names.tolist())
        assert len(counts) == 14 and min(counts.values()) > 850 and "invert" not in counts
        assert set(np.abs(magnitudes[names == "rotate"]).round(9)) == {12.0}
        assert set(np.abs(magnitudes[names == "translate_x"])) == {36.0}  # 0.4 * 150 / 331 * 200, rounded to zero
        assert set(magnitudes[names == "posterize"]) == {6.0}
    together = collections.Counter(zip(rounds[0][0].tolist(), rounds[1][0].tolist(), strict=True))
    assert len(together) == 196


def test_trivial_augment_does_one_operation_of_any_strength():
    ((names, magnitudes),) = TrivialAugment().rounds(draws(14_000), 32, 32)
    assert len(set(names.tolist())) == 14
    turns = np.abs(magnitudes[names == "rotate"])
    assert len(set(turns.round(6))) == 31 and turns.max() == 135
    assert set(magnitudes[names == "posterize"]) == {2, 3, 4, 5, 6, 7, 8}


def test_a_policy_is_its_operations_one_after_the_other():
    batch = smooth(30, 20, 21)
    transform = RandAugment(2, 20)
    (first, at_first), (second, at_second) = transform.rounds(draws(30), 20, 21)
    out = transform(batch, draws(30))
    for i in range(30):
        expected = apply_(batch[i:i + 1].clone(), first[i:i + 1], at_first[i:i + 1])
        assert torch.equal(out[i:i + 1], apply_(expected, second[i:i + 1], at_second[i:i + 1]))


def test_boxes_keypoints_and_label_maps_follow_the_operations_that_move_pixels():
    augment = build_augmentation([{"name": "randaugment", "operations": 2, "magnitude": 15, "fill": 0.0}])
    moved = 0
    for index in range(60):
        image = torch.zeros(3, 48, 48, dtype=torch.uint8)
        image[:, 18:28, 20:32] = 200
        labels = torch.zeros(48, 48, dtype=torch.uint8)
        labels[18:28, 20:32] = 1
        objects = Objects(start=np.array([0, 1]), boxes=np.array([[20.0, 18, 32, 28]]), labels=np.array([0]))
        scene = augment.scene(Scene(image=image, objects=objects, label_map=labels), index, 0, 0)
        rounds = list(augment.steps[0][1].rounds(augment.draws(0, np.array([index]), 0, 0), 48, 48))
        geometric = [name for names, _ in rounds for name in names if name and OPERATIONS[name].matrix]
        assert torch.equal(scene.image, augment(image[None], np.array([index]), 0, 0)[0])
        moved += bool(geometric)
        rows, columns = np.nonzero(scene.label_map.numpy() == 1)
        drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(scene.objects.boxes[0] - drawn).max() < (6 if geometric else 1e-9)
        if geometric and all(name.startswith("translate") for name in geometric):
            np.testing.assert_allclose(scene.objects.boxes[0], drawn, atol=1e-9)
        if not geometric:
            assert np.array_equal(scene.objects.boxes, objects.boxes)
    assert moved > 25


def test_augmix_is_the_weighted_sum_of_its_chains():
    batch = smooth(10, 16, 17)
    transform = AugMix(severity=5, width=3)
    m, weights = transform.weights(draws(10))
    np.testing.assert_allclose(weights.sum(1), 1)
    expected = m[:, None, None, None] * batch.double().numpy()
    for chain in range(3):
        changed = batch.clone()
        for names, magnitudes in transform.rounds(draws(10), chain, 16, 17):
            apply_(changed, names, magnitudes, 0.5, "bilinear")
        expected += ((1 - m) * weights[:, chain])[:, None, None, None] * changed.double().numpy()
    assert np.abs(transform(batch, draws(10)).numpy() - expected).max() <= 0.5001


def test_augmix_chains_have_one_to_three_operations_that_imagenet_c_does_not_test():
    rounds = AugMix().rounds(draws(9000), 1, 32, 32)
    depth = sum((names != "").astype(int) for names, _ in rounds)
    assert (np.bincount(depth, minlength=4)[1:] > 2800).all() and depth.max() == 3 and depth.min() == 1
    used = set(np.concatenate([names for names, _ in rounds]).tolist()) - {""}
    assert used == {"autocontrast", "equalize", "posterize", "rotate", "solarize", "shear_x", "shear_y", "translate_x",
                    "translate_y"}
    space = peer("AugMix")._PARTIAL_AUGMENTATION_SPACE
    assert {PEER_NAMES[name] for name in used} == set(space)
    names, magnitudes = rounds[0]
    for name in used:
        theirs = space[PEER_NAMES[name]][0](10, 32, 32)
        if theirs is not None:
            whole = theirs.int() if name.startswith("translate") else theirs
            got = set(np.abs(magnitudes[names == name]).round(5).tolist())
            assert got == set(np.array([float(v) for v in whole[:3]]).round(5).tolist())


@pytest.mark.parametrize("shape", [0.3, 1.0, 4.5])
def test_gamma_numbers_follow_their_distribution(shape):
    stats = pytest.importorskip("scipy.stats")
    assert stats.kstest(gamma(shape, draws(8000), "g"), stats.gamma(shape).cdf).pvalue > 0.01


@pytest.mark.parametrize("build, words", [
    (lambda: AutoAugment("cifar100"), "'imagenet' or 'cifar10' or 'svhn'"),
    (lambda: RandAugment(magnitude=40), "from 0 to 30"), (lambda: RandAugment(operations=1.5), "whole number"),
    (lambda: TrivialAugment(interpolation="cubic"), "'nearest' or 'bilinear'"),
    (lambda: TrivialAugment(strengths=1), "from 2 to"), (lambda: AugMix(severity=0), "from 1 to 10"),
    (lambda: AugMix(depth=1.5), "whole number"), (lambda: AugMix(interpolation="area"), "'nearest' or 'bilinear'")])
def test_wrong_fields_are_refused(build, words):
    with pytest.raises(RecipeError, match=words):
        build()


