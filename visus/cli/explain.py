"""Show what a model looks at: heat maps over your images, charts, and one page.

  visus explain runs/photos-1 new/*.jpg                     the class token's attention in the last layer
  visus explain runs/photos-1 new --method rollout          attention followed through all layers
  visus explain vit_base_16 --weights timm a.jpg --method distance
  visus explain runs/photos-1 --method positions            needs no image

methods (of transformers):
  attention   what the class token takes from each patch in one layer; --layer, --head
  rollout     attention multiplied through all layers; --layer, --set fusion=max, --set discard=0.9
  distance    how far each head looks, in pixels, layer by layer
  positions   how alike the position embeddings of the patches are
  gradient_rollout    the attention that raised the class's score, through all layers; --target

methods on feature maps (of any classifier that has them; --target, --layer takes a module's dotted name):
  grad_cam            where the last features are that speak for the class
  grad_cam_plus_plus  the same, whose weights count each place fully
  layer_cam           feature maps weighed place by place, for early layers too
  score_cam           feature maps weighed by the score of what each lets through; --set channels=128
  cam                 what each place adds to the class's score, of models that average their last map; no --layer
  guided_grad_cam     the pixels of guided backpropagation where Grad-CAM is hot; networks of ReLUs

methods on gradients (of any classifier; --target):
  saliency              how much the score changes with each pixel
  smooth_grad           the same, averaged over noisy copies; --set samples=64, --set statistic=variance
  integrated_gradients  the score's difference from a baseline, shared out; --set baseline=black+blur, --set steps=64
  input_gradient        pixels times their gradients: shares in the score, signed
and through networks of ReLUs alone (deep_lift: of any activations that do not multiply each other):
  guided_backprop       the score led down, through each ReLU only what speaks for it
  deconvnet             the score led down by transposed filters, ReLUs and pooling switches
  deep_lift             the score's difference from a baseline, layer by layer; --set baseline=blur
  lrp                   the score handed down layer by layer; --set rule=alpha_beta, --set gamma=0.5

methods that hide parts of the image and ask again (of any classifier; --target, --set fill=mean, --set of=logit):
  occlusion           how far the answer falls when a patch hides a place; --set window=32, --set stride=16
  rise                which places have to be seen, from random masks; --set masks=4000, --set cells=7
  lime                what each superpixel adds, in a linear model around the image; --set segments=50
  kernel_shap         the Shapley value of each superpixel; --set segments=50, --set samples=1000

methods that draw pictures (of any classifier; those of many images take folders; all options with --set):
  filters         the filters of a convolution, the first or --layer; no image
  templates       what a linear classifier multiplies the pixels by, class by class; no image
  activations     what the channels of a layer make of each image; --layer, --set channels=36
  max_patches     the patches of your images that drive each channel of a layer most; --layer, --set first=0
  embedding       your images on a plane, alike ones near each other; --set kind=tsne, umap or pca
  t_simcne        your images on a plane, by a copy of the network that learns it; --set epochs=[30,10,20]
  neighbours      each image with those that the classifier finds most alike; --set space=pixels
  class_image     what the classifier would like to see of a class; no image; --target, --set steps=160
  facets          several looks of one class, from groups of its images; --target, --set facets=4
  fooling         each image made into any class; --target, --set start=noise, --set confidence=0.9
  deep_dream      an image made into more of what a layer sees in it; --layer, --set channel=3
  inversion       the picture that a layer remembers of an image; --layer
  grabcut         the object cut out by colour, from where the classifier looks; --target
  texture         a new picture of the same texture, from noise; --set side=256, --set steps=200
  style           the image painted as another picture is; --set style=painting.jpg, --set colour=luminance
  loss_landscape  how the loss lies around the weights; --set dims=1, --set points=15

A run's model sees each image with its own preprocessing. A model that is named without weights has random ones."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN|MODEL", help="run folder, or a registered model's name")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="images, folders, globs, or - for standard input")
    parser.add_argument("--method", default="auto", metavar="NAME", help="default: attention for a transformer, "
                        "grad_cam for any other")
    parser.add_argument("--layer", metavar="N|NAME", help="layer: its number among the attention "
                        "layers (-1 is the last), or its dotted name for methods on feature maps; default: the "
                        "method's own choice")
    parser.add_argument("--target", metavar="CLASS", help="the class asked about, by name or number; default: the "
                        "model's own answer for each image")
    parser.add_argument("--head", type=int, metavar="N", help="head of that layer, from 0; default: the mean of all")
    parser.add_argument("--set", action="append", default=[], metavar="A=B", dest="assignments",
                        help="any other option of the method: --set fusion=max")
    parser.add_argument("--check", action="store_true", help="measure whether the maps show what the model goes by: "
                        "deletion and insertion beside the same maps in other places, and maps of shuffled weights")
    parser.add_argument("--pointing", action="store_true", help="IMAGE is a set with boxes (COCO, VOC, YOLO) of the "
                        "run's classes: count how often the hottest pixel lies on the object")
    parser.add_argument("--weights", metavar="FILE|ORIGIN", help="for a model's name: a file, or the public weights of "
                        "torchvision, timm, ... (fetched once)")
    parser.add_argument("--origin", default="visus", metavar="NAME", help="whose names the tensors of a file bear")
    parser.add_argument("--image-size", type=int, metavar="PX", help="for a model's name: side of the images it sees")
    parser.add_argument("--out", metavar="DIR", help="folder to write (default: explained/MODEL-METHOD-N)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps")


def run(arguments: argparse.Namespace) -> int:
    import sys

    from visus.run.explain import explain, free_folder
    from visus.run.predict import stdin_paths
    from visus.run.recipe import parse_assignments

    options = parse_assignments(arguments.assignments)
    for name in ("layer", "target", "head"):
        if (value := getattr(arguments, name)) is not None:
            options[name] = int(value) if str(value).removeprefix("-").isdecimal() else value
    if arguments.pointing:
        return _point(arguments, options)
    images = [path for given in arguments.images for path in (stdin_paths() if given == "-" else [given])]
    explained = explain(
        arguments.model, images, arguments.method, out=arguments.out or free_folder,
        weights=arguments.weights, origin=arguments.origin, image_size=arguments.image_size, device=arguments.device,
        check=arguments.check, command=["visus", *sys.argv[1:]], **options)
    for note in explained.notes:
        print(f"note: {note}")
    print(explained.explanation.sentence)
    for number, answer in enumerate(explained.answers):
        if answer:
            print(f"{explained.images[number]}: {answer}")
    for line in explained.checks:
        print(line)
    for warning in explained.warnings:
        print(f"warning: {warning}")
    page, *others = explained.files
    print(f"{page} and {len(others)} file{'s' if len(others) != 1 else ''} beside it")
    return 0


def _point(arguments: argparse.Namespace, options: dict[str, Any]) -> int:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from visus.core.errors import UserError
    from visus.run.pointing import pointing_game

    if len(arguments.images) != 1:
        raise UserError(f"{len(arguments.images)} paths are given", where="--pointing",
                        remedy="Give one set with boxes: visus explain RUN PATH --pointing")
    made = pointing_game(arguments.model, arguments.images[0], arguments.method, device=arguments.device,
                         progress=True, **options)
    for note in made.notes:
        print(f"note: {note}")
    print(made.sentence)
    table = Table("class", "on the object", "middle of the image", "maps", box=None, pad_edge=False,
                  header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, (hits, middle, count) in made.classes.items():
        table.add_row(escape(name), f"{hits / count:.1%}", f"{middle / count:.1%}", f"{count:,}")
    Console(highlight=False).print(table)
    return 0
