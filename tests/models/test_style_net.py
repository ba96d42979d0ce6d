"""Networks that paint, enlarge and make textures: the papers' tables, norms, and training against tiny critics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import visus
from visus.core.errors import CheckpointError, UserError
from visus.core.preprocessing import Preprocessing
from visus.core.weights import write_state_dict
from visus.models.generate.style_net import (
    INSTANCE,
    JOHNSON,
    ConditionalInstanceNorm2d,
    StyleNet,
    StyleNetConfig,
    SuperNet,
    TextureNet,
    dumoulin,
)
from visus.run.style import (
    Critic,
    critic,
    load_painter,
    make_textures,
    paint,
    smaller,
    train_style,
    train_super_resolution,
    train_texture,
)

SMALL = StyleNetConfig(dims=(4, 6, 8), depth=1, norm="instance", padding="mirror", upsample="nearest")


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def shapes(model: nn.Module, images: torch.Tensor) -> list[tuple[int, ...]]:
    """What each convolution puts out, without the batch."""
    seen = []
    hooks = [module.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[1:])))
             for module in model.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return seen


# -- tables --------------------------------------------------------------------------------------------------------


def conv(in_dim: int, dim: int, kernel: int) -> int:
    return in_dim * dim * kernel**2 + dim


def test_the_style_network_is_the_table_of_the_supplement():
    """Johnson et al., supplement, Table 1, at its 256 pixels: each output, and parameters counted by hand."""
    with torch.device("meta"):
        found = shapes(StyleNet(JOHNSON), torch.empty(1, 3, 256, 256))
    blocks = [(128, side, side) for side in (82, 80, 78, 76, 74, 72, 70, 68, 66, 64)]
    assert found == [(32, 336, 336), (64, 168, 168), (128, 84, 84), *blocks, (64, 128, 128), (32, 256, 256),
                     (3, 256, 256)]
    dims = [(3, 32, 9), (32, 64, 3), (64, 128, 3), *10 * [(128, 128, 3)], (128, 64, 3), (64, 32, 3)]
    by_hand = sum(conv(*layer) + 2 * layer[1] for layer in dims) + conv(32, 3, 9)
    assert by_hand == 1_679_235 == params(StyleNet(JOHNSON)) == params(StyleNet(INSTANCE))


def test_more_styles_cost_their_scales_and_shifts_alone():
    """Dumoulin et al., section 3: 2 x 1600 numbers a style, 0.2 % of the network."""
    channels = 32 + 64 + 128 + 10 * 128 + 64 + 32
    assert channels == 1600
    assert params(StyleNet(dumoulin(32))) - params(StyleNet(dumoulin(1))) == 31 * 2 * channels


@pytest.mark.parametrize("scale", [4, 8])
def test_the_super_resolution_network_is_the_table_of_the_supplement(scale):
    small = 288 // scale
    with torch.device("meta"):
        found = shapes(SuperNet(scale), torch.empty(1, 3, small, small))
    ups = [(64, small * 2**n, small * 2**n) for n in range(1, scale.bit_length())]
    assert found == [*9 * [(64, small, small)], *ups, (3, 288, 288)]
    by_hand = conv(3, 64, 9) + 8 * conv(64, 64, 3) + len(ups) * conv(64, 64, 3) + 2 * 64 * (9 + len(ups)) \
        + conv(64, 3, 9)
    assert params(SuperNet(scale)) == by_hand


def test_the_texture_network_widens_by_eight_channels_a_scale_to_about_the_published_size():
    """Ulyanov et al. state some 65 thousand parameters; the rows that its Fig. 2 shows, counted by hand, are 71,659."""
    by_hand = 5 * (conv(3, 8, 3) + conv(8, 8, 3) + conv(8, 8, 1) + 6 * 8)
    by_hand += sum(2 * conv(c, c, 3) + conv(c, c, 1) + 6 * c + 2 * c for c in (16, 24, 32, 40)) + conv(40, 3, 1)
    net = TextureNet()
    assert params(net) == by_hand == 71_659
    sizes = [tuple(draws.shape[1:]) for draws in net.noise(2, (64, 96))]
    assert sizes == [(3, 4, 6), (3, 8, 12), (3, 16, 24), (3, 32, 48), (3, 64, 96)]


# -- norms ---------------------------------------------------------------------------------------------------------


def test_instance_norm_is_the_papers_equation_and_torchs():
    maps = rand(2, 3, 5, 6).double()
    norm = ConditionalInstanceNorm2d(3, 1).double()
    with torch.no_grad():
        norm.weight.copy_(rand(1, 3, seed=1))
        norm.bias.copy_(rand(1, 3, seed=2))
        found = norm(maps, torch.ones(2, 1, dtype=torch.float64))
    for b in range(2):
        for c in range(3):
            mu = maps[b, c].mean()
            spread = ((maps[b, c] - mu).square().mean() + 1e-5).sqrt()
            torch.testing.assert_close(found[b, c], norm.weight[0, c] * (maps[b, c] - mu) / spread + norm.bias[0, c])
    torch.testing.assert_close(found, nn.functional.instance_norm(maps, weight=norm.weight[0], bias=norm.bias[0]))


def test_styles_mix_linearly_in_scale_and_shift():
    norm, maps = ConditionalInstanceNorm2d(4, 3).double(), rand(1, 4, 6, 6).double()
    with torch.no_grad():
        norm.weight.copy_(rand(3, 4, seed=1))
        norm.bias.copy_(rand(3, 4, seed=2))
        alone = [norm(maps, row[None]) for row in torch.eye(3, dtype=torch.float64)]
        mixed = norm(maps, torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64))
    torch.testing.assert_close(mixed, 0.2 * alone[0] + 0.5 * alone[1] + 0.3 * alone[2])


def test_each_image_of_a_batch_has_its_own_style():
    torch.manual_seed(0)
    net = StyleNet(replace(SMALL, norm="conditional", num_styles=3)).double().eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, ConditionalInstanceNorm2d):
                module.weight.copy_(rand(*module.weight.shape, seed=1) + 0.5)
    images = rand(2, 3, 20, 24).double()
    with torch.no_grad():
        both = net(images, torch.tensor([2, 0]))
        apart = torch.cat([net(images[:1], torch.tensor([2])), net(images[1:], torch.tensor([0]))])
        shares = net(images, torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64))
        other = net(images, torch.tensor([1, 0]))
    torch.testing.assert_close(both, apart)
    torch.testing.assert_close(both, shares)
    assert not torch.allclose(both[0], other[0], atol=1e-4) and torch.equal(both[1], other[1])


def test_an_instance_normalised_network_does_not_see_the_contrast():
    """Ulyanov et al., 2016, section 2, on the first layer without its border: scaling its input changes nothing."""
    torch.manual_seed(0)
    conv_, norm = nn.Conv2d(3, 4, 3, bias=False).double(), nn.InstanceNorm2d(4, eps=0.0).double()
    images = rand(1, 3, 9, 9).double()
    with torch.no_grad():
        torch.testing.assert_close(norm(conv_(3 * images)), norm(conv_(images)))


@pytest.mark.parametrize("config", [replace(JOHNSON, dims=(4, 4, 4), depth=5), SMALL,
                                    replace(JOHNSON, dims=(4, 4, 4), depth=2, output="sigmoid")])
@pytest.mark.parametrize("size", [(44, 61), (47, 48)])
def test_images_of_any_size_keep_it_and_stay_in_range(config, size):
    torch.manual_seed(0)
    with torch.no_grad():
        made = StyleNet(config).eval()(rand(1, 3, *size))
    assert made.shape == (1, 3, *size) and made.min() >= 0 and made.max() <= 1


def test_textures_are_seamless():
    """All borders are circular: shifted noise gives the shifted texture."""
    torch.manual_seed(0)
    net = TextureNet(scales=3, dim=4).double().eval()
    noise = [draws.double() for draws in net.noise(1, (16, 16), torch.Generator().manual_seed(0))]
    shifted = [draws.roll(2**n, dims=3) for n, draws in enumerate(noise)]  # 4 pixels of the largest
    with torch.no_grad():
        torch.testing.assert_close(net(shifted), net(noise).roll(4, dims=3))


# -- training ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge() -> Critic:
    torch.manual_seed(0)
    model = visus.create_model("vgg16", dims=(4, 5, 6, 7, 8), hidden_dim=8, num_classes=3)
    return Critic(model.eval().requires_grad_(False), Preprocessing(size=(32, 32)), torch.device("cpu"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(4):
        pixels = np.kron(rand(6, 8, 3, seed=number).numpy(), np.ones((8, 8, 1)))
        Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def painting(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("paintings")
    for seed, name in enumerate(("red", "blue")):
        pixels = 255 * rand(40, 40, 3, seed=seed).round().numpy()
        pixels[..., 2 * (1 - seed)] = 0
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
    return [folder / "red.png", folder / "blue.png"]


def test_a_style_network_learns_is_written_and_paints_as_before(judge, photos, painting, tmp_path):
    file = tmp_path / "red.safetensors"
    painter = train_style(photos, painting[:1], file, judge, network=SMALL, steps=25, batch=2, size_px=32, lr=5e-3,
                          progress=False)
    assert len(painter.losses) == 25 and sum(painter.losses[-5:]) < 0.8 * sum(painter.losses[:5])
    loaded = load_painter(file)
    assert (loaded.kind, loaded.styles, loaded.network.config) == ("style", ("red.png",), SMALL)
    ours, again = paint(painter, photos), paint(file, photos, out=tmp_path / "out")
    assert len(ours) == 4 and all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
    written = np.asarray(Image.open(tmp_path / "out" / "000-0.png"))
    assert written.shape == (48, 64, 3) and (written == ours[0].permute(1, 2, 0).numpy()).all()
    assert all(parameter.grad is None for parameter in judge.model.parameters())
    same = train_style(photos, painting[:1], tmp_path / "b.safetensors", judge, network=SMALL, steps=3, batch=2,
                       size_px=32, lr=5e-3, progress=False)
    assert same.losses == painter.losses[:3], "data and start depend on the seed alone"


def test_a_network_of_two_styles_learns_both_and_mixes(judge, photos, painting, tmp_path):
    config = replace(SMALL, norm="conditional", num_styles=2)
    file = tmp_path / "both.safetensors"
    painter = train_style(photos, painting, file, judge, network=config, steps=60, batch=2, size_px=32, lr=5e-3,
                          progress=False)
    assert sum(painter.losses[-15:]) < 0.9 * sum(painter.losses[:15]), painter.losses
    image = [photos / "0.png"]
    red, blue = (paint(file, image, style=name)[0].float() for name in ("red.png", "blue.png"))
    assert torch.equal(paint(file, image, style=1)[0].float(), blue)
    assert torch.equal(paint(file, image, shares=(1, 0))[0].float(), red)
    assert not torch.equal(red, blue)


def test_a_super_resolution_network_learns(judge, photos, tmp_path):
    painter = train_super_resolution(photos, tmp_path / "x4.safetensors", judge, scale=4, steps=40, batch=2, size_px=32,
                                     lr=1e-2, dim=8, depth=1, progress=False)
    assert sum(painter.losses[-10:]) < 0.9 * sum(painter.losses[:10])
    assert paint(tmp_path / "x4.safetensors", [photos / "0.png"])[0].shape == (3, 4 * 48, 4 * 64)


def test_a_texture_network_learns(judge, painting, tmp_path):
    painter = train_texture(painting[0], tmp_path / "t.safetensors", judge, steps=25, batch=2, size_px=32, scales=3,
                            dim=4, lr=0.02, progress=False)
    assert sum(painter.losses[-5:]) < 0.85 * sum(painter.losses[:5])
    two = make_textures(tmp_path / "t.safetensors", 2, (24, 32), seed=1)
    assert two[0].shape == (3, 24, 32) and not torch.equal(*two)
    assert torch.equal(make_textures(painter, 2, (24, 32), seed=1)[1], two[1])


def test_small_images_are_blurred_by_a_gaussian_and_keep_their_mean():
    flat = torch.full((1, 3, 16, 16), 0.3)
    torch.testing.assert_close(smaller(flat, 4), torch.full((1, 3, 4, 4), 0.3))
    from visus.ops.total_variation import total_variation

    noise = rand(1, 3, 32, 32)
    assert smaller(noise, 1).shape == noise.shape and total_variation(smaller(noise, 1)) < 0.1 * total_variation(noise)
    peak = torch.zeros(1, 1, 17, 17)
    peak[..., 8, 8] = 1
    blurred = smaller(peak, 1)[0, 0]
    assert float(blurred[8, 9] / blurred[8, 8]) == pytest.approx(np.exp(-0.5), rel=1e-5)
    assert float(blurred[9, 9] / blurred[8, 8]) == pytest.approx(np.exp(-1.0), rel=1e-5)


def test_a_critic_is_a_model_with_weights_frozen(tmp_path):
    config = {"num_classes": 1000}
    torch.manual_seed(0)
    model = visus.create_model("squeezenet1_1", **config)
    write_state_dict(tmp_path / "w.safetensors", model.state_dict())
    made = critic("squeezenet1_1", tmp_path / "w.safetensors", device="cpu")
    assert not made.model.training and not any(p.requires_grad for p in made.model.parameters())
    assert made.preprocessing.size == (224, 224)
    with pytest.raises(UserError, match="sees no style"):
        critic("squeezenet1_1")


@pytest.mark.parametrize("build, words", [
    (lambda j, p, s, t: train_style(p, s, t, j, network="instance"), "each of the 2 styles"),
    (lambda j, p, s, t: train_style(p, [], t, j), "at least one painting"),
    (lambda j, p, s, t: train_style(p, s, t, j, network="vgg"), "johnson, instance, conditional"),
    (lambda j, p, s, t: train_style(p, s[:1], t, j, steps=0), "steps=0"),
    (lambda j, p, s, t: train_super_resolution(p, t, j, scale=3, size_px=30), "2, 4, 8 or 16"),
    (lambda j, p, s, t: train_super_resolution(p, t, j, size_px=30), "multiple of scale=4"),
    (lambda j, p, s, t: train_texture(s[0], t, j, size_px=100), "multiples of 16"),
    (lambda j, p, s, t: StyleNet(SMALL)(rand(1, 3, 8, 8)), "at least 16 pixels"),
    (lambda j, p, s, t: StyleNet(dumoulin(2))(rand(1, 3, 16, 16)), "one of the 2 styles"),
    (lambda j, p, s, t: StyleNet(dumoulin(2))(rand(1, 3, 16, 16), torch.tensor([2])), "from 0 to 1"),
    (lambda j, p, s, t: StyleNet(SMALL)(rand(1, 3, 16, 16), torch.tensor([0])), "one style"),
    (lambda j, p, s, t: StyleNetConfig(num_styles=2), "conditional"),
])
def test_what_does_not_fit_is_refused(judge, photos, painting, tmp_path, build, words):
    with pytest.raises(UserError, match=words):
        build(judge, photos, painting, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_another_file_is_no_painter(tmp_path):
    write_state_dict(tmp_path / "w.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"not written by visus\.run\.style"):
        load_painter(tmp_path / "w.safetensors")
    write_state_dict(tmp_path / "w.safetensors", {"a": torch.zeros(1)}, {"visus.painter": '{"kind": "style"}'})
    with pytest.raises(CheckpointError, match="does not hold what its header says"):
        load_painter(tmp_path / "w.safetensors")
