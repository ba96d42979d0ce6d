"""Make the passports and the index of the models.

python tools/passports.py                       write visus/models/passports/*.json and index.json
python tools/passports.py NAME_OR_FILE ...      only these models, or all of visus/models/cnn/resnet.py
python tools/passports.py --check               exit 1 when they are not what the models say (peers are not run)
python tools/passports.py --table docs/models.md
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from tools.peers import load_peer, peer_model  # noqa: E402
from visus.core.files import write_json, write_text  # noqa: E402
from visus.core.meta import on_meta  # noqa: E402
from visus.core.passport import agrees  # noqa: E402
from visus.core.registry import Entry  # noqa: E402
from visus.core.summary import summarise  # noqa: E402
from visus.core.weights import fingerprint, hashed_images, hashed_model  # noqa: E402
from visus.models import registry  # noqa: E402
from visus.run.models import load_weights, passports  # noqa: E402

FOLDER = registry.index_path.parent / "passports"
FINGERPRINT_SIZE = 64  # side in pixels for models that take any size: smaller images, the same code
RTOL = 1e-7


def build(entry: Entry, device: str = "cpu") -> torch.nn.Module:
    with on_meta() if device == "meta" else torch.device(device):
        return entry.build(entry.build.Config(**entry.variant))


def make_passport(entry: Entry, peer: dict[str, Any] | None) -> dict[str, Any]:
    about = entry.about
    model = build(entry, "meta")
    size = tuple(about["preprocessing"]["size"])
    input_shape = (1, model.config.in_channels, *size)
    summary = summarise(model, input_shape)
    ours = {"params": summary.params, "macs": summary.macs}
    published = []
    for fact in about.get("published", {}).get(entry.name, []):
        number = ours.get(fact["what"])
        fits = None if number is None else agrees(number, fact["value"])
        if fits is False and not fact.get("reason"):
            raise SystemExit(f"{entry.name}: {fact} differs from ours, {number}, and gives no reason")
        published.append({**fact, "ours": number, "agrees": fits, "reason": None if fits
                          else fact.get("reason")})
    return {
        "module": entry.module, "family": about["family"], "task": about["task"], "paper": about["paper"],
        "params": summary.params, "macs": summary.macs, "input_shape": list(input_shape),
            "published": published,
        "peer": peer,
        "fingerprint": {"images_shape": list(fingerprint_shape(entry)),
                        "values": list(fingerprint(build(entry), fingerprint_shape(entry)))},
        "weights": dict(entry.weights),
        "preprocessing": {k: list(v) if isinstance(v, tuple) else v for k,
                          v in about["preprocessing"].items()},
    }


def fingerprint_shape(entry: Entry) -> tuple[int, ...]:
    config = entry.build.Config(**entry.variant)
    size = entry.about.get("fingerprint_size") or getattr(
        config, "image_size", min(entry.about["preprocessing"]["size"][0], FINGERPRINT_SIZE))
    return (2, config.in_channels, size, size)


def compare(entry: Entry) -> dict[str, Any] | None:
    """Largest difference to the peer over the largest output, with equal hashed weights, in float32 and
    float64."""
    if entry.name not in entry.about.get("peers", {}):
        return None
    package, name = entry.about["peers"][entry.name]
    theirs = hashed_model(peer_model(package, name, **entry.about.get("peer_options", {})))
    ours = build(entry).double().eval()
    load_weights(ours, theirs.state_dict(), origin=package)
    images = hashed_images(fingerprint_shape(entry))
    found: dict[str, Any] = {"package": package, "version": load_peer(package).__version__.split("+")[0],
                             "model": name}
    for dtype in (torch.float64, torch.float32):
        with torch.no_grad():
            a, b = (m.to(dtype)(images.to(dtype)) for m in (ours, theirs))
        difference = ((a - b).abs().max() / b.abs().max()).item()
        found[str(dtype).removeprefix("torch.")] = float(f"{difference:.1e}")
    return found


def stale(found: dict[str, Any], made: dict[str, Any]) -> list[str]:
    """The fields in which a passport on disk differs from one made now; peers are not run again."""
    out = []
    for field, value in made.items():
        on_disk = found.get(field)
        if field == "fingerprint" and isinstance(on_disk, dict):
            same = on_disk["images_shape"] == value["images_shape"] and all(
                math.isclose(a, b, rel_tol=RTOL) for a,
                b in zip(on_disk["values"], value["values"], strict=True))
        else:
            same = on_disk == value
        if not same:
            out.append(field)
    return out


def table() -> str:
    lines = ["# Models", "", "Made by `python tools/passports.py --table docs/models.md` from the passports.",
             "",
             "| model | parameters | GMACs | at | published | compared with | weights | paper |",
             "|---|---:|---:|---|---|---|---|---|"]
    for name, p in sorted(passports().items(), key=lambda item: (item[1].family, item[1].params)):
        facts = []
        for row in p.published:
            word = {True: "agrees", None: "not measured here",
                    False: f"differs: {row['reason']}"}[row["agrees"]]
            on = f" on {row['data']}" if "data" in row else ""
            facts.append(f"{row['what']} {row['value']}{on} ({row['source']}): {word}")
        peer = "" if p.peer is None else (f"{p.peer['package']} {p.peer['version']} `{p.peer['model']}`: "
                                          f"{p.peer['float32']:.0e} / {p.peer['float64']:.0e}")
        weights = "; ".join(f"{origin}: {w['licence']}" for origin, w in p.weights.items())
        shape = " x ".join(map(str, p.input_shape[1:]))
        lines.append(f"| `{name}` | {p.params:,} | {p.macs / 1e9:.3g} | {shape} "
                     f"| {'<br>'.join(facts)} | {peer} | {weights} | {p.paper} |")
    lines += ["", "Compared with: largest difference over the largest output, equal weights and images, float32 / "
              "float64. GMACs: multiply-accumulates of convolutions, matrix products and attention, one image.",
              ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only these models")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    if options.table:
        write_text(options.table, table())
        return 0
    if options.names and not options.check:
        write_some(options.names)
        return 0
    on_disk = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
    files: dict[str, dict[str, Any]] = {}
    problems = []
    for entry in registry.entries():
        stem = stem_of(entry)
        known = on_disk.get(stem, {}).get(entry.name, {})
        if options.names and entry.name not in options.names:
            made = known
        elif options.check:
            made = make_passport(entry, known.get("peer"))
            problems += [f"{entry.name}: {field}" for field in stale(known, json.loads(json.dumps(made)))]
        else:
            made = make_passport(entry, compare(entry))
        print(entry.name, made.get("params"), made.get("peer"), flush=True)
        files.setdefault(stem, {})[entry.name] = made
    if options.check:
        if registry.index() != registry.fresh_index():
            problems.append("index.json")
        problems += [f"{stem}.json: no such module" for stem in on_disk if stem not in files]
        print("\n".join(f"stale: {problem}" for problem in problems) or "all passports are fresh")
        return 1 if problems else 0
    for stem, made in files.items():
        if made != on_disk.get(stem):
            write_json(FOLDER / f"{stem}.json", made)
    for stem in on_disk.keys() - files.keys():
        (FOLDER / f"{stem}.json").unlink()
    write_json(registry.index_path, registry.fresh_index())
    return 0


def stem_of(entry: Entry) -> str:
    return entry.module.removeprefix("visus.models.")


def write_some(names: list[str]) -> None:
    """Passports of some models or files, without importing the others; the index gains their names."""
    entries = []
    for name in names:
        if name.endswith(".py"):
            module = ".".join(Path(name).resolve().relative_to(ROOT).with_suffix("").parts)
            importlib.import_module(module)
            entries += [entry for entry in registry.registered() if entry.module == module]
        else:
            entries.append(registry.get(name))
    made = {entry.name: (entry, make_passport(entry, compare(entry))) for entry in entries}
    with open(registry.index_path.parent / "__init__.py") as lock:  # two runs of this tool may meet here
        fcntl.flock(lock, fcntl.LOCK_EX)
        index = json.loads(registry.index_path.read_text())
        for module in {entry.module for entry in entries}:
            ours = [entry for entry in registry.registered() if entry.module == module]
            path = FOLDER / f"{stem_of(ours[0])}.json"
            on_disk = json.loads(path.read_text()) if path.is_file() else {}
            fresh = {e.name: made[e.name][1] if e.name in made else on_disk.get(e.name) for e in ours}
            write_json(path, {name: passport for name, passport in fresh.items() if passport})
            index = {name: home for name, home in index.items() if home != module}
            index |= {entry.name: module for entry in ours}
        write_json(registry.index_path, dict(sorted(index.items(), key=lambda item: item[1])))
    for entry, passport in made.values():
        print(entry.name, passport["params"], passport["macs"], passport["peer"], flush=True)


if __name__ == "__main__":
    sys.exit(main())
