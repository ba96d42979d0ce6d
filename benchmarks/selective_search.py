"""Selective search against OpenCV contrib's: time and recall on the same images; and the segmentation, and Canny.

    python benchmarks/selective_search.py

Time: process time on one thread, both in turn, image by image; the median of the ratios by image. Recall: the share of
annotated boxes that some proposal covers with an intersection over union of at least 0.5, among all proposals and among
the first 1,000. Boxes: of blood cells (BCCD, Pascal VOC XML) and of cars, people, cyclists and signs (CamVid, the boxes
of connected parts of the label maps with at least 150 pixels); Kodak's photographs have none and count for time alone.

Rows: "same settings", with the colour spaces, scales (150, 300, 450), similarities and least size of OpenCV's
switchToSelectiveSearchFast; "fast", the paper's settings (scales 50 and 100), which `visus regions` takes by default.
Bars: at least as fast, and recall among all at most 0.02 below OpenCV's, in every row. Exit code 1 when one is missed.

OpenCV's differences: pixel edges of four neighbours only, each twice; ties in any order; 8-bit colours; derivatives of
Scharr and of a turned picture; regions ranked by their level. scikit-image's Felzenszwalb takes eight neighbours.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import statistics
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.paired import interval
from visus.core.device import environment
from visus.ops.boxes import box_iou
from visus.ops.edges import canny
from visus.ops.felzenszwalb import felzenszwalb
from visus.ops.selective_search import MODES, Search, selective_search

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "results" / "selective_search.json"
SAME = Search(spaces=("hsv", "lab"), similarities=("ctsf", "tsf"), scales=(150.0, 300.0, 450.0), min_size=100)
SEARCHES = {"same settings": SAME, "fast": MODES["fast"]}
SPEED, RECALL = 1.0, 0.02
CAMVID_OBJECTS, CAMVID_LEAST = (6, 8, 9, 10), 150  # signs, cars, pedestrians, bicyclists

Sample = tuple[np.ndarray, torch.Tensor | None]  # uint8 [H, W, 3], boxes [N, 4]


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    made = work()
    return time.process_time() - start, made


def pixels(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))


def spread(names: list[str], count: int) -> list[str]:
    return [names[i * len(names) // min(count, len(names))] for i in range(min(count, len(names)))]


def bccd(path: Path, count: int) -> Iterator[Sample]:
    archive = zipfile.ZipFile(path)
    for name in spread(sorted(n for n in archive.namelist() if n.endswith(".jpg")), count):
        text = archive.read(name.replace("JPEGImages", "Annotations").replace(".jpg", ".xml")).decode()
        sides = [re.findall(f"<{side}>([^<]*)<", text) for side in ("xmin", "ymin", "xmax", "ymax")]
        yield pixels(archive, name), torch.tensor([[float(v) for v in box] for box in zip(*sides, strict=True)])


def camvid(path: Path, count: int) -> Iterator[Sample]:
    import cv2

    archive = zipfile.ZipFile(path)
    for name in spread(sorted(n for n in archive.namelist() if n.endswith(".jpg")), count):
        folder, file = name.rsplit("/", 1)
        labels = np.array(Image.open(io.BytesIO(archive.read(f"{folder}annot/{file[:-4]}.png"))))
        boxes = []
        for kind in CAMVID_OBJECTS:
            _, _, about, _ = cv2.connectedComponentsWithStats((labels == kind).astype(np.uint8))
            boxes += [[x, y, x + w, y + h] for x, y, w, h, area in about[1:].tolist() if area >= CAMVID_LEAST]
        if boxes:
            yield pixels(archive, name), torch.tensor(boxes).float()


def kodak(path: Path, count: int) -> Iterator[Sample]:
    archive = zipfile.ZipFile(path)
    for name in spread(sorted(n for n in archive.namelist() if n.endswith(".png")), count):
        yield pixels(archive, name), None


def opencv(image: np.ndarray) -> torch.Tensor:
    import cv2

    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
    search.switchToSelectiveSearchFast()
    found = torch.from_numpy(search.process()).float()
    return torch.cat([found[:, :2], found[:, :2] + found[:, 2:]], 1)


def ours(image: np.ndarray, search: Search) -> torch.Tensor:
    return selective_search(torch.from_numpy(image).permute(2, 0, 1).float() / 255, search).boxes


def measure(samples: Iterator[Sample]) -> dict[str, Any]:
    sides: dict[str, Callable[[np.ndarray], torch.Tensor]] = {"OpenCV": opencv} | {
        name: (lambda image, search=search: ours(image, search)) for name, search in SEARCHES.items()}
    times: dict[str, list[float]] = {side: [] for side in sides}
    counts: dict[str, list[int]] = {side: [] for side in sides}
    best: dict[str, list[torch.Tensor]] = {side: [] for side in sides}
    early: dict[str, list[torch.Tensor]] = {side: [] for side in sides}
    for number, (image, boxes) in enumerate(samples):
        for side in list(sides)[::1 if number % 2 else -1]:
            took, found = seconds(lambda side=side, image=image: sides[side](image))
            times[side].append(took)
            counts[side].append(len(found))
            if boxes is not None:
                overlap = box_iou(boxes, found)
                best[side].append(overlap.amax(1))
                early[side].append(overlap[:, :1000].amax(1))
    result: dict[str, Any] = {"images": len(times["OpenCV"])}
    for side in sides:
        row: dict[str, Any] = {"ms": round(1e3 * statistics.median(times[side])),
                               "proposals": round(statistics.fmean(counts[side]))}
        if best[side]:
            overlap, first = torch.cat(best[side]), torch.cat(early[side])
            result["boxes"] = len(overlap)
            row |= {"recall at 0.5": round(float((overlap >= 0.5).float().mean()), 4),
                    "recall at 0.5, first 1,000": round(float((first >= 0.5).float().mean()), 4),
                    "mean best overlap": round(float(overlap.mean()), 4)}
        if side != "OpenCV":
            ratios = [them / us for them, us in zip(times["OpenCV"], times[side], strict=True)]
            row |= {"speed against OpenCV": round(statistics.median(ratios), 3), "interval": interval(ratios)}
        result[side] = row
    return result


def parts(samples: Iterator[Sample], rounds: int) -> dict[str, Any]:
    """One segmentation, and Canny, of single images: ms, medians over images and rounds."""
    import cv2
    from skimage.feature import canny as skimage_canny
    from skimage.segmentation import felzenszwalb as skimage_felzenszwalb

    found: dict[str, list[float]] = {}
    for image, _ in samples:
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        grey = np.asarray(Image.fromarray(image).convert("L"))
        light = torch.from_numpy(grey.astype(np.float32) / 255)[None, None]
        graph = cv2.ximgproc.segmentation.createGraphSegmentation(0.8, 150, 100)
        works: dict[str, Callable[[], Any]] = {
            "felzenszwalb, 4 neighbours": lambda t=tensor: felzenszwalb(t, 150, 0.8, 100, 4),
            "felzenszwalb, 4 neighbours, OpenCV": lambda g=graph, i=image: g.processImage(i),
            "felzenszwalb, 8 neighbours": lambda t=tensor: felzenszwalb(t, 150, 0.8, 100, 8),
            "felzenszwalb, 8 neighbours, scikit-image": lambda i=image: skimage_felzenszwalb(i, 150, 0.8, 100),
            "canny": lambda t=light: canny(t),
            "canny, scikit-image": lambda t=light: skimage_canny(t[0, 0].numpy()),
            "canny, OpenCV (no interpolation)": lambda g=grey: cv2.Canny(cv2.GaussianBlur(g, (0, 0), 1.0), 25, 51,
                                                                          L2gradient=True)}
        for number in range(rounds):
            for name in list(works)[::1 if number % 2 else -1]:
                found.setdefault(name, []).append(seconds(works[name])[0])
    return {"ms": {name: round(1e3 * statistics.median(of), 1) for name, of in sorted(found.items())}}


def verdict(results: dict[str, Any]) -> dict[str, bool]:
    rows = [(data, side, found[side]) for data, found in results.items() if "OpenCV" in found for side in SEARCHES]
    return {f"at least {SPEED} x as fast": all(row["speed against OpenCV"] >= SPEED for _, _, row in rows),
            f"recall at most {RECALL} lower": all(
                row["recall at 0.5"] >= results[data]["OpenCV"]["recall at 0.5"] - RECALL
                for data, _, row in rows if "recall at 0.5" in row)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the archives")
    parser.add_argument("--bccd", type=int, default=40, help="images")
    parser.add_argument("--camvid", type=int, default=100, help="images")
    parser.add_argument("--kodak", type=int, default=6, help="images")
    parser.add_argument("--rounds", type=int, default=3, help="of the parts, on Kodak's images")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        import cv2

        cv2.setNumThreads(1)
        cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    except (ImportError, AttributeError) as error:
        print(f"needs OpenCV with contrib modules: {error}", file=sys.stderr)
        return 2
    load = os.getloadavg()[0]
    ours(np.zeros((32, 32, 3), np.uint8), SAME)  # warm
    results: dict[str, Any] = {}
    for name, file, read in (("BCCD", "bccd_voc.zip", bccd), ("CamVid", "camvid_240x180.zip", camvid),
                             ("Kodak", "kodak24.zip", kodak)):
        count = getattr(arguments, name.lower())
        if count:
            results[name] = measure(read(arguments.data / file, count))
            print(name, json.dumps(results[name], indent=2), flush=True)
    if arguments.kodak:
        results["parts"] = parts(kodak(arguments.data / "kodak24.zip", arguments.kodak), arguments.rounds)
        print(json.dumps(results["parts"], indent=2))
    bars = verdict(results)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"command": ["python", *sys.argv], "load before": load, "bars": bars,
                                         "results": results, "environment": environment()}, indent=2) + "\n")
    print(", ".join(f"{what}: {'yes' if held else 'NO'}" for what, held in bars.items()))
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
