"""Texture synthesis and style transfer on tiny random networks: losses that fall, colours that stay, regions, refusals.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import visus
from visus.cli.main import main
from visus.core.errors import UserError
from visus.explain.pixels import pixel_scale
from visus.explain.style import (
    Style,
    covering,
    luminance,
    match_colours,
    match_luminance,
    pixels_of,
    transfer_style,
    with_chroma_of,
)
from visus.explain.texture import Texture, noise_like, optimise_images, synthesise_texture
from visus.losses.perceptual import FeatureMaps, feature_loss, paper_layers, style_grams, style_loss

SCALE = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    torch.manual_seed(0)
    return visus.create_model("vgg16", dims=(4, 4, 5, 6, 7), hidden_dim=8, num_classes=3).train()


@pytest.fixture(scope="module")
def scale():
    return pixel_scale(torch.zeros(1, 3, 1, 1), **SCALE)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A photograph, two paintings of other forms and colours, and a mask of the left half."""
    folder = tmp_path_factory.mktemp("pictures")
    y, x = np.mgrid[:40, :52]
    stripes = np.stack([128 + 100 * np.sin(x / 2), 90 + 60 * np.sin(y), 40 + 0 * x], -1)
    checks = np.stack([30 + 0 * x, 60 + 150 * ((x // 4 + y // 4) % 2), 200 - y], -1)
    pictures = {"photo": 255 * np.clip(rand(40, 40, 3).numpy(), 0, 1), "stripes": stripes, "checks": checks,
                "left": np.repeat(np.where(np.arange(40) < 20, 255, 0)[None], 40, 0)[..., None].repeat(3, -1)}
    for name, pixels in pictures.items():
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in pictures}


# -- the optimiser -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser, steps", [("lbfgs", 30), ("adam", 400)])
@pytest.mark.parametrize("size_of_loss", [1.0, 1e-9])
def test_the_optimiser_finds_the_nearest_picture_in_range_whatever_the_size_of_the_loss(scale, optimiser, steps,
                                                                                         size_of_loss):
    wanted = 1.6 * rand(2, 3, 5, 5) - 0.3  # partly out of range
    weights = 0.5 + rand(2, 3, 5, 5, seed=1)

    def loss(images):
        return size_of_loss * (weights * (images - scale.normalised(wanted)).square()).mean()

    start = scale.normalised(torch.full((2, 3, 5, 5), 0.5))
    found, history = optimise_images(start, loss, scale, steps=steps, optimiser=optimiser)
    torch.testing.assert_close(found * scale.std + scale.mean, wanted.clamp(0, 1), rtol=0, atol=2e-3)
    assert history[-1] < history[0] and history[-1] == pytest.approx(float(loss(found)))
    assert torch.equal(optimise_images(start, loss, scale, steps=0)[0], start)


def test_a_loss_that_is_not_finite_is_said(scale):
    with pytest.raises(UserError, match="not finite"):
        optimise_images(torch.zeros(1, 3, 2, 2), lambda images: images.sum() / 0, scale, steps=1)


# -- texture -------------------------------------------------------------------------------------------------------


def test_the_texture_loss_falls_from_noise_and_is_the_stated_one(vgg, scale):
    image = scale.normalised(rand(1, 3, 32, 32).round())
    made, history = synthesise_texture(vgg, image, scale, size=(48, 32), steps=25,
                                       generator=torch.Generator().manual_seed(3))
    assert made.shape == (1, 3, 48, 32) and history[-1] < 0.2 * history[0]
    pixels = made * scale.std + scale.mean
    assert pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6
    names = paper_layers(vgg).style
    vgg.eval()
    with torch.no_grad():
        grams = [style_grams(FeatureMaps(vgg, names)(images), names) for images in (made, image)]
    vgg.train()
    expected = style_loss(*grams, dict.fromkeys(names, 1 / 5), relative=True)
    assert history[-1] == pytest.approx(float(expected), rel=1e-4)


def test_the_seed_and_it_alone_decides_the_texture(vgg):
    image = rand(1, 3, 32, 32)
    pictures = [Texture(steps=3, seed=seed, **SCALE)(vgg, image).pictures for seed in (0, 0, 1)]
    assert torch.equal(pictures[0], pictures[1]) and not torch.allclose(pictures[0], pictures[2], atol=1e-3)


def test_noise_is_grey_and_weak(scale):
    noise = scale.pixels(noise_like(torch.zeros(2, 3, 1, 1), (40, 40), scale, torch.Generator().manual_seed(0)))
    assert noise.shape == (2, 3, 40, 40) and 0.45 <= noise.min() < 0.46 and 0.54 < noise.max() <= 0.5501


# -- style ---------------------------------------------------------------------------------------------------------


def test_style_transfer_takes_the_style_and_keeps_the_content(vgg, scale):
    image, painting = scale.normalised(rand(1, 3, 32, 32)), scale.normalised(rand(1, 3, 40, 24, seed=1).round())
    layers = paper_layers(vgg)
    vgg.eval()
    features = FeatureMaps(vgg, (*layers.content, *layers.style))

    def parts(pictures):
        maps = features(pictures)
        wanted = features(image)
        return (float(feature_loss(maps, {n: wanted[n] for n in layers.content}, relative=True)),
                float(style_loss(style_grams(maps, layers.style), style_grams(features(painting), layers.style),
                                 dict.fromkeys(layers.style, 0.2), relative=True)))

    with torch.no_grad():
        before = parts(image)
        strong, history = transfer_style(vgg, image, [painting], scale, steps=20, style_weight=100.0)
        weak, _ = transfer_style(vgg, image, [painting], scale, steps=20, style_weight=0.1)
        after, mild = parts(strong), parts(weak)
    vgg.train()
    assert before[0] == 0 and after[1] < 0.7 * before[1], (before, after)
    assert mild[0] < after[0] and mild[1] > after[1], "the weights trade one for the other"
    assert history[0] == pytest.approx(100 * before[1], rel=1e-4)
    assert history[-1] == pytest.approx(after[0] + 100 * after[1], rel=1e-3)


@pytest.mark.parametrize("name, config", [
    ("resnet20", {}), ("vit_tiny_16", {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "num_heads": 2})])
@pytest.mark.parametrize("optimiser", ["lbfgs", "adam"])
def test_any_network_with_a_pyramid_serves(scale, name, config, optimiser):
    torch.manual_seed(0)
    model = visus.create_model(name, num_classes=3, **config).eval()
    image, painting = scale.normalised(rand(1, 3, 32, 32)), scale.normalised(rand(1, 3, 32, 32, seed=1).round())
    _, history = transfer_style(model, image, [painting], scale, steps=8, optimiser=optimiser, start="noise",
                                generator=torch.Generator().manual_seed(0))
    assert history[-1] < 0.9 * history[0]


def test_several_styles_are_mixed_in_their_shares(vgg, scale):
    image = scale.normalised(rand(1, 3, 32, 32))
    paintings = [scale.normalised(rand(1, 3, 32, 32, seed=seed).round()) for seed in (1, 2)]
    first = [transfer_style(vgg, image, paintings[:1], scale, steps=0)[1][0],
             transfer_style(vgg, image, paintings[1:], scale, steps=0)[1][0]]
    mixed = transfer_style(vgg, image, paintings, scale, steps=0, style_shares=(3, 1))[1][0]
    assert mixed == pytest.approx(0.75 * first[0] + 0.25 * first[1], rel=1e-5) and first[0] != pytest.approx(first[1])


def test_a_mask_keeps_a_style_to_its_region(vgg, scale):
    image, painting = scale.normalised(rand(1, 3, 64, 64)), scale.normalised(rand(1, 3, 32, 32, seed=1).round())
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1
    made, _ = transfer_style(vgg, image, [painting], scale, masks=[mask], steps=10, content_weight=0.0,
                             style_layers=("relu1_1",), content_layers=("relu1_1",))
    changed = (made - image).abs().mean((0, 1, 2))
    assert changed[:31].min() > 0 and changed[34:].max() == 0


# -- colours -------------------------------------------------------------------------------------------------------


def test_chroma_stays_exactly_the_contents_and_pixels_in_range():
    painted, content = rand(2, 3, 16, 16).double(), rand(2, 3, 16, 16, seed=1).double()
    kept = with_chroma_of(painted, content)
    yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], dtype=torch.float64)
    i_and_q = [torch.einsum("ij,bjhw->bihw", yiq, images)[:, 1:] for images in (kept, content)]
    torch.testing.assert_close(*i_and_q, rtol=0, atol=1e-12)
    assert kept.min() >= -1e-12 and kept.max() <= 1 + 1e-12
    grey = with_chroma_of(painted, luminance(content).expand(-1, 3, -1, -1))  # no chroma: the luminance is all
    torch.testing.assert_close(grey, luminance(painted).expand(-1, 3, -1, -1))
    torch.testing.assert_close(with_chroma_of(content, content), content)


def test_matched_colours_have_the_mean_and_covariance_of_the_reference():
    painting, photo = rand(1, 3, 20, 30), 0.5 * rand(1, 3, 8, 9, seed=1) + 0.4 * rand(1, 1, 8, 9, seed=2)
    matched = match_colours(painting, photo)
    assert matched.shape == painting.shape
    for images, wanted in ((matched, photo),):
        ours, theirs = images[0].flatten(1), wanted[0].flatten(1)
        torch.testing.assert_close(ours.mean(1), theirs.mean(1), rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.cov(ours, correction=0), torch.cov(theirs, correction=0), rtol=0, atol=1e-5)
    torch.testing.assert_close(match_colours(photo, photo), photo, rtol=0, atol=1e-4)


def test_matched_luminance_has_the_mean_and_spread_of_the_reference():
    painting, photo = 0.3 + 0.1 * rand(1, 3, 20, 30), 0.4 + 0.2 * rand(1, 3, 8, 9, seed=1)
    grey = match_luminance(painting, photo)
    assert (grey[:, :1] == grey).all()
    assert float(grey.mean()) == pytest.approx(float(luminance(photo).mean()), abs=1e-5)
    assert float(grey[0, 0].std()) == pytest.approx(float(luminance(photo).std()), rel=1e-4)


def test_a_painting_covers_the_image_without_a_change_of_form():
    picture = torch.zeros(1, 3, 30, 60)
    picture[..., 15:45] = 1  # the square in the middle
    assert covering(picture, (20, 20))[..., 1:-1].min() > 0.99 and covering(picture, (20, 20)).shape == (1, 3, 20, 20)


# -- the method ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["style", "luminance", "histogram"])
def test_the_method_paints_and_leaves_the_model_alone(vgg, files, scale, colour):
    before = {name: tensor.clone() for name, tensor in vgg.state_dict().items()}
    image = pixels_of(files["photo"], 3)[..., :32, :32]
    method = Style(style=str(files["stripes"]), steps=5, colour=colour, **SCALE)
    found = method(vgg, scale.normalised(image))
    assert found.pictures.shape == (1, 3, 32, 32) and found.picture_names == ("as stripes.png",)
    assert found.pictures.min() >= 0 and found.pictures.max() <= 1 and not torch.allclose(found.pictures, image)
    if colour == "luminance":
        torch.testing.assert_close(found.pictures - luminance(found.pictures), image - luminance(image), rtol=0,
                                   atol=1e-5)
    assert vgg.training and all(parameter.grad is None and parameter.requires_grad for parameter in vgg.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in vgg.state_dict().items())
    assert not any(module._forward_hooks for module in vgg.modules())


def test_the_verb_draws_both_methods(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common = ["resnet20", str(files["photo"]), "--set", "steps=2"]
    assert main(["explain", *common, "--method", "texture", "--set", "side=40", "--out", "t"]) == 0
    pictures = list((tmp_path / "t").glob("picture-*.png"))
    assert len(pictures) == 1 and "texture" in (tmp_path / "t" / "index.html").read_text()
    masks = f"[{files['left']}, {files['left']}]"
    assert main(["explain", *common, "--method", "style", "--out", "s", "--set", f"masks={masks}", "--set",
                 f"style=[{files['stripes']}, {files['checks']}]", "--set", "style_shares=[1, 2]"]) == 0
    assert len(list((tmp_path / "s").glob("picture-*.png"))) == 1
    assert "painted as stripes.png, checks.png" in capsys.readouterr().out


@pytest.mark.parametrize("options, words", [
    (["--method", "style"], "--set style=painting.jpg"),
    (["--method", "style", "--set", "style=nosuch.png"], "no such file"),
    (["--method", "style", "--set", "style=a.png", "--set", "colour=green"], "style, luminance, histogram"),
    (["--method", "style", "--set", "style=a.png", "--set", "start=middle"], "content, noise"),
    (["--method", "style", "--set", "style=a.png", "--set", "masks=[a.png, b.png]"], "each of the 1 styles"),
    (["--method", "style", "--set", "style=a.png", "--set", "style_shares=[0]"], "not all 0"),
    (["--method", "style", "--set", "style=a.png", "--set", "style_weight=-1"], "at least 0"),
    (["--method", "texture", "--set", "optimiser=sgd"], "lbfgs, adam"),
    (["--method", "texture", "--set", "steps=-1"], "whole number"),
    (["--method", "texture", "--set", "layers=level9"], "Did you mean"),
    (["--method", "texture", "--set", "pool=average"], "pool='max'"),
])
def test_wrong_options_end_with_a_remedy(files, tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    assert main(["explain", "resnet20", str(files["photo"]), *options]) == 2
    message = capsys.readouterr().err
    assert words in message and "Traceback" not in message, message
    assert not list(tmp_path.iterdir())
