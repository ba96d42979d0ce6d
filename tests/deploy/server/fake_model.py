"""A predictor without a trained model: its answer is known from the pixels. Used by the tests of the server."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
from PIL import Image

from visus.deploy.artifact import Bundle
from visus.deploy.predictor import Predictor

LABELS = ("dark", "middle", "light")
ABOUT = {"format": 1, "model": "fake", "task": "classification", "calibration": None, "precision": "float32",
         "files": {"model.onnx": "ab" * 32},
         "preprocessing": {"size": [4, 6], "channels": 3, "mean": [0, 0, 0], "std": [1, 1, 1], "labels": list(LABELS),
                           "interpolation": "nearest"}}


def answer(images: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, C] -> float32 [B, 3]: the share of the mean light that is below 85, below 170, above."""
    light = images.reshape(len(images), -1).mean(1) / 255
    probs = np.stack([np.clip(1 - 2 * light, 0, 1), 1 - np.abs(2 * light - 1), np.clip(2 * light - 1, 0, 1)], 1)
    return probs.astype(np.float32)


def fake_predictor(seconds: float = 0.0, session=None, **about) -> Predictor:
    def slow(images: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        return answer(images)

    return Predictor(Bundle(Path("nowhere"), {**ABOUT, **about}), session or slow)


def png(light: int = 255, size: tuple[int, int] = (8, 5)) -> bytes:
    """A plain picture. size: (width, height)."""
    file = io.BytesIO()
    Image.new("RGB", size, (light, light, light)).save(file, "PNG")
    return file.getvalue()
