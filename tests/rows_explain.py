"""A row for every registered method of explanation: what the harness in explain/test_every_method.py needs to know.

To add a method, add one row to METHODS (keep them sorted by file):

fits: tiny models (keys of MODELS) that the method explains; every test of the harness runs on the first, and the method
must give something finite on each. unfit: tiny models to which `problem` must say no. options: those that make it cheap
here (few samples, few steps), given in every test. more: further choices, each run once on the first model. wrong: one
dict for each wrong choice, which must end in a UserError that names the option, when the method is built or called;
every option but `target` has to be in one of them. tolerance: of a batch against its images one by one, in float64,
relative to the largest value; None, with the reason in `why`, where images of a batch are meant to meet.

To add a model, add a row to MODELS: registered name, config fields, side of its images in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAINTING = str(Path(__file__).resolve().parents[1] / "docs" / "figures" / "attention_bird.png")
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "resnet": ("resnet20", {"depth": 1}, 16),
    "vgg": ("vgg11_bn", {"dims": (6, 8, 10, 12, 14), "hidden_dim": 24}, 32),
    "mobilenet": ("efficientnet_lite0", {"width": 0.25}, 32),
    "convnext": ("convnext_tiny", {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24)}, 32),
    "vit": ("vit_tiny_16", {"patch_size": 8, "dim": 24, "depth": 2, "num_heads": 2, "image_size": 32}, 32),
    "vit_mean": ("vit_tiny_16", {"patch_size": 8, "dim": 24, "depth": 2, "num_heads": 2, "image_size": 32,
                                 "pool": "mean"}, 32),
    "swin": ("swin_tiny", {"dim": 8, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 2, 4), "windows": (2, 2, 2, 2)}, 64),
    "mixer": ("mixer_small_16", {"dim": 24, "depth": 2, "token_dim": 10, "channel_dim": 40, "image_size": 32}, 32),
    "mlp": ("mlp", {"image_size": 16, "hidden_dims": (12, 8)}, 16),
    "tanh": ("lenet5", {}, 32),
    "linear": ("softmax_regression", {"image_size": 16}, 16),
}


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    fits: tuple[str, ...]
    unfit: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    more: tuple[dict[str, Any], ...] = ()
    wrong: tuple[dict[str, Any], ...] = ()
    tolerance: float | None = 1e-9
    why: str = ""


METHODS = {
    # transformers: attention.py, rollout.py, distance.py, positions.py
    "attention": MethodRow(fits=("vit", "vit_mean"), unfit=("resnet", "mixer"), more=({"layer": 0, "head": 1},),
                           wrong=({"layer": 9}, {"head": 9})),
    "rollout": MethodRow(fits=("vit", "vit_mean"), unfit=("resnet", "swin", "mixer"),
                         more=({"fusion": "max", "discard": 0.5}, {"fusion": "min", "layer": 0}),
                         wrong=({"fusion": "median"}, {"discard": 1.0}, {"discard": "all"}, {"layer": 9})),
    "distance": MethodRow(fits=("vit", "vit_mean"), unfit=("resnet", "mixer"), tolerance=None,
                          why="a mean over images"),
    "positions": MethodRow(fits=("vit", "vit_mean"), unfit=("resnet", "mixer")),
    # feature maps: cam.py, grad_cam.py, layer_cam.py, score_cam.py, and attention x gradient: gradient_rollout.py
    "cam": MethodRow(fits=("resnet", "swin", "mixer"), unfit=("mlp", "vgg", "vit", "convnext")),
    "grad_cam": MethodRow(fits=("resnet", "vgg", "convnext", "vit", "vit_mean", "swin", "mixer", "tanh"),
                          unfit=("mlp",), more=({"layer": "layer1.0"},), wrong=({"layer": "layer9"}, {"layer": 3})),
    "grad_cam_plus_plus": MethodRow(fits=("resnet", "vgg", "mobilenet", "convnext", "vit", "swin", "mixer"),
                                    unfit=("mlp",), more=({"layer": "layer1.0"},), wrong=({"layer": "head"},)),
    "layer_cam": MethodRow(fits=("resnet", "vgg", "mobilenet", "convnext", "vit", "swin", "mixer"),
                           unfit=("mlp",), more=({"layer": "layer1.0"},), wrong=({"layer": "avgpool"},)),
    "score_cam": MethodRow(fits=("resnet", "vgg", "mobilenet", "convnext", "vit", "swin", "mixer"), unfit=("mlp",),
                           options={"channels": 8}, more=({"channels": None, "batch": 5}, {"layer": "layer1.0"}),
                           wrong=({"layer": "nosuch"}, {"channels": 0}, {"batch": 0})),
    "guided_grad_cam": MethodRow(fits=("resnet", "vgg"), unfit=("mlp", "vit", "convnext", "tanh"),
                                 more=({"layer": "layer1.0"},), wrong=({"layer": "nosuch"},)),
    "gradient_rollout": MethodRow(fits=("vit", "vit_mean"), unfit=("resnet", "swin", "mixer")),
    # gradients: saliency.py, smooth_grad.py, integrated_gradients.py, input_gradient.py, relu_rules.py,
    # relevance.py
    "saliency": MethodRow(fits=("resnet", "vgg", "mobilenet", "convnext", "vit", "swin", "mixer", "mlp", "tanh")),
    "smooth_grad": MethodRow(
        fits=("resnet", "vit", "swin"), options={"samples": 4},
        more=({"statistic": "square"}, {"statistic": "variance", "seed": 2, "batch": 1}),
        wrong=({"samples": 0}, {"noise": 1.5}, {"statistic": "median"}, {"seed": -1}, {"batch": 0})),
    "integrated_gradients": MethodRow(
        fits=("resnet", "vit", "swin"), options={"steps": 4},
        more=({"baseline": "blur", "batch": 1}, {"baseline": "black+mean+grey", "mean": (0.5, 0.4, 0.3),
                                                 "std": (0.2, 0.2, 0.3)}),
        wrong=({"baseline": "white"}, {"baseline": "black+"}, {"steps": 0}, {"batch": 0}, {"mean": (0.5,)},
               {"std": (0.2, 0.0, 0.2)})),
    "input_gradient": MethodRow(fits=("resnet", "vit", "swin", "mixer", "mlp", "tanh")),
    "deep_lift": MethodRow(
        fits=("vgg", "resnet", "mobilenet", "mlp", "tanh"), unfit=("vit", "convnext", "mixer"),
        more=({"baseline": "blur"}, {"baseline": "black+mean", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.3)}),
        wrong=({"baseline": "white"}, {"mean": (0.5,)}, {"std": (0.2, 0.0, 0.2)})),
    "lrp": MethodRow(
        fits=("vgg", "resnet", "mobilenet", "mlp"), unfit=("vit", "convnext", "mixer", "tanh"),
        more=({"rule": "epsilon", "epsilon": 0.1}, {"rule": "alpha_beta"}, {"rule": "alpha_beta", "alpha": 1},
              {"gamma": 0, "epsilon": 0}),
        wrong=({"rule": "w2"}, {"epsilon": -1}, {"gamma": "a"}, {"alpha": 0.5})),
    "guided_backprop": MethodRow(fits=("vgg", "resnet", "mobilenet", "mlp"), unfit=("vit", "convnext", "tanh")),
    "deconvnet": MethodRow(fits=("vgg",), unfit=("vit", "convnext", "tanh", "resnet", "mobilenet", "mlp")),
    # parts hidden: occlusion.py, rise.py, lime.py, kernel_shap.py
    "occlusion": MethodRow(
        fits=("resnet", "vit", "mlp"), options={"window": 6, "stride": 4},
        more=({"fill": "mean", "of": "logit"}, {"fill": "blur", "window": None, "stride": None, "batch": 50}),
        wrong=({"window": 0}, {"window": 17}, {"stride": 7}, {"fill": "white"}, {"of": "loss"}, {"batch": 0})),
    "rise": MethodRow(
        fits=("resnet", "vit", "mlp"), options={"masks": 24, "cells": 4},
        more=({"centred": False, "share": 0.3, "fill": "mean"}, {"fill": "blur", "of": "logit", "batch": 5}),
        wrong=({"masks": 0}, {"cells": 0}, {"share": 1.0}, {"seed": -1}, {"centred": 1}, {"fill": "white"},
               {"of": "loss"}, {"batch": 0})),
    "lime": MethodRow(
        fits=("resnet", "vit", "mlp"), options={"segments": 6, "samples": 24},
        more=({"ridge": 0, "width": 1.0, "fill": "mean"}, {"of": "logit", "seed": 3, "batch": 5}),
        wrong=({"segments": 0}, {"samples": 0}, {"width": 0}, {"ridge": -1}, {"seed": -1}, {"fill": "white"},
               {"of": "loss"}, {"batch": 0}, {"mean": (0.5,)}, {"std": (0.2, 0.0, 0.2)})),
    "kernel_shap": MethodRow(
        fits=("resnet", "vit", "mlp"), options={"segments": 5, "samples": 24},
        more=({"samples": 100, "fill": "mean"}, {"of": "logit", "seed": 3, "batch": 5}),
        wrong=({"segments": 0}, {"samples": 4}, {"seed": -1}, {"fill": "white"}, {"of": "loss"}, {"batch": 0},
               {"mean": (0.5,)}, {"std": (0.2, 0.0, 0.2)})),
    # pictures: activations.py, filters.py, max_patches.py, embedding.py, class_image.py, fooling.py, deep_dream.py,
    # inversion.py, grabcut.py, loss_landscape.py
    "activations": MethodRow(
        fits=("resnet", "vgg", "mobilenet", "convnext", "vit", "swin", "mixer", "tanh"), unfit=("mlp",),
        options={"channels": 5}, more=({"layer": "layer1.0"}, {"channels": 1000}),
        wrong=({"layer": "nosuch"}, {"channels": 0})),
    "filters": MethodRow(fits=("resnet", "vgg", "mobilenet", "convnext", "vit", "swin", "tanh"), unfit=("mlp",),
                         more=({"layer": "layer1.0.conv1"}, {"count": 3}), wrong=({"layer": "fc"}, {"count": 0})),
    "templates": MethodRow(fits=("linear",), unfit=("resnet", "mlp", "vit"), more=({"count": 2},),
                           wrong=({"count": 0},)),
    "max_patches": MethodRow(
        fits=("resnet", "mobilenet", "vit", "swin"), unfit=("mlp",), options={"channels": 3},
        more=({"layer": "layer1.0", "first": 2, "patches": 1, "share": 1.0},),
        wrong=({"layer": "nosuch"}, {"channels": 0}, {"first": 64}, {"first": -1}, {"patches": 0}, {"share": 0.0},
               {"mean": (0.5,)}, {"std": (0.2, 0.0, 0.2)}),
        tolerance=None, why="channels and patches are chosen over all images"),
    "embedding": MethodRow(
        fits=("resnet", "vit", "mlp", "linear"), more=({"kind": "pca"}, {"kind": "umap"}),
        wrong=({"kind": "sne"}, {"perplexity": 0.5}, {"neighbours": 1}, {"min_distance": 1.0}, {"seed": -1},
               {"mean": (0.5,)}, {"std": (0.2, 0.0, 0.2)}),
        tolerance=None, why="a map of all images"),
    "t_simcne": MethodRow(
        fits=("resnet", "vit", "mlp", "linear"), unfit=(), options={"epochs": (2, 1, 1)},
        more=({"batch_size": 2}, {"flip": False}),
        wrong=({"epochs": (1, 1)}, {"epochs": (1, 0, 1)}, {"batch_size": 1}, {"flip": "no"}, {"seed": -1},
               {"mean": (0.5,)}, {"std": (0.2, 0.0, 0.2)}),
        tolerance=None, why="images are told apart from each other"),
    "neighbours": MethodRow(
        fits=("resnet", "vit", "mlp", "linear"), more=({"space": "pixels", "queries": 1}, {"metric": "euclidean"}),
        wrong=({"count": 0}, {"queries": 0}, {"space": "words"}, {"metric": "hamming"},
               {"mean": (0.5,)}, {"std": (0.2, 0.0, 0.2)}),
        tolerance=None, why="images are compared with each other"),
    "class_image": MethodRow(
        fits=("resnet", "vit", "mlp"), options={"steps": 3, "scales": 2, "blur_every": 2},
        more=({"clip_norm": 0.3, "clip_contribution": 0.3, "jitter": 0, "tv": 0, "blur": 0, "scales": 1},),
        wrong=({"steps": 0}, {"step_size": 0}, {"scales": 0}, {"decay": 1.0}, {"blur": -1}, {"blur_every": 0},
               {"clip_norm": 1}, {"clip_contribution": -1}, {"jitter": -1}, {"tv": "a"}, {"coarse": -1}, {"seed": -1},
               {"mean": (0.5,)}, {"std": (0.2, 0.0, 0.2)})),
    "facets": MethodRow(
        fits=("resnet", "vit"), options={"steps": 2, "facets": 2},
        wrong=({"facets": 0}, {"closest": 0}, {"steps": 0}, {"step_size": -1}, {"seed": -1}, {"mean": (0.5,)},
               {"std": (0.2, 0.0, 0.2)}),
        tolerance=None, why="groups of all images"),
    "fooling": MethodRow(
        fits=("resnet", "vit", "mlp"), options={"steps": 3, "target": 3}, more=({"start": "noise"}, {"target": None}),
        wrong=({"start": "white"}, {"confidence": 1.0}, {"steps": 0}, {"step_size": 0}, {"seed": -1}, {"mean": (0.5,)},
               {"std": (0.2, 0.0, 0.2)})),
    "deep_dream": MethodRow(
        fits=("resnet", "vit", "swin"), unfit=("mlp",), options={"steps": 2, "octaves": 2},
        more=({"layer": "layer1.0", "channel": 1},),
        wrong=({"layer": "nosuch"}, {"channel": 64}, {"channel": -1}, {"octaves": 0}, {"octave_scale": 1},
               {"steps": 0}, {"step_size": 0}, {"jitter": -1}, {"coarse": -1}, {"seed": -1}, {"mean": (0.5,)},
               {"std": (0.2, 0.0, 0.2)})),
    "inversion": MethodRow(
        fits=("resnet", "vit", "swin"), unfit=("mlp",), options={"steps": 3}, more=({"layer": "layer1.0", "beta": 1},),
        wrong=({"layer": "nosuch"}, {"steps": 0}, {"lr": 0}, {"alpha": 0}, {"alpha_weight": -1}, {"beta": 0},
               {"tv_weight": -1}, {"seed": -1}, {"mean": (0.5,)}, {"std": (0.2, 0.0, 0.2)})),
    "grabcut": MethodRow(
        fits=("resnet", "vit", "mlp"), options={"rounds": 1, "components": 2, "surely_object": 0.3},
        wrong=({"surely_object": 0.5}, {"surely_ground": 0}, {"components": 0}, {"smoothness": -1}, {"rounds": 0},
               {"side_px": 0}, {"mean": (0.5,)}, {"std": (0.2, 0.0, 0.2)})),
    # textures and styles: texture.py, style.py
    "texture": MethodRow(
        fits=("vgg", "resnet", "vit", "swin"), unfit=("mlp",), options={"steps": 2},
        more=({"pool": "average", "side": 40}, {"optimiser": "adam", "layers": ("relu1_1",), "tv_weight": 0.1}),
        wrong=({"layers": "nosuch"}, {"side": 0}, {"pool": "sum"}, {"steps": -1}, {"optimiser": "sgd"}, {"lr": 0},
               {"tv_weight": -1}, {"seed": -1}, {"mean": (0.5,)}, {"std": (0.2, 0.0, 0.2)}),
        tolerance=None, why="the noise and the optimiser are those of the batch"),
    "style": MethodRow(
        fits=("vgg", "resnet", "vit", "swin"), unfit=("mlp",), options={"style": PAINTING, "steps": 2},
        more=({"colour": "luminance", "start": "noise"}, {"colour": "histogram", "masks": PAINTING},
              {"style": (PAINTING, PAINTING), "style_shares": (3, 1), "optimiser": "adam"}),
        wrong=({"style": "nosuch.png"}, {"style_shares": (1, 2)}, {"masks": ("a.png", "b.png")}, {"style_scale": 0},
               {"content_weight": -1}, {"style_weight": -1}, {"tv_weight": -1}, {"colour": "grey"}, {"start": "end"},
               {"content_layers": "nosuch"}, {"style_layers": "nosuch"}, {"pool": "sum"}, {"steps": -1},
               {"optimiser": "sgd"}, {"lr": 0}, {"seed": -1}, {"mean": (0.5,)}, {"std": (0.2, 0.0, 0.2)}),
        tolerance=None, why="images of a batch share the noise"),
    "loss_landscape": MethodRow(
        fits=("resnet", "vit", "mlp"), options={"points": 3}, more=({"dims": 1, "points": 4},),
        wrong=({"dims": 3}, {"points": 2}, {"span": 0}, {"seed": -1}), tolerance=None, why="a mean over images"),
}
