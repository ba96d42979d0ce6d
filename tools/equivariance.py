"""Measure what six small nets keep when their input is shifted or its patches change places, and draw
docs/figures/equivariance.svg. Their weights are random, their positions as large as what they are added to, as training
makes them; images are noise. `--check`: exit 1 when the figure is stale."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from visus.core.files import write_text  # noqa: E402
from visus.explain.equivariance import (  # noqa: E402
    POSITION_TABLES,
    patch_permutation_error,
    translation_error,
    with_circular_padding,
)
from visus.report.charts import Axis, tag  # noqa: E402
from visus.report.figures import standalone  # noqa: E402
from visus.run.models import create_model  # noqa: E402

FIGURE = ROOT / "docs" / "figures" / "equivariance.svg"
SIDE = 64
PATCHES = {"image_size": SIDE, "patch_size": 8, "dim": 64, "depth": 3}
VIT = {**PATCHES, "num_heads": 4}
NETS: tuple[tuple[str, str, dict[str, Any], int], ...] = (  # words, model, config, which of its maps
    ("ConvNet, zero padding", "resnet20", {}, -1),
    ("ConvNet, circular padding", "resnet20", {}, -1),
    ("Swin, windows of 4 x 4", "swin_tiny", {"dim": 24, "depths": (2, 2, 1, 1), "num_heads": (2, 2, 4, 4),
                                             "windows": (4, 4, 4, 4)}, 1),
    ("ViT, learned positions", "vit_tiny_16", VIT, -1),
    ("ViT, relative positions", "vit_tiny_16", {**VIT, "positions": "relative"}, -1),
    ("ViT without positions", "vit_tiny_16", {**VIT, "positions": "none"}, -1),
    ("MLP-Mixer", "mixer_small_16", PATCHES, -1),
)


def build(name: str, config: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    model = create_model(name, num_classes=10, **config).double().eval()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)  # branches as strong as what they are added to
    for path, parameter in model.named_parameters():
        if path.rsplit(".", 1)[-1] in POSITION_TABLES:
            nn.init.normal_(parameter)
    return model


def rows() -> list[tuple[str, float, float]]:
    """Words, error of a shift by one step of the map, error of a permutation of the patches; of each net."""
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for words, name, config, level in NETS:
        model = build(name, config)
        if "circular" in words:
            model = with_circular_padding(model)
        step = model.feature_strides[level]  # type: ignore[index]
        order = torch.randperm((SIDE // step) ** 2, generator=torch.Generator().manual_seed(0))
        found.append((words, translation_error(model, images, (step, step), level),
                      patch_permutation_error(model, images, order, level)))
    return found


def chart(rows: Sequence[tuple[str, float, float]]) -> str:
    """Two bars a net."""
    left, right, top, step = 236.0, 620.0, 92.0, 46.0
    axis = Axis(0, 1.5, left, right)
    bottom = top + step * len(rows)
    title = "What is kept when the input is shifted, or its patches change places"
    parts = [tag("text", title, class_="label", x=16, y=26, font_size=15),
             tag("rect", class_="value accent", x=16, y=40, width=12, height=12),
             tag("text", "error of a shift", class_="tick", x=34, y=50),
             tag("rect", class_="value", x=146, y=40, width=12, height=12),
             tag("text", "error of a permutation of patches", class_="tick", x=164, y=50)]
    for value, words in ((0, "0: kept exactly"), (0.5, "0.5"), (1, "1"), (2**0.5, "unrelated")):
        x = axis(value)
        parts += [tag("line", class_="grid", x1=x, x2=x, y1=top - 8, y2=bottom),
                  tag("text", words, class_="tick middle", x=x, y=top - 14)]
    for number, (name, shift, permutation) in enumerate(rows):
        y = top + number * step
        parts.append(tag("text", name, class_="label end", x=left - 10, y=y + 20))
        for value, kind, offset in ((shift, "value accent", 2), (permutation, "value", 18)):
            words = "0" if value < 1e-4 else f"{value:.2f}" if value >= 0.01 else f"{value:.1g}"
            parts += [tag("rect", class_=kind, x=left, y=y + offset, width=max(1.0, axis(min(value, 1.5)) - left),
                          height=14),
                      tag("text", words, class_="tick", x=axis(min(value, 1.5)) + 6, y=y + offset + 11)]
    parts.append(tag("line", class_="axis", x1=left, x2=left, y1=top - 8, y2=bottom))
    return standalone(Markup("").join(parts), 700, round(bottom) + 20, title=title) + "\n"


def main() -> int:
    text = chart(rows())
    if "--check" not in sys.argv:
        write_text(FIGURE, text)
    elif not FIGURE.exists() or FIGURE.read_text(encoding="utf-8") != text:
        print(f"{FIGURE.relative_to(ROOT)} is stale: run python tools/equivariance.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
