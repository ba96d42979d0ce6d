"""NFNet against the equations of its papers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tools.peers import peer_model
from visus.core.errors import UserError
from visus.models.cnn.nfnet import GELU_GAMMA, Block, NFNet, NFNetConfig, ScaledGELU, ScaledStdConv2d
from visus.run.models import create_model, load_weights

SMALL = {"depths": (1, 2, 3, 2), "dims": (16, 32, 48, 48), "stem_dim": 16, "group_width": 8, "num_classes": 3}


def test_kernels_have_no_mean_and_the_variance_of_their_gain_over_the_fan_in():
    """Brock et al. 2021, equation 1: W_ij = (W_ij - mu_i) / (sqrt(N) sigma_i), times the gain."""
    torch.manual_seed(0)
    conv = ScaledStdConv2d(8, 6, 3, groups=2).double()
    torch.nn.init.normal_(conv.weight, 2.0, 3.0)
    torch.nn.init.uniform_(conv.gain, 0.5, 2.0)
    flat, raw = conv.standardised().flatten(1), conv.weight.flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(6).double(), rtol=0, atol=1e-12)
    by_hand = (raw - raw.mean(1, keepdim=True)) / (raw.var(1, correction=0, keepdim=True) * 36).sqrt()
    torch.testing.assert_close(flat, by_hand * conv.gain[:, None], rtol=1e-5, atol=0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4), (8, 8), (7, 7)])
def test_the_odd_zero_lies_to_the_right_and_below(size, stride):
    """TensorFlow's SAME: ceil(n / s) places; of the zeros needed, half (rounded down) come before."""
    torch.manual_seed(0)
    conv = ScaledStdConv2d(2, 3, 3, stride).double()
    images = torch.randn(1, 2, *size).double()
    pads = []
    for n in reversed(size):
        total = max((math.ceil(n / stride) - 1) * stride + 3 - n, 0)
        pads += [total // 2, total - total // 2]
    expected = F.conv2d(F.pad(images, pads), conv.standardised(), conv.bias, stride)
    assert expected.shape[2:] == tuple(math.ceil(n / stride) for n in size)
    torch.testing.assert_close(conv(images), expected)


def test_scaled_gelu_keeps_the_variance_of_a_normal():
    x = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    weight = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    out = ScaledGELU(GELU_GAMMA)(x)
    mean = (out * weight).sum()
    # the authors found gamma by drawing normals, to three digits
    assert ((out - mean).square() * weight).sum().item() == pytest.approx(1, abs=2e-3)


def test_each_block_divides_by_the_standard_deviation_that_the_sum_has_by_then():
    """Section 2: the variance grows by alpha^2 a block, and is 1 again past the shortcut that begins a stage."""
    model = NFNet(NFNetConfig(**SMALL))
    found = [[(GELU_GAMMA / block.act1.scale) ** 2 for block in stage] for stage in model.stages]
    grown = 1 + 0.2 ** 2
    expected = [[1.0], [grown, grown], [grown + 0.04, grown, grown + 0.04], [grown + 0.08, grown]]
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b)


def test_the_variance_of_the_maps_at_the_start_is_the_predicted_one():
    torch.manual_seed(0)
    blocks = [Block(128, 128, 1, 64, 0.5, (1 + 0.25 * i) ** 0.5, 1.0, 0.0) for i in range(4)]
    maps = torch.randn(2, 128, 28, 28)
    with torch.no_grad():
        for number, block in enumerate(blocks, 1):
            block.attn_last = torch.nn.Identity()  # the gate's gain is a rule of thumb
            block.scale = 0.5
            for conv in (block.conv1, block.conv2, block.conv2b, block.conv3):
                torch.nn.init.zeros_(conv.bias)
            maps = block(maps)
            inner = maps[:, :, 8:-8, 8:-8]  # zeros around the maps have reached no further
            assert inner.square().mean().item() == pytest.approx(1 + 0.25 * number, rel=0.1)


def test_skip_init_makes_a_block_the_identity():
    maps = torch.randn(2, 32, 5, 5)
    assert torch.equal(Block(32, 32, 1, 8, 0.2, 1.0, 0.0, 0.0)(maps), maps)


def test_drop_path_grows_from_nothing_to_its_rate():
    model = NFNet(NFNetConfig(**SMALL, drop_path=0.35))
    rates = [block.drop_path.rate for stage in model.stages for block in stage]
    assert rates == pytest.approx([0.05 * i for i in range(8)])


@pytest.mark.parametrize(("field", "value"), [("depths", (3, 3)), ("dims", (256, 512, 1000, 1536)), ("stem_dim", 12),
                                              ("alpha", 0), ("alpha", True), ("skip_init", 2), ("dropout", 1.0),
                                              ("drop_path", -0.1), ("group_width", 0)])
def test_wrong_configs_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        NFNetConfig(**{field: value})


@pytest.mark.slow
@pytest.mark.parametrize("size", range(7))
def test_the_full_size_equals_timms(size):
    """Gains near one, as trained ones are: the hashed weights of the passports, with gains from a uniform over
    [-2.4, 2.4], make gates that no two float32 programs agree on, so these passports name no peer."""
    try:
        theirs = peer_model("timm", f"dm_nfnet_f{size}")
    except ImportError as error:
        pytest.skip(str(error))
    torch.manual_seed(size)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith(("gain", "bias")):
                parameter.copy_((0 if name.endswith("bias") else 1) + 0.1 * torch.randn(parameter.shape))
    ours = create_model(f"nfnet_f{size}")
    load_weights(ours, theirs.state_dict(), "timm")
    images = torch.randn(2, 3, 64, 64)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        with torch.no_grad():
            a, b = (model.to(dtype).eval()(images.to(dtype)) for model in (ours, theirs))
        assert ((a - b).abs().max() / b.abs().max()).item() <= tolerance
