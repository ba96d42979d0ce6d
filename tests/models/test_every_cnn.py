"""What every convolutional classifier must bear beside the harness of test_every_model.py: memory formats, bfloat16,
torch.compile in one graph, torch.export with a free batch size, other image sizes, another head, and weights from the
meta device. One variant of each file by default, all of them with -m slow."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from tests.models.test_every_model import NAMES, images_for, tiny
from tests.rows_models import MODELS
from visus.core.errors import UserError
from visus.core.meta import on_meta
from visus.models import registry

CNNS = [name for name in NAMES if registry.index()[name].startswith("visus.models.cnn.")]
BY_COST = sorted(CNNS, key=lambda name: (MODELS[name].slow, CNNS.index(name)), reverse=True)
FIRST = {registry.index()[name]: name for name in BY_COST}  # the cheapest of a file is written last
ONE_OF_EACH_FILE = sorted(FIRST.values())
EACH = [pytest.param(name, marks=() if name in ONE_OF_EACH_FILE else pytest.mark.slow) for name in CNNS]


@pytest.fixture(autouse=True)
def forget_graphs():
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("name", EACH)
def test_channels_last_changes_nothing(name):
    model, images = tiny(name).double().eval(), images_for(name).double()
    with torch.no_grad():
        plain = model(images)
        last = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", EACH)
def test_bfloat16_runs_and_stays_near_float32(name):
    model, images = tiny(name).eval(), images_for(name)
    with torch.no_grad():
        full = model(images)
        half = model.bfloat16()(images.bfloat16())
    assert half.dtype == torch.bfloat16 and half.isfinite().all()
    assert (half.float() - full).norm() <= 0.1 * full.norm() + 0.1, name


@pytest.mark.parametrize("name", [  # a third of the files by default: tracing a deep net takes seconds
    pytest.param(name, marks=() if name in ONE_OF_EACH_FILE[::3] else pytest.mark.slow) for name in CNNS])
def test_compiles_to_one_graph_in_training(name):
    model, images = tiny(name).train(), images_for(name, 4)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.manual_seed(0)
    found = compiled(images)
    assert found.shape == (4, 7) and found.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", CNNS)
def test_compiled_gradients_equal_eager_ones(name):
    model, images = tiny(name).double().eval(), images_for(name, 4).double()
    expected = torch.autograd.grad(model(images).square().sum(), list(model.parameters()), allow_unused=True)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(images).square().sum(), list(model.parameters()), allow_unused=True)
    for (path, _), a, b in zip(model.named_parameters(), found, expected, strict=True):
        assert (a is None) == (b is None), path
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", CNNS)
def test_exports_with_a_free_batch_size(name):
    model, images = tiny(name).eval(), images_for(name)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: batch},), strict=True).module()
    with torch.no_grad():
        for count in (1, 2, 5):
            torch.testing.assert_close(exported(images_for(name, count)), model(images_for(name, count)))


@pytest.mark.parametrize("name", EACH)
def test_other_image_sizes_work_or_are_refused_clearly(name):
    """Larger, odd and oblong images give logits; what is too small is an error that names the size."""
    model, size = tiny(name).eval(), MODELS[name].size
    with torch.no_grad():
        for shape in ((size + 32, size + 32), (size + 13, size + 7), (size, size + 64)):
            try:
                assert model(torch.randn(2, 2, *shape)).shape == (2, 7)
            except UserError as error:
                assert str(shape[0]) in str(error), error
        for small in (3, 17):
            try:
                assert model(torch.randn(2, 2, small, small)).isfinite().all()
            except UserError as error:
                assert str(small) in str(error)


@pytest.mark.parametrize("name", EACH)
def test_another_head_keeps_everything_else(name):
    model = tiny(name)
    with on_meta():
        other = type(model)(replace(model.config, num_classes=11))
    ours, theirs = model.state_dict(), other.state_dict()
    changed = [key for key in ours if ours[key].shape != theirs[key].shape]
    assert ours.keys() == theirs.keys() and changed
    assert all(theirs[key].shape[0] == 11 * ours[key].shape[0] // 7 for key in changed), changed


@pytest.mark.slow
def test_building_all_on_the_meta_device_takes_less_than_thirty_seconds():
    """The bar of the project, in processor seconds, imports included: a fresh process builds every one."""
    code = ("from visus.core.meta import on_meta\nfrom visus.models import registry\n"
            "from visus.run.models import create_model\n"
            "names = [n for n, m in registry.index().items() if m.startswith('visus.models.cnn.')]\n"
            "with on_meta():\n    for name in names:\n        create_model(name)\n"
            "import time\nprint(len(names), time.process_time())")
    count, seconds = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True,
                                    text=True).stdout.split()
    assert int(count) == len(CNNS)
    assert float(seconds) < 30


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "lenet5"])
def test_creating_a_model_imports_its_file_alone(name):
    code = (f"import sys, visus; visus.create_model({name!r}); "
            "print(*[m for m in sys.modules if m.startswith('visus.models.') and m.count('.') == 3])")
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert loaded == [registry.index()[name]]

