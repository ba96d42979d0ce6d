"""Our vision transformers, hybrids and MLPs against timm's or transformers' with the same weights:
forward, training step, memory.

    python benchmarks/vision_transformers.py [--families vit_tiny_16,swin_tiny] [--rounds 11] [--seconds 3]

As benchmarks/classifiers.py, whose rules and exit code it shares, at 224 px: eager mode, float32, one thread, processor
time, medians of the per-round ratios (the peer's time over ours: above 1 we are faster). Needs the extra 'parity'.
Results: benchmarks/results/vision_transformers.json, in which families that are not run again stay.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import paired
from tools.peers import load_peer, peer_model
from visus.run.models import create_model, load_weights

FAMILIES = {  # ours -> (package, its name)
    "vit_tiny_16": ("timm", "vit_tiny_patch16_224"),
    "deit_tiny_distilled_16": ("timm", "deit_tiny_distilled_patch16_224"),
    "deit3_small_16": ("timm", "deit3_small_patch16_224"),
    "cait_xxs24": ("timm", "cait_xxs24_224"),
    "swin_tiny": ("timm", "swin_tiny_patch4_window7_224"),
    "swin_v2_tiny": ("timm", "swinv2_tiny_window8_256"),
    "pvt_v2_b0": ("timm", "pvt_v2_b0"),
    "mvit_v2_tiny": ("timm", "mvitv2_tiny"),
    "mixer_small_32": ("timm", "mixer_s32_224"),
    "resmlp_12": ("timm", "resmlp_12_224"),
    "gmlp_tiny_16": ("timm", "gmlp_ti16_224"),
    "convmixer_1024_20": ("timm", "convmixer_1024_20_ks9_p14"),
    "coatnet_0_rw": ("timm", "coatnet_0_rw_224"),
    "vit_tiny_r_s16_p8": ("timm", "vit_tiny_r_s16_p8_224"),
    "dinov2_small_14": ("timm", "vit_small_patch14_dinov2"),
    "cvt_13": ("transformers", "CvtForImageClassification"),
    "pvt_tiny": ("transformers", "PvtForImageClassification"),
}
SIZES = {"swin_v2_tiny": 256}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # ours, the peer's
    "dinov2_small_14": ({"image_size": 224}, {"img_size": 224}),
    "cvt_13": ({"quick_gelu": False}, {}),  # transformers computes GELU on weights that were trained with QuickGELU
}


class Logits(nn.Module):
    """transformers' model, which gives an object, as one that gives logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images).logits


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    package, theirs_name = FAMILIES[name]
    options, theirs_options = OPTIONS.get(name, ({}, {}))
    torch.manual_seed(0)
    if package == "transformers":
        build = getattr(load_peer(package), theirs_name)
        theirs = build(build.config_class(num_labels=1000, **theirs_options))
    else:
        theirs = peer_model(package, theirs_name, **theirs_options)
    ours = create_model(name, **options)
    load_weights(ours, theirs.state_dict(), origin=package)
    return ours, Logits(theirs) if package == "transformers" else theirs


if __name__ == "__main__":
    sys.exit(paired.main(__doc__, FAMILIES, pair, Path(__file__).parent / "results" / "vision_transformers.json",
                         image_size=224, sizes=SIZES, seconds=3.0))
