"""From JPEG files to batches for a model: images a second of one core, beside torchvision, albumentations and kornia.

    python benchmarks/loading.py

The ImageNet training pipeline: JPEGs of 500 x 375 pixels, quality 90, made of real photographs (kodak24.zip of
../shared/data, cut and resized), random resized crop, flip, normalise, batches of 32 float32, at 224 and at 64 pixels.
Sides take turns in one process on one thread, each for one pass over all images a round; process time, medians of
rounds, and the ratio to PIL + torchvision v1 of the same round with its 95 % interval. Ours is `visus.data.Loader`
itself, batch by batch: reading, decoding, checking, drawing, cropping, stacking. Peers are called as their guides show,
image by image, and stacked; kornia gets whole batches. albumentations and kornia resize without antialiasing, which is
less work; how far the outputs of one fixed crop are apart is in the result, in grey levels.

Bars at 224 and 64 pixels: first epoch 1.4 and 2 (aim 1.8 and 3) times PIL + torchvision v1, with and without filling
the cache; from the cache 6 and 22 (aim 10 and 60). Exit code 1 when one is missed, 2 when a peer is not installed.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import os
import pstats
import shutil
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.paired import interval
from tools.peers import load_peer
from visus.core import jpeg
from visus.core.device import environment
from visus.core.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from visus.data import Loader, Samples, build_augmentation
from visus.data.transforms import Augmentation

OUT = Path(__file__).parent / "results" / "loading.json"
PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "kodak24.zip"
REFERENCE = "PIL + torchvision v1"
BATCH = 32
BARS = {"first epoch": {224: (1.4, 1.8), 64: (2.0, 3.0)}, "first epoch, filling the cache": {224: (1.4, 1.8),
                                                                                             64: (2.0, 3.0)},
        "from the cache": {224: (6.0, 10.0), 64: (22.0, 60.0)}}
BOX = (20, 30, 310, 320)  # top, left, height, width of the fixed crop

Side = Callable[[], Iterator[torch.Tensor]]


def make_images(folder: Path, count: int) -> list[str]:
    """JPEGs of 500 x 375 in one folder. Returns their names."""
    rng = np.random.default_rng(0)
    names = []
    (folder / "photos").mkdir()
    with zipfile.ZipFile(PHOTOS) as photos:
        sources = [Image.open(io.BytesIO(photos.read(name))).convert("RGB") for name in sorted(photos.namelist())
                   if name.endswith(".png")]
    for number in range(count):
        source = sources[number % len(sources)]
        scale = rng.uniform(0.7, 1) * min(source.width / 4, source.height / 3)
        width, height = int(4 * scale), int(3 * scale)
        left, top = rng.integers(source.width - width + 1), rng.integers(source.height - height + 1)
        cut = source.crop((left, top, left + width, top + height)).resize((500, 375), Image.Resampling.BILINEAR)
        names.append(f"photos/{number:04d}.jpg")
        cut.save(folder / names[-1], quality=90)
    return names


# -- the sides ---------------------------------------------------------------------------------------------------


def batches_of(paths: list[str], one: Callable[[str], torch.Tensor]) -> Iterator[torch.Tensor]:
    for start in range(0, len(paths), BATCH):
        yield torch.stack([one(path) for path in paths[start:start + BATCH]])


def torchvision_v1(paths: list[str], size: int) -> Side:
    load_peer("torchvision")
    from torchvision import transforms as T

    pipeline = T.Compose([T.RandomResizedCrop(size), T.RandomHorizontalFlip(), T.ToTensor(),
                          T.Normalize(IMAGENET_MEAN, IMAGENET_STD)])

    def one(path: str) -> torch.Tensor:
        with open(path, "rb") as file:
            return pipeline(Image.open(file).convert("RGB"))

    return lambda: batches_of(paths, one)


def torchvision_v2(paths: list[str], size: int) -> Side:
    load_peer("torchvision")
    from torchvision.transforms import v2

    pipeline = v2.Compose([v2.PILToTensor(), v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip(),
                           v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)])

    def one(path: str) -> torch.Tensor:
        with open(path, "rb") as file:
            return pipeline(Image.open(file).convert("RGB"))

    return lambda: batches_of(paths, one)


def albumentations(paths: list[str], size: int) -> Side:
    import albumentations as A
    import cv2
    from albumentations.pytorch import ToTensorV2

    cv2.setNumThreads(1)
    pipeline = A.Compose([A.RandomResizedCrop((size, size), scale=(0.08, 1.0)), A.HorizontalFlip(),
                          A.Normalize(IMAGENET_MEAN, IMAGENET_STD), ToTensorV2()])

    def one(path: str) -> torch.Tensor:
        return pipeline(image=cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB))["image"]

    return lambda: batches_of(paths, one)


def kornia(paths: list[str], size: int) -> Side:
    import kornia.augmentation as K
    import kornia_rs

    pipeline = torch.nn.Sequential(K.RandomResizedCrop((size, size), scale=(0.08, 1.0)), K.RandomHorizontalFlip(),
                                   K.Normalize(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)))
    decode = kornia_rs.io.read_image_jpegturbo if hasattr(kornia_rs.io, "read_image_jpegturbo") else \
        kornia_rs.io.read_image

    def batches() -> Iterator[torch.Tensor]:
        for start in range(0, len(paths), BATCH):
            images = np.stack([np.asarray(decode(path)) for path in paths[start:start + BATCH]])
            yield pipeline(torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255))

    return batches


def loader(samples: Samples, size: int, augmentation: Augmentation | None = None, **options) -> Loader:
    steps = augmentation or build_augmentation([{"name": "random_resized_crop"}, {"name": "horizontal_flip"}])
    return Loader(samples, np.arange(len(samples)), Preprocessing(size=(size, size)), augmentation=steps,
                  batch_size=BATCH, shuffle=True, normalised=True, **options)


class Ours:
    """Epoch after epoch of one loader. fresh: each with an empty cache. simplejpeg: False as if it were not there.
    epochs: timed together, where one is too short."""

    def __init__(self, samples: Samples, size: int, cache: Path | None = None, fresh: bool = False,
                 simplejpeg: bool = True, epochs: int = 1):
        self.epochs = epochs
        self.samples, self.size, self.cache, self.fresh, self.simplejpeg = samples, size, cache, fresh, simplejpeg
        self.loader = loader(samples, size, cache=cache)
        self.epoch = 0

    def before(self) -> None:
        """Not timed."""
        if self.fresh and self.cache is not None:
            shutil.rmtree(self.cache, ignore_errors=True)
            self.loader = loader(self.samples, self.size, cache=self.cache)
        self.loader.prepare()
        self.epoch += 1

    def __call__(self) -> Iterator[torch.Tensor]:
        found = jpeg._simplejpeg
        if not self.simplejpeg:
            jpeg._simplejpeg = lambda: None  # type: ignore[assignment]
        try:
            for batch in self.loader.epoch(self.epoch):
                yield batch.images
        finally:
            jpeg._simplejpeg = found


# -- how far outputs are apart -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FixedCrop:
    """A decode crop that is always BOX, in an image of 375 x 500 or what the cache makes of it."""

    any_dtype: ClassVar[bool] = True

    def numbers(self, draws: object) -> np.ndarray:
        return np.zeros((len(draws.index), 1))  # type: ignore[attr-defined]

    def box(self, numbers: list, height: int, width: int) -> tuple[int, int, int, int]:
        return tuple(round(edge * side / whole) for edge, side, whole in zip(  # type: ignore[return-value]
            BOX, (height, width) * 2, (375, 500) * 2, strict=True))


def apart(samples: Samples, paths: list[str], size: int, folder: Path) -> dict[str, float]:
    """Mean absolute difference, in grey levels, of one fixed crop from torchvision v1's, over all images."""
    load_peer("torchvision")
    import albumentations as A
    import cv2
    import kornia
    from torchvision.transforms import functional as F1
    from torchvision.transforms.v2 import functional as F2

    top, left, height, width = BOX
    images = [Image.open(path).convert("RGB") for path in paths]
    wanted = torch.stack([F1.pil_to_tensor(F1.resized_crop(image, *BOX, [size, size])) for image in images]).float()
    crop = A.Compose([A.Crop(left, top, left + width, top + height), A.Resize(size, size)])
    corners = torch.tensor([[[left, top], [left + width - 1, top], [left + width - 1, top + height - 1],
                             [left, top + height - 1]]]).float()
    fixed = Augmentation((("random_resized_crop", FixedCrop()),))  # type: ignore[arg-type]
    scale, offset = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_STD, IMAGENET_MEAN))

    def ours(cache: Path | None) -> torch.Tensor:
        one = loader(samples, size, fixed, cache=cache)
        one.shuffle = False
        return torch.cat([255 * (batch.images * scale + offset) for batch in one.epoch(0)])

    found = {
        "ours, first epoch": ours(None), "ours, from the cache": ours(folder / f"fixed-{size}"),
        "torchvision v2": torch.stack([F2.resized_crop(F2.pil_to_tensor(image), *BOX, [size, size], antialias=True)
                                       for image in images]),
        "albumentations": torch.stack([torch.from_numpy(crop(image=cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB))[
            "image"]).permute(2, 0, 1) for path in paths]),
        "kornia": torch.cat([kornia.geometry.transform.crop_and_resize(
            F1.pil_to_tensor(image)[None].float(), corners, (size, size)) for image in images])}
    return {name: round(float((values.float() - wanted).abs().mean()), 3) for name, values in found.items()}


