"""Batch norm over two processes against torch's over the whole batch, in float64."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.train.processes import forked


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (3 + 2 * torch.randn(7, 3, 4, 5, dtype=torch.float64, generator=generator),
            torch.randn(7, 3, 4, 5, dtype=torch.float64, generator=generator))


def norm(momentum: float | None, affine: bool) -> nn.Sequential:
    torch.manual_seed(1)
    made = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, momentum=momentum, affine=affine)).double()
    if affine:
        nn.init.normal_(made[1].weight), nn.init.normal_(made[1].bias)
    return made


@pytest.mark.parametrize("momentum, affine", [(0.1, True), (None, False)])
def test_statistics_outputs_and_gradients_are_those_of_the_whole_batch(tmp_path: Path, momentum, affine):
    """Shares of 3 and 4 images: the counts differ. momentum=None is the plain mean over the batches."""
    images, slopes = batch()
    whole = norm(momentum, affine)
    inputs = images.clone().requires_grad_()
    for _ in range(2):
        out = whole(inputs)
    out.backward(slopes)

    def work() -> None:
        from visus.train.sync_norm import SharedBatchNorm, share_batch_norms
        from visus.train.world import join, leave

        world = join("cpu")
        model = norm(momentum, affine)
        assert share_batch_norms(model) == 1 and isinstance(model[1], SharedBatchNorm)
        rows = slice(0, 3) if world.leads else slice(3, 7)
        own = images[rows].clone().requires_grad_()
        for _ in range(2):
            result = model(own)
        result.backward(slopes[rows])
        worst = {"output": (result - out[rows]).abs().max(), "input": (own.grad - inputs.grad[rows]).abs().max()}
        for name, buffer in whole.named_buffers():
            worst[name] = (dict(model.named_buffers())[name] - buffer).abs().max()
        for (name, parameter), reference in zip(model.named_parameters(), whole.parameters(), strict=True):
            total = torch.tensor(world.sum(parameter.grad.flatten().tolist()), dtype=torch.float64)
            total = total.view(parameter.shape)
            worst[f"slope of {name}"] = (total - reference.grad).abs().max()
        model.eval(), whole.eval()
        worst["eval"] = (model(own) - whole(own)).abs().max()
        (tmp_path / f"{world.rank}").write_text(json.dumps({name: float(value.detach())
                                                            for name, value in worst.items()}))
        leave()

    assert forked(work) == [0, 0]
    for rank in "01":
        for name, worst in json.loads((tmp_path / rank).read_text()).items():
            assert worst < 1e-12, (rank, name, worst)
