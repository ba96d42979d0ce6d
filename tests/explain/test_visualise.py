"""Filters, templates, activations, patches, maps of images, GrabCut and the loss landscape: each shows what it says."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.attack.small import SmallNet, stripes
from tests.explain.test_every_method import images_for, tiny
from visus.cli.main import main
from visus.core.errors import UserError
from visus.explain.activations import layer_maps, prominence
from visus.explain.class_image import clusters, facet_starts
from visus.explain.embedding import Embedding, last_features, mosaic, nearest_neighbours
from visus.explain.feature_layer import feature_layer
from visus.explain.filters import Filters, Templates, filter_pictures, filter_sheet, weight_templates
from visus.explain.grabcut import fit_mixture, grabcut, seeds
from visus.explain.loss_landscape import contour_picture, curve_picture, filter_direction, slice_losses, towards
from visus.explain.max_patches import MaxPatches, centres, crops, measured_field, strongest_places
from visus.explain.pixels import pixel_scale
from visus.explain.t_simcne import random_views, taught_places
from visus.ops.projection import pca
from visus.report import heat
from visus.report.embedding_chart import embedding_chart, embedding_svg
from visus.run.models import create_model


class Chain(nn.Module):
    """Two 3 x 3 convolutions, the first with stride 2: a place sees 7 x 7 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, stride=2, padding=1)
        self.second = nn.Conv2d(3, 2, 3, padding=1)
        self.head = nn.Linear(2, 2)

    def forward(self, images):
        return self.head(torch.relu(self.second(torch.relu(self.first(images)))).mean((2, 3)))


def positive_chain() -> Chain:
    model = Chain().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    return model


# -- weights -------------------------------------------------------------------------------------------------------


def test_a_filter_is_shown_on_its_own_scale_around_grey():
    weight = torch.tensor([[[[0.0, 2.0], [-1.0, 1.0]]], [[[0.0, 0.1], [-0.1, 0.0]]]])
    shown = filter_pictures(weight)
    assert torch.equal(shown, torch.tensor([[[[0.5, 1.0], [0.25, 0.75]]], [[[0.5, 1.0], [0.0, 0.5]]]]))
    sheet = filter_sheet(shown, columns=2, side_px=4, gap=1)
    assert sheet.shape == (1, 4, 9) and sheet[0, 0, 4] == 1 and torch.equal(sheet[0, ::2, 5::2], shown[1, 0])


def test_the_first_layer_is_shown_in_colour_and_later_ones_in_slices():
    model = tiny("resnet")
    first = Filters()(model, images_for("resnet", 1))
    assert "16 of 16 filters, 3 x 3" in first.sentence and first.pictures.shape[1] == 3
    later = Filters(layer="layer1.0.conv1")(model, images_for("resnet", 1))
    assert "256 of 256 slices of 16 filters" in later.sentence and later.pictures.shape[1] == 1
    assert "is no convolution" in Filters(layer="fc").problem(model, images_for("resnet", 1))


def test_templates_are_the_weights_of_a_linear_classifier_and_of_nothing_else():
    model = create_model("softmax_regression", image_size=6, in_channels=3, num_classes=4)
    with torch.no_grad():
        nn.init.normal_(model.head.weight)
        nn.init.normal_(model.head.bias)
    found = weight_templates(model, (3, 6, 6))
    torch.testing.assert_close(found, model.head.weight.detach().view(4, 3, 6, 6))
    shown = Templates()(model, torch.zeros(1, 3, 6, 6)).pictures
    assert ((shown > 0.5) == (found > 0)).all()
    with pytest.raises(UserError, match="no linear classifier"):
        weight_templates(tiny("mlp"), (3, 16, 16))


# -- activations and patches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, layer", [("resnet", "layer2"), ("vit", "blocks.0"), ("swin", "features.3"),
                                         ("mobilenet", None)])
def test_maps_of_a_layer_are_those_of_the_whole_pass_and_carry_a_gradient(name, layer):
    model, images = tiny(name), images_for(name, 2).requires_grad_()
    found = layer_maps(model, images, layer)
    assert torch.autograd.grad(found.sum(), images)[0].abs().sum() > 0
    if layer is not None:
        seen = []
        model.get_submodule(layer).register_forward_hook(lambda _, __, out: seen.append(out))
        with torch.no_grad():
            model(images)
        torch.testing.assert_close(found, feature_layer(model, images, layer).maps(seen[0]))


def test_a_lone_peak_stands_out_before_a_high_plateau():
    maps = torch.zeros(1, 3, 4, 4)
    maps[0, 0] = 50
    maps[0, 1, 2, 2] = 3
    assert prominence(maps).argmax() == 1 and prominence(maps)[0, 0] == 0


