"""What parts bring: a deformable part model against its root alone, a rigid HOG template, on white blood cells.

    python benchmarks/deformable_parts.py

BCCD (Shenggan, MIT), photographs at half their size, 320 x 240: trained on its train split (205 photographs), judged on
its test split (72) by average precision at IoU 0.5. `--seeds` runs with other random negatives each. One thread.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image

from visus.classical.deformable_parts import DeformablePartModel, PartModelConfig
from visus.core.device import environment
from visus.metrics.box_precision import box_average_precision

ROOT = Path(__file__).resolve().parent.parent


def photographs(archive: zipfile.ZipFile, split: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    images, boxes = [], []
    for name in archive.read(f"BCCD/ImageSets/Main/{split}.txt").decode().split():
        with Image.open(io.BytesIO(archive.read(f"BCCD/JPEGImages/{name}.jpg"))) as photo:
            image = photo.convert("RGB").resize((320, 240), Image.Resampling.BOX)
        found = [[int(one.findtext(f"bndbox/{side}", "0")) / 2 for side in ("xmin", "ymin", "xmax", "ymax")]
                 for one in ElementTree.fromstring(archive.read(f"BCCD/Annotations/{name}.xml")).iter("object")
                 if one.findtext("name") == "WBC"]
        images.append(torch.from_numpy(np.asarray(image).astype(np.float32) / 255).permute(2, 0, 1))
        boxes.append(torch.tensor([box for box in found if box[2] > box[0] and box[3] > box[1]]).view(-1, 4))
    return images, boxes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "bccd_voc.zip")
    parser.add_argument("--parts", default="0,4,6,8")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "deformable_parts.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with zipfile.ZipFile(arguments.data) as archive:
        (images, boxes), (unseen, truth) = photographs(archive, "train"), photographs(archive, "test")
    results = {}
    for parts in map(int, arguments.parts.split(",")):
        precision, recall, train_s, detect_ms = [], [], [], []
        for seed in range(arguments.seeds):
            start = time.process_time()
            model = DeformablePartModel.train(images, boxes, PartModelConfig(parts=parts), seed)
            trained = time.process_time()
            found = [model.detect(image, -1.0) for image in unseen]
            detect_ms.append(1e3 * (time.process_time() - trained) / len(unseen))
            train_s.append(trained - start)
            for values, value in zip((precision, recall), box_average_precision(found, truth), strict=True):
                values.append(value)
        results[f"{parts} parts"] = {
            "average precision": [round(value, 4) for value in precision],
            "mean": round(statistics.fmean(precision), 4), "found": round(statistics.fmean(recall), 4),
            "train s": round(statistics.median(train_s), 1), "detect ms": round(statistics.median(detect_ms), 1)}
        print(f"{parts} parts", results[f"{parts} parts"], flush=True)
        arguments.out.write_text(json.dumps({
            "command": ["python", *sys.argv], "photographs": [len(images), len(unseen)],
            "boxes": [sum(map(len, boxes)), sum(map(len, truth))], "results": results,
            "environment": environment()}, indent=2) + "\n")
    best = max(row["mean"] for name, row in results.items() if name != "0 parts")
    return 0 if "0 parts" not in results or best > results["0 parts"]["mean"] else 1


if __name__ == "__main__":
    sys.exit(main())
