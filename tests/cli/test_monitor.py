"""visus monitor on the command line, with a bundle: without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visus.cli.main import main


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """bundle/ of a small net on digits, same/ and dark/ with 60 digits each."""
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    import visus
    import visus.data.builtin
    from visus.run.export import export
    from visus.run.monitor import write_reference

    folder = tmp_path_factory.mktemp("cli_monitor")
    visus.train("digits", out=str(folder / "run"), progress=False,
                values={"model.name": "mlp", "train.epochs": 2, "train.threads": 1})
    export(folder / "run", out=folder / "bundle")
    if not (folder / "bundle/reference.json").is_file():
        write_reference(folder / "run", folder / "bundle")
    images = np.load(Path(visus.data.builtin.__file__).parent / "digits.npz")["images"].reshape(-1, 8, 8)
    for name, factor in (("same", 1.0), ("dark", 0.5)):
        (folder / name).mkdir()
        for k in range(60):
            Image.fromarray((images[29 * k] * factor).astype(np.uint8)).save(folder / name / f"{k}.png")
    return folder


def test_a_bundle_is_compared_and_the_exit_code_tells(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    assert main(["monitor", "bundle", "same", "--fail-on-drift"]) == 0
    assert "No drift" in capsys.readouterr().out and Path("monitor.html").is_file()
    assert main(["monitor", "bundle", "dark", "--out", "-"]) == 0
    assert main(["monitor", "bundle", "--fail-on-drift", "dark", "--out", "dark.html"]) == 1
    out = capsys.readouterr().out
    assert "mages are darker" in out and "moved" in out and "dark.html" in out


def test_everything_is_there_as_json(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    assert main(["monitor", "bundle", "dark", "--json", "--out", "-", "--features"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["moved"] and record["images"]["recent"] == 60
    assert {"brightness", "confidence", "classes", "features"} <= {row["name"] for row in record["rows"]}
    assert {"name", "state", "p", "p_adjusted", "distance", "psi", "d", "words"} <= record["rows"][0].keys()


def test_statistics_of_requests_are_read_and_images_of_a_bundle_need_no_torch(workplace, monkeypatch, capsys):
    from visus.deploy.drift import Collector
    from visus.deploy.predictor import open_predictor

    monkeypatch.chdir(workplace)
    predictor = open_predictor("bundle")
    collector = Collector(json.loads(Path("bundle/reference.json").read_text()))
    for path in sorted(Path("dark").iterdir()):
        pixels = predictor.read(path).pixels
        image = predictor.prepared(pixels)
        collector.add(image, predictor.probs(image), (pixels.shape[1], pixels.shape[0]))
    collector.save("statistics.json")
    assert main(["monitor", "bundle", "--requests", "statistics.json", "--json", "--out", "-"]) == 0
    kept = json.loads(capsys.readouterr().out)
    code = ("import sys; from visus.cli.main import main; main(['monitor', 'bundle', 'dark', '--json', '--out', '-']);"
            "assert 'torch' not in sys.modules, 'torch was loaded'")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    looked = json.loads(done.stdout)
    assert [row["p"] for row in kept["rows"]] == [row["p"] for row in looked["rows"]]


def test_what_is_wrong_ends_with_two(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    assert main(["monitor", "bundle"]) == 2
    assert "--requests" in capsys.readouterr().err
    assert main(["monitor", "bundle/model.onnx", "same"]) == 2
    assert "reference" in capsys.readouterr().err
    Path("wrong.json").write_text("{}")
    assert main(["monitor", "bundle", "--requests", "wrong.json"]) == 2
    assert "wrong.json" in capsys.readouterr().err
