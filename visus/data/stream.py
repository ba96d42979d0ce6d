"""Shards read from front to back: for sets that are too large to index, or compressed.

The order of the shards is a function of (seed, epoch). They are divided over the readers, `world` ranks of `workers`
processes each, so that every sample is read once: whole shards as long as there is one for each reader, and of the
shards that are left over each reader takes every m-th sample. A buffer shuffles what one reader gives.

    for key, data, label in ShardStream("train-{000..099}.tar", shuffle_buffer=1000, seed=0, epoch=3): ...
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, NamedTuple, cast

import numpy as np

from visus.core.errors import DataError, UserError
from visus.core.seeds import permutation, uniform
from visus.data.formats.shards.parts import Label, chosen_image, is_image, is_label, stated_label
from visus.data.formats.shards.reader import MAX_IMAGE_BYTES, shard_names
from visus.data.formats.shards.tar_members import tar_samples
from visus.data.reading.holders import stamp

_DRAWS = 1024


class StreamedSample(NamedTuple):
    """key: shard and name up to the first dot. data: the image file. label: as the shard states it, several for
    `labels` in .json, or None."""

    key: str
    data: bytes
    label: Label


@dataclass(frozen=True, kw_only=True)
class _Share:
    """Every `step`-th sample of a shard from `start` on."""

    shard: int
    start: int = 0
    step: int = 1


class ShardStream:
    """The samples that one reader gets, as an iterable; each pass over it gives the same ones in the same order.

    shards: a folder, a .tar or .tar.gz, a pattern with braces, or a list of files. rank of world: the process of a
    training on several. worker of workers: the loader process within it. shuffle_buffer: samples held to be drawn
    from, 0 or 1 for none; memory is this many images. Readers may get different numbers of samples.

    Raises DataError naming the shard (and key) when it is iterated: cut, damaged, a link in it, an unreadable label.
    """

    def __init__(self, shards: str | os.PathLike[str] | Sequence[str], *, rank: int = 0, world: int = 1,
                 worker: int = 0, workers: int = 1, shuffle_buffer: int = 0, seed: int = 0, epoch: int = 0,
                 shuffle_shards: bool = True):
        for name, value, limit in (("rank", rank, world), ("worker", worker, workers)):
            if not 0 <= value < limit:
                raise UserError(f"must be from 0 to {limit - 1}", where=f"{name}={value}")
        if shuffle_buffer < 0:
            raise UserError("must be 0 or more", where=f"shuffle_buffer={shuffle_buffer}")
        if isinstance(shards, str | os.PathLike):
            root, names = shard_names(os.fspath(shards))
            self.files = tuple(os.path.join(root, name) for name in names)
        else:
            self.files = tuple(os.fspath(file) for file in shards)
        if not self.files:
            raise DataError("no shards", where="ShardStream", remedy="Give a folder, a pattern or a list of files")
        self.reader = rank * workers + worker
        self.readers = world * workers
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.epoch = epoch
        self.shuffle_shards = shuffle_shards

    def shares(self) -> list[tuple[str, int, int]]:
        """(file, first sample, step) of what this reader reads, in order."""
        return [(self.files[s.shard], s.start, s.step) for s in self._shares()]

    def __iter__(self) -> Iterator[StreamedSample]:
        samples = self._in_order()
        return samples if self.shuffle_buffer < 2 else self._shuffled(samples)

    def _shares(self) -> list[_Share]:
        count = len(self.files)
        order = permutation(count, self.seed, "shards", self.epoch) if self.shuffle_shards else np.arange(count)
        whole = count // self.readers * self.readers
        mine = [_Share(shard=int(order[i])) for i in range(self.reader, whole, self.readers)]
        left = count - whole
        for i in range(left):  # reader r takes its part of the left-over shard r mod left
            if self.reader % left == i:
                sharers = len(range(i, self.readers, left))
                mine.append(_Share(shard=int(order[whole + i]), start=self.reader // left, step=sharers))
        return mine

    def _in_order(self) -> Iterator[StreamedSample]:
        for share in self._shares():
            file = self.files[share.shard]
            name = os.path.basename(file)
            for number, sample in enumerate(stream_shard(file)):
                if number % share.step == share.start:
                    yield sample._replace(key=f"{name}/{sample.key}")

    def _shuffled(self, samples: Iterator[StreamedSample]) -> Iterator[StreamedSample]:
        held: list[StreamedSample] = []
        draws = np.empty(0)
        given = 0
        for sample in samples:
            if len(held) < self.shuffle_buffer:
                held.append(sample)
                continue
            if given % _DRAWS == 0:
                draws = uniform(np.arange(given, given + _DRAWS), self.seed, "buffer", self.epoch, self.reader)
            place = int(draws[given % _DRAWS] * len(held))
            given += 1
            held[place], sample = sample, held[place]
            yield sample
        for place in permutation(len(held), self.seed, "rest of the buffer", self.epoch, self.reader):
            yield held[place]


def stream_shard(path: str) -> Iterator[StreamedSample]:
    """The samples with an image of one shard, .tar or .tar.gz, in its order. Raises DataError as ShardStream does."""
    size, _ = stamp(path)
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(open(path, "rb"))
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}", where=path) from error
        file = cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=raw)) if packed else raw)
        known = None if packed else size
        for key, parts in tar_samples(file, path, _wanted, size=known, max_bytes=MAX_IMAGE_BYTES):
            try:
                image = chosen_image(parts)
                label, _ = stated_label(parts)
            except ValueError as error:
                raise DataError(str(error), where=f"{path}: {key}", remedy="Write this sample again, or leave it out"
                                ) from error
            if image is not None:
                yield StreamedSample(key, cast("bytes", image[2]), label)


def _wanted(extension: str) -> bool:
    return is_image(extension) or is_label(extension)