# -- measuring ---------------------------------------------------------------------------------------------------


def seconds(side: Side) -> float:
    """Process time of one pass over all images."""
    passes = side.epochs if isinstance(side, Ours) else 1
    spent = 0.0
    for _ in range(passes):
        if isinstance(side, Ours):
            side.before()
        start = time.process_time()
        for _ in side():
            pass
        spent += time.process_time() - start
    return spent / passes


def measure(samples: Samples, size: int, rounds: int, folder: Path) -> dict:
    paths = [samples.path(i) for i in range(len(samples))]
    sides: dict[str, Side] = {
        REFERENCE: torchvision_v1(paths, size), "PIL + torchvision v2": torchvision_v2(paths, size),
        "albumentations (cv2)": albumentations(paths, size), "kornia (kornia_rs)": kornia(paths, size),
        "first epoch": Ours(samples, size), "first epoch, without simplejpeg": Ours(samples, size, simplejpeg=False),
        "first epoch, filling the cache": Ours(samples, size, folder / f"fresh-{size}", fresh=True),
        "from the cache": Ours(samples, size, folder / f"kept-{size}", epochs=8)}
    for side in sides.values():  # warm; it also fills the cache that is kept
        seconds(side)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[::1 if number % 2 else -1]:
            times[name].append(seconds(sides[name]))
    again = [seconds(Ours(samples, size, folder / f"kept-{size}")) for _ in range(3)]  # a new process looks at each sum
    cached = sides["from the cache"]
    assert isinstance(cached, Ours) and cached.loader._cache is not None
    images, held = cached.loader._cache.held()
    assert images == len(samples), "an image is not in the cache"
    speeds = {name: round(len(samples) / statistics.median(of)) for name, of in times.items()}
    result: dict = {"images a second": speeds,
                    "images a second, cache opened anew": round(len(samples) / statistics.median(again)),
                    "cache, bytes an image": held // images, "grey levels from torchvision v1": apart(
                        samples, paths, size, folder),
                    "where the time goes": {name: profiled(side) for name, side in sides.items()
                                            if isinstance(side, Ours)}}
    for name, of in times.items():
        ratios = [reference / own for reference, own in zip(times[REFERENCE], of, strict=True)]
        result[f"{name}, x"] = {"median": round(statistics.median(ratios), 3), "interval": interval(ratios)}
    return result


