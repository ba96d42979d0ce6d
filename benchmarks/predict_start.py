"""What one answer costs from a cold start: fresh processes that classify one JPEG and end.

    python benchmarks/predict_start.py

`visus predict BUNDLE img.jpg` against a script with transformers' image-classification pipeline and one with timm, each
with a net of the same size (ResNet-50 with random weights of 1,000 classes, read from a local folder; nothing is
fetched), and `visus --help`. User and system time of the processes by getrusage, one thread, in turns; medians of
ratios. Bars: at least 10 x less than transformers, 7 x less than timm, and at most 0.12 s for the help. Exit code 1
when one is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

OUT = Path(__file__).parent / "results" / "predict_start.json"
BARS = {"transformers": 10.0, "timm": 7.0}
MOST_HELP_S = 0.12

PEER = "from tools.peers import load_peer\nload_peer({name!r})\n"  # a torchvision of CUDA beside a torch of CPUs
TRANSFORMERS = """
import sys
from transformers import pipeline
found = pipeline("image-classification", model=sys.argv[1], device="cpu")(sys.argv[2], top_k=5)
print(found[0]["label"], found[0]["score"])
"""
TIMM = """
import sys
import timm
import torch
from PIL import Image
model = timm.create_model("resnet50", checkpoint_path=sys.argv[1]).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
with torch.no_grad():
    found = model(transform(Image.open(sys.argv[2]).convert("RGB"))[None]).softmax(1)[0].topk(5)
print(found.indices.tolist(), found.values.tolist())
"""


def prepare(folder: Path) -> dict[str, list[str]]:
    """The models and the picture on disk; the commands by side."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from tools.peers import load_peer

    timm = load_peer("timm")
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

    from visus.core.preprocessing import Preprocessing
    from visus.run.bundle import save_model
    from visus.run.export import export
    from visus.run.models import create_model, model_config

    torch.manual_seed(0)
    picture = folder / "image.jpg"
    waves = np.sin(np.arange(500)[None] / 17) * np.cos(np.arange(375)[:, None] / 11)
    Image.fromarray((np.stack([waves, -waves, waves**2], -1) * 127 + 128).clip(0, 255).astype(np.uint8)).save(picture)
    model = create_model("resnet50")
    rules = Preprocessing(size=(224, 224), resize="crop", labels=tuple(f"class {k}" for k in range(1000)))
    save_model(folder / "run" / "model", model.state_dict(), name="resnet50", config=model_config(model),
               task="classification", preprocessing=rules, about={})
    bundle = export(folder / "run", "bundle", folder / "bundle", images=picture)
    ResNetForImageClassification(ResNetConfig(num_labels=1000)).save_pretrained(folder / "transformers")
    ViTImageProcessor(size={"height": 224, "width": 224}).save_pretrained(folder / "transformers")
    save_file(timm.create_model("resnet50").state_dict(), folder / "timm.safetensors")
    for name, code in (("transformers", TRANSFORMERS), ("timm", TIMM)):
        (folder / f"by_{name}.py").write_text(PEER.format(name=name) + code)
    python = sys.executable
    return {"visus": [python, "-m", "visus", "predict", str(bundle), str(picture)],
            "transformers": [python, str(folder / "by_transformers.py"), str(folder / "transformers"), str(picture)],
            "timm": [python, str(folder / "by_timm.py"), str(folder / "timm.safetensors"), str(picture)],
            "help": [python, "-m", "visus", "--help"]}


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True,
                   env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                                     "TRANSFORMERS_OFFLINE": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    from tools.peers import load_peer

    try:
        timm, transformers = load_peer("timm"), load_peer("transformers")
    except ImportError as error:
        print(error, file=sys.stderr)
        return 2
    from benchmarks.paired import interval
    from visus.core.device import environment

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        commands = prepare(Path(folder))
        for command in commands.values():
            cpu_seconds(command)  # files into the cache, byte code written
        times: dict[str, list[float]] = {side: [] for side in commands}
        for number in range(arguments.rounds):
            for side in list(commands)[::1 if number % 2 else -1]:
                times[side].append(cpu_seconds(commands[side]))
    results: dict[str, object] = {"cpu seconds": {side: round(statistics.median(of), 3) for side, of in times.items()}}
    ratios = {peer: [them / us for them, us in zip(times[peer], times["visus"], strict=True)] for peer in BARS}
    for peer, of in ratios.items():
        results[f"times less than {peer}"] = {"median": round(statistics.median(of), 2), "interval": interval(of)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({
        "command": ["python", *sys.argv],
        "peers": [f"transformers {transformers.__version__}", f"timm {timm.__version__}"],
        "rounds": arguments.rounds, "bars": BARS, "most seconds of help": MOST_HELP_S,
        "load average at the start": round(load, 2), "results": results,
        "environment": environment()}, indent=2) + "\n")
    print(json.dumps(results, indent=2))
    good = all(statistics.median(of) >= BARS[peer] for peer, of in ratios.items())
    return 0 if good and statistics.median(times["help"]) <= MOST_HELP_S else 1


if __name__ == "__main__":
    sys.exit(main())
