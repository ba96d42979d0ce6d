"""What computes something else is refused, what fails is a row, the fastest is kept."""

from __future__ import annotations

import time

import numpy as np
import pytest

from visus.core.errors import MissingExtra
from visus.deploy.optimise import Candidate, Sample, difference, thread_counts, tune

IMAGES = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)


def way(seconds, change=lambda out: out):
    """A candidate's `build`: takes so long on one thread, half of it on two."""

    def build(threads):
        def call(images):
            time.sleep(seconds / threads)
            return change(images @ WEIGHTS)

        return call

    return build


def raising(error):
    def build(threads):
        raise error

    return build


def verdicts(tuned):
    return {(row.candidate, row.threads): row.verdict for row in tuned.rows}


def test_the_fastest_equal_one_is_kept_and_every_candidate_has_a_row():
    tuned = tune([Candidate("torch", way(0.012)), Candidate("quick", way(0.004)), Candidate("slow", way(0.008))],
                 IMAGES)
    assert verdicts(tuned) == {("torch", 1): "slower", ("quick", 1): "fastest", ("slow", 1): "slower"}
    assert tuned.fastest.candidate == "quick" and tuned.without_torch is tuned.fastest
    assert 1.5 < tuned.fastest.ratio < 6
    assert np.array_equal(tuned.call(IMAGES), IMAGES @ WEIGHTS)


def test_a_quicker_one_that_computes_something_else_is_refused():
    tuned = tune([Candidate("torch", way(0.006)), Candidate("wrong", way(0.001, lambda out: out * (1 + 3e-5))),
                  Candidate("nan", way(0.001, lambda out: out * np.nan)),
                  Candidate("shape", way(0.001, lambda out: out[:, :2])),
                  Candidate("close", way(0.002, lambda out: out * (1 + 3e-6)))], IMAGES)
    found = verdicts(tuned)
    assert found["wrong", 1] == found["nan", 1] == found["shape", 1] == "refused"
    assert tuned.fastest.candidate == "close" and 1e-6 < tuned.fastest.difference < 1e-5
    assert "differs by 3e-05" in next(row.reason for row in tuned.rows if row.candidate == "wrong")


def test_what_cannot_be_built_or_run_is_a_row_with_its_reason():
    tuned = tune([Candidate("torch", way(0.002)),
                  Candidate("broken", raising(RuntimeError("no such kernel\nat x.cpp"))),
                  Candidate("absent", raising(MissingExtra("It", "openvino"))),
                  Candidate("unasked", way(0.001), reason="not asked for")], IMAGES)
    rows = {row.candidate: row for row in tuned.rows}
    assert (rows["broken"].verdict, rows["broken"].reason) == ("failed", "RuntimeError: no such kernel")
    assert (rows["absent"].verdict, rows["absent"].reason) == ("missing", "pip install 'visus[openvino]'")
    assert (rows["unasked"].verdict, rows["unasked"].reason) == ("skipped", "not asked for")
    assert tuned.fastest.candidate == "torch" and tuned.without_torch is None


def test_fewer_bits_must_agree_on_their_own_sample():
    sample = np.eye(6, dtype=np.float32)
    expected = sample @ WEIGHTS
    flipped = Candidate("flip int8", way(0.001, lambda out: -out), "int8", sample=Sample(sample, expected))
    rough = Candidate("rough int8", way(0.001, lambda out: out * 1.01), "int8", sample=Sample(sample, expected),
                      extra={"file": "x.onnx"})
    tuned = tune([Candidate("torch", way(0.006)), flipped, rough], IMAGES)
    assert verdicts(tuned)["flip int8", 1] == "refused" and tuned.fastest.candidate == "rough int8"
    assert tuned.record()["without_torch"] | {"p50_ms": 0, "ratio": 0} == {
        "backend": "rough", "threads": 1, "p50_ms": 0, "ratio": 0, "file": "x.onnx"}


