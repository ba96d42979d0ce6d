"""Every runtime gives the same answers to the same images, from several threads, and says what is wrong."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from visus.core.errors import CheckpointError, MissingExtra, UserError
from visus.deploy.artifact import read_bundle
from visus.deploy.session import EXACT, HALF, WITH_TORCH, open_session
from visus.run.optimize import golden_images, program_of


@pytest.fixture(scope="module")
def asked(digits_bundle):
    """The graph, seven real images, what the original gives for them."""
    bundle = read_bundle(digits_bundle)
    images = golden_images(bundle, 7)
    with torch.inference_mode():
        expected = program_of(bundle)(torch.from_numpy(images)).numpy()
    return bundle.onnx, images, expected


def opened(path, backend, threads=1, **options):
    if backend.startswith("openvino"):
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    return open_session(path, backend, threads, **options)


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("threads", [1, 2])
def test_runtimes_give_the_originals_probabilities(asked, backend, threads):
    path, images, expected = asked
    found = opened(path, backend, threads)(images)
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("backend", [name for name in WITH_TORCH if name != "torch-compile"])
def test_torchs_own_ways_give_them_too_and_put_the_number_of_threads_back(asked, digits_bundle, backend):
    path, images, expected = asked
    before = torch.get_num_threads()
    session = open_session(path, backend, 2, load=lambda: program_of(read_bundle(digits_bundle)))
    assert np.abs(session(images) - expected).max() < 1e-5
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("backend", EXACT)
def test_an_image_gets_the_same_bits_alone_and_among_others(asked, backend):
    path, images, _ = asked
    session = opened(path, backend)
    assert np.array_equal(session(images), np.concatenate([session(image[None]) for image in images]))


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("batch", [2, 3, 16, None])
def test_a_session_for_several_images_fills_the_last_part_up(asked, backend, batch):
    path, images, expected = asked
    assert np.abs(opened(path, backend, batch=batch)(images) - expected).max() < 1e-5


@pytest.mark.parametrize("backend", EXACT)
def test_several_threads_may_ask_at_once(asked, backend):
    path, images, _ = asked
    session = opened(path, backend)
    alone = [session(image[None]) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            together = list(pool.map(lambda image: session(image[None]), images))
            assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("backend", EXACT)
def test_other_shapes_and_types_are_refused_with_what_the_model_takes(asked, backend):
    path, images, _ = asked
    session = opened(path, backend)
    for wrong in (images.astype(np.float32), images[:, 1:], images[0], images[:0]):
        with pytest.raises(UserError, match=r"the model takes uint8 \[B, 16, 16, 1\]"):
            session(wrong)


def test_half_precision_mostly_agrees_where_the_processor_has_it(asked):
    path, images, expected = asked
    for backend in HALF:
        try:
            found = opened(path, backend)(images)
        except UserError as error:
            assert "does not compute in" in error.problem
        else:
            assert 0 < np.abs(found - expected).max() < 0.1  # other numbers, or it would not be half


def test_an_unknown_backend_names_the_nearest(asked):
    with pytest.raises(UserError, match="onnxruntime"):
        open_session(asked[0], "onnxrutime")
    with pytest.raises(UserError, match="needs the torch model"):
        open_session(asked[0], "torch")
    with pytest.raises(UserError, match="at least 1"):
        open_session(asked[0], threads=0)


def test_a_missing_runtime_says_what_to_install(asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"pip install 'visus\[openvino\]'"):
        open_session(asked[0], "openvino")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"pip install 'visus\[export\]'"):
        open_session(asked[0])


@pytest.mark.parametrize("backend", EXACT)
def test_a_file_that_is_no_model_is_refused(tmp_path, backend):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x07not a graph")
    with pytest.raises(CheckpointError):
        opened(path, backend)
    with pytest.raises(CheckpointError, match="cannot be read"):
        opened(tmp_path / "none.onnx", backend)
