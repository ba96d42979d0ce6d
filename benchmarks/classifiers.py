"""Our convolutional classifiers against timm's or torchvision's with the same weights: forward, training step, memory.

    python benchmarks/classifiers.py [--families resnet50,vgg16_bn] [--image-size 96] [--rounds 11] [--seconds 3]

Eager mode, float32, one thread, processor time (another process on the machine lengthens it little). The two sides hold
equal weights, get equal images and alternate in one process; the median of the per-round ratios (the peer's time over
ours: above 1 we are faster) is kept. A training step is forward, cross-entropy, backward; no optimizer, which would be
the same for both. Memory is the most that a training step at the largest batch holds at one time beyond the weights.
Each median has its 95 % interval. Exit code 1 when a family's geometric mean is below 0.97, a row's whole interval is,
the geometric mean of all families is below 1 or our memory more than 1 % above the peer's. Needs the extra 'parity'.
Results: benchmarks/results/classifiers.json, in which families that are not run again stay.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import paired
from tools.peers import load_peer, peer_model
from visus.run.models import create_model, load_weights

FAMILIES = {  # ours -> (package, its name)
    "resnet50": ("timm", "resnet50"), "resnet18": ("torchvision", "resnet18"),
    "resnext50_32x4d": ("timm", "resnext50_32x4d"),
    "vgg11_bn": ("torchvision", "vgg11_bn"), "densenet121": ("timm", "densenet121"),
    "inception_v3": ("timm", "inception_v3"),
    "googlenet": ("torchvision", "googlenet"), "squeezenet1_1": ("torchvision", "squeezenet1_1"),
    "mobilenet_v2": ("timm", "mobilenetv2_100"), "mobilenet_v3_large": ("timm", "mobilenetv3_large_100"),
    "shufflenet_v2_x1_0": ("torchvision", "shufflenet_v2_x1_0"), "efficientnet_b0": ("timm", "efficientnet_b0"),
    "regnet_y_800mf": ("timm", "regnety_008_tv"), "convnext_tiny": ("timm", "convnext_tiny"),
    "seresnet50": ("timm", "seresnet50"), "repvgg_a0": ("timm", "repvgg_a0"), "xception": ("timm", "legacy_xception"),
    "alexnet": ("torchvision", "alexnet"),
}
SIZES = {"inception_v3": 128, "xception": 128}
BARE = {  # without what the peers leave out by default
    "googlenet": {"aux_heads": False}, "inception_v3": {"aux_head": False, "dropout": 0.0},
    "mobilenet_v2": {"dropout": 0.0}, "mobilenet_v3_large": {"dropout": 0.0, "bn_eps": 1e-5},
    "efficientnet_b0": {"dropout": 0.0, "drop_path": 0.0},
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    package, theirs_name = FAMILIES[name]
    torch.manual_seed(0)
    if (package, name) == ("torchvision", "googlenet"):
        load_peer("torchvision")
        from torchvision.models import googlenet

        theirs = googlenet(weights=None, aux_logits=False, init_weights=False)
    else:
        theirs = peer_model(package, theirs_name)
    ours = create_model(name, **BARE.get(name, {}))
    load_weights(ours, theirs.state_dict(), origin=package)
    return ours, theirs


if __name__ == "__main__":
    sys.exit(paired.main(__doc__, FAMILIES, pair, Path(__file__).parent / "results" / "classifiers.json",
                         image_size=96, sizes=SIZES, seconds=3.0))
