"""How long it takes to open data whose index is large, and the memory at its height.

(a) A folder of 100,000 image files in 1,000 class folders. (b) A COCO file of 118,000 images and 860,000 boxes with
polygons, made for this with the sizes of COCO's train2017, beside `pycocotools.coco.COCO(file)`: ours with orjson (the
extra 'fast') and without. Each opening is a fresh process; the sides take turns. Ours also looks whether all image
files are there, which the peer does not. Memory is the process's own record (VmHWM): Linux only.

    python benchmarks/annotations.py [--rounds 5] [--share 1.0] [--folder where/to/make/the/data]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.paired import interval
from visus.core.device import environment

OUT = Path(__file__).parent / "results" / "annotations.json"
IMAGES, BOXES, WIDE, HIGH = 118_000, 860_000, 640, 427
FILES, CLASSES, SECONDS = 100_000, 1_000, 3.0

LOADED = "from visus.data import open_samples\nfrom visus.data.formats import data_formats\ndata_formats.load_all()\n"
OPENINGS = {
    "ours": LOADED + "start()\nsamples = open_samples({path!r})\n"
            "found = [len(samples), len(samples.objects or [])]",
    "ours, without orjson": "import sys\nsys.modules['orjson'] = None\n" + LOADED + "start()\n"
                            "samples = open_samples({path!r})\nfound = [len(samples), len(samples.objects)]",
    "pycocotools": "from pycocotools.coco import COCO\nstart()\ncoco = COCO({path!r})\n"
                   "found = [len(coco.imgs), len(coco.anns)]",
    "folder": LOADED + "start()\nsamples = open_samples({path!r})\n"
              "found = [len(samples), len(samples.classes)]",
}
PROCESS = """
import json, time
def height():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
def start():
    global wall, cpu, before
    wall, cpu, before = time.perf_counter(), time.process_time(), height()
{opening}
print()
print(json.dumps({{"found": found, "seconds": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu,
                  "peak_mib": height(), "before_mib": before}}))
"""


def opened(side: str, path: Path) -> dict:
    """One opening in a fresh process: seconds, processor seconds, and the process's memory at its height in MiB."""
    done = subprocess.run([sys.executable, "-c", PROCESS.format(opening=OPENINGS[side].format(path=str(path)))],
                          capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
                          cwd=Path(__file__).resolve().parent.parent)
    return json.loads(done.stdout.splitlines()[-1])


def make_folder(root: Path, files: int, classes: int) -> Path:
    """files empty files named as images, in as many class folders: the index does not open them."""
    for k in range(classes):
        (root / f"class_{k}").mkdir(parents=True)
    for k in range(files):
        os.close(os.open(root / f"class_{k % classes}" / f"image_{k}.jpg", os.O_CREAT))
    return root


