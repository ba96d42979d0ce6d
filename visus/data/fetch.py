"""One batch from files: decoded (or out of the cache), cropped, augmented, as floats. What loader workers run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from visus.core.batch import ImageBatch
from visus.core.errors import ImageError, UserError
from visus.core.images import Part
from visus.core.jpeg import REDUCTIONS
from visus.core.preprocessing import Preprocessing
from visus.data.cache import PixelCache
from visus.data.samples import Samples
from visus.data.sampling import draw_index
from visus.data.scan import BadImage
from visus.data.transforms import Augmentation, Draws, to_unit
from visus.data.transforms.flip import HorizontalFlip, VerticalFlip
from visus.data.transforms.mix import Mixing
from visus.ops.resample import antialiased_kernel, resize, to_channels

CACHE_MARGIN = 8 / 7  # what random crops are cut from is so much larger than the model's size: 256 pixels for 224
_GROUP_BYTES = 512 << 10


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of one batch: the batch, the files that failed, or an error."""

    batch: ImageBatch | None
    bad: tuple[BadImage, ...]
    error: UserError | None = None

    def pin_memory(self) -> Fetched:
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


class FileBatches(Dataset):
    """(epoch, positions) -> a whole batch. normalised: by `preprocessing`, else in [0, 1].

    Without a cache, a random resized crop is cut from the image in its full size; where it is more than twice as large
    as the model's, it is decoded at a half, a quarter or an eighth. With a cache, it is cut from the image as `stored`
    in every epoch, whether or not the cache had it.
    """

    def __init__(self, samples: Samples, indices: np.ndarray, preprocessing: Preprocessing,
                 augmentation: Augmentation | None, seed: int, mixing: Mixing | None = None,
                 cache: PixelCache | None = None, cache_margin: float = CACHE_MARGIN, normalised: bool = False,
                 share: tuple[int, int] = (0, 1)):
        self.samples = samples
        self.indices = indices
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed
        self.mixing = mixing
        self.cache = cache
        self.cache_margin = cache_margin
        self.normalised = normalised
        self.share = share
        self.squash = replace(preprocessing, resize="squash")  # a cropped box goes to the size as it is
        self.crop = None if augmentation is None else augmentation.decode_crop
        self._small: np.ndarray | None = None
        self._kernel = antialiased_kernel(preprocessing.interpolation)
        self._affine = tuple(torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (
            [1 / (255 * std) for std in preprocessing.std],
            [mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)]))

    def __getitem__(self, key: tuple[int, np.ndarray]) -> Fetched:
        epoch, positions = key
        bad: list[BadImage] = []
        try:
            return Fetched(self._batch(epoch, positions, bad), tuple(bad))
        except UserError as error:  # an error object keeps its type on the way out of a worker, an exception does not
            return Fetched(None, tuple(bad), error)

    def _batch(self, epoch: int, positions: np.ndarray, bad: list[BadImage]) -> ImageBatch | None:
        """Files that cannot be read are left out and noted in `bad`; None where none can."""
        positions, drawn, border = self.shared_out(positions)
        index = self.indices[positions]
        numbers = None
        if self.crop is not None:
            assert self.augmentation is not None
            numbers = self.crop.numbers(self.augmentation.draws(0, drawn, self.seed, epoch)).tolist()
        mirrored = self._mirrored(drawn, epoch)
        steps = None if mirrored is None else mirrored.tolist()
        height, width = self.preprocessing.size
        if self._small is None or len(self._small) < len(index):  # kept: fresh memory costs as much as filling it
            self._small = np.empty((len(index), self.preprocessing.channels, height, width), np.uint8)
        small = self._small[:len(index)]
        images = None if mirrored is None else torch.empty(small.shape)
        group = max(1, _GROUP_BYTES // (4 * small[0].size))  # as many as stay in the processor's cache as floats
        good: list[int] = []
        for row, (position, i) in enumerate(zip(positions.tolist(), index.tolist(), strict=True)):
            try:
                pixels = self._pixels(position, i, None if numbers is None else numbers[row])
            except ImageError as error:
                bad.append(BadImage(i, self.samples.source(i), error.problem, error.remedy))
                continue
            if steps is not None:
                pixels = pixels[:, ::steps[row][0], ::steps[row][1]]
            small[len(good)] = pixels
            good.append(row)
            if images is not None and len(good) % group == 0:
                self._to_floats(images, small, len(good) - group, len(good))
        border = border and bool(good) and good[-1] == len(index) - 1
        if len(good) <= border:
            return None
        if images is None:
            return self.finish(torch.from_numpy(small[:len(good)]), index[good], epoch, drawn=drawn[good],
                               border=border)
        self._to_floats(images, small, len(good) - len(good) % group, len(good))
        made = images if len(good) == len(index) else images[:len(good)].clone()
        return self.finish(made, index[good], epoch, drawn=drawn[good], augmented=True, border=border)

    def shared_out(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """Positions of a whole batch -> those of this share, and what their random numbers depend on, which is the same
        for every way to share. border: the last of them is the next share's first, which ours is mixed with."""
        drawn = draw_index(self.indices[positions])
        start, end = share_of(len(positions), self.share)
        if (start, end) == (0, len(positions)):
            return positions, drawn, False
        border = self.mixing is not None
        rows = np.arange(start, end + border) % len(positions)
        return positions[rows], drawn[rows], border

    # -- pixels --------------------------------------------------------------------------------------------------

    def _pixels(self, position: int, i: int, numbers: list | None) -> np.ndarray:
        """uint8 [C, h, w] in the model's size, cropped where the augmentation begins with that."""
        if self.cache is None:
            if numbers is None:
                return self.preprocessing.resized_planes(self.samples.read(i, self.preprocessing.background))
            return self.squash.resized_planes(self.samples.part(
                i, lambda height, width: self._part(numbers, height, width), self.preprocessing.background))
        record = self.cache.find(position)
        if record is not None:
            top, left, height, width = self._box(numbers, record.height, record.width)
            rows = self.cache.rows(position, record, top, top + height)
            if rows is not None:
                return self._out_of_stored(rows[:, left:left + width], numbers)
        whole = self.stored(i)
        self.cache.write(position, whole)
        top, left, height, width = self._box(numbers, *whole.shape[:2])
        return self._out_of_stored(whole[top:top + height, left:left + width], numbers)

    def stored(self, i: int) -> np.ndarray:
        """What the cache keeps of sample i, uint8 [H, W, 1 or C]. Where nothing is cropped at random: the image as the
        model takes it. Otherwise the whole image in its own aspect, of `stored_size`."""
        p = self.preprocessing
        if self.crop is None:
            return np.ascontiguousarray(p.resized_planes(self.samples.read(i, p.background)).transpose(1, 2, 0))
        sizes = []

        def choose(height: int, width: int) -> Part:
            size = stored_size(p, self.cache_margin, height, width)
            sizes.append(size)
            return Part(0, 0, height, width, _reduction(p, *size, height, width))

        pixels = self.samples.part(i, choose, p.background)
        array = np.array(pixels, order="C")
        whole = torch.from_numpy(array.reshape(1, *array.shape).transpose(0, 3, 1, 2))  # strides: Preprocessing
        if array.shape[2] > p.channels:
            whole = to_channels(whole, p.channels)
        return np.ascontiguousarray(resize(whole, sizes[-1], p.interpolation)[0].permute(1, 2, 0).numpy())

    def _box(self, numbers: list | None, height: int, width: int) -> tuple[int, int, int, int]:
        if numbers is None:
            return 0, 0, height, width
        assert self.crop is not None
        return self.crop.box(numbers, height, width)

    def _part(self, numbers: list, height: int, width: int) -> Part:
        """The box in the full image, reduced while it stays as large as the model's size."""
        box = self._box(numbers, height, width)
        return Part(*box, _reduction(self.preprocessing, *self.preprocessing.size, box[2], box[3]))

    def _out_of_stored(self, pixels: np.ndarray, numbers: list | None) -> np.ndarray:
        if numbers is None:
            return pixels.transpose(2, 0, 1)
        size, channels = self.preprocessing.size, self.preprocessing.channels
        if self._kernel is None or pixels.shape[2] != channels or pixels.shape[:2] == size:
            return self.squash.resized_planes(pixels)
        # what `resized_planes` does, without the questions that all images of the cache answer alike
        array = np.array(pixels, order="C")
        images = torch.from_numpy(array.reshape(1, *array.shape).transpose(0, 3, 1, 2))
        return self._kernel(images, size, False, None, None).numpy()[0]

    # -- floats --------------------------------------------------------------------------------------------------

    def _mirrored(self, drawn: np.ndarray, epoch: int) -> np.ndarray | None:
        """[B, 2] of 1 and -1: steps along rows and columns, where flips are all that follows; None where more does."""
        steps = np.ones((len(drawn), 2), np.int64)
        if self.augmentation is None:
            return steps
        for position, (_, transform) in enumerate(self.augmentation.steps):
            if (position == 0 and self.crop is not None) or self.augmentation.idle(position):
                continue
            if not isinstance(transform, HorizontalFlip | VerticalFlip):
                return None
            axis = 0 if isinstance(transform, VerticalFlip) else 1
            chosen = transform.chosen(self.augmentation.draws(position, drawn, self.seed, epoch))
            steps[:, axis] *= np.where(chosen, -1, 1)
        return steps

    def _to_floats(self, out: Tensor, small: np.ndarray, start: int, end: int) -> None:
        """Images start to end of uint8 `small` [B, C, h, w] -> float32 `out` of that shape: in [0, 1] or normalised."""
        if start == end:
            return
        part = out[start:end].copy_(torch.from_numpy(small[start:end]))
        if self.normalised and self.mixing is None:
            scale, offset = self._affine
            part.mul_(scale).sub_(offset)
        else:
            part.div_(255)

    def finish(self, images: Tensor, index: np.ndarray, epoch: int, *, drawn: np.ndarray, augmented: bool = False,
               border: bool = False) -> ImageBatch:
        """uint8 images [B, C, h, w] of the samples at `index` -> the batch. drawn: what random numbers depend on.
        augmented: the images are what `_to_floats` makes of them. border: the last image is there to be mixed with,
        and no part of the batch."""
        if self.augmentation is not None and not augmented:
            images = self.augmentation(images, drawn, self.seed, epoch, cropped=self.crop is not None
                                       and not self.samples.in_memory)
        images, targets = to_unit(images), torch.from_numpy(self.samples.targets[index])
        if self.mixing is not None:
            draws = Draws(drawn, self.seed, epoch, "mixing")
            images, targets = self.mixing(images, targets, len(self.samples.classes), draws)
        if self.normalised and not (augmented and self.mixing is None):
            images = self.preprocessing.normalise(images)
        if border:
            images, targets, index = images[:-1], targets[:-1], index[:-1]
        return ImageBatch(images, targets, torch.from_numpy(index))


def share_of(count: int, share: tuple[int, int]) -> tuple[int, int]:
    """(start, end) of the rows of a batch of `count` that are share `share[0]` of `share[1]`: as even as can be. A
    batch of fewer rows than shares goes whole to each."""
    number, shares = share
    return (0, count) if count < shares else (count * number // shares, count * (number + 1) // shares)


def stored_size(preprocessing: Preprocessing, margin: float, height: int, width: int) -> tuple[int, int]:
    """(height, width) at which the cache keeps an image that is cropped at random: so much smaller that both sides just
    have `margin` times the model's size; never larger than it is."""
    least = [math.ceil(margin * side - 1e-9) for side in preprocessing.size]
    scale = max(least[0] / height, least[1] / width)
    if scale >= 1:
        return height, width
    return max(least[0], round(height * scale)), max(least[1], round(width * scale))


def _reduction(preprocessing: Preprocessing, least_height: int, least_width: int, height: int, width: int) -> int:
    """The largest reduction that leaves `least_height` x `least_width` pixels."""
    if preprocessing.interpolation == "nearest":
        return 1
    return max(by for by in REDUCTIONS if by == 1 or (height >= by * least_height and width >= by * least_width))
