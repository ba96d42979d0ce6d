"""What a user sees of the package, and what must not be loaded for it."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

import visus

PUBLIC = {"train", "resume", "evaluate", "predict", "explain", "attack", "calibrate", "load", "Run", "Recipe",
          "create_model", "load_weights", "list_models", "describe_model", "layer_tables", "fold_batch_norm",
          "reparameterise", "to_fully_convolutional", "dense_evaluate", "multi_scale_evaluate", "conv_output_size",
          "chain_geometry", "ensemble", "probe", "tune", "demo", "list_demos", "regions", "show_data", "doctor",
          "export", "optimize", "bench", "compress", "serve", "monitor", "diagnose", "Watcher", "check_gradients",
          "errors", "__version__"}


def fresh(code: str) -> str:
    """What a fresh interpreter prints for `code`."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_public_names_are_these_and_all_resolve():
    assert set(visus.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(visus, name) is not None


def test_a_verb_that_shares_its_name_with_a_room_stays_callable():
    import inspect

    import visus.train.trainer
    from visus.run.train import train

    assert callable(visus.train) and inspect.signature(visus.train) == inspect.signature(train)
    assert visus.train.trainer.Trainer is not None
    with pytest.raises(visus.errors.UserError, match="no such"):
        visus.train("no/such/images", progress=False)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        visus.trian  # noqa: B018


@pytest.mark.parametrize("code", [
    "import visus", "import visus.report", "import visus.cli.main", "import visus.models", "import visus.data",
    "import visus.core.errors, visus.core.files, visus.core.record, visus.core.registry, visus.core.passport",
    "from visus.cli.main import build_parser; [build_parser(v) for v in __import__('visus.cli.main').cli.main.VERBS]",
])
def test_it_loads_no_torch(code: str):
    heavy = "sorted(m for m in ('torch', 'numpy', 'pydantic', 'matplotlib') if m in sys.modules)"
    loaded = fresh(f"{code}; import sys; print({heavy})")
    assert "torch" not in loaded


def test_listing_models_loads_no_torch():
    assert fresh("import visus, sys; visus.list_models(); print('torch' in sys.modules)") == "False"


def test_help_takes_little_time():
    """At most 0.15 s of CPU on the reference machine; three times that here, for a loaded one."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(5):
        subprocess.run([sys.executable, "-m", "visus", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 5 < 0.45


def test_import_opens_no_socket_starts_no_process_and_writes_no_file():
    code = """
import sys
seen = []
def hook(event, args):
    if event.startswith(("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.system", "urllib.")):
        seen.append(event)
    if event == "open" and isinstance(args[1], str) and any(c in args[1] for c in "wax+"):
        seen.append(str(args[0]))
sys.dont_write_bytecode = True
sys.addaudithook(hook)
import visus, visus.report, visus.cli.main, visus.data, visus.models
print(seen)
"""
    assert fresh(code) == "[]"
