"""Classifiers on hand-made features: what they see, what they say, and what they keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.classical.digits import digits, examples
from visus import classical
from visus.classical.fitted import Fitted
from visus.core.errors import UserError
from visus.ops.colour_histogram import hue_histogram
from visus.ops.hog import COURSE, hog

COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1]])


def coloured(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise in four colours, and stripes in two directions: class = 2 * (two colours) + direction. RGB in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    line = torch.arange(32.0)
    phase = 6.28 * torch.rand(count, 1, 1, generator=generator)
    waves = 0.5 + 0.5 * torch.where((labels % 2 == 0)[:, None, None], (line * 0.8 + phase).sin(),
                                    (line[:, None] * 0.8 + phase).sin())
    tint = COLOURS[labels // 2 * 2 + torch.randint(2, (count,), generator=generator)]
    images = (tint[:, :, None, None] * waves[:, None] + 0.1 * torch.rand(count, 3, 32, 32, generator=generator))
    images = images.clamp(0, 1)
    images[0, :, 0, 0], images[0, :, 0, 1] = 0.0, 1.0
    return images, labels


def built(name: str, **config) -> Fitted:
    entry = classical.registry.get(name)
    return entry.build(entry.build.Config(**dict(entry.variant) | config))


def test_colours_are_seen_as_they_were_whatever_the_normalisation():
    (train, labels), (other, others) = coloured(80, 0), coloured(40, 1)
    mean, std = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([0.2, 0.3, 0.1])[:, None, None]
    logits = []
    for move in (lambda x: x, lambda x: (x - mean) / std):
        model = built("hog_color_svm", num_classes=4, l2=1.0)
        model.fit(examples((move(train), labels), (move(other), others), num_classes=4))
        torch.testing.assert_close(model.restored(move(other)), other, rtol=1e-5, atol=1e-5)
        logits.append(model(move(other)))
    assert (logits[0].argmax(1) == logits[1].argmax(1)).all()
    assert float((logits[0].argmax(1) == others).float().mean()) > 0.9


def test_the_rows_are_the_courses_features_standardised_over_the_training_images():
    train, labels = coloured(60, 2)
    model = built("hog_color_svm", num_classes=4, l2=1.0)
    model.fit(examples((train, labels), (train, labels), num_classes=4))
    features = torch.cat([hog(train, COURSE).flatten(1), hue_histogram(train, 10)], dim=1)
    assert features.shape == (60, 154)
    spread = features.std(0, correction=0)
    expected = (features - features.mean(0)) / torch.where(spread > 1e-8, spread, 1.0)
    torch.testing.assert_close(model.rows(train), expected, rtol=1e-3, atol=1e-3)


def test_colour_helps_where_classes_differ_by_it():
    (train, labels), (other, others) = coloured(120, 3), coloured(80, 4)
    right = {}
    for name in ("hog_svm", "hog_color_svm"):
        model = built(name, num_classes=4, l2=1.0)
        model.fit(examples((train, labels), (other, others), num_classes=4))
        right[name] = float((model(other).argmax(1) == others).float().mean())
    assert right["hog_color_svm"] > right["hog_svm"] + 0.2


@pytest.mark.parametrize("name", ["hog_color_svm", "hog_color_net"])
def test_grey_images_have_no_hue_and_it_is_said(name):
    (images, labels), val = digits()
    said: list[str] = []
    more = {"epochs": 1} if name == "hog_color_net" else {"l2": 1.0, "max_iterations": 20}
    model = built(name, in_channels=1, image_size=8, **more)
    model.fit(examples((images[:200], labels[:200]), val, say=said.append))
    assert any("no hue" in sentence for sentence in said) and any("cells of 2 px" in sentence for sentence in said)
    assert len(model.mean) == 144


def test_the_net_keeps_the_epoch_that_is_best_on_val():
    (images, labels), val = digits(channels=3)
    curve: list[dict[str, float]] = []
    model = built("hog_color_net", image_size=8, hidden=32, epochs=6)
    model.fit(examples((images[:300], labels[:300]), val, log=lambda number, **values: curve.append(values)))
    assert len(curve) == 6 and curve[-1]["train_loss"] < curve[0]["train_loss"]
    with torch.no_grad():
        accuracy = float((model(val[0]).argmax(1) == val[1]).float().mean())
    assert accuracy == pytest.approx(max(values["val_accuracy"] for values in curve), abs=0.003)


def test_without_validation_images_the_last_epoch_and_a_usual_strength_are_taken():
    (images, labels), _ = digits()
    said: list[str] = []
    for name, config in (("hog_svm", {"max_iterations": 20}), ("hog_color_net", {"epochs": 2, "hidden": 8}),
                         ("bag_of_words_svm", {"num_words": 8, "max_iterations": 20})):
        size = {} if name == "bag_of_words_svm" else {"image_size": 8}
        model = built(name, in_channels=1, **size, **config)
        told = examples((images[:100], labels[:100]), say=said.append)
        model.fit(replace(told, val=lambda: iter(())))
        assert torch.isfinite(model(images[:5])).all()
    assert any("no validation images" in sentence for sentence in said)


def test_the_scores_are_as_sharp_as_val_wants_them():
    (images, labels), val = digits()
    model = built("hog_svm", in_channels=1, image_size=8, l2=1.0, max_iterations=60)
    model.fit(examples((images[:400], labels[:400]), val))
    with torch.no_grad():
        scores = model(val[0])
        losses = [float(torch.nn.functional.cross_entropy(scores * factor, val[1])) for factor in (0.9, 1.0, 1.1)]
        sure = float(scores.softmax(1).amax(1).mean())
    assert losses[1] < min(losses[0], losses[2])
    assert sure == pytest.approx(float((scores.argmax(1) == val[1]).float().mean()), abs=0.05)


def test_the_pyramid_knows_places_that_a_bag_does_not():
    (images, labels), val = digits(16)
    right = {}
    for levels in (1, 3):
        model = built("bag_of_words_svm", in_channels=1, num_words=16, levels=levels, l2=1.0, max_iterations=40)
        model.fit(examples((images[:250], labels[:250]), (val[0][:100], val[1][:100])))
        with torch.no_grad():
            right[levels] = float((model(val[0][:250]).argmax(1) == val[1][:250]).float().mean())
    assert right[3] > right[1] + 0.1, right


def test_a_bag_takes_images_of_another_size_and_no_more_words_than_descriptors():
    (images, labels), _ = digits(16)
    said: list[str] = []
    model = built("bag_of_words_svm", in_channels=1, num_words=900, l2=1.0, max_iterations=20, step=6)
    model.fit(examples((images[:30], labels[:30]), (images[:30], labels[:30]), say=said.append))
    assert model.config.num_words == len(model.codebook) < 900 and any("no more descriptors" in one for one in said)
    assert model(torch.rand(2, 1, 24, 40)).shape == (2, 10)


def test_wrong_fields_are_refused_by_name():
    with pytest.raises(UserError, match="descriptor='sift'"):
        built("hog_svm", descriptor="sift")
    with pytest.raises(UserError, match="3 x 3 px"):
        built("hog_svm", image_size=3)
    with pytest.raises(UserError, match="kernel='rbf'"):
        built("bag_of_words_svm", kernel="rbf")
    model = built("hog_svm")
    with pytest.raises(UserError, match="28 x 28 px"):
        model(torch.zeros(1, 3, 28, 28))