def test_the_field_of_a_place_is_measured_as_arithmetic_gives_it():
    """3 + (3 - 1) * 2 = 7 pixels for the second convolution; less for a share of the gradient."""
    model, images = positive_chain(), torch.ones(2, 1, 32, 32)
    assert measured_field(model, feature_layer(model, images, "first"), images) in ((3, 3), (5, 5))
    whole = measured_field(model, feature_layer(model, images, "second"), images)
    part = measured_field(model, feature_layer(model, images, "second"), images, share=0.5)
    assert whole in ((7, 7), (9, 9)) and part < whole, "odd boxes around a centre that lies between pixels"


def test_the_patch_is_cut_from_the_image_and_place_that_drive_the_channel():
    model = positive_chain()
    images = torch.zeros(5, 1, 32, 32)
    images[3, 0, 20:23, 8:11] = 1
    layer = feature_layer(model, images, "second")
    values, places = strongest_places(model, images, layer)
    assert (values.argmax(0) == 3).all()
    middle = centres(places[3, 0], layer.grid, (32, 32))
    assert (middle - torch.tensor([21, 9])).abs().max() <= 2
    patch = crops(images, torch.tensor([3]), middle[None], (9, 9))
    assert patch.sum() == 9
    found = MaxPatches(layer="second", channels=2, patches=3)(model, images)
    assert len(found.pictures) == 2 and "3 images of 5" in found.sentence


def test_beyond_the_border_a_patch_is_grey():
    pixels = torch.zeros(1, 3, 6, 6)
    patch = crops(pixels, torch.tensor([0]), torch.tensor([[0, 5]]), (3, 5))[0]
    assert (patch[:, 0] == 0.5).all() and (patch[:, :, 3:] == 0.5).all() and (patch[:, 1:, :3] == 0).all()


# -- maps of images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, head", [("resnet", "fc"), ("vit", "head"), ("mlp", "head")])
def test_features_are_what_the_last_layer_reads(name, head):
    model, images = tiny(name), images_for(name, 3)
    features = last_features(model, images)
    layer = model.get_submodule(head)
    torch.testing.assert_close(layer(features), model(images))


def test_neighbours_leave_the_image_itself_out():
    features = torch.tensor([[0.0, 0], [3, 0], [0, 1], [0, 1]])
    index, apart = nearest_neighbours(features[:3], features, 2)
    assert index[0].sort().values.tolist() == [2, 3] and index[2].tolist() == [3, 0]
    torch.testing.assert_close(apart[2], torch.tensor([0.0, 1.0], dtype=torch.float64))


def test_every_image_has_a_cell_of_the_mosaic_near_its_place():
    points = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    tiles = torch.arange(5.0).view(5, 1, 1, 1).expand(-1, 1, 2, 2) / 10
    drawn = mosaic(points, tiles, 3)[0, ::2, ::2]
    assert drawn[2, 0] == 0 and drawn[0, 0] == pytest.approx(0.1) and drawn[2, 2] == pytest.approx(0.2)
    corner = {round(10 * float(drawn[0, 2])), round(10 * float(drawn[0, 1])), round(10 * float(drawn[1, 2])),
              round(10 * float(drawn[1, 1]))}
    assert {3, 4} <= corner, "two at one place lie side by side"


def test_a_map_needs_two_images_and_names_what_was_done():
    model, images = tiny("resnet"), images_for("resnet", 9)
    with pytest.raises(UserError, match="1 given"):
        Embedding()(model, images[:1])
    assert "perplexity 2.67" in Embedding()(model, images).sentence
    assert "3 neighbours" in Embedding(kind="umap", neighbours=3)(model, images).sentence
    assert "of the variance" in Embedding(kind="pca")(model, images).sentence


def test_the_chart_holds_each_point_with_its_card_and_no_script():
    picture = heat.png(Image.new("RGB", (8, 8), "red"))
    evil = "<script>top.x=1</script>\" onload=x"
    points = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (float("nan"), 0.0)]
    chart = str(embedding_chart(points, ["cat", "dog", evil, "cat"], ["a.png", evil, "c.png", "d.png"],
                                [picture, None, picture, None]))
    assert chart.count('class="point"') == 3 and chart.count("<image ") == 2 and "<script" not in chart
    assert "style=" not in chart and "url(" not in chart and "nan" not in chart
    assert set(re.findall(r'href="([^"]{5})', chart)) == {"data:"}
    centres_ = re.findall(r'<circle class="spot hue\d" cx="([\d.]+)" cy="([\d.]+)" r="5.5"', chart)
    (x0, y0), (x1, y1), (x2, y2) = [(float(x), float(y)) for x, y in centres_]
    assert x1 - x0 == pytest.approx(y0 - y2, abs=0.2) and y0 == y1 and x0 == x2, "one scale, y upwards"
    svg = embedding_svg(points[:3], ["cat"] * 3, ["a", "b", "c"])
    assert ".point:hover .point-card" in svg and "visibility: hidden" in svg
    with pytest.raises(UserError, match="labels"):
        embedding_chart(points, ["cat"], ["a"] * 4)


