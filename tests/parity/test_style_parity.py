"""Named layers and their losses against torchvision's feature extractor and VGG-19, and torch's instance norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import visus
from tools.peers import load_peer
from visus.losses.perceptual import FAST_STYLE, PAPER_CONTENT, PAPER_STYLE, FeatureMaps, style_grams, style_loss
from visus.models.generate.style_net import INSTANCE, StyleNet, StyleNetConfig

# torchvision's indices of those layers in vgg19().features: the ones that every style transfer on torchvision uses.
VGG19 = {"relu1_1": 1, "relu2_1": 6, "relu3_1": 11, "relu4_1": 20, "relu4_2": 22, "relu5_1": 29}
VGG16 = {"relu1_2": 3, "relu2_2": 8, "relu3_3": 15, "relu4_3": 22}


def peer_trunk(name: str) -> nn.Module:
    try:
        load_peer("torchvision")
    except ImportError as error:
        pytest.skip(str(error))
    from torchvision.models import vgg

    torch.manual_seed(0)
    return vgg.make_layers(vgg.cfgs[{"vgg16": "D", "vgg19": "E"}[name]]).eval()


@pytest.mark.parametrize("name, rows, layers", [
    ("vgg19", VGG19, (*PAPER_STYLE, *PAPER_CONTENT)), ("vgg16", VGG16, FAST_STYLE)])
def test_named_layers_are_those_that_torchvisions_extractor_gives(name, rows, layers):
    trunk = peer_trunk(name)
    from torchvision.models.feature_extraction import create_feature_extractor

    ours = visus.create_model(name, hidden_dim=1, num_classes=1).eval()
    ours.features.load_state_dict(trunk.state_dict())
    extractor = create_feature_extractor(trunk, {str(index): layer for layer, index in rows.items()})
    images, painting = (torch.randn(1, 3, 48, 32, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    with torch.no_grad():
        found, other = (FeatureMaps(ours, layers)(x) for x in (images, painting))
        expected, expected_other = extractor(images), extractor(painting)
    assert set(rows) == set(layers)
    for layer in layers:
        torch.testing.assert_close(found[layer], expected[layer], rtol=1e-6, atol=1e-6)
    loss = style_loss(style_grams(found, layers), style_grams(other, layers))
    by_hand = 0.0
    for layer in layers:  # as written with torchvision's maps: bmm over flattened places
        f, g = (maps[layer].flatten(2) for maps in (expected, expected_other))
        grams = [torch.bmm(m, m.transpose(1, 2)) / (m.shape[1] * m.shape[2]) for m in (f, g)]
        by_hand += float((grams[0] - grams[1]).square().sum())
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)


def test_the_instance_normalised_network_is_the_same_network_on_torchs_layers():
    """The paper's layers written down in a row with torch's own modules, the same weights."""
    config = StyleNetConfig(**{**INSTANCE.__dict__, "dims": (3, 4, 5), "depth": 2})
    torch.manual_seed(0)
    net = StyleNet(config).double().eval()
    tensors = iter(net.state_dict().values())

    def take(module: nn.Module) -> nn.Module:
        for parameter in module.double().parameters():
            parameter.data.copy_(next(tensors))
        return module

    def block(conv: nn.Module) -> nn.Sequential:
        return nn.Sequential(take(conv), take(nn.InstanceNorm2d(conv.out_channels, affine=True)), nn.ReLU())

    down = nn.Sequential(block(nn.Conv2d(3, 3, 9, 1, 4)), block(nn.Conv2d(3, 4, 3, 2, 1)),
                         block(nn.Conv2d(4, 5, 3, 2, 1)))
    residual = [nn.Sequential(*block(nn.Conv2d(5, 5, 3)), take(nn.Conv2d(5, 5, 3)),
                              take(nn.InstanceNorm2d(5, affine=True))) for _ in range(2)]
    up = nn.Sequential(block(nn.ConvTranspose2d(5, 4, 3, 2, 1, 1)), block(nn.ConvTranspose2d(4, 3, 3, 2, 1, 1)),
                       take(nn.Conv2d(3, 3, 9, 1, 4)))
    assert next(tensors, None) is None
    images = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        maps = down(nn.ReflectionPad2d(16)(2 * images - 1))
        for branch in residual:
            maps = maps[..., 2:-2, 2:-2] + branch(maps)
        torch.testing.assert_close(net(images), up(maps).tanh() / 2 + 0.5, rtol=1e-12, atol=1e-12)
