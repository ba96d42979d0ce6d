"""Visus: deep learning for computer vision, from a folder of images to a deployable model.

The verbs of the command line are functions here: visus.train, visus.evaluate, visus.predict, visus.explain,
visus.attack, visus.doctor, visus.show_data, visus.list_models, visus.create_model, visus.load. Importing visus loads
nothing heavy; the first use of a verb does.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "train": "visus.run.train",
    "resume": "visus.run.train",
    "evaluate": "visus.run.evaluate",
    "predict": "visus.run.predict",
    "explain": "visus.run.explain",
    "attack": "visus.run.attack",
    "calibrate": "visus.run.calibrate",
    "probe": "visus.run.probe",
    "regions": "visus.run.regions",
    "ensemble": "visus.run.ensemble",
    "tune": "visus.run.tune",
    "demo": "visus.run.demo",
    "list_demos": "visus.run.demo",
    "export": "visus.run.export",
    "optimize": "visus.run.optimize",
    "bench": "visus.run.bench",
    "compress": "visus.run.compress",
    "serve": "visus.run.serve",
    "monitor": "visus.run.monitor",
    "doctor": "visus.run.doctor",
    "diagnose": "visus.doctor.diagnosis",
    "Watcher": "visus.doctor.watcher",
    "check_gradients": "visus.doctor.gradient_check",
    "load": "visus.run.load",
    "Run": "visus.run.load",
    "Recipe": "visus.run.recipe",
    "create_model": "visus.run.models",
    "load_weights": "visus.run.models",
    "list_models": "visus.run.models",
    "describe_model": "visus.run.models",
    "layer_tables": "visus.run.layer_table",
    "fold_batch_norm": "visus.deploy.fold",
    "reparameterise": "visus.deploy.fold",
    "to_fully_convolutional": "visus.deploy.dense",
    "dense_evaluate": "visus.deploy.dense",
    "multi_scale_evaluate": "visus.deploy.multi_scale",
    "conv_output_size": "visus.ops.geometry",
    "chain_geometry": "visus.ops.geometry",
    "show_data": "visus.run.inspect_data",
}
__all__ = sorted([*_PUBLIC, "__version__", "errors"])


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("visus.core.errors")
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'visus' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Importing a room sets it as an attribute; one that shares its name with a verb stays callable as the verb."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PUBLIC and isinstance(value, ModuleType):
            value.__class__ = _VerbRoom
        super().__setattr__(name, value)


class _VerbRoom(ModuleType):
    """The room visus/train/, which is also visus.train(...): docs/decisions/0005."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._verb(*arguments, **named)

    @property
    def _verb(self) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(_PUBLIC[name]), name)

    @property
    def __signature__(self) -> Any:
        import inspect

        return inspect.signature(self._verb)


sys.modules[__name__].__class__ = _Package
