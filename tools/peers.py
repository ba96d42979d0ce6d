"""Import the packages that visus is compared with (torchvision, timm), for parity tests and passports
only."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

SHIM = Path(__file__).resolve().parents[2] / "shared" / "tools"


def load_peer(package: str) -> ModuleType:
    """The package. Raises ImportError with the reason where it is not installed or does not run on this
    torch.

    torchvision's wheel is a CUDA build; on CPU torch it needs the shim that lies in ../shared/tools.
    """
    if (SHIM / "torchvision_cpu_shim.py").is_file() and "torchvision_cpu_shim" not in sys.modules:
        sys.path.insert(0, str(SHIM))
        try:
            importlib.import_module("torchvision_cpu_shim").install()
        finally:
            sys.path.remove(str(SHIM))
    try:
        return importlib.import_module(package)
    except (ImportError, RuntimeError, OSError) as error:
        raise ImportError(f"{package} cannot be imported here: {error}") from error


def peer_model(package: str, name: str, **options):
    """The peer's model with 1000 classes and without trained weights. options: of timm's, beside these."""
    module = load_peer(package)
    if package == "torchvision":
        return importlib.import_module("torchvision.models").get_model(name, weights=None)
    return module.create_model(name, pretrained=False, num_classes=1000, **options)
