"""Public weights by the name of their origin: where they lie, fetched once into the cache."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from visus.core.errors import UserError, did_you_mean
from visus.models import registry
from visus.run.registered import entry_of

ADDRESSES = {  # origin -> where it publishes a file of that name
    "torchvision": "https://download.pytorch.org/models/{file}",
    "timm": "https://huggingface.co/timm/{file}/resolve/main/model.safetensors",
    "transformers": "https://huggingface.co/{file}/resolve/main/model.safetensors",
}
_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pt|safetensors)$")


def cache_folder() -> Path:
    """$VISUS_CACHE, or visus in the user's cache folder ($XDG_CACHE_HOME, ~/.cache)."""
    chosen = os.environ.get("VISUS_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "visus"


def is_origin(name: str, weights: object) -> bool:
    """Whether `weights` names a public origin of the model, not a file."""
    return isinstance(weights, str) and weights in entry_of(name).weights and not Path(weights).is_file()


def preprocessing_of(name: str, weights: str | None) -> dict[str, Any]:
    """What the model's public weights were trained with: of an origin by its name, else of those that its file
    registers."""
    entry = entry_of(name)
    own = entry.weights[weights].get("preprocessing", {}) if weights is not None and is_origin(name, weights) else {}
    return {**entry.about["preprocessing"], **own}


def weights_file(name: str, origin: str, progress: Callable[[int, int | None], None] | None = None) -> Path:
    """The file of a model's public weights: from the cache, else fetched and checked.

    The digest is the one in torchvision's file names, or what Hugging Face's server states. $VISUS_MIRROR, the
    address of a server of one's own, is asked for ORIGIN/FILE instead where it is set.
    Raises UserError for an origin that the model lacks, DownloadError where the file cannot be fetched.
    """
    from visus.core.download import DownloadError, download  # only who fetches loads the network modules

    known = registry.get(name).weights
    if origin not in known:
        raise UserError(f"{name} has no public weights of this origin", where=f"weights={origin!r}",
                        remedy=did_you_mean(origin, sorted(known)) if known else "Give the path of a file")
    about = known[origin]
    file = str(about["file"])
    url = about.get("url") or (ADDRESSES[origin].format(file=file) if origin in ADDRESSES else None)
    leaf = file
    if not file.endswith((".pth", ".pt", ".pyth", ".safetensors")):
        leaf += ".pt" if str(about.get("url", "")).endswith(".bin") else ".safetensors"
    mirror = os.environ.get("VISUS_MIRROR")
    if mirror:
        url = f"{mirror.rstrip('/')}/{origin}/{leaf}"
    path = cache_folder() / "weights" / origin / leaf.replace("/", "--")
    found = _DIGEST_IN_NAME.search(leaf)
    digest = about.get("sha256") or (found[1] if found else None)
    if path.is_file():
        return path  # whole and checked when it took this name; what it holds is guarded again when it is read
    if url is None:
        raise DownloadError(f"the file {file} cannot be fetched by itself", where=f"{name}, weights={origin!r}",
                            remedy=f"Give the path of the file, with origin={origin!r}")
    return download(url, path, digest=digest, progress=progress)
