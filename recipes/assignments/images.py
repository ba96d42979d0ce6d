"""The images of the assignments: of Fashion-MNIST or CIFAR-10 so many to train on, to choose on and to test on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.reproduce import CIFAR10, unpack_cifar10
from visus.core.errors import UserError
from visus.data.opening import open_samples

SPLITS = ("train", "val", "test")
VAL_IMAGES, TEST_IMAGES = 1_000, 1_000  # as the course has them


@dataclass(frozen=True)
class Images:
    """images: uint8 [N, H, W, C] and labels: int64 [N] of "train" (without those of val), "val", "test". small: every
    exercise at a tenth of its length. out: where runs lie."""

    name: str
    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    classes: tuple[str, ...]
    out: Path
    small: bool = False

    def count(self, number: int) -> int:
        return max(60, number // 50) if self.small else number

    def epochs(self, number: int) -> int:
        return 1 if self.small else number

    def file(self, train: int) -> Path:
        """An .npz of the first `train` training images and of all of val and test, for the verbs."""
        path = self.out / f"{self.name}-{train}.npz"
        if not path.exists():
            arrays = {f"{split}_{kind}": values[split][:train] if split == "train" else values[split]
                      for split in SPLITS for kind, values in (("images", self.images), ("labels", self.labels))}
            self.out.mkdir(parents=True, exist_ok=True)
            np.savez(path, class_names=np.array(self.classes), **arrays)
        return path

    def rows(self, train: int, flat: bool = True) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The first `train` training images and all others, float64 [N, D] (or [N, C, H, W]), less the mean training
        image and over the deviation of all its pixels, with their labels, for the networks by hand."""
        first = self.images["train"][:train].astype(np.float64)
        mean, deviation = first.mean(0), (first - first.mean(0)).std()
        found = {}
        for split in SPLITS:
            pixels = first if split == "train" else self.images[split].astype(np.float64)
            shaped = ((pixels - mean) / deviation).transpose(0, 3, 1, 2)
            labels = self.labels[split][:train] if split == "train" else self.labels[split]
            found[split] = (shaped.reshape(len(shaped), -1) if flat else shaped, labels)
        return found


def open_images(name: str, folder: Path, out: Path, small: bool = False) -> Images:
    """name: "fashion" (folder of the four IDX files) or "cifar10" (folder of cifar10_train.npz and cifar10_test.npz,
    see recipes/reproduce.py). The last VAL_IMAGES training images are for choosing."""
    if name == "cifar10":
        missing = [f"cifar10_{split}.npz" for split in ("train", "test")
                   if not (folder / f"cifar10_{split}.npz").is_file()]
        if missing:
            raise UserError(f"has no {' and no '.join(missing)}", where=folder,
                            remedy="See recipes/reproduce.py for the arrays that the two files hold")
        whole = out / "cifar10.npz"
        with np.load(whole if whole.exists() else unpack_cifar10(folder, whole)) as file:
            pixels = {split: file[f"{split}_images"] for split in ("train", "test")}
            labels = {split: file[f"{split}_labels"].astype(np.int64) for split in ("train", "test")}
        classes: tuple[str, ...] = CIFAR10
    else:
        samples = open_samples(folder, "idx")
        classes = tuple(samples.classes)
        pixels, labels = {}, {}
        for split in ("train", "test"):
            index = np.flatnonzero(samples.split == split)
            pixels[split], labels[split] = samples.images[index], samples.targets[index].astype(np.int64)
    held = min(VAL_IMAGES, len(pixels["train"]) // 5)
    images = {"train": pixels["train"][:-held], "val": pixels["train"][-held:], "test": pixels["test"][:TEST_IMAGES]}
    targets = {"train": labels["train"][:-held], "val": labels["train"][-held:], "test": labels["test"][:TEST_IMAGES]}
    return Images(name, images, targets, classes, out, small)
