"""The methods of visus regions with their options, and what each finds in one image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

from torch import Tensor

from visus.core.errors import UserError, did_you_mean
from visus.core.validate import natural, one_of, positive, require
from visus.ops.edges import OPERATORS, canny, check_canny, edge_strength
from visus.ops.felzenszwalb import check_options, felzenszwalb
from visus.ops.normalised_cuts import normalised_cuts, region_affinity
from visus.ops.selective_search import MODES, groupings, named_search, selective_search

Advance = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Found:
    """What a method finds in one image. labels: int64 [H, W], the region of each pixel, from 0. boxes: float32 [N, 4],
    x1, y1, x2, y2 in pixels of the image, the last two outside: proposals, the most promising first, or one for each
    region. order: float32 [N], by which proposals are sorted, the smallest first. edges: float32 [H, W] in [0, 1], the
    steepness (sobel, 1 the steepest of the image) or 1 on edges and 0 elsewhere (canny)."""

    labels: Tensor | None = None
    boxes: Tensor | None = None
    order: Tensor | None = None
    edges: Tensor | None = None


class Method(Protocol):
    """Options are fields. steps: how many times `advance` is told of one more."""

    title: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]

    def __call__(self, image: Tensor, advance: Advance) -> Found: ...

    @property
    def steps(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class SelectiveSearch:
    """mode: single, fast or quality. limit: so many proposals. min_side_px: shorter boxes are left out."""

    mode: str = "fast"
    limit: int | None = None
    min_side_px: int = 0
    seed: int = 0
    title: ClassVar[str] = "Selective search"
    summary: ClassVar[str] = "boxes that may hold an object, from regions joined again and again"
    paper: ClassVar[str] = "Uijlings et al., Selective Search for Object Recognition, IJCV 2013"

    def __post_init__(self) -> None:
        one_of(tuple(MODES), mode=self.mode)
        natural(min_side_px=self.min_side_px, seed=self.seed)
        if self.limit is not None:
            positive(limit=self.limit)

    @property
    def steps(self) -> int:
        return groupings(named_search(self.mode))

    def __call__(self, image: Tensor, advance: Advance) -> Found:
        found = selective_search(image, self.mode, limit=self.limit, min_side_px=self.min_side_px, seed=self.seed,
                                 advance=advance)
        return Found(boxes=found.boxes, order=found.order)


@dataclass(frozen=True, kw_only=True)
class Felzenszwalb:
    """scale: k, larger gives larger regions. sigma: px of smoothing. min_size: pixels of a region at least.
    neighbours: of a pixel, 4 or 8."""

    scale: float = 200.0
    sigma: float = 0.8
    min_size: int = 100
    neighbours: int = 8
    title: ClassVar[str] = "Felzenszwalb-Huttenlocher segmentation"
    summary: ClassVar[str] = "regions within which neighbours differ less than at their borders"
    paper: ClassVar[str] = "Felzenszwalb, Huttenlocher, Efficient Graph-Based Image Segmentation, IJCV 2004"
    steps: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_options(self.scale, self.sigma, self.min_size, self.neighbours)

    def __call__(self, image: Tensor, advance: Advance) -> Found:
        labels = felzenszwalb(image[None], self.scale, self.sigma, self.min_size, self.neighbours)[0]
        advance(1)
        return Found(labels=labels)


@dataclass(frozen=True, kw_only=True)
class NormalisedCuts:
    """limit: a part is cut while the normalised cut is below it, in (0, 2]. sigma_colour: how far apart mean colours in
    [0, 1] may be and still be alike. scale, min_size: of the Felzenszwalb regions that are the graph's nodes."""

    limit: float = 0.05
    sigma_colour: float = 0.25
    scale: float = 30.0
    min_size: int = 80
    title: ClassVar[str] = "Normalised cuts"
    summary: ClassVar[str] = "parts that are tied together more than to the rest, of small regions"
    paper: ClassVar[str] = "Shi, Malik, Normalized Cuts and Image Segmentation, TPAMI 2000"
    steps: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_options(self.scale, 0.8, self.min_size, 8)
        for name, value, most in (("limit", self.limit, 2), ("sigma_colour", self.sigma_colour, 10)):
            require(isinstance(value, int | float) and 0 < value <= most, name, value, f"lie in (0, {most}]")

    def __call__(self, image: Tensor, advance: Advance) -> Found:
        regions = felzenszwalb(image[None], self.scale, 0.8, self.min_size)[0]
        labels = normalised_cuts(region_affinity(image, regions, self.sigma_colour), self.limit)[regions]
        advance(1)
        return Found(labels=labels)


@dataclass(frozen=True, kw_only=True)
class Canny:
    """sigma: px of smoothing. low, high: thresholds of Sobel's sum (a step from black to white has about 4)."""

    sigma: float = 1.5
    low: float = 0.1
    high: float = 0.25
    title: ClassVar[str] = "Canny edges"
    summary: ClassVar[str] = "thin lines where the brightness changes most"
    paper: ClassVar[str] = "Canny, A Computational Approach to Edge Detection, TPAMI 1986"
    steps: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_canny(self.sigma, self.low, self.high)

    def __call__(self, image: Tensor, advance: Advance) -> Found:
        edges = canny(image[None], self.sigma, self.low, self.high)[0].float()
        advance(1)
        return Found(edges=edges)


@dataclass(frozen=True, kw_only=True)
class Sobel:
    """operator: sobel, scharr or prewitt."""

    operator: str = "sobel"
    title: ClassVar[str] = "Steepness"
    summary: ClassVar[str] = "how steep the brightness is at each pixel"
    paper: ClassVar[str] = "Sobel, Feldman 1968; Prewitt 1970; Scharr 2000"
    steps: ClassVar[int] = 1

    def __post_init__(self) -> None:
        one_of(tuple(OPERATORS), operator=self.operator)

    def __call__(self, image: Tensor, advance: Advance) -> Found:
        strength = edge_strength(image[None], self.operator)[0]
        advance(1)
        return Found(edges=strength / strength.max().clamp(min=1e-12))


METHODS: dict[str, Any] = {"selective-search": SelectiveSearch, "felzenszwalb": Felzenszwalb, "ncut": NormalisedCuts,
                            "canny": Canny, "sobel": Sobel}


def make_method(name: str, options: dict[str, Any]) -> Any:
    """The method with its options. Raises UserError for an unknown name or option."""
    if name not in METHODS:
        raise UserError("there is no such method", where=f"method={name}", remedy=did_you_mean(name, METHODS))
    known = [field.name for field in fields(METHODS[name])]
    for option, value in options.items():
        if option not in known:
            raise UserError(f"the method {name} has no such option", where=f"{option}={value!r}",
                            remedy=did_you_mean(option, known))
    return METHODS[name](**options)
