"""Small pictures of evaluated samples for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from visus.core.batch import ClassPredictions
from visus.core.errors import DataError
from visus.core.files import atomic
from visus.core.preprocessing import Preprocessing
from visus.core.record import Example, RunFolder

if TYPE_CHECKING:
    from visus.data.samples import Samples

SIDE_PX = 128


def examples(rows: np.ndarray, predictions: ClassPredictions, samples: Samples, preprocessing: Preprocessing,
             folder: RunFolder, kind: str) -> list[Example]:
    """One Example, with its thumbnail written into the run's images/, for each row of the predictions."""
    labels = preprocessing.labels
    made = []
    for place, row in enumerate(int(r) for r in rows):
        probs, target = predictions.probs[row], predictions.targets[row]
        if target.ndim:  # several labels
            truth = tuple(labels[i] for i in target.nonzero().flatten().tolist())
            best = (probs >= 0.5).nonzero().flatten().tolist() or [int(probs.argmax())]
        else:
            truth, best = (labels[int(target)],), [int(probs.argmax())]
        name = f"images/{kind}-{place:02d}.png"
        index = int(predictions.index[row])
        try:
            with atomic(folder.path / name) as file:
                thumbnail(samples.read(index, preprocessing.background)).save(file, "PNG", optimize=True)
        except DataError:
            continue  # the file went away since it was evaluated
        made.append(Example(name, samples.source(index), truth, tuple(labels[i] for i in best),
                            float(probs[best].max())))
    return made


def thumbnail(pixels: np.ndarray) -> Image.Image:
    """uint8 [H, W, C] -> a picture whose longer side is 128 px; tiny images are enlarged without smoothing."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    scale = SIDE_PX / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)
