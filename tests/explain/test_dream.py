"""Class images, facets, fooling images, dreams and inversions: each raises what it says, from pixels to pixels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.explain.test_every_method import images_for, tiny
from visus.explain.activations import layer_maps
from visus.explain.class_image import (
    Priors,
    accepted_sizes,
    ascend,
    class_images,
    coarsened,
    noise_start,
    unit,
)
from visus.explain.deep_dream import DeepDream, at_size, deep_dream
from visus.explain.feature_layer import feature_layer
from visus.explain.fooling import Fooling, fooling_images
from visus.explain.inversion import invert
from visus.explain.pixels import pixel_scale
from visus.ops.total_variation import total_variation
from visus.run.models import create_model

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def scale_for(images):
    return pixel_scale(images, MEAN, STD)


def ascended(priors: Priors, steps: int = 8, step_size: float = 0.05, pull=None) -> torch.Tensor:
    """Of a linear score, whose gradient is `pull` everywhere."""
    pull = torch.ones(1, 3, 8, 8) if pull is None else pull
    start = torch.full((1, 3, 8, 8), 0.5)
    return ascend(lambda x: (x * pull).flatten(1).sum(1), start, torch.full((1, 3, 1, 1), 0.5), steps=steps,
                  step_size=step_size, priors=priors, generator=torch.Generator().manual_seed(0))


# -- the ascent ----------------------------------------------------------------------------------------------------


def test_steps_are_as_long_as_asked_and_fall_to_a_tenth():
    """On a linear score: the sum of step_size (1 - 0.9 k / steps), up to the border of the pixels' range."""
    expected = 0.5 + sum(0.05 * (1 - 0.9 * k / 4) for k in range(4))
    torch.testing.assert_close(ascended(Priors(), steps=4), torch.full((1, 3, 8, 8), expected))
    assert ascended(Priors(), steps=40).max() == 1


def test_decay_ends_where_a_step_and_the_loss_of_it_are_equal():
    held = 0.5
    for k in range(6):
        held = 0.5 + (held - 0.5 + 0.05 * (1 - 0.9 * k / 6)) * 0.7
    torch.testing.assert_close(ascended(Priors(decay=0.3), steps=6), torch.full((1, 3, 8, 8), held))


def test_jitter_alone_changes_nothing_where_the_score_has_no_places():
    torch.testing.assert_close(ascended(Priors(jitter=3)), ascended(Priors()))


def test_clipping_leaves_the_share_of_pixels_that_is_largest():
    pull = torch.zeros(1, 3, 8, 8)
    pull[..., :4] = 0.1
    pull[..., 4:] = 1
    for priors in (Priors(clip_norm=0.5, blur_every=2), Priors(clip_contribution=0.5, blur_every=2)):
        found = ascended(priors, steps=5, pull=pull)
        assert (found[..., :4] < 0.53).all() and (found[..., 4:] > 0.6).all()
        assert (ascended(Priors(), steps=5, pull=pull)[..., :4] - found[..., :4]).abs().max() > 0


def test_blur_total_variation_and_coarse_waves_make_smoother_pictures():
    pull = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = total_variation(ascended(Priors(), pull=pull))
    for priors in (Priors(blur=1.0, blur_every=2), Priors(tv=0.5), Priors(coarse=1.0)):
        assert total_variation(ascended(priors, pull=pull)) < 0.8 * plain


def test_a_wave_is_divided_by_its_frequency():
    x = torch.arange(32.0)
    slow, fast = torch.sin(2 * torch.pi * x * 2 / 32), torch.sin(2 * torch.pi * x * 8 / 32)
    found = coarsened((slow + fast).expand(1, 1, 32, 32).contiguous(), 1.0)[0, 0, 0]
    torch.testing.assert_close(found, slow * 32 / 2 + fast * 32 / 8, rtol=1e-4, atol=1e-3)


def test_a_unit_gradient_has_a_mean_square_of_one():
    made = unit(torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-9, 1, 1e9]).view(
        3, 1, 1, 1))
    torch.testing.assert_close(made.square().flatten(1).mean(1), torch.ones(3))


# -- class images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_each_class_of_a_batch_gets_its_own_image(name):
    model, images = tiny(name), images_for(name, 4)
    scale, targets = scale_for(images), torch.tensor([0, 1, 2, 4])
    start = noise_start(images, scale, 0)
    made = class_images(model, targets, start, scale, steps=30, step_size=0.1, priors=Priors(jitter=1), scales=2)
    with torch.no_grad():
        before, after = (model(scale.normalised(x)).gather(1, targets[:, None]) for x in (start, made))
    assert (after > before).all() and made.min() >= 0 and made.max() <= 1
    alone = class_images(model, targets[2:3], start[2:3], scale, steps=30, step_size=0.1, priors=Priors(jitter=1),
                         scales=2)
    torch.testing.assert_close(alone[0], made[2], rtol=0, atol=1e-3)


def test_pixels_and_images_are_each_others_inverse():
    scale = scale_for(torch.zeros(1, 3, 2, 2))
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scale.pixels(scale.normalised(pixels)), pixels)
    assert torch.equal(pixel_scale(pixels, None, None).normalised(pixels), pixels)


