"""Losses with auxiliary classifiers, and their gradients, against torchvision's outputs in train mode."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.parity.test_models_parity import assert_near, peer, randomise
from visus.run.models import create_model, load_weights


def test_googlenet_loss_and_gradients_equal_torchvisions():
    theirs = peer("torchvision", "googlenet", num_classes=5, init_weights=False, dropout=0.0, dropout_aux=0.0)
    randomise(theirs)
    ours = create_model("googlenet", num_classes=5, dropout=0.0, aux_dropout=0.0)
    assert load_weights(ours, theirs.state_dict(), "torchvision") == []
    ours, theirs, labels = ours.double().train(), theirs.double().train(), torch.arange(4)
    images = torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = ours.loss(images, labels)
    loss.backward()
    out = theirs(images)
    expected = F.cross_entropy(out.logits, labels) + 0.3 * (
        F.cross_entropy(out.aux_logits1, labels) + F.cross_entropy(out.aux_logits2, labels))
    expected.backward()
    assert_near(loss, expected, 1e-12, "loss")
    for name, a in ours.named_parameters():
        b = theirs.get_parameter(name)
        assert b.grad.abs().sum() > 0, name
        assert_near(a.grad, b.grad, 1e-9, name)


@pytest.mark.slow
def test_inception_v3_loss_and_gradients_equal_torchvisions():
    theirs = peer("torchvision", "inception_v3", num_classes=5, init_weights=False, dropout=0.0)
    randomise(theirs)
    ours = create_model("inception_v3", num_classes=5, dropout=0.0)
    assert load_weights(ours, theirs.state_dict(), "torchvision") == []
    ours, theirs, labels = ours.double().train(), theirs.double().train(), torch.arange(3)
    images = torch.randn(3, 3, 299, 299, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = ours.loss(images, labels)
    loss.backward()
    out = theirs(images)
    expected = F.cross_entropy(out.logits, labels) + 0.4 * F.cross_entropy(out.aux_logits, labels)
    expected.backward()
    assert_near(loss, expected, 1e-12, "loss")
    for name, a in ours.named_parameters():
        b = theirs.get_parameter(name)
        assert b.grad.abs().sum() > 0, name
        assert_near(a.grad, b.grad, 1e-9, name)
