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

A run's model sees each image with its own preprocessing. A model that is named without weights has random ones."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN|MODEL", help="run folder, or a registered model's name")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="images, folders, globs, or - for standard input")
    parser.add_argument("--method", default="attention", metavar="NAME", help="default: attention")
    parser.add_argument("--layer", metavar="N|NAME", help="layer: its number among the attention "
                        "layers (-1 is the last), or its dotted name for methods on feature maps; default: the "
                        "method's own choice")
    parser.add_argument("--target", metavar="CLASS", help="the class asked about, by name or number; default: the "
                        "model's own answer for each image")
    parser.add_argument("--head", type=int, metavar="N", help="head of that layer, from 0; default: the mean of all")
    parser.add_argument("--set", action="append", default=[], metavar="A=B", dest="assignments",
                        help="any other option of the method: --set fusion=max")
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
    images = [path for given in arguments.images for path in (stdin_paths() if given == "-" else [given])]
    explained = explain(
        arguments.model, images, arguments.method, out=arguments.out or free_folder(arguments.model, arguments.method),
        weights=arguments.weights, origin=arguments.origin, image_size=arguments.image_size, device=arguments.device,
        command=["visus", *sys.argv[1:]], **options)
    for note in explained.notes:
        print(f"note: {note}")
    print(explained.explanation.sentence)
    for number, answer in enumerate(explained.answers):
        if answer:
            print(f"{explained.images[number]}: {answer}")
    page, *others = explained.files
    print(f"{page} and {len(others)} file{'s' if len(others) != 1 else ''} beside it")
    return 0
