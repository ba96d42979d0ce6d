"""The first layer's filters as pictures, over the epochs of a training.

Source: Stanford CS231n notes 3, "first-layer visualizations": smooth and diverse filters have learnt, noisy ones have
not, or lack regularisation. All filters of a picture have one scale, so that one that is not used stays grey.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from visus.core.errors import ResourceError
from visus.core.files import write_bytes
from visus.explain.filters import convolutions, filter_sheet
from visus.train.trainer import EpochReport, StepReport

MOST = 8  # pictures of a run
SHOWN = 64  # filters in a picture
SIDE_PX = 24  # of a filter, about
GAP_PX = 3
TOP = 0.995  # share of the weights that lie inside of the scale


class FilterPictures:
    """An observer: images/filters-EPOCH.png of a run's first convolution, before training (epoch 0) and at the end of
    up to MOST - 1 epochs, more of them early, when the filters change most. A model without one gives no picture."""

    def __init__(self, folder: Path, model: nn.Module, epochs: int):
        self.images = folder / "images"
        self.layer = first_layer(model)
        self.epochs = chosen_epochs(epochs)
        if not self._path(0).exists():  # a run that is taken up again began with other weights
            self._write(0)

    def on_step(self, report: StepReport) -> None:
        pass

    def on_epoch(self, report: EpochReport) -> None:
        if report.epoch + 1 in self.epochs:
            self._write(report.epoch + 1)

    def _path(self, epoch: int) -> Path:
        return self.images / f"filters-{epoch}.png"

    def _write(self, epoch: int) -> None:
        if self.layer is None:
            return
        pixels = filter_picture(self.layer.weight)
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG")
        try:
            write_bytes(self._path(epoch), encoded.getvalue())
        except ResourceError:  # a full disk does not end the training
            pass


def first_layer(model: nn.Module) -> nn.Conv2d | None:
    """The first convolution, in the order of definition, that sees more than one pixel."""
    return next((conv for conv in convolutions(model).values() if max(conv.kernel_size) > 1), None)


def chosen_epochs(epochs: int) -> frozenset[int]:
    """Ends of epochs, from 1, at which a picture is made: first and last among them, the rest by equal factors."""
    return frozenset(int(e) for e in np.unique(np.geomspace(1, max(1, epochs), MOST - 1).round()))


@torch.no_grad()
def filter_picture(weight: Tensor) -> np.ndarray:
    """[K, C, h, w] -> uint8 [H, W] or [H, W, 3]: filters in rows of eight, at most SHOWN, grey where a weight is 0. Of
    other than 1 or 3 channels the mean over them is shown."""
    shown = weight.detach().float().cpu()[:SHOWN]
    if shown.shape[1] not in (1, 3):
        shown = shown.mean(1, keepdim=True)
    size = float(torch.quantile(shown.abs().flatten()[:1_000_000], TOP)) if bool(shown.isfinite().all()) else 0.0
    scaled = (0.5 + 0.5 * shown / size).clamp(0, 1) if size > 0 else torch.full_like(shown, 0.5)
    sheet = filter_sheet(scaled, columns=min(8, len(scaled)), side_px=SIDE_PX, gap=GAP_PX)  # [C, H, W]
    pixels = (255 * sheet).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels
