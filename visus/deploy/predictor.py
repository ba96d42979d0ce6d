"""From a file to an answer by an exported model: the one code path of `visus predict BUNDLE`, the server and the golden
batch. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visus.core.files import child
from visus.core.images import MAX_PIXELS, ReadImage, read_image
from visus.deploy.artifact import CHOICES, ONNX, OPENVINO, Bundle, read_bundle, verify_files
from visus.deploy.session import HALF, Session, open_session


@dataclass(frozen=True)
class Predictor:
    """bundle: with its rules; session: in a runtime. fewer_bits: the precision in which it computes, where that is not
    the bundle's own, but one that `visus optimize` chose. Every image is asked for alone, so that its answer does not
    depend on its neighbours, to the last bit; on processors batches buy nothing."""

    bundle: Bundle
    session: Session
    fewer_bits: str | None = None

    @property
    def precision(self) -> str:
        """'float32', 'bfloat16', 'float16' or 'int8': in which it computes."""
        return self.fewer_bits or str(self.bundle.about.get("precision", "float32"))

    def read(self, source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS, name: str | None = None) -> ReadImage:
        """Decode by the bundle's rules. Raises ImageError."""
        return read_image(source, background=self.bundle.preprocessing.background, max_pixels=max_pixels, name=name)

    def prepared(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 1 or 3] as decoded -> uint8 [height, width, channels] as the network takes it."""
        return self.bundle.preprocessing.resized_array(pixels)

    def probs(self, image: np.ndarray) -> np.ndarray:
        """uint8 [height, width, channels] -> float32 [K]."""
        return self.session(image[None])[0]

    def top(self, probs: np.ndarray, count: int = 5) -> list[tuple[int, float]]:
        """(class, probability) of the `count` likeliest, best first, the lower class first among equals."""
        order = np.argsort(-probs, kind="stable")[:count]
        return [(int(k), float(probs[k])) for k in order]

    def chosen(self, probs: np.ndarray) -> tuple[str, ...]:
        """The class; of a model with several labels all that reach their threshold."""
        labels = self.bundle.labels
        if self.bundle.task != "multilabel":
            return (labels[int(probs.argmax())],)
        return tuple(label for label, prob, least in zip(labels, probs, self.bundle.thresholds, strict=True)
                     if prob >= least)


def open_predictor(path: str | os.PathLike[str], *, backend: str | None = None, threads: int | None = None,
                   verify: bool = True) -> Predictor:
    """A bundle or .onnx file, ready to answer. backend, threads: None takes what `visus optimize` chose for this
    machine, else onnxruntime on one thread. verify: of a bundle, the graph, which alone is computed (`visus export
    --check` looks at all files). Raises CheckpointError, MissingExtra."""
    bundle = read_bundle(path, verify=False)
    if verify:
        verify_files(bundle, [bundle.graph.name, *OPENVINO[1:]] if bundle.runtime == "openvino" else [ONNX])
    if bundle.runtime == "openvino":
        from visus.deploy.openvino_file import open_openvino

        return Predictor(bundle, open_openvino(bundle.graph, threads or 1))
    chosen = _chosen(bundle) if backend is None else {}
    graph = child(bundle.path, str(chosen["file"])) if "file" in chosen else bundle.onnx
    backend = backend or chosen.get("backend", "onnxruntime")
    session = open_session(graph, backend, threads or int(chosen.get("threads", 1)),
                           batch=int(bundle.about.get("batch") or 1))
    return Predictor(bundle, session, HALF.get(backend) or ("int8" if "file" in chosen else None))


def _chosen(bundle: Bundle) -> dict[str, Any]:
    """What `visus optimize` found; a bundle without choices does not pay for the import."""
    if not (bundle.path / CHOICES).is_file():
        return {}
    from visus.deploy.machine import chosen

    return chosen(bundle, int(bundle.about.get("batch") or 1))
