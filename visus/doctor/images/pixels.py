"""One look at the images for all checks: each is decoded once, and what the checks need of it is kept."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from visus.core.errors import ImageError
from visus.core.seeds import permutation
from visus.doctor.image_set import ImageSet
from visus.doctor.thresholds import limit

SIDE = 32  # px of the small copies
MEASURED_SIDE = 160  # px: longer images are averaged over whole pixels until they fit, before they are measured
CHUNK = 128
BLOCK = 2048
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """What was seen of the n images that could be read, in the order of the set.

    index: int64 [n], their positions. bad: (position, problem, remedy) of those that could not. looked: how many were
    opened of `total`; `random` says that they were drawn at random. seconds: what that took.
    small: uint8 [n, 32, 32, 1 or 3]. grey: uint8 [n, 32, 32]. digest: bytes [n], of the decoded pixels and the size.
    size: int64 [n, 2], height and width. channels: int64 [n], 1 where grey. mean: float32 [n, 3], of each colour.
    brightness, contrast: float32 [n], mean and deviation of grey values. sharpness: deviation of the Laplacian.
    spread: largest minus smallest value of a pixel. border: float32 [n, 3], mean of the outermost pixels.
    file_bytes: float64 [n], and taken: float64 [n], seconds, camera: str [n] where known, else NaN and ''.
    """

    index: np.ndarray
    bad: tuple[tuple[int, str, str], ...]
    looked: int
    total: int
    seconds: float
    small: np.ndarray
    grey: np.ndarray
    digest: np.ndarray
    size: np.ndarray
    channels: np.ndarray
    mean: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    sharpness: np.ndarray
    spread: np.ndarray
    border: np.ndarray
    file_bytes: np.ndarray
    taken: np.ndarray
    camera: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    @property
    def basis(self) -> str:
        """'' when all images were looked at, else ' (4,000 of 100,000 images, drawn at random, were looked at)'."""
        if self.looked == self.total:
            return ""
        return f" ({self.looked:,} of {self.total:,} images, drawn at random, were looked at in {self.seconds:.0f} s)"


@dataclass(frozen=True, slots=True)
class _Seen:
    """One image. reduced: uint8 [h, w], grey, at most MEASURED_SIDE long."""

    reduced: np.ndarray
    small: np.ndarray
    digest: str
    size: tuple[int, int]
    channels: int
    spread: int
    border: tuple[float, float, float]
    file_bytes: float
    taken: float
    camera: str


def pixels_of(images: ImageSet) -> Pixels:
    """The look at this set, made by the first check that asks. It takes at most half of the set's seconds: of a set
    that needs longer it sees a sample, drawn at random."""
    found = images.remembered.get("pixels")
    if not isinstance(found, Pixels):
        found = images.remembered["pixels"] = _look(images, limit("images.look_share") * images.seconds)
    return found


def _look(images: ImageSet, seconds: float) -> Pixels:
    begun = time.perf_counter()
    order = permutation(len(images), 0, "doctor images")[:int(limit("images.most"))]
    seen: dict[int, tuple[_Seen, np.ndarray]] = {}
    bad: list[tuple[int, str, str]] = []
    looked = 0

    def one(place: int) -> _Seen | ImageError:
        try:
            return _seen(images.read(place), images.about(place) if images.about is not None else None)
        except ImageError as error:
            return error

    workers = 1 if images.about is None else min(8, os.cpu_count() or 1)  # without files there is nothing to wait for
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for start in range(0, len(order), CHUNK):
            if looked and time.perf_counter() - begun > seconds:
                break
            chunk = order[start:start + CHUNK].tolist()
            results = list(pool.map(one, chunk) if workers > 1 else map(one, chunk))
            bad += [(i, e.problem, e.remedy or "") for i, e in zip(chunk, results, strict=True)
                    if isinstance(e, ImageError)]
            good = [(i, one_seen) for i, one_seen in zip(chunk, results, strict=True) if isinstance(one_seen, _Seen)]
            by_shape: dict[tuple[int, ...], list[tuple[int, _Seen]]] = {}
            for i, one_seen in good:
                by_shape.setdefault(one_seen.reduced.shape, []).append((i, one_seen))
            for members in by_shape.values():
                numbers = _measured(np.stack([one_seen.reduced for _, one_seen in members]))
                for (i, one_seen), row in zip(members, numbers, strict=True):
                    seen[i] = (replace(one_seen, reduced=one_seen.small), row)  # the large one may go
            looked += len(chunk)
    index = np.array(sorted(seen), np.int64)
    return _joined(index, [seen[i] for i in index.tolist()], tuple(sorted(bad)), looked, len(images),
                   time.perf_counter() - begun)


def _seen(pixels: np.ndarray, about: tuple[float, float, str] | None) -> _Seen:
    """pixels: uint8 [H, W] or [H, W, C]."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    height, width, channels = pixels.shape
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16)
    digest.update(repr(pixels.shape).encode())
    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    ends = np.array(picture.getextrema()).reshape(-1, 2)  # [C, 2], least and largest
    factor = -(-max(height, width) // MEASURED_SIDE)
    if factor > 1 and min(height, width) >= factor:
        picture = picture.reduce(factor)
    small = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX if min(picture.size) >= SIDE
                                      else Image.Resampling.BILINEAR))
    edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    border = sum(edge.sum(0, dtype=np.int64) for edge in edges) / (2 * (height + width))
    file_bytes, taken, camera = about if about is not None else (np.nan, np.nan, "")
    return _Seen(reduced=np.asarray(picture.convert("L")), digest=digest.hexdigest(),
                 small=small[..., None] if channels == 1 else small, size=(height, width), channels=channels,
                 spread=int((ends[:, 1] - ends[:, 0]).max()),
                 border=(border[0], border[channels // 2], border[-1]), file_bytes=file_bytes, taken=taken,
                 camera=camera)


def _measured(grey: np.ndarray) -> np.ndarray:
    """uint8 [n, H, W] -> float32 [n, 3]: brightness, contrast, sharpness."""
    values = grey.astype(np.float32)
    laplacian = np.zeros((len(grey), 1, 1), np.float32)
    if min(grey.shape[1:]) >= 3:
        laplacian = (values[:, :-2, 1:-1] + values[:, 2:, 1:-1] + values[:, 1:-1, :-2] + values[:, 1:-1, 2:]
                     - 4 * values[:, 1:-1, 1:-1])
    return np.stack([values.mean((1, 2)), values.std((1, 2)), laplacian.std((1, 2))], 1)


def _joined(index: np.ndarray, seen: Sequence[tuple[_Seen, np.ndarray]], bad: tuple[tuple[int, str, str], ...],
            looked: int, total: int, seconds: float) -> Pixels:
    count = len(seen)
    rows = np.array([row for _, row in seen], np.float32).reshape(count, 3)
    channels = np.array([one.channels for one, _ in seen], np.int64)
    colour = bool((channels > 1).any())
    small = np.zeros((count, SIDE, SIDE, 3 if colour else 1), np.uint8)
    grey, mean = np.zeros((count, SIDE, SIDE), np.uint8), np.zeros((count, 3), np.float32)
    for k, (one, _) in enumerate(seen):
        small[k] = one.small  # a grey image among coloured ones is spread over the three
    for start in range(0, count, BLOCK):
        block = small[start:start + BLOCK].astype(np.float32)
        grey[start:start + BLOCK] = np.rint(block @ LUMA) if colour else block[..., 0]
        mean[start:start + BLOCK] = block.mean((1, 2))
    return Pixels(
        index=index, bad=bad, looked=looked, total=total, seconds=seconds, small=small, grey=grey,
        digest=np.array([one.digest for one, _ in seen], "<U32"),
        size=np.array([one.size for one, _ in seen], np.int64).reshape(count, 2), channels=channels, mean=mean,
        brightness=rows[:, 0], contrast=rows[:, 1], sharpness=rows[:, 2],
        spread=np.array([one.spread for one, _ in seen], np.int64),
        border=np.array([one.border for one, _ in seen], np.float32).reshape(count, 3),
        file_bytes=np.array([one.file_bytes for one, _ in seen], np.float64),
        taken=np.array([one.taken for one, _ in seen], np.float64),
        camera=np.array([one.camera for one, _ in seen], np.str_))
