"""GoogLeNet and Inception-v3 against what their papers state."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import UserError
from visus.models.cnn.googlenet import GoogLeNet, GoogLeNetConfig, Inception
from visus.models.cnn.inception_v3 import InceptionV3, InceptionV3Config
from visus.run.models import create_model, describe_model

IMAGES = torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())


def test_auxiliary_heads_cost_what_the_passport_says():
    with torch.device("meta"):
        whole, bare = create_model("googlenet"), create_model("googlenet", aux_heads=False)
    assert count(bare) == 6_624_904 and count(whole) - count(bare) == 6_379_984
    assert describe_model(whole).macs == describe_model(bare).macs


def test_a_module_puts_its_branches_side_by_side():
    torch.manual_seed(0)
    module = Inception(6, 2, 3, 4, 3, 5, 1).eval()
    maps = torch.randn(2, 6, 7, 7)
    with torch.no_grad():
        parts = module(maps).split([2, 4, 5, 1], 1)
        for part, branch in zip(parts, (module.branch1, module.branch2, module.branch3, module.branch4), strict=True):
            assert torch.equal(part, branch(maps))


@pytest.mark.parametrize("training", [True, False])
def test_googlenet_forward_is_the_main_classifier_and_loss_adds_the_others(training):
    torch.manual_seed(0)
    model = GoogLeNet(GoogLeNetConfig(num_classes=5, dropout=0.0, aux_dropout=0.0)).double().train(training)
    labels = torch.arange(4)
    seen = {}
    model.inception4a.register_forward_hook(lambda _, __, out: seen.update(aux1=out))
    model.inception4d.register_forward_hook(lambda _, __, out: seen.update(aux2=out))
    with torch.no_grad():
        logits, loss = model(IMAGES), model.loss(IMAGES, labels)
        expected = F.cross_entropy(logits, labels) + 0.3 * sum(
            F.cross_entropy(getattr(model, head)(maps), labels) for head, maps in seen.items())
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        soft = model.loss(IMAGES, F.one_hot(labels, 5).double())
    assert logits.shape == (4, 5)
    torch.testing.assert_close(soft, loss, rtol=1e-12, atol=0)


def test_googlenet_loss_without_heads_is_the_plain_one():
    model = GoogLeNet(GoogLeNetConfig(num_classes=5, aux_heads=False)).double().eval()
    labels = torch.arange(4)
    with torch.no_grad():
        torch.testing.assert_close(model.loss(IMAGES, labels), F.cross_entropy(model(IMAGES), labels), rtol=0, atol=0)
    assert not [n for n in model.state_dict() if n.startswith("aux")]


def test_inception_v3_has_the_maps_of_table_1():
    with torch.device("meta"):
        model = create_model("inception_v3").eval()
        maps = model.features(torch.empty(1, 3, 299, 299))
    assert [tuple(m.shape[1:]) for m in maps[1:]] == [(288, 35, 35), (768, 17, 17), (2048, 8, 8)]
    assert maps[0].shape[1:] == (192, 71, 71)  # of the public weights' stem


@pytest.mark.parametrize("size", [75, 76, 96])
def test_inception_v3_takes_images_from_75_pixels_on(size):
    model = InceptionV3(InceptionV3Config(num_classes=2, image_size=size, aux_head=False)).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, size, size)).isfinite().all()


def test_inception_v3_refuses_smaller_images_by_name():
    with pytest.raises(UserError, match="image_size=74"):
        create_model("inception_v3", image_size=74)
    with torch.device("meta"):
        model = create_model("inception_v3", num_classes=2, image_size=298)
        with pytest.raises(UserError, match="298x320.*aux_head=False"):
            model.loss(torch.empty(1, 3, 298, 320), torch.zeros(1, dtype=torch.int64))


def test_inception_v3_loss_takes_smoothed_labels():
    """Label smoothing of section 7 from outside: soft labels give what torch's label_smoothing gives."""
    torch.manual_seed(0)
    model = InceptionV3(InceptionV3Config(num_classes=5, aux_head=False, dropout=0.0)).double().eval()
    labels = torch.arange(4)
    soft = 0.9 * F.one_hot(labels, 5).double() + 0.1 / 5
    with torch.no_grad():
        expected = F.cross_entropy(model(IMAGES), labels, label_smoothing=0.1)
        torch.testing.assert_close(model.loss(IMAGES, soft), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_inception_v3_loss_adds_the_auxiliary_classifier(training):
    torch.manual_seed(0)
    model = InceptionV3(InceptionV3Config(num_classes=5, dropout=0.0)).train(training)
    images, labels, seen = torch.randn(2, 3, 299, 299), torch.arange(2), []
    model.Mixed_6e.register_forward_hook(lambda _, __, out: seen.append(out))
    model.fc.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        loss = model.loss(images, labels)
        maps, logits = seen
        expected = F.cross_entropy(logits, labels) + 0.4 * F.cross_entropy(model.AuxLogits(maps), labels)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