def profiled(side: Ours, most: int = 8) -> dict[str, float]:
    """Functions by their own share of the time, the largest first. Small ones look larger than they are."""
    side.before()
    profile = cProfile.Profile(time.process_time)
    profile.enable()
    for _ in side():
        pass
    profile.disable()
    rows = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # (file, line, function) -> (..., own time, ...)
    whole = sum(row[2] for row in rows.values())
    largest = sorted(rows.items(), key=lambda item: -item[1][2])[:most]
    return {function: round(row[2] / whole, 3) for (_, _, function), row in largest}


def unused(samples: Samples, size: int, rounds: int) -> float:
    """How much longer a first epoch takes with six more steps of probability 0: median of ratios."""
    idle = ["gaussian_blur", "grayscale", "solarize", "cutout", "random_erasing", "affine"]
    steps = [{"name": "random_resized_crop"}, {"name": "horizontal_flip"}]
    more = build_augmentation(steps + [{"name": name, "probability": 0.0} for name in idle])
    ratios = []
    plain, longer = Ours(samples, size), Ours(samples, size)
    longer.loader = loader(samples, size, more)
    for _ in range(rounds):
        ratios.append(1 / (seconds(plain) / seconds(longer)))
    return round(statistics.median(ratios), 3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--sizes", default="224,64")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = make_images(folder, arguments.images)
        samples = Samples(format="folder", classes=("a", "b"), paths=tuple(names), root=str(folder),
                          targets=np.arange(len(names)) % 2)
        mean_bytes = round(statistics.fmean(Path(samples.path(i)).stat().st_size for i in range(len(samples))))
        try:
            for size in map(int, arguments.sizes.split(",")):
                results[str(size)] = measure(samples, size, arguments.rounds, folder)
                results[str(size)]["six unused steps, time x"] = unused(samples, size, max(3, arguments.rounds // 2))
        except ImportError as error:
            print(error, file=sys.stderr)
            return 2
    bars = {f"{name}, {size} px: {bar} x (aim {aim})": results[str(size)][f"{name}, x"]["median"] >= bar
            for name, of in BARS.items() for size, (bar, aim) in of.items() if str(size) in results}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({
        "command": ["python", *sys.argv], "images": len(names), "bytes an image": mean_bytes, "batch": BATCH,
        "rounds": arguments.rounds, "load average at the start": round(load, 2), "decoder": jpeg.jpeg_decoder(),
        "bars": bars, "results": results, "environment": environment()}, indent=2) + "\n")
    for size, row in results.items():
        print(f"{size} px")
        for name, speed in row["images a second"].items():
            ratio = row[f"{name}, x"]
            print(f"  {name:<34} {speed:>7,} images/s  {ratio['median']:>6.2f} x  {ratio['interval']}")
        print("  grey levels from torchvision v1:", row["grey levels from torchvision v1"])
    for bar, met in bars.items():
        print("met   " if met else "MISSED", bar)
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
