"""An image of validation or test that the net has trained on.

Rule: an image of another split has an equal image in train: an error, however few. A near twin in train: an error above
1 % of the split; below that a note, because the metric can be wrong by no more than that share. Source: reliability.md
A1; Barz and Denzler, 2020 (arXiv:1902.00423), who found by eye a twin in train for 3.3 % of CIFAR-10's test images; the
rule here finds 0.41 %, of which the 24 that were looked at are twins.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.exhibits import Exhibit, pair_named, show
from visus.doctor.images.pixels import pixels_of
from visus.doctor.images.twins import Twins, twins_of
from visus.doctor.thresholds import limit

TRAIN = "train"


def split_leak(images: ImageSet) -> Iterator[Finding]:
    pixels, twins = pixels_of(images), twins_of(images)
    split = images.split[twins.place]
    equal, near = _trained_twin(twins, split == TRAIN)
    for name in (name for name in images.splits() if name not in (TRAIN, "")):
        here = np.flatnonzero(split == name)
        exact = here[equal[here] >= 0]
        alike = here[(equal[here] < 0) & (near[here] >= 0)]
        total = len(exact) + len(alike)
        if not total:
            continue
        share = total / len(here)
        severe = len(exact) > 0 or share > limit("split-leak.near_share")
        pairs = [(int(twins.place[i]), int(twins.place[equal[i] if equal[i] >= 0 else near[i]]))
                 for i in (*exact, *alike)]
        show(images, "split-leak", (Exhibit(pair, f"{'equal' if k < len(exact) else 'nearly equal'}: {name} and train")
                                    for k, pair in enumerate(pairs)))
        yield Finding(
            check="split-leak", severity="error" if severe else "note",
            title=f"{total:,} {name} image{'s have' if total > 1 else ' has'} a twin in train "
                  f"({100 * share:.3g} % of {name})",
            evidence=f"{len(exact):,} with equal pixels (bound 0), {len(alike):,} nearly equal (bound "
                     f"{100 * limit('split-leak.near_share'):g} %); {name} accuracy can be up to {100 * share:.3g} "
                     f"points too high{pixels.basis}: {pair_named(images, pairs)}",
            remedy=f"Take the {name} images out, or give the twins a common group and let data.groups keep them "
                   "together when the splits are made")


def _trained_twin(twins: Twins, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [n], int64 [n]): for each image looked at one of train with equal pixels, and one nearly equal; -1 where
    there is none."""
    groups = int(twins.group.max()) + 1 if len(twins.group) else 0
    of_group = np.full(groups, -1)
    of_group[twins.group[train]] = np.flatnonzero(train)
    near = np.full(groups, -1)
    if twins.trusted():
        for a, b in ((0, 1), (1, 0)):
            partner = of_group[twins.near[:, b]]
            known = partner >= 0
            near[twins.near[known, a]] = partner[known]
    return of_group[twins.group], near[twins.group]


add(split_leak, "split-leak", stage="images", rank=1,
    rule="an image of val or test equals one of train, or more than 1 % of a split nearly do",
    cost="one decoding of each image, shared", course="1.02")
