"""Equal weights and images in visus and in torchvision or timm: equal outputs, gradients and running
statistics."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from tools.peers import load_peer
from visus.run.models import create_model, load_weights

VIT = {"image_size": 32, "patch_size": 8, "depth": 2, "num_classes": 6, "dim": 48, "num_heads": 4}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SLOW = pytest.mark.slow


def peer(package: str, maker: str, **options) -> nn.Module:
    try:
        module = load_peer(package)
    except ImportError as error:
        pytest.skip(str(error))
    if package == "torchvision":
        module = importlib.import_module("torchvision.models")
        return getattr(module, maker)(weights=None, **options)
    return module.create_model(maker, pretrained=False, **options)


def torchvision_vit() -> nn.Module:
    try:
        load_peer("torchvision")
    except ImportError as error:
        pytest.skip(str(error))
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=48,
                             mlp_dim=192,
                             num_classes=6)


TIMM_VIT = {"img_size": 32, "patch_size": 8, "depth": 2, "num_classes": 6, "embed_dim": 48, "num_heads": 4}
ROWS = {  # test id -> (name, config, origin, peer's maker, size)
    "resnet18-torchvision": ("resnet18", {"num_classes": 6}, "torchvision",
                             lambda: peer("torchvision", "resnet18", num_classes=6), 64),
    "resnet50-torchvision": ("resnet50", {"num_classes": 6}, "torchvision",
                             lambda: peer("torchvision", "resnet50", num_classes=6), 64),
    "resnet18-timm": ("resnet18", {"num_classes": 6}, "timm", lambda: peer("timm", "resnet18", num_classes=6),
                      64),
    "vit-timm": ("vit_tiny_16", VIT, "timm", lambda: peer("timm", "vit_tiny_patch16_224", **TIMM_VIT), 32),
    "vit-torchvision": ("vit_tiny_16", VIT, "torchvision", torchvision_vit, 32),
}
FULL = {
    **{name: (name, "torchvision", name, 64)
       for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
    **{f"vit_{size}_{patch}": (f"vit_{size}_{patch}", "timm", f"vit_{size}_patch{patch}_224", 224)
       for size, patch in (("tiny", 16), ("small", 16), ("base", 16), ("base", 32), ("large", 16),
                           ("large", 32))},
    **{f"vit_{long}_{patch}-torchvision": (f"vit_{long}_{patch}", "torchvision", f"vit_{short}_{patch}", 224)
       for long, short, patch in (("base", "b", 16), ("base", "b", 32), ("large", "l", 16),
                                  ("large", "l", 32))},
}


def randomise(model: nn.Module) -> None:
    """Weights, biases and statistics that leave no term at zero or one, and outputs near one."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1:
                tensor.copy_(noise * tensor[0].numel() ** -0.5)
            else:
                tensor.copy_(noise * 0.1 + (0 if name.endswith("bias") else 1))
        for name, tensor in model.named_buffers():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif name.endswith("running_mean"):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)


def assert_near(a: torch.Tensor, b: torch.Tensor, tolerance: float, what: str) -> None:
    assert a.shape == b.shape
    difference = ((a - b).abs().max() / b.abs().max()).item()
    assert difference <= tolerance, f"{what}: {difference:.2g}"


def pair(row: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    name, config, origin, make, size = ROWS[row]
    theirs = make()
    randomise(theirs)
    ours = create_model(name, **config)
    assert load_weights(ours, theirs.state_dict(), origin) == []
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)
    return ours.to(dtype), theirs.to(dtype), images


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("row", ROWS)
def test_eval_output_equals_the_peers(row, dtype):
    ours, theirs, images = pair(row, dtype)
    with torch.no_grad():
        assert_near(ours.eval()(images), theirs.eval()(images), TOLERANCE[dtype], row)


@pytest.mark.parametrize("row", ROWS)
def test_training_step_equals_the_peers(row):
    """Outputs, every gradient and the running statistics, in train mode and float64."""
    ours, theirs, images = pair(row, torch.float64)
    labels = torch.arange(4)
    for model in (ours.train(), theirs.train()):
        nn.functional.cross_entropy(model(images), labels).backward()
    name, config, origin, _, _ = ROWS[row]
    gradients = create_model(name, **config).double()
    load_weights(gradients, {**theirs.state_dict(), **{n: p.grad for n, p in theirs.named_parameters()}},
                 origin)
    expected = dict(gradients.named_parameters())
    for n, p in ours.named_parameters():
        assert_near(p.grad, expected[n], 1e-9, n)
    for n, b in ours.named_buffers():
        assert_near(b.double(), dict(gradients.named_buffers())[n].double(), 1e-10, n)


@pytest.mark.parametrize("row", ["resnet18-torchvision", "resnet50-torchvision", "resnet18-timm", "vit-timm"])
def test_state_loads_into_the_peer_too(row):
    ours, theirs, _ = pair(row, torch.float32)
    theirs.load_state_dict(ours.state_dict(), strict=True)


def test_a_changed_weight_is_seen():
    """The comparison itself can fail."""
    ours, theirs, images = pair("vit-timm", torch.float64)
    with torch.no_grad():
        ours.blocks[0].mlp.fc1.weight[3, 3] += 1e-3
        difference = (ours.eval()(images) - theirs.eval()(images)).abs().max().item()
    assert difference > 1e-7


def test_features_equal_timms():
    ours, _, images = pair("resnet18-timm", torch.float64)
    theirs = peer("timm", "resnet18", features_only=True, out_indices=(1, 2, 3, 4)).double().eval()
    theirs.load_state_dict({n: t for n, t in ours.state_dict().items() if not n.startswith("fc.")},
                           strict=True)
    assert tuple(theirs.feature_info.channels()) == ours.feature_channels
    assert tuple(theirs.feature_info.reduction()) == ours.feature_strides
    with torch.no_grad():
        for a, b in zip(ours.eval().features(images), theirs(images), strict=True):
            assert_near(a, b, 1e-10, "features")


@pytest.mark.parametrize(("grid", "new"), [((14, 14), (24, 24)), ((14, 14), (7, 7)), ((4, 6), (5, 9))])
def test_resized_positions_equal_timms(grid, new):
    try:
        load_peer("timm")
    except ImportError as error:
        pytest.skip(str(error))
    from timm.layers import resample_abs_pos_embed

    from visus.ops.positions import resize_positions

    positions = torch.randn(1, 1 + grid[0] * grid[1], 8, generator=torch.Generator().manual_seed(0))
    theirs = resample_abs_pos_embed(positions, new, old_size=grid, num_prefix_tokens=1)
    torch.testing.assert_close(resize_positions(positions, grid, new, 1), theirs, rtol=1e-6, atol=1e-6)


@SLOW
@pytest.mark.parametrize("row", FULL)
def test_full_size_model_equals_the_peers(row):
    name, origin, maker, size = FULL[row]
    theirs = peer(origin, maker, num_classes=1000)
    randomise(theirs)
    ours = create_model(name)
    load_weights(ours, theirs.state_dict(), origin)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    for dtype, tolerance in TOLERANCE.items():
        with torch.no_grad():
            assert_near(ours.to(dtype).eval()(images.to(dtype)), theirs.to(dtype).eval()(images.to(dtype)),
                        tolerance, row)
