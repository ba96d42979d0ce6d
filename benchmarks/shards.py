"""Images inside other files: how long shards take to index and to stream, and Arrow files to read out of order.

One shard of JPEG-sized members with a .cls each: our index (headers and labels) beside `tarfile`'s list of members
(headers alone), our stream beside webdataset's (both give the same bytes in the same order). A data set of
`save_to_disk`: bytes of the images in a random order beside `datasets` with decode=False. Processor seconds, the sides
take turns.

    python benchmarks/shards.py [--rounds 9] [--samples 20000]
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import statistics
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.paired import interval
from visus.core.device import environment
from visus.data import open_samples
from visus.data.stream import ShardStream

OUT = Path(__file__).parent / "results" / "shards.json"
BYTES = 20_000  # of an image: a JPEG of about 224 pixels


def images(count: int) -> list[bytes]:
    """Bytes that no format decodes but that begin as JPEG does: nothing here decodes."""
    random = np.random.default_rng(0)
    return [b"\xff\xd8\xff" + random.bytes(BYTES) for _ in range(count)]


def make_shard(path: Path, contents: list[bytes]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for i, content in enumerate(contents):
            for name, data in ((f"{i:07d}.jpg", content), (f"{i:07d}.cls", b"%d" % (i % 1000))):
                about = tarfile.TarInfo(name)
                about.size = len(data)
                tar.addfile(about, io.BytesIO(data))


def make_saved(path: Path, contents: list[bytes]) -> None:
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
    rows = {"image": [{"bytes": c, "path": None} for c in contents], "label": [i % 10 for i in range(len(contents))]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(path))


def pairs(root: Path, count: int) -> dict[str, tuple[str, Callable[[], int], Callable[[], int]]]:
    """What is measured -> (the peer, our work, the peer's); both return a number that must be the same."""
    import datasets
    import webdataset

    contents = images(count)
    shard, saved = root / "a.tar", root / "saved"
    make_shard(shard, contents)
    make_saved(saved, contents)
    samples, theirs = open_samples(saved), datasets.load_from_disk(str(saved))
    order = np.random.default_rng(1).permutation(count).tolist()

    def members() -> int:
        with tarfile.open(shard) as tar:
            return len(tar.getmembers()) // 2

    def streamed() -> int:
        return sum(len(s["jpg"]) for s in webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False))

    return {
        "index of a shard": ("tarfile (headers alone)", lambda: len(open_samples(shard)), members),
        "stream of a shard": ("webdataset", lambda: sum(len(s.data) for s in ShardStream(shard)), streamed),
        "save_to_disk, random order": (
            "datasets", lambda: sum(len(samples.encoded[i]) for i in order),  # type: ignore[index]
            lambda: sum(len(theirs[i]["image"]["bytes"]) for i in order)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files to the garbage collector
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (peer, ours, theirs) in pairs(Path(folder), arguments.samples).items():
            assert ours() == theirs(), name
            ratios, seconds = [], []
            for number in range(arguments.rounds):
                times = {}
                for side, work in (("ours", ours), ("theirs", theirs))[:: 1 if number % 2 else -1]:
                    gc.collect()
                    start = time.process_time()
                    work()
                    times[side] = time.process_time() - start
                ratios.append(times["theirs"] / times["ours"])
                seconds.append(times["ours"])
            low, high = interval(ratios)
            results[name] = {
                "peer": peer, "speed against the peer": round(statistics.median(ratios), 3), "low": low, "high": high,
                "samples a second": round(arguments.samples / statistics.median(seconds))}
            print(f"{name:<28} {results[name]['speed against the peer']:.2f} ({low:.2f} to {high:.2f}) of {peer}, "
                  f"{results[name]['samples a second']:,} samples/s", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"command": ["python", *sys.argv], "rounds": arguments.rounds,
                                         "samples": arguments.samples, "results": results,
                                         "environment": environment()}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
