"""Search for cells on images: chance, a controller, or shared weights, with one budget and one log.

    data = ProxyData(train_images, train_labels, val_images, val_labels, num_classes)
    found = search_cells(data, method="controller", budget=48, seed=0)
    create_model("cell_net", **found.best.config())

The budget is the number of candidates that are trained on their own. A candidate that a method asks for again is known
and costs nothing. For 'one-shot' the shared network comes on top; its training is reported as seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from visus.core.validate import one_of, positive
from visus.search.cell_space import Cells, CellSpace
from visus.search.controller import ControllerSettings, Reinforce
from visus.search.one_shot import SuperNet, evolve, inherited_score, train_relaxation, train_shared
from visus.search.proxy import Protocol, ProxyData, build, train_and_score
from visus.search.trials import TrialLog

METHODS = ("random", "controller", "one-shot", "darts")
PATIENCE = 6  # a controller stops after so many times the budget in samples, most of them then known


@dataclass(frozen=True, kw_only=True)
class Network:
    """The stack that candidates are placed in."""

    num_cells: int = 3
    dim: int = 8
    stem_dim: int = 16


@dataclass(frozen=True)
class SearchResult:
    """trials: candidates and their scores in the order in which they were first asked for. seconds: of CPU,
    those that the log already knew included. shared_seconds: of training shared weights and of searching upon them.
    shared_scores: of the same candidates, with inherited weights of `supernet`."""

    method: str
    trials: tuple[tuple[Cells, float], ...]
    seconds: float
    shared_seconds: float = 0.0
    shared_scores: tuple[float, ...] = ()
    supernet: SuperNet | None = None

    @property
    def best(self) -> Cells:
        return max(self.trials, key=lambda trial: trial[1])[0]

    @property
    def best_score(self) -> float:
        return max(score for _, score in self.trials)

    @property
    def best_so_far(self) -> tuple[float, ...]:
        """After each trial, the best score until then."""
        return tuple(np.maximum.accumulate([score for _, score in self.trials]).tolist())


class Candidates:
    """Trains each candidate once, through the log, and keeps the order."""

    def __init__(self, data: ProxyData, network: Network, protocol: Protocol, log: TrialLog,
                 about: Mapping[str, object], progress: Callable[[int, float], None] | None):
        self.data, self.network, self.protocol, self.log, self.progress = data, network, protocol, log, progress
        self.about = {**about, "network": asdict(network), "protocol": asdict(protocol)}
        self.scores: dict[Cells, float] = {}
        self.seconds = 0.0

    def score(self, cells: Cells) -> float:
        if cells not in self.scores:
            trial = self.log.run({**self.about, **cells.config()}, lambda: self._train(cells))
            self.scores[cells] = trial.score
            self.seconds += trial.seconds
            if self.progress is not None:
                self.progress(len(self.scores), trial.score)
        return self.scores[cells]

    def _train(self, cells: Cells) -> float:
        model = build("cell_net", self.protocol.model_seed, **cells.config(), **asdict(self.network),
                      in_channels=self.data.train_images.shape[1], num_classes=self.data.num_classes)
        return train_and_score(model, self.data, self.protocol)


def search_cells(data: ProxyData, *, method: str, budget: int, seed: int, space: CellSpace | None = None,
                 network: Network | None = None, protocol: Protocol | None = None,
                 shared: Protocol | None = None, settings: ControllerSettings | None = None,
                 log: TrialLog | None = None, about: Mapping[str, object] | None = None,
                 progress: Callable[[int, float], None] | None = None) -> SearchResult:
    """Train at most `budget` candidates of the space, chosen by `method`, and give what came out.

    method: 'random' draws uniformly; 'controller' learns by policy gradient from the scores; 'one-shot' trains shared
    weights by `shared`, evolves candidates upon inherited scores and trains the best of them; 'darts' trains the
    mixture by `shared` and then the one candidate that it derives. about: what else a score depends on (the data's
    name), part of its key in `log`. progress: called with (number, score) after each candidate. The same arguments give
    the same result; with a log, a search that was stopped goes on when it is called again.
    """
    one_of(METHODS, method=method)
    positive(budget=budget)
    space, network, protocol = space or CellSpace(), network or Network(), protocol or Protocol()
    candidates = Candidates(data, network, protocol,
                            TrialLog() if log is None else log, about or {}, progress)
    if method == "random":
        _random(space, candidates, budget, seed)
    elif method == "controller":
        _controller(space, candidates, budget, seed, settings or ControllerSettings())
    else:
        start = time.process_time()
        ranked, inherited, supernet = _shared(space, data, network, shared or Protocol(epochs=12), method, budget, seed)
        seconds = time.process_time() - start
        for cells in ranked:
            candidates.score(cells)
        return SearchResult(method, tuple(candidates.scores.items()), candidates.seconds, seconds, inherited, supernet)
    return SearchResult(method, tuple(candidates.scores.items()), candidates.seconds)


def _random(space: CellSpace, candidates: Candidates, budget: int, seed: int) -> None:
    generator = np.random.Generator(np.random.PCG64(seed))
    for _ in range(PATIENCE * budget):
        if len(candidates.scores) == budget:
            return
        candidates.score(space.decode(space.draw(generator)))


def _controller(space: CellSpace, candidates: Candidates, budget: int, seed: int, settings: ControllerSettings) -> None:
    reinforce = Reinforce(space.choices, settings, seed)

    def rewards(batch: Sequence[tuple[int, ...]]) -> list[float]:
        """Past the budget, a new candidate has the score that is expected of it: no news."""
        out = []
        for tokens in batch:
            cells = space.decode(tokens)
            affordable = cells in candidates.scores or len(candidates.scores) < budget
            out.append(candidates.score(cells) if affordable else (reinforce.baseline or 0.0))
        return out

    samples = 0
    while len(candidates.scores) < budget and samples < PATIENCE * budget:
        samples += len(reinforce.update(rewards))


def _shared(space: CellSpace, data: ProxyData, network: Network, protocol: Protocol, method: str, budget: int,
            seed: int) -> tuple[list[Cells], tuple[float, ...], SuperNet]:
    """The candidates to train on their own, best first, their scores with inherited weights, and these."""
    supernet = SuperNet(space, **asdict(network), in_channels=data.train_images.shape[1], num_classes=data.num_classes,
                        seed=seed)
    if method == "darts":
        return [train_relaxation(supernet, data, protocol).derive()], (), supernet
    train_shared(supernet, data, protocol)
    found: dict[Cells, float] = {}

    def score(tokens: tuple[int, ...]) -> float:
        cells = space.decode(tokens)
        if cells not in found:
            found[cells] = inherited_score(supernet, cells, data)
        return found[cells]

    evolve(space, score, seed)
    ranked = sorted(found, key=lambda cells: -found[cells])[:budget]
    return ranked, tuple(found[cells] for cells in ranked), supernet
