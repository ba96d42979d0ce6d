"""The search as a user runs it: the space, the log that it resumes from, the budget, the methods."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.search.test_one_shot import bars
from visus.core.errors import UserError
from visus.run.models import create_model
from visus.search import cells as cells_module
from visus.search.cell_space import CellSpace
from visus.search.cells import METHODS, Network, search_cells
from visus.search.proxy import Protocol, build, fit, train_and_score
from visus.search.trials import TrialLog

SMALL = {"space": CellSpace(1, ("identity", "sep_3", "max_3")), "network": Network(dim=2, stem_dim=2),
         "protocol": Protocol(epochs=1, batch_size=32), "shared": Protocol(epochs=1, batch_size=32)}


def test_decisions_and_cells_are_counted():
    """One node: operation, input, operation a cell; 2 * 3 * 3 lists, of which sums in another order are the same."""
    space = SMALL["space"]
    assert space.choices == (3, 2, 3, 3, 2, 3) and space.size == 18**2
    lists = list(itertools.product(*(range(n) for n in space.choices)))
    found = {space.decode(tokens) for tokens in lists}
    kinds = 3 * 3 + 3 * 4 // 2  # one operation on each input, or an unordered pair on input 1
    assert len(lists) == space.size and len(found) == kinds**2
    assert CellSpace(2).choices == (6, 2, 6, 3, 6, 3, 6) * 2


def test_every_list_of_decisions_is_a_network():
    generator = np.random.default_rng(0)
    for _ in range(20):
        space = CellSpace(3)
        model = create_model("cell_net", **space.decode(space.draw(generator)).config(), dim=2, stem_dim=2)
        assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(("field", "value"), [("num_nodes", 0), ("operations", ("sep_3", "sep_9")), ("operations", ()),
                                              ("operations", ("sep_3", "sep_3"))])
def test_a_space_of_nothing_known_is_refused(field, value):
    with pytest.raises(UserError, match=field):
        CellSpace(**{field: value})


def test_training_depends_on_the_seed_alone():
    data = bars()
    state = torch.random.get_rng_state()
    models = [build("cell_net", seed, dim=2, stem_dim=2, in_channels=1, num_classes=3) for seed in (0, 0, 1)]
    scores = [train_and_score(model, data, Protocol(epochs=1, batch_size=32)) for model in models]
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert scores[0] == scores[1] and torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_diverged_training_scores_nothing():
    data, model = bars(), build("cell_net", 0, dim=2, stem_dim=2, in_channels=1, num_classes=3)
    with torch.no_grad():
        model.fc.bias.fill_(float("nan"))
    assert train_and_score(model, data, Protocol(epochs=1)) == 0.0
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    fit(linear, data.train_images, data.train_labels, Protocol(epochs=30, weight_decay=0.0))
    predicted = linear(data.val_images).argmax(1)
    assert (predicted[data.val_labels != 2] == data.val_labels[data.val_labels != 2]).all()


def test_the_log_answers_what_it_knows(tmp_path):
    calls = []

    def score():
        calls.append(1)
        return 0.5

    for known in (False, True):
        log = TrialLog(tmp_path / "a.jsonl")
        trial = log.run({"cells": ("x", "y"), "seed": 1}, score)
        assert (trial.score, trial.known, len(log)) == (0.5, known, 1)
    assert calls == [1] and not TrialLog().run({"a": 1}, score).known
    with pytest.raises(UserError, match="finite"):
        log.run({"b": 1}, lambda: float("nan"))


def test_a_line_that_a_kill_cut_short_is_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    TrialLog(path).run({"a": 1}, lambda: 0.25)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": {"a": 2}, "sco')
    log = TrialLog(path)
    assert log.run({"a": 1}, lambda: 0.0).known and not log.run({"a": 2}, lambda: 0.75).known
    again = TrialLog(path)
    assert again.run({"a": 2}, lambda: 0.0).score == 0.75 and len(again) == 2


def test_processes_may_share_a_log(tmp_path):
    path = tmp_path / "a.jsonl"
    code = """
import sys
from visus.search.trials import TrialLog
log, start = TrialLog(sys.argv[1]), int(sys.argv[2])
for number in range(start, start + 60):
    log.run({"n": number}, lambda: number / 100)
"""
    workers = [subprocess.Popen([sys.executable, "-c", code, str(path), str(start)]) for start in (0, 30)]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {row["key"]["n"] for row in rows} == set(range(90)) and len(TrialLog(path)) == 90
    assert all(row["score"] == row["key"]["n"] / 100 for row in rows)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_its_budget_and_repeats_itself(method):
    found, again = (search_cells(bars(), method=method, budget=4, seed=0, **SMALL) for _ in range(2))
    assert found.trials == again.trials and 1 <= len(found.trials) <= (1 if method == "darts" else 4)
    assert found.best_score == found.best_so_far[-1] == dict(found.trials)[found.best]
    assert list(found.best_so_far) == sorted(found.best_so_far)
    assert len({cells for cells, _ in found.trials}) == len(found.trials)


@pytest.mark.parametrize("method", ["random", "controller"])
def test_a_stopped_search_goes_on(method, tmp_path, monkeypatch):
    """Two candidates, then a new process asks for four: the first two come from the log, and the four are those of an
    undisturbed search."""
    whole = search_cells(bars(), method=method, budget=4, seed=1, **SMALL)
    search_cells(bars(), method=method, budget=2, seed=1, log=TrialLog(tmp_path / "log.jsonl"), **SMALL)
    trained = []
    real = cells_module.train_and_score
    monkeypatch.setattr(cells_module, "train_and_score", lambda *a: trained.append(1) or real(*a))
    seen = []
    resumed = search_cells(bars(), method=method, budget=4, seed=1, log=TrialLog(tmp_path / "log.jsonl"),
                           progress=lambda number, score: seen.append((number, score)), **SMALL)
    assert resumed.trials == whole.trials and len(trained) == 2
    assert seen == [(i + 1, score) for i, (_, score) in enumerate(whole.trials)]


def test_another_protocol_is_another_trial(tmp_path):
    log = TrialLog(tmp_path / "log.jsonl")
    for epochs in (1, 2):
        search_cells(bars(), method="random", budget=1, seed=0, log=log,
                     **(SMALL | {"protocol": Protocol(epochs=epochs, batch_size=32)}))
    assert len(log) == 2


@pytest.mark.parametrize(("field", "value"), [("method", "grid"), ("budget", 0)])
def test_wrong_arguments_are_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field}="):
        search_cells(bars(), **({"method": "random", "budget": 1, "seed": 0} | {field: value}))