def test_fewer_bits_are_judged_by_decisions_and_by_accuracy():
    given = np.array([[0.1, 0.9], [0.8, 0.2]])
    assert Sample(None, given).judged(np.array([[0.4, 0.6], [0.3, 0.7]])) == (0.5, None)
    assert Sample(None, given, targets=np.array([1, 0])).judged(np.array([[0.4, 0.6], [0.3, 0.7]])) == (0.5, 0.5)
    assert Sample(None, given, targets=np.array([1, 1])).judged(np.array([[0.4, 0.6], [0.3, 0.7]])) == (0.5, -0.5)
    several = Sample(None, given, "multilabel", (0.05, 0.5), np.array([[1, 1], [1, 0]]))
    assert several.judged(given) == (0.0, 0.0) and several.judged(given - 0.06) == (0.5, 0.25)
    assert Sample(None, given).judged(given[0]) == (1.0, None)


def test_fewer_bits_that_agree_but_lose_accuracy_are_refused():
    images = np.eye(500, 6, dtype=np.float32) + np.eye(6, dtype=np.float32)[0]
    expected = images @ WEIGHTS
    targets = expected.argmax(1)
    worse = expected.copy()
    worse[:4] = -worse[:4]  # 0.8 % of the answers, all of them right before
    candidate = Candidate("worse int8", lambda threads: lambda batch: worse if len(batch) == 500 else batch @ WEIGHTS,
                          "int8", sample=Sample(images, expected, targets=targets))
    row = next(row for row in tune([Candidate("torch", way(0.003)), candidate], IMAGES).rows if "int8" in row.candidate)
    assert row.verdict == "refused" and "0.80 points of accuracy lost on 500 images" in row.reason


def test_what_a_runtime_has_surpassed_anyway_is_not_built():
    tuned = tune([Candidate("torch", way(0.012)), Candidate("torch-folded", raising(AssertionError())),
                  Candidate("quick", way(0.004))], IMAGES)
    row = next(row for row in tuned.rows if row.candidate == "torch-folded")
    assert row.verdict == "skipped" and "quick has surpassed" in row.reason


def test_torchs_own_ways_are_built_where_no_runtime_is_faster():
    tuned = tune([Candidate("torch", way(0.006)), Candidate("torch-folded", way(0.003)),
                  Candidate("onnxruntime", raising(MissingExtra("It", "export")))], IMAGES)
    assert tuned.fastest.candidate == "torch-folded" and tuned.without_torch is None


def test_threads_are_chosen_by_time():
    tuned = tune([Candidate("torch", way(0.024)), Candidate("quick", way(0.012))], IMAGES, threads=(1, 2))
    assert (tuned.fastest.candidate, tuned.fastest.threads) == ("quick", 2)
    flat = tune([Candidate("torch", way(0.02)), Candidate("quick", lambda threads: way(0.008)(1))], IMAGES,
                threads=(1, 2))
    assert (flat.fastest.candidate, flat.fastest.threads) == ("quick", 1)  # as fast on one: one is taken


def test_spinning_is_tried_with_several_threads_only():
    names = ["torch", "onnxruntime", "onnxruntime-spinning"]
    tuned = tune([Candidate(name, way(0.004 if name != "torch" else 0.012)) for name in names], IMAGES, threads=(1, 2))
    assert ("onnxruntime-spinning", 1) not in verdicts(tuned) and ("onnxruntime-spinning", 2) in verdicts(tuned)


def test_an_original_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match="broken"):
        tune([Candidate("torch", raising(RuntimeError("broken")))], IMAGES)


def test_differences_are_of_the_largest_number():
    assert difference(np.array([[1.0, 10.5]]), np.array([[1.0, 10.0]])) == pytest.approx(0.05)
    assert difference(np.zeros((1, 2)), np.zeros((2, 1))) == np.inf
    assert [thread_counts(n) for n in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]
