"""Maps that weigh feature maps against captum 0.9 (LayerGradCam, GuidedGradCam) and pytorch-grad-cam 1.5.7: the same
model, the same images, the same classes.

pytorch-grad-cam gives maps stretched to [0, 1], enlarged by OpenCV and stretched again, in float32: ours are put
through the same steps, and the largest difference is to stay below 1e-5. It does not import without OpenCV, matplotlib
and ttach, which nothing here needs: then those tests are skipped.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.explain.test_every_method import images_for, tiny
from tools.peers import load_peer
from visus.explain.feature_layer import feature_layer
from visus.explain.grad_cam import grad_cam, grad_cam_plus_plus
from visus.explain.guided_grad_cam import guided_grad_cam
from visus.explain.layer_cam import layer_cam
from visus.explain.score_cam import score_cam

NEAR = 1e-5
TARGETS = torch.tensor([1, 4, 0])


def peer(package: str):
    try:
        load_peer("torchvision")
    except ImportError:
        pass  # where the peer needs it, its own import says so
    try:
        return load_peer(package)
    except ImportError as error:
        pytest.skip(str(error))


def loud(name: str) -> nn.Module:
    """Large logits: pytorch-grad-cam's Grad-CAM++ adds 1e-6 to a denominator of squared gradients."""
    model = tiny(name)
    with torch.no_grad():
        head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        head.weight.mul_(1e6)
    return model


def as_theirs(heat: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, h, w] -> [B, *size], in pytorch-grad-cam's steps."""
    def stretched(maps: Tensor) -> Tensor:
        maps = maps - maps.amin((1, 2), keepdim=True)
        return maps / (1e-7 + maps.amax((1, 2), keepdim=True))

    enlarged = F.interpolate(stretched(heat.relu())[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return stretched(enlarged)


# -- captum --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "layer"), [("resnet", "layer3"), ("resnet", "layer2.0"), ("vgg", None),
                                             ("convnext", None)])
def test_grad_cam_equals_captums(name, layer):
    attr = peer("captum.attr")
    model, images = tiny(name).double(), images_for(name).double()
    module = model.get_submodule(layer or feature_layer(model, images).name)
    expected = attr.LayerGradCam(model, module).attribute(images, TARGETS, relu_attributions=True)[:, 0].detach()
    assert expected.any()
    torch.testing.assert_close(grad_cam(model, images, TARGETS, layer), expected, rtol=1e-10, atol=1e-12)
    signed = attr.LayerGradCam(model, module).attribute(images, TARGETS)[:, 0].detach()
    torch.testing.assert_close(grad_cam(model, images, TARGETS, layer, rectify=False), signed, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_guided_grad_cam_equals_captums():
    """On a net whose ReLUs are modules used once each, as captum's hooks need."""
    attr = peer("captum.attr")
    model, images = tiny("vgg").double(), images_for("vgg").double()
    for name, module in copy.deepcopy(list(model.named_modules())):
        if isinstance(module, nn.ReLU):
            model.get_submodule(name).inplace = False
    layer = model.get_submodule(feature_layer(model, images).name)
    expected = attr.GuidedGradCam(model, layer).attribute(images, TARGETS, interpolate_mode="bilinear").detach()
    assert expected.any()
    torch.testing.assert_close(guided_grad_cam(model, images, TARGETS), expected, rtol=1e-10, atol=1e-14)


# -- pytorch-grad-cam ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet", "vgg", "convnext"])
@pytest.mark.parametrize(("theirs", "ours"), [("GradCAM", grad_cam), ("GradCAMPlusPlus", grad_cam_plus_plus),
                                              ("LayerCAM", layer_cam)])
def test_maps_equal_pytorch_grad_cams(name, theirs, ours):
    peers = peer("pytorch_grad_cam")
    model, images = loud(name), images_for(name)
    layer = feature_layer(model, images)
    expected = run(peers, theirs, model, images, layer.name)
    found = as_theirs(ours(model, images, TARGETS), tuple(images.shape[2:]))
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=NEAR)


@pytest.mark.parametrize(("theirs", "ours"), [("GradCAM", grad_cam), ("LayerCAM", layer_cam)])
def test_a_transformers_maps_equal_those_with_a_reshape_transform_by_hand(theirs, ours):
    peers = peer("pytorch_grad_cam")
    model, images = loud("vit"), images_for("vit")
    assert feature_layer(model, images).name == "blocks.0"
    expected = run(peers, theirs, model, images, "blocks.0",
                   lambda tokens: tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, 4, 4))
    found = as_theirs(ours(model, images, TARGETS), tuple(images.shape[2:]))
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=NEAR)


def test_score_cam_equals_pytorch_grad_cams_where_maps_need_no_enlarging():
    """Theirs enlarges with corners aligned, which shifts a map against its image; at the image's size both agree."""
    peers = peer("pytorch_grad_cam")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    model[-1].weight.data.mul_(30)
    images = images_for("resnet")
    assert feature_layer(model, images).name == "3"
    expected = run(peers, "ScoreCAM", model, images, "3")
    found = as_theirs(score_cam(model, images, TARGETS, batch=5), tuple(images.shape[2:]))
    torch.testing.assert_close(found, expected, rtol=0, atol=NEAR)


def run(peers, kind: str, model: nn.Module, images: Tensor, layer: str, reshape=None) -> Tensor:
    """[B, H, W] by pytorch-grad-cam, on a copy."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = copy.deepcopy(model)
    targets = [ClassifierOutputTarget(int(target)) for target in TARGETS]
    with getattr(peers, kind)(model, [model.get_submodule(layer)], reshape_transform=reshape) as cam:
        return torch.from_numpy(cam(images.clone(), targets))
