"""Batches: batch n of epoch e is a pure function of (seed, e, n), whoever computes it and whatever came before."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from visus.core.batch import ImageBatch
from visus.core.errors import DataError, ImageError, ResourceError
from visus.core.preprocessing import Preprocessing
from visus.core.seeds import permutation
from visus.data.cache import LIMIT_BYTES, PixelCache, amount, source_stamps
from visus.data.class_sampling import Sampling
from visus.data.fetch import CACHE_MARGIN, Fetched, FileBatches, stored_size
from visus.data.samples import Samples, counted, listed
from visus.data.scan import BadImage
from visus.data.transforms import Augmentation
from visus.data.transforms.mix import Mixing

_IN_MEMORY_BYTES = 2 << 30
_RESIZE_BYTES = 64 << 20


class Loader:
    """Batches of the samples at `indices`, as `preprocessing` resizes them, augmented and mixed.

    mixing: each image and its target with the next of its batch; targets are then float [B, K]. shuffle: another order
    each epoch. sampling: draws that take the place of the order. drop_last: no smaller last batch. workers: processes
    that decode files; images in memory need none. on_bad_image: a file that cannot be read any more (they were scanned
    before training) raises an error ('stop') or makes its batch smaller ('skip', counted in `skipped`). cache: folder
    for decoded images (visus.data.cache), filled as they are first read, of at most cache_bytes; random crops are then
    cut from what it holds: the whole image, at cache_margin times the model's size. normalised: images are ready for
    the model, not in [0, 1]: for training loops other than visus.train. pin_memory: for copies to a GPU. timeout_s:
    longest wait for a worker. share: (number, of how many): only these rows of each batch, contiguous and as even as
    can be, mixed as in the whole batch; a batch of fewer rows goes whole to each (`ImageBatch.copies`).

    One epoch at a time: starting a second iterator ends the first.
    """

    def __init__(self, samples: Samples, indices: Sequence[int] | np.ndarray, preprocessing: Preprocessing, *,
                 augmentation: Augmentation | None = None, mixing: Mixing | None = None, batch_size: int = 32,
                 seed: int = 0, shuffle: bool = False, drop_last: bool = False, workers: int = 0,
                 on_bad_image: Literal["stop", "skip"] = "stop", cache: str | Path | None = None,
                 cache_bytes: int = LIMIT_BYTES, cache_margin: float = CACHE_MARGIN, normalised: bool = False,
                 pin_memory: bool = False, timeout_s: float = 120.0, sampling: Sampling | None = None,
                 share: tuple[int, int] = (0, 1)):
        if batch_size < 1:
            raise DataError("must be 1 or more", where=f"batch_size={batch_size}")
        if batch_size < share[1]:
            raise DataError(f"{share[1]} processes cannot share a batch of {batch_size}",
                            where=f"batch_size={batch_size}", remedy="Use a larger batch, or fewer processes")
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
        self.sampling = sampling
        self.drop_last = drop_last
        self.workers = workers
        self.on_bad_image = on_bad_image
        self.cache = None if cache is None else Path(cache)
        self.cache_bytes = cache_bytes
        self.cache_margin = cache_margin
        self.normalised = normalised
        self.pin_memory = pin_memory and torch.cuda.is_available()
        self.timeout_s = timeout_s
        self.share = share
        self.skipped: dict[int, BadImage] = {}
        self._pixels: Tensor | None = None  # uint8 [len(indices), C, h, w]
        self._cache: PixelCache | None = None
        self._plan = _Plan()
        self._worker_loader: DataLoader | None = None

    def __len__(self) -> int:
        whole, rest = divmod(self._drawn(), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def order(self, epoch: int) -> np.ndarray:
        """int64 [len(indices), or the draws of `sampling`]: positions in `indices`, in the order of this epoch."""
        if self.sampling is not None:
            return self.sampling.order(epoch)
        if not self.shuffle:
            return np.arange(len(self.indices))
        return permutation(len(self.indices), self.seed, "order", epoch)

    def batch(self, epoch: int, number: int) -> ImageBatch:
        """Batch `number` of `epoch`, computed here."""
        self.prepare()
        positions = self._positions(self.order(epoch), number)
        return self._delivered(self._compute(self._files(), epoch, positions), epoch, number)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[ImageBatch]:
        """The batches of `epoch` from `start_batch` on: float32 [B, C, h, w] in [0, 1] (or normalised), targets,
        positions in samples.

        Raises ImageError or DataError for files that cannot be read, ResourceError when a worker dies or hangs.
        """
        self.prepare()
        order = self.order(epoch)
        plan = [(epoch, self._positions(order, n)) for n in range(start_batch, len(self))]
        if self.workers and self._pixels is None and not self.samples.in_memory:
            yield from self._from_workers(plan, start_batch)
        else:
            files = self._files()
            for number, (_, positions) in enumerate(plan, start_batch):
                fetched = self._compute(files, epoch, positions)
                yield self._delivered(fetched.pin_memory() if self.pin_memory else fetched, epoch, number)

    def prepare(self) -> None:
        """Images into memory, or the cache opened, where that is asked for and not yet done."""
        if self._pixels is not None or self._cache is not None or not len(self.indices):
            return
        if self.samples.in_memory:
            self._pixels = self._resized_arrays()
        elif self.cache is not None:
            self._cache = PixelCache(self.cache, self._cache_key(), source_stamps(self.samples, self.indices),
                                     self.cache_bytes)
            self._cache.prepare()

    def cache_notes(self) -> list[str]:
        """What the user should know of the cache: how much it would need, where that is more than it may hold, judged
        from up to 200 images; or what went wrong with it. Empty without a cache and where all is well."""
        if self.cache is None or self.samples.in_memory or not len(self.indices):
            return []
        self.prepare()
        assert self._cache is not None
        notes = [self._cache.problem] if self._cache.problem else []
        try:
            sizes, channels = self.samples.sizes(200)
        except DataError:
            return notes
        p = self.preprocessing
        if self.augmentation is None or self.augmentation.decode_crop is None:
            each = float(p.channels * p.size[0] * p.size[1])
        else:
            kept = np.array([stored_size(p, self.cache_margin, h, w) for h, w in sizes.tolist()])
            each = float(kept.prod(1).mean()) * min(channels, p.channels)
        needed, room, why = each * len(self.indices), *self._cache.room()
        if needed > room:
            notes.append(f"decoded, {counted(len(self.indices), 'image')} take {amount(needed)}, and the cache may "
                         f"hold {amount(room)} ({why}): about {100 * room / needed:.0f} % of them are kept, the others "
                         "are decoded again in each epoch")
        return notes

    def close(self) -> None:
        """End the workers, close the cache. The loader can be used again."""
        if self._cache is not None:
            self._cache.close()
        if self._worker_loader is not None:
            _end_workers(self._worker_loader)
            self._worker_loader = None

    def _positions(self, order: np.ndarray, number: int) -> np.ndarray:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        return order[number * self.batch_size:(number + 1) * self.batch_size]

    # -- one batch -----------------------------------------------------------------------------------------------

    def _compute(self, files: FileBatches, epoch: int, positions: np.ndarray) -> Fetched:
        if not self.samples.in_memory:
            return files[epoch, positions]
        positions, drawn, border = files.shared_out(positions)
        index = self.indices[positions]
        images = self._resize_arrays(index) if self._pixels is None else self._pixels.index_select(
            0, torch.from_numpy(positions))
        return Fetched(files.finish(images, index, epoch, drawn=drawn, border=border), ())

    def _files(self) -> FileBatches:
        return FileBatches(self.samples, self.indices, self.preprocessing, self.augmentation, self.seed, self.mixing,
                           self._cache, self.cache_margin, self.normalised, self.share)

    def _delivered(self, fetched: Fetched, epoch: int, number: int) -> ImageBatch:
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
        rows = min(self.batch_size, self._drawn() - number * self.batch_size)
        return fetched.batch if rows >= self.share[1] else replace(fetched.batch, copies=self.share[1])

    def _drawn(self) -> int:
        """Samples of an epoch."""
        return len(self.indices if self.sampling is None else self.sampling)

    # -- images in memory, and the name of the cache -------------------------------------------------------------

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

    def _cache_key(self) -> str:
        """Of what is done to the images and of their names, in order."""
        p = self.preprocessing
        crop = self.augmentation is not None and self.augmentation.decode_crop is not None
        digest = hashlib.sha256(repr((2, self.cache_margin if crop else 0, p.size, p.channels, p.resize,
                                      p.crop_fraction, p.interpolation, p.background)).encode())
        for i in self.indices.tolist():
            digest.update(self.samples.path(i).encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()[:16]

    # -- workers -------------------------------------------------------------------------------------------------

    def _from_workers(self, plan: list[tuple[int, np.ndarray]], start_batch: int) -> Iterator[ImageBatch]:
        for number, fetched in enumerate(self._worker_batches(plan, start_batch), start_batch):
            yield self._delivered(fetched, plan[0][0], number)

    def _worker_batches(self, plan: list[tuple[int, np.ndarray]], start: int) -> Iterator[Fetched]:
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


class _Plan:
    """The batches to fetch, set anew for each epoch: what DataLoader calls a sampler."""

    def __init__(self) -> None:
        self.keys: list[tuple[int, np.ndarray]] = []

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def _as_it_is(fetched: Any) -> Any:
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
