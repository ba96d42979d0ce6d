"""What is known of a model and how it was checked, as JSON beside the models. Read here, made by
tools/passports.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from visus.core.errors import UserError
from visus.core.files import read_json


@dataclass(frozen=True, kw_only=True)
class Passport:
    """One variant of a model.

    params, macs: ours, for one image of `input_shape` (batch first). published: rows {"what": "params" |
    "macs" | "top1", "value": as printed, "source", "ours": number or None where it was not measured here,
    "agrees": bool or None, "reason": why not, or None,
    "data": the data set, of top1 only}. peer: {"package", "version", "model", "float32",
    "float64"}, the last two the largest difference over the largest output with equal weights and images;
    None where no peer exists. fingerprint: {"images_shape", "values"} of core.weights.fingerprint. weights:
    origin -> {"file", "licence"}, with "config" and "preprocessing" where these weights need other values.
    """

    name: str
    module: str
    family: str
    task: str
    paper: str
    params: int
    macs: int
    input_shape: tuple[int, ...]
    published: tuple[Mapping[str, Any], ...]
    peer: Mapping[str, Any] | None
    fingerprint: Mapping[str, Any]
    weights: Mapping[str, Mapping[str, Any]]
    preprocessing: Mapping[str, Any]

    @property
    def top1(self) -> tuple[float, str] | None:
        """Published top-1 accuracy in percent of the first source that states one, and on which data set."""
        return next(((float(row["value"]), row["data"]) for row in self.published if row["what"] == "top1"), None)


def read_passports(folder: str | Path) -> dict[str, Passport]:
    """All passports in the *.json files of a folder, by model name. Raises UserError naming a file that is
    not one."""
    passports = {}
    for path in sorted(Path(folder).glob("*.json")):
        for name, values in read_json(path).items():
            try:
                passport = Passport(name=name, **values)
            except TypeError as error:
                raise UserError(f"{name} is not a passport: {error}", where=path,
                                remedy="Make it again: python tools/passports.py") from error
            passports[name] = passport
    return passports


def agrees(ours: float, published: str) -> bool:
    """Whether a number rounds to a published one, such as "0.27e6": within half a unit of its last printed
    digit."""
    value = Decimal(published)
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    return abs(Decimal(ours) - value) <= Decimal(1).scaleb(exponent) / 2