def test_only_sizes_that_the_model_takes_are_climbed():
    like = torch.zeros(1, 3, 32, 32)
    assert accepted_sizes(tiny("resnet"), (32, 32), like, 3, 0.5) == [(8, 8), (16, 16), (32, 32)]
    mlp = create_model("mlp", image_size=32, hidden_dims=(4,), in_channels=3, num_classes=5).eval()
    assert accepted_sizes(mlp, (32, 32), like, 3, 0.5) == [(32, 32)]


# -- fooling -------------------------------------------------------------------------------------------------------


class Sharp(nn.Module):
    """A linear classifier that is sure of itself, and counts the images that it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.asked = nn.Linear(3 * 16 * 16, 5), []
        nn.init.normal_(self.inner.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, x):
        self.asked.append(len(x))
        return self.inner(x.flatten(1))


def test_any_image_becomes_any_class_with_a_small_change():
    model, images = Sharp(), images_for("mlp", 5)
    scale, targets = scale_for(images), torch.arange(5)
    start = scale.pixels(images)
    found = fooling_images(model, targets, start, scale, confidence=0.8, steps=300, step_size=0.05)
    with torch.no_grad():
        probs = model(scale.normalised(found)).softmax(1)
    assert (probs.argmax(1) == targets).all() and (probs[torch.arange(5), targets] >= 0.8).all()
    assert found.min() >= 0 and found.max() <= 1


def test_an_image_that_is_there_already_stays_and_does_not_hold_up_the_rest():
    model, images = Sharp(), images_for("mlp", 3)
    scale = scale_for(images)
    start = scale.pixels(images)
    with torch.no_grad():
        own = model(scale.normalised(start)).argmax(1)
    targets = own.clone()
    targets[1] = (own[1] + 1) % 5
    model.asked.clear()
    found = fooling_images(model, targets, start, scale, confidence=0.5, steps=100, step_size=0.1)
    moved = (found - start).flatten(1).norm(dim=1)
    assert model.asked[0] == 3 and set(model.asked[1:]) == {1} and moved[1] > 0 and moved[0] == moved[2] == 0


def test_the_least_likely_class_is_the_default():
    model, images = tiny("mlp"), images_for("mlp", 1)
    with torch.no_grad():
        least = int(model(scale_for(images).normalised(scale_for(images).pixels(images))).argmin())
    found = Fooling(mean=MEAN, std=STD, steps=1)(model, images)
    assert f"made class {least} " in found.picture_names[0]


# -- dreams and inversions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, layer", [("resnet", "layer2"), ("swin", "features.3"), ("vit", "blocks.1")])
def test_a_dream_raises_the_layer_that_it_dreams_of(name, layer):
    model, images = tiny(name), images_for(name, 2)
    scale = scale_for(images)
    start, chosen = scale.pixels(images), feature_layer(model, images, layer)
    made = deep_dream(model, start, scale, chosen, octaves=2, steps=6, jitter=1)
    before, after = (layer_maps(model, scale.normalised(x), chosen).square().flatten(1).mean(1) for x in (start, made))
    assert (after > before).all() and made.shape == start.shape and made.min() >= 0 and made.max() <= 1


def test_one_channel_is_raised_more_than_when_all_are():
    model, images = tiny("resnet"), images_for("resnet", 1)
    scale = scale_for(images)
    start, chosen = scale.pixels(images), feature_layer(model, images, "layer1")

    def strength(pixels):
        return float(layer_maps(model, scale.normalised(pixels), chosen)[:, 3].square().mean().detach())

    one, every = (deep_dream(model, start, scale, chosen, channel=channel, octaves=1, steps=8, jitter=0)
                  for channel in (3, None))
    assert strength(one) > strength(every) and strength(one) > strength(start)


def test_the_layer_is_found_again_at_another_size():
    model, images = tiny("swin"), images_for("swin", 1)
    chosen = feature_layer(model, images, "features.3")
    small = torch.zeros(1, 3, 48, 48)
    assert at_size(model, small, chosen).name == "features.3" and at_size(model, small, chosen).grid == (6, 6)
    assert DeepDream().problem(tiny("mlp"), images_for("mlp", 1)) is not None


def test_an_early_layer_gives_the_image_back_better_than_a_late_one():
    model, images = tiny("resnet"), images_for("resnet", 2)
    scale = scale_for(images)
    pixels = scale.pixels(images)
    errors = []
    for layer in ("layer1", "layer3"):
        made, left = invert(model, pixels, scale, feature_layer(model, images, layer), steps=80, tv_weight=0.01)
        assert (left < 0.2).all() and made.min() >= 0 and made.max() <= 1
        errors.append(float((made - pixels).square().mean()))
    assert errors[0] < errors[1] < float((pixels - pixels.mean()).square().mean()) * 2


def test_total_variation_makes_inversions_smoother():
    model, images = tiny("resnet"), images_for("resnet", 1)
    scale = scale_for(images)
    rough, smooth = (invert(model, scale.pixels(images), scale, feature_layer(model, images, "layer1"), steps=40,
                            tv_weight=weight)[0] for weight in (0.0, 3.0))
    assert total_variation(smooth) < 0.8 * total_variation(rough)
