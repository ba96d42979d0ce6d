"""Data sets that come with the package, by name: no network, no path."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from visus.core.errors import DataError, did_you_mean
from visus.data.formats import ReadOptions, data_formats
from visus.data.formats.npz import read_npz
from visus.data.samples import Samples

BUILTIN = {
    "digits": "1,797 handwritten digits of 8 x 8 pixels from 13 people (UCI Machine Learning Repository, "
              "Optical Recognition of Handwritten Digits, test part; CC BY 4.0)",
}
_FOLDER = Path(__file__).resolve().parent.parent / "builtin"


class Builtin:
    """A name of `BUILTIN`. A file or folder of that name in the working directory is taken first."""

    @staticmethod
    def recognises(path: str) -> bool:
        return path in BUILTIN and not os.path.exists(path)

    @staticmethod
    def read(path: str, options: ReadOptions) -> Samples:
        if path not in BUILTIN:
            raise DataError("there is no built-in data set of that name", where=path,
                            remedy=did_you_mean(path, sorted(BUILTIN)))
        samples = read_npz(str(_FOLDER / f"{path}.npz"))
        return replace(samples, format="builtin", root=path, notes=(BUILTIN[path],))


data_formats.add(Builtin, {"builtin": {}})
