"""AlexNet with split full layers in two processes against AlexNet in one, in float64."""

from __future__ import annotations

import torch
from torch import nn

import visus
from tests.train.processes import forked


def alexnet() -> nn.Module:
    torch.manual_seed(0)
    return visus.create_model("alexnet", num_classes=5, dims=(4, 6, 8, 6, 6), hidden_dim=15, dropout=0.0).double()


def test_logits_and_gradients_are_those_of_one_process():
    """15 hidden units and 5 classes: the columns are not equally many."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(6, 3, 64, 64, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 5, (6,), generator=generator)
    whole = alexnet()
    logits = whole(images)
    nn.functional.cross_entropy(logits, labels).backward()

    def work() -> None:
        from visus.train.one_weird_trick import OneWeirdTrick
        from visus.train.world import join, leave

        world, model = join("cpu"), alexnet()
        convolutions = nn.Sequential(model.features, model.avgpool, nn.Flatten())
        convolutions[0].forward = model.features.last
        split = OneWeirdTrick(convolutions, model.classifier, world)
        rows = slice(3 * world.rank, 3 * world.rank + 3)
        own = split(images[rows])
        torch.testing.assert_close(own, logits[rows], rtol=0, atol=1e-12)
        (nn.functional.cross_entropy(own, labels[rows]) / world.size).backward()
        split.sum_gradients()
        for a, b in zip(convolutions.parameters(), whole.features.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-12)
        linear = [layer for layer in whole.classifier if isinstance(layer, nn.Linear)]
        columns = [layer for layer in split.full if hasattr(layer, "sizes")]
        assert [layer.sizes for layer in columns] == [[8, 7], [8, 7], [3, 2]]
        for ours, reference in zip(columns, linear, strict=True):
            for name in ("weight", "bias"):
                expected = getattr(reference, name).grad.split(ours.sizes)[world.rank]
                torch.testing.assert_close(getattr(ours, name).grad, expected, rtol=0, atol=1e-12)
        assert len({id(p) for p in split.parameters()}) == 16
        leave()

    assert forked(work) == [0, 0]