def make_coco(root: Path, images: int, boxes: int) -> Path:
    """A set with the sizes of train2017: 80 classes, ids in no order, 1 of 80 objects coded by runs."""
    random = np.random.default_rng(0)
    shapes = [shape(random) for _ in range(4000)]
    ids = random.permutation(10 * images)[:images].tolist()
    numbers = [k for k in range(1, 91) if k not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    owner, chosen = random.integers(0, images, boxes).tolist(), random.integers(0, len(shapes), boxes).tolist()
    labels, own = random.integers(0, 80, boxes).tolist(), random.permutation(3 * boxes)[:boxes].tolist()
    path = root / "annotations" / "instances_train2017.json"
    path.parent.mkdir(parents=True)
    (root / "train2017").mkdir()
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"info": {"description": "made for a benchmark"}, "licenses": [], "images": [')
        for k, number in enumerate(ids):
            file.write((", " if k else "") + json.dumps({
                "license": 3, "file_name": f"{number:012d}.jpg",
                "coco_url": f"http://images.cocodataset.org/train2017/{number:012d}.jpg", "height": HIGH, "width": WIDE,
                "date_captured": "2013-11-14 11:18:45",
                "flickr_url": "http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg", "id": number}))
            os.close(os.open(root / "train2017" / f"{number:012d}.jpg", os.O_CREAT))
        file.write('], "annotations": [')
        for k in range(boxes):
            outline, box, area = shapes[chosen[k]]
            if k % 80 == 7:
                lead = 1000 + k % 100_000
                outline = json.dumps({"counts": [lead, 500, 700, 30, HIGH * WIDE - lead - 1230], "size": [HIGH, WIDE]})
            file.write((", " if k else "") + f'{{"segmentation": {outline}, "area": {area}, "iscrowd": '
                       f'{int(k % 80 == 7)}, "image_id": {ids[owner[k]]}, "bbox": {box}, "category_id": '
                       f'{numbers[labels[k]]}, "id": {own[k]}}}')
        file.write('], "categories": ' + json.dumps([{"supercategory": "thing", "id": number, "name": f"class {number}"}
                                                    for number in numbers]) + "}")
    return path


def shape(random: np.random.Generator) -> tuple[str, str, str]:
    """(polygons, box, area) as text: 4 to 44 points with two decimals, 1 of 8 in two pieces, as in train2017."""
    rings = []
    for _ in range(1 + int(random.random() < 0.12)):
        turns = np.sort(random.uniform(0, 2 * np.pi, int(random.integers(4, 45))))
        middle, radius = random.uniform(80, 350, 2), random.uniform(10, 60)
        rings.append(np.stack([middle[0] + radius * np.cos(turns), middle[1] + radius * np.sin(turns)], 1).round(2))
    points = np.concatenate(rings)
    low, size = points.min(0), np.ptp(points, axis=0).round(2)
    return (json.dumps([ring.reshape(-1).tolist() for ring in rings]), json.dumps([*low.tolist(), *size.tolist()]),
            repr(float(size.prod())))


def compared(path: Path, rounds: int, expected: list[int]) -> dict:
    runs: dict[str, list[dict]] = {"ours": [], "pycocotools": [], "ours, without orjson": []}
    for number in range(rounds):
        for side in list(runs)[::1 if number % 2 else -1]:
            runs[side].append(opened(side, path))
            assert runs[side][-1]["found"] == expected, runs[side][-1]
    rows = {side: {key: round(statistics.median(run[key] for run in of), 2)
                   for key in ("seconds", "cpu_s", "peak_mib", "before_mib")} for side, of in runs.items()}
    shares = {side: {key: [us[key] / them[key] for us, them in zip(runs[side], runs["pycocotools"], strict=True)]
                     for key in ("seconds", "cpu_s", "peak_mib")} for side in runs if side != "pycocotools"}
    return {**rows, "share of the peer's": {side: {
            key: {"median": round(statistics.median(values), 3), "interval": interval(values)}
            for key, values in of.items()}
        for side, of in shares.items()}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--share", type=float, default=1.0, help="of the images and boxes, to try it small")
    parser.add_argument("--folder", type=Path, help="where the data are made; it must be new (default: temporary)")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    try:
        import pycocotools.coco  # noqa: F401
    except ImportError:
        print("pip install pycocotools", file=sys.stderr)
        return 2
    load = os.getloadavg()[0]
    files, images, boxes = (int(count * arguments.share) for count in (FILES, IMAGES, BOXES))
    with tempfile.TemporaryDirectory(prefix="visus-annotations-") as temporary:
        root = arguments.folder or Path(temporary)
        folder = make_folder(root / "folder", files, CLASSES)
        runs = [opened("folder", folder) for _ in range(arguments.rounds)]
        assert all(run["found"] == [files, CLASSES] for run in runs)
        indexed = {key: round(statistics.median(run[key] for run in runs), 2)
                   for key in ("seconds", "cpu_s", "peak_mib", "before_mib")}
        path = make_coco(root / "coco", images, boxes)
        size = path.stat().st_size
        coco = compared(path, arguments.rounds, [images, boxes])
    shares = coco["share of the peer's"]
    bars = {f"{files:,} files in {CLASSES:,} class folders in under {SECONDS} s": indexed["seconds"] < SECONDS,
            "COCO: no more processor time than pycocotools": all(of["cpu_s"]["median"] <= 1 for of in shares.values()),
            "COCO: no more memory than pycocotools": all(of["peak_mib"]["median"] <= 1 for of in shares.values())}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({
        "command": ["python", *sys.argv], "peer": "pycocotools.coco.COCO(file)", "rounds": arguments.rounds,
        "load average at the start": round(load, 2), "bars": bars,
        "results": {"class folders": {"files": files, "classes": CLASSES, **indexed},
                    "COCO": {"images": images, "boxes": boxes, "MiB": round(size / 2**20, 1), **coco}},
        "environment": environment()}, indent=2) + "\n")
    print(f"{files:,} files in {CLASSES:,} class folders: {indexed['seconds']} s, of the processor {indexed['cpu_s']} "
          f"s, {indexed['peak_mib']} MiB")
    print(f"COCO, {images:,} images, {boxes:,} boxes, {size / 2**20:.0f} MiB")
    for side in ("pycocotools", *shares):
        row, share = coco[side], shares.get(side)
        print(f"  {side}: {row['cpu_s']} s of the processor, {row['peak_mib']} MiB" + ("" if share is None else
              f": {share['cpu_s']['median']} of the peer's time, {share['peak_mib']['median']} of its memory"))
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
