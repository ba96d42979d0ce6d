"""Batches: batch n of epoch e is a pure function of (seed, e, n), whoever computes it and whatever came before."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from visus.core.batch import ImageBatch
from visus.core.errors import DataError, ImageError, ResourceError, UserError
from visus.core.files import atomic, read_json, write_json
from visus.core.preprocessing import Preprocessing
from visus.core.seeds import permutation
from visus.data.samples import Samples, counted, listed
from visus.data.scan import BadImage
from visus.data.transforms import Augmentation, Draws, to_unit
from visus.data.transforms.mix import Mixing

_IN_MEMORY_BYTES = 2 << 30
_RESIZE_BYTES = 64 << 20


class Loader:
    """Batches of the samples at `indices`, as `preprocessing` resizes them, augmented, mixed, not yet normalised.

    mixing: each image and its target with the next of its batch; targets are then float [B, K]. shuffle: another order
    each epoch. drop_last: no smaller last batch. workers: processes that decode files; images in memory need none.
    on_bad_image: a file that cannot be read any more (they were scanned before training) raises an error ('stop') or
    makes its batch smaller ('skip', counted in `skipped`). cache: folder for the decoded, resized images as one uint8
    file, made at first use and used again while files and preprocessing are the same. pin_memory: for copies to a GPU.
    timeout_s: longest wait for a worker.

    One epoch at a time: starting a second iterator ends the first.
    """

    def __init__(self, samples: Samples, indices: Sequence[int] | np.ndarray, preprocessing: Preprocessing, *,
                 augmentation: Augmentation | None = None, mixing: Mixing | None = None, batch_size: int = 32,
                 seed: int = 0, shuffle: bool = False, drop_last: bool = False, workers: int = 0,
                 on_bad_image: Literal["stop", "skip"] = "stop", cache: str | Path | None = None,
                 pin_memory: bool = False, timeout_s: float = 120.0):
        if batch_size < 1:
            raise DataError("must be 1 or more", where=f"batch_size={batch_size}")
        self.samples = samples
        self.indices = np.asarray(indices, np.int64)
        if drop_last and len(self.indices) < batch_size:
            raise DataError(f"{counted(len(self.indices), 'image')} are less than one batch",
                            where=f"batch_size={batch_size}", remedy="Use a smaller batch_size, or drop_last=False")
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.mixing = mixing
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.workers = workers
        self.on_bad_image = on_bad_image
        self.cache = None if cache is None else Path(cache)
        self.pin_memory = pin_memory and torch.cuda.is_available()
        self.timeout_s = timeout_s
        self.skipped: dict[int, BadImage] = {}
        self._pixels: Tensor | None = None  # uint8 [len(indices), C, h, w]
        self._unreadable: frozenset[int] = frozenset()  # positions that the cache could not be filled for
        self._plan = _Plan()
        self._worker_loader: DataLoader | None = None

    def __len__(self) -> int:
        whole, rest = divmod(len(self.indices), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def order(self, epoch: int) -> np.ndarray:
        """int64 [len(indices)]: positions in `indices`, in the order of this epoch."""
        if not self.shuffle:
            return np.arange(len(self.indices))
        return permutation(len(self.indices), self.seed, "order", epoch)

    def batch(self, epoch: int, number: int) -> ImageBatch:
        """Batch `number` of `epoch`, computed here."""
        self.prepare()
        return self._delivered(self._compute(epoch, self._positions(self.order(epoch), number)), epoch, number)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[ImageBatch]:
        """The batches of `epoch` from `start_batch` on: float32 [B, C, h, w] in [0, 1], targets, positions in samples.

        Raises ImageError or DataError for files that cannot be read, ResourceError when a worker dies or hangs.
        """
        self.prepare()
        order = self.order(epoch)
        plan = [(epoch, self._positions(order, n)) for n in range(start_batch, len(self))]
        if self.workers and self._pixels is None and not self.samples.in_memory:
            yield from self._from_workers(plan, start_batch)
        else:
            for number, (_, positions) in enumerate(plan, start_batch):
                fetched = self._compute(epoch, positions)
                yield self._delivered(fetched.pin_memory() if self.pin_memory else fetched, epoch, number)

    def prepare(self) -> None:
        """Images into memory, or into the cache, where that is asked for and not yet done."""
        if self._pixels is not None or not len(self.indices):
            return
        if self.samples.in_memory:
            self._pixels = self._resized_arrays()
        elif self.cache is not None:
            self._pixels = self._cached_files(self.cache)

    def close(self) -> None:
        """End the workers. The loader can be used again."""
        if self._worker_loader is not None:
            _end_workers(self._worker_loader)
            self._worker_loader = None

    def _positions(self, order: np.ndarray, number: int) -> np.ndarray:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        return order[number * self.batch_size:(number + 1) * self.batch_size]

    # -- one batch -----------------------------------------------------------------------------------------------

    def _compute(self, epoch: int, positions: np.ndarray) -> _Fetched:
        files = self._files()
        if self._pixels is not None:
            bad = [self._lost(p) for p in positions if p in self._unreadable] if self._unreadable else []
            if bad:
                positions = positions[~np.isin(positions, list(self._unreadable))]
            images = self._pixels.index_select(0, torch.from_numpy(positions))
            return _Fetched(files.finish(images, self.indices[positions], epoch, cropped=False), tuple(bad))
        if self.samples.in_memory:
            index = self.indices[positions]
            return _Fetched(files.finish(self._resize_arrays(index), index, epoch, cropped=False), ())
        return files[epoch, positions]

    def _files(self) -> _FileBatches:
        return _FileBatches(self.samples, self.indices, self.preprocessing, self.augmentation, self.seed, self.mixing)

    def _lost(self, position: int) -> BadImage:
        index = int(self.indices[position])
        return BadImage(index, self.samples.source(index), "could not be read when the cache was made")

    def _delivered(self, fetched: _Fetched, epoch: int, number: int) -> ImageBatch:
        if fetched.error is not None:
            raise fetched.error
        for bad in fetched.bad:
            if self.on_bad_image == "stop":
                raise _refusal(fetched.bad)
            self.skipped[bad.index] = bad
        if fetched.batch is None or not len(fetched.batch):
            raise DataError(f"no image of batch {number} in epoch {epoch} can be read: "
                            + listed([f"{b.source}: {b.problem}" for b in fetched.bad]), where=self.samples.root,
                            remedy="The images went away or changed since training began: put them back")
        return fetched.batch

    # -- images in memory and in the cache -----------------------------------------------------------------------

    def _resized_arrays(self) -> Tensor | None:
        """All images in the model's size; None when that would take more than 2 GiB and is not their own size."""
        assert self.samples.images is not None
        height, width = self.preprocessing.size
        size = len(self.indices) * self.preprocessing.channels * height * width
        if size > max(_IN_MEMORY_BYTES, self.samples.images.nbytes):
            return None
        out = torch.empty(len(self.indices), self.preprocessing.channels, height, width, dtype=torch.uint8)
        step = max(1, _RESIZE_BYTES // max(1, int(np.prod(self.samples.images.shape[1:]))))
        for start in range(0, len(self.indices), step):
            out[start:start + step] = self._resize_arrays(self.indices[start:start + step])
        return out

    def _resize_arrays(self, index: np.ndarray) -> Tensor:
        assert self.samples.images is not None
        images = torch.from_numpy(self.samples.images[index]).permute(0, 3, 1, 2)  # [B, C, H, W]
        return self.preprocessing.resized_batch(images)

    def _cached_files(self, folder: Path) -> Tensor:
        """The cache file as a read-only uint8 tensor [N, C, h, w], made first where it is not there."""
        name = f"images-{self._cache_key()}"
        path, about = folder / f"{name}.npy", folder / f"{name}.json"
        if not path.exists() or not about.exists():
            self._make_cache(path, about)
        try:
            pixels = np.load(path, mmap_mode="c", allow_pickle=False)
            unreadable = frozenset(int(p) for p in read_json(about)["unreadable"])
        except (ValueError, KeyError, TypeError, OSError, UserError) as error:
            raise ResourceError(f"the image cache is damaged ({error})", where=path,
                                remedy="Delete the cache folder; it is made again") from error
        self._unreadable = unreadable
        return torch.from_numpy(pixels)

    def _cache_key(self) -> str:
        """Of the files' names, sizes and times and of what preprocessing does to them."""
        p = self.preprocessing
        digest = hashlib.sha256(repr((1, p.size, p.channels, p.resize, p.crop_fraction, p.interpolation,
                                      p.background)).encode())
        for i in self.indices.tolist():
            path = self.samples.path(i)
            try:
                about = os.stat(path)
                stamp = (about.st_size, about.st_mtime_ns)
            except OSError:
                stamp = (-1, -1)
            digest.update(path.encode("utf-8", "surrogateescape") + repr(stamp).encode())
        return digest.hexdigest()[:32]

    def _make_cache(self, path: Path, about: Path) -> None:
        plain = Loader(self.samples, self.indices, self.preprocessing, batch_size=64, workers=self.workers,
                       on_bad_image=self.on_bad_image, timeout_s=self.timeout_s)
        height, width = self.preprocessing.size
        shape = (len(self.indices), self.preprocessing.channels, height, width)
        unreadable: list[int] = []
        with atomic(path) as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for start, fetched in zip(range(0, len(self.indices), 64), plain.decoded(), strict=True):
                rows = np.zeros((min(64, len(self.indices) - start), *shape[1:]), np.uint8)
                here = np.isin(self.indices[start:start + 64], [b.index for b in fetched.bad], invert=True)
                if fetched.images is not None:
                    rows[here] = fetched.images.numpy()
                unreadable += (start + np.flatnonzero(~here)).tolist()
                file.write(rows.tobytes())
            write_json(about, {"unreadable": unreadable})  # before the file takes its name: that is the commit
        plain.close()

    def decoded(self) -> Iterator[_Fetched]:
        """The batches in order as uint8 `images`, before augmentation. Bad files by `on_bad_image`."""
        plan = [(None, self._positions(np.arange(len(self.indices)), n)) for n in range(len(self))]
        files = _FileBatches(self.samples, self.indices, self.preprocessing, None, self.seed)
        source = self._worker_batches(plan, 0) if self.workers else (files[key] for key in plan)
        for fetched in source:
            if fetched.error is not None:
                raise fetched.error
            if fetched.bad and self.on_bad_image == "stop":
                raise _refusal(fetched.bad)
            yield fetched

    # -- workers -------------------------------------------------------------------------------------------------

    def _from_workers(self, plan: list[tuple[int | None, np.ndarray]], start_batch: int) -> Iterator[ImageBatch]:
        for number, fetched in enumerate(self._worker_batches(plan, start_batch), start_batch):
            yield self._delivered(fetched, plan[0][0] or 0, number)

    def _worker_batches(self, plan: list[tuple[int | None, np.ndarray]], start: int) -> Iterator[_Fetched]:
        """Fetched batches in the order of the plan. The workers live on for the next epoch."""
        if not plan:
            return
        if self._worker_loader is None:
            files = self._files()
            # a generator of its own: torch's global one, which a checkpoint holds, must not depend on loader restarts
            self._worker_loader = DataLoader(files, batch_size=None, sampler=self._plan, num_workers=self.workers,
                                             generator=torch.Generator(), collate_fn=_as_it_is,
                                             timeout=self.timeout_s, persistent_workers=True,
                                             pin_memory=self.pin_memory, worker_init_fn=_start_worker)
        self._plan.keys = plan
        done = 0
        try:
            iterator = iter(self._worker_loader)
            for fetched in iterator:
                done += 1
                yield fetched
        except RuntimeError as error:
            first = self.samples.source(int(self.indices[plan[min(done, len(plan) - 1)][1][0]]))
            _end_workers(self._worker_loader)
            self._worker_loader = None
            raise _worker_error(error, self.timeout_s, start + done, first) from error


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What came of one batch: the batch (or, undecorated, its uint8 images), the files that failed, or an error."""

    batch: ImageBatch | None
    bad: tuple[BadImage, ...]
    images: Tensor | None = None
    error: UserError | None = None

    def pin_memory(self) -> _Fetched:
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


class _FileBatches(Dataset):
    """(epoch, positions) -> a whole batch, decoded and augmented; epoch None: decoded only. Lives in the workers."""

    def __init__(self, samples: Samples, indices: np.ndarray, preprocessing: Preprocessing,
                 augmentation: Augmentation | None, seed: int, mixing: Mixing | None = None):
        self.samples = samples
        self.indices = indices
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed
        self.mixing = mixing
        self.squash = replace(preprocessing, resize="squash")  # a cropped box goes to the size as it is

    def __getitem__(self, key: tuple[int | None, np.ndarray]) -> _Fetched:
        epoch, positions = key
        images, index, bad = [], [], []
        try:
            for i in self.indices[positions].tolist():
                try:
                    images.append(self._decoded(i, epoch))
                    index.append(i)
                except ImageError as error:
                    bad.append(BadImage(i, self.samples.source(i), error.problem, error.remedy))
            stacked = torch.stack(images) if images else None
            if epoch is None or stacked is None:
                return _Fetched(None, tuple(bad), stacked)
            cropped = self.augmentation is not None and self.augmentation.decode_crop is not None
            return _Fetched(self.finish(stacked, np.array(index), epoch, cropped=cropped), tuple(bad))
        except UserError as error:  # an error object keeps its type on the way out of a worker, an exception does not
            return _Fetched(None, tuple(bad), error=error)

    def _decoded(self, i: int, epoch: int | None) -> Tensor:
        """uint8 [C, h, w]."""
        pixels = self.samples.read(i, self.preprocessing.background)
        crop = None if self.augmentation is None or epoch is None else self.augmentation.decode_crop
        if crop is None:
            return self.preprocessing.resized(pixels)
        assert self.augmentation is not None and epoch is not None
        height, width = pixels.shape[:2]
        draws = self.augmentation.draws(0, np.array([i]), self.seed, epoch)
        top, left, h, w = crop.boxes(np.array([height]), np.array([width]), draws)[0]
        return self.squash.resized(pixels[top:top + h, left:left + w])

    def finish(self, images: Tensor, index: np.ndarray, epoch: int, *, cropped: bool) -> ImageBatch:
        """uint8 images [B, C, h, w] of the samples at `index` -> the batch."""
        if self.augmentation is not None:
            images = self.augmentation(images, index, self.seed, epoch, cropped=cropped)
        images, targets = to_unit(images), torch.from_numpy(self.samples.targets[index])
        if self.mixing is not None:
            draws = Draws(index, self.seed, epoch, "mixing")
            images, targets = self.mixing(images, targets, len(self.samples.classes), draws)
        return ImageBatch(images, targets, torch.from_numpy(index))


class _Plan:
    """The batches to fetch, set anew for each epoch: what DataLoader calls a sampler."""

    def __init__(self) -> None:
        self.keys: list[tuple[int | None, np.ndarray]] = []

    def __iter__(self) -> Iterator[tuple[int | None, np.ndarray]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def _as_it_is(fetched: _Fetched) -> _Fetched:
    return fetched


def _start_worker(worker: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM go to the whole process group: the main process finishes its step with workers
    # that are alive, and ends them itself.
    os.setpgid(0, 0)


def _end_workers(loader: DataLoader) -> None:
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None:  # the public way, losing the last reference, does not work while a traceback holds one
        iterator._shutdown_workers()


def _refusal(bad: tuple[BadImage, ...]) -> DataError:
    if len(bad) == 1:
        return ImageError(bad[0].problem, where=bad[0].source, remedy=bad[0].remedy)
    return DataError(f"{len(bad)} images cannot be read: " + listed([f"{b.source}: {b.problem}" for b in bad]),
                     remedy="Mend or replace them, or leave them out with --on-bad-image skip")


def _worker_error(error: RuntimeError, timeout_s: float, number: int, source: str) -> Exception:
    text = str(error)
    where = f"batch {number}, which begins with {source}"
    if "timed out" in text:
        return ResourceError(f"a loader worker did not answer in {timeout_s:g} s", where=where,
                             remedy="Is the disk or network reachable? Try --set data.workers=0")
    pids = re.search(r"\(pids?(?:\(s\))? ([\d, ]+)\)", text)
    if pids is None:
        return error
    bus = " (shared memory is full)" if "Bus error" in text or "shared memory" in text else ""
    return ResourceError(f"loader worker (process {pids[1]}) died{bus}", where=where,
                         remedy="Often memory runs out: use fewer workers, --set data.workers=0, or a smaller batch")
