"""Real runs and bundles, made once for all tests of the deployment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SMALL = {"model.name": "resnet20", "model.config.depth": 1, "train.threads": 1, "train.layout": "contiguous"}


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A small convolutional net on the built-in digits: about 90 % right."""
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    import visus

    out = tmp_path_factory.mktemp("deploy") / "run"
    visus.train("digits", out=str(out), progress=False, values={"train.epochs": 2, **SMALL})
    return out


@pytest.fixture(scope="session")
def digits_bundle(digits_run):
    from visus.run.export import export

    return export(digits_run, out=digits_run.parent / "bundle")


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory):
    """Forty real digits as PNG files of several sizes, so that resizing is part of what is tested."""
    import visus.data.builtin

    folder = tmp_path_factory.mktemp("digit_files")
    images = np.load(Path(visus.data.builtin.__file__).parent / "digits.npz")["images"]
    for number in range(40):
        pixels = np.asarray(images[number], np.uint8).squeeze()
        side = (8, 20, 33, 64)[number % 4]
        Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")
    return folder