def test_more_classes_than_colours_take_other_shapes():
    chart = str(embedding_chart([(float(n), 0.0) for n in range(31)], [f"class {n:02d}" for n in range(31)],
                                [str(n) for n in range(31)]))
    looks = set(re.findall(r"<(circle|rect|polygon) class=\"spot (hue\d)\"", chart))
    assert len(looks) >= 30


def test_t_simcne_learns_without_labels_which_images_are_alike():
    """Stripes in four directions at random phase under noise: the first two components of the pixels mix them (67 % of
    the images have mostly their own kind around them), the places that an untrained net learns by contrast do not."""
    images, labels = stripes(192, seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SmallNet().eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    points, losses = taught_places(net, images, pixel_scale(images, None, None), epochs=(30, 10, 20), batch_size=96,
                                   seed=0, flip=False)

    def own_kind(places: torch.Tensor) -> float:
        nearest = nearest_neighbours(places, places, 5)[0]
        return float((labels[nearest].mode(1).values == labels).float().mean())

    assert own_kind(points) > 0.95 > 0.75 > own_kind(pca(images.flatten(1))[0])
    assert losses[-1] < losses[0] - 0.5 and all(torch.equal(before[key], value) for key, value in
                                                net.state_dict().items())
    again, _ = taught_places(net, images[:20], pixel_scale(images, None, None), epochs=(1, 1, 1), batch_size=8, seed=1)
    same, _ = taught_places(net, images[:20], pixel_scale(images, None, None), epochs=(1, 1, 1), batch_size=8, seed=1)
    assert torch.equal(again, same)


def test_views_are_crops_that_may_be_mirrored_and_stay_in_range():
    ramp = torch.linspace(0.2, 0.8, 16).expand(64, 3, 16, 16).contiguous()
    views = random_views(ramp, torch.Generator().manual_seed(0))
    rising = views[:, :, :, -1].mean((1, 2)) > views[:, :, :, 0].mean((1, 2))
    assert views.shape == ramp.shape and views.min() >= 0 and views.max() <= 1
    assert 0.3 < float(rising.float().mean()) < 0.7
    assert bool((random_views(ramp, torch.Generator().manual_seed(0), flip=False)[:, 0, 0].diff(dim=1) >= -1e-6).all())


def test_the_door_writes_a_map_with_thumbnails(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.Generator(np.random.PCG64(0))
    for number in range(6):
        Image.fromarray(generator.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(f"{number}.png")
    words = ["explain", "resnet20", *[f"{n}.png" for n in range(6)], "--method", "embedding", "--out", "out"]
    assert main(words) == 0, capsys.readouterr().err
    page, svg = (tmp_path / "out/index.html").read_text(), (tmp_path / "out/embedding.svg").read_text()
    assert page.count('class="point"') == svg.count('class="point"') == 6 and page.count("<image ") == 6
    assert "<script" not in page and page.count("picture-000") == 0
    assert len(list((tmp_path / "out").glob("picture-*.png"))) == 1


def test_the_door_hands_the_models_own_normalisation_to_what_draws_pixels(tmp_path, capsys, monkeypatch):
    """What is cut out shows the pixels that were given, to the level."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    from visus.run.explain import explain

    found = explain("resnet20", [pixels], "grabcut", side_px=32).explanation
    shown = (255 * found.pictures[0]).round().byte().permute(1, 2, 0).numpy()
    kept = found.heat[0].bool().numpy()
    assert kept.any() and (np.abs(shown[kept].astype(int) - pixels[kept]) <= 1).all() and (shown[~kept] == 255).all()


# -- groups and facets ---------------------------------------------------------------------------------------------


def test_groups_that_lie_apart_are_found():
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(3).repeat_interleave(20)
    points = 10 * torch.eye(3)[group] + torch.randn(60, 3, generator=generator)
    found, middles = clusters(points, 3)
    assert all(len(set(found[group == n].tolist())) == 1 for n in range(3)) and len(set(found.tolist())) == 3
    torch.testing.assert_close(middles[found[0]], points[:20].mean(0))


def test_a_facet_begins_at_the_mean_of_its_own_images():
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(2).repeat_interleave(20)
    features = 20 * torch.eye(8)[group] + torch.randn(40, 8, generator=generator)
    pixels = group.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).float()
    starts, sizes = facet_starts(features, pixels, 2, closest=5)
    assert sorted(starts[:, 0, 0, 0].tolist()) == [0, 1] and sizes.tolist() == [20, 20]


# -- GrabCut -------------------------------------------------------------------------------------------------------


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """A reddish disc on a ground of two greens, with noise: pixels [1, 3, 48, 64], and the disc."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    disc = (y - 22) ** 2 + (x - 36) ** 2 < 14 ** 2
    ground = torch.where((x < 30)[None], torch.tensor([0.2, 0.6, 0.2])[:, None, None],
                         torch.tensor([0.3, 0.4, 0.5])[:, None, None])
    picture = torch.where(disc, torch.tensor([0.7, 0.4, 0.3])[:, None, None], ground)
    return (picture + 0.07 * torch.randn(3, 48, 64, generator=generator)).clamp(0, 1)[None], disc


def test_grabcut_finds_the_whole_disc_from_a_seed_within_it():
    pixels, disc = scene()
    sure = torch.zeros(1, 48, 64)
    sure[0, 18:26, 32:38] = 1
    sure[0, :4] = sure[0, -4:] = -1
    sure[0, :, :8] = -1
    found = grabcut(pixels, sure, components=3)[0]
    overlap = float((found & disc).sum() / (found | disc).sum())
    assert overlap > 0.97
    assert found[sure[0] > 0].all() and not found[sure[0] < 0].any(), "what is sure stays"


def test_a_mixture_recovers_two_clouds():
    generator = torch.Generator().manual_seed(0)
    clouds = torch.cat([0.2 + 0.03 * torch.randn(300, 3, generator=generator),
                        0.7 + 0.06 * torch.randn(100, 3, generator=generator)])[None]
    mixture = fit_mixture(clouds, torch.ones(1, 400), 2)
    order = mixture.means[0, :, 0].argsort()
    torch.testing.assert_close(mixture.weights[0, order], torch.tensor([0.75, 0.25]), atol=0.02, rtol=0)
    torch.testing.assert_close(mixture.means[0, order], torch.tensor([[0.2] * 3, [0.7] * 3]), atol=0.02, rtol=0)
    whole = torch.distributions.MultivariateNormal(mixture.means[0], mixture.covariances[0])
    expected = (whole.log_prob(clouds[0][:, None]) + mixture.weights[0].log()).logsumexp(1)
    torch.testing.assert_close(mixture.log_density(clouds)[0], expected, rtol=1e-4, atol=1e-3)


def test_seeds_are_the_shares_asked_for():
    marked = seeds(torch.rand(2, 20, 20, generator=torch.Generator().manual_seed(0)), 0.1, 0.3)
    assert (marked > 0).flatten(1).float().mean(1).tolist() == pytest.approx([0.1, 0.1], abs=0.01)
    assert (marked < 0).flatten(1).float().mean(1).tolist() == pytest.approx([0.3, 0.3], abs=0.01)


# -- loss landscape ------------------------------------------------------------------------------------------------


def test_the_slice_is_the_loss_at_those_weights_and_the_model_keeps_its_own():
    model, other = tiny("mlp"), tiny("mlp")
    images, targets = images_for("mlp", 4), torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    line = slice_losses(model, images, targets, [towards(model, other.state_dict())],
                        torch.tensor([[0.0], [0.5], [1.0]]))
    ends = [float(nn.functional.cross_entropy(one(images), targets).detach()) for one in (model, other)]
    assert float(line[0]) == pytest.approx(ends[0], rel=1e-5) and float(line[2]) == pytest.approx(ends[1], rel=1e-5)
    halfway = {name: (value + other.state_dict()[name]) / 2 for name, value in kept.items()}
    between = tiny("mlp")
    between.load_state_dict(halfway)
    assert float(line[1]) == pytest.approx(
        float(nn.functional.cross_entropy(between(images), targets).detach()), rel=1e-5)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    with pytest.raises(UserError, match="not those of such a model"):
        towards(model, {})


def test_each_filter_of_a_direction_is_as_long_as_that_of_the_weights():
    model = tiny("resnet")
    direction = filter_direction(model, torch.Generator().manual_seed(0))
    for name, part in direction.items():
        wanted = dict(model.named_parameters())[name].detach()
        torch.testing.assert_close(part.flatten(1).norm(dim=1), wanted.flatten(1).norm(dim=1))
    assert "conv1.weight" in direction and not any("bn" in name for name in direction)


def test_the_drawings_are_dark_where_the_loss_is_low():
    axis = torch.linspace(-1, 1, 11)
    bowl = contour_picture(3 * (axis[:, None] ** 2 + axis[None] ** 2))
    middle, corner = bowl[:, 200, 180].mean(), bowl[:, 5, 5].mean()
    assert middle < corner - 0.4
    curve = curve_picture(axis ** 2)
    dark = (curve[0] < 0.5).nonzero()
    assert dark[dark[:, 1] == 100][:, 0].float().mean() > dark[dark[:, 1] == 20][:, 0].float().mean(), "lower is below"
