"""The page in a real browser: what users' names can do to it, and that its own script works under its policy."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from tests.report.sample_doctor import LAYERS, make_examined_run, watched
from tests.report.sample_run import make_sample_run
from visus.core.record import Finding
from visus.report import render
from visus.report.contents import read_log
from visus.report.layer_map import layer_maps
from visus.report.page import embedded_json

PAYLOADS = {
    "script": "<script>top.injected=1</script>",
    "end of script": "</script></style></title><script>top.injected=1</script>",
    "attribute": "\" '><img src=x onerror=top.injected=1><svg onload=top.injected=1>",
    "turned": "\u202e--><!--{{7*7}}\u2028]]>&lt;script&gt;",
    "long": "<b>" * 3000 + "javascript:top.injected=1",
}
PLACES = ("class", "data", "model", "source", "problem", "finding", "baseline", "environment")
CLASSES = ("cat", "dog", "bird")

HARNESS = """<!DOCTYPE html><meta charset="utf-8"><body><pre id="result"></pre>
<script type="application/json" id="pages">%s</script>
<script>
const pages = JSON.parse(document.getElementById("pages").textContent);
const result = {};
async function open(page) {
  const frame = document.createElement("iframe");
  frame.width = %d;
  frame.height = 900;
  const loaded = new Promise((resolve) => frame.addEventListener("load", resolve));
  frame.srcdoc = page;
  document.body.append(frame);
  await loaded;
  return frame;
}
(async () => {
  for (const name in pages) {
    window.injected = 0;
    const frame = await open(pages[name]);
    await new Promise((resolve) => setTimeout(resolve, 20));
    const doc = frame.contentDocument;
    const first = () => doc.querySelector("table.sortable tbody th")?.textContent;
    const sorted = [];
    for (const button of [...doc.querySelectorAll("table.sortable thead button")].slice(0, 1)) {
      for (const _ of [1, 2]) { button.click(); sorted.push(first()); }
    }
    const tip = () => doc.querySelector(".tip:not([hidden])")?.textContent ?? "";
    const tips = {};
    const loss = doc.querySelector("svg[data-chart=loss]");
    if (loss) {
      loss.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
      tips.loss = tip();
    }
    const matrix = doc.querySelector("svg[data-chart=confusion]");
    if (matrix) {
      const box = matrix.querySelector("tspan").getBoundingClientRect();
      matrix.dispatchEvent(new PointerEvent("pointermove", { clientX: box.x + 3, clientY: box.y + 3 }));
      tips.confusion = tip();
    }
    const map = doc.querySelector("svg[data-chart=layers-ratio]");
    if (map) {
      for (const key of ["ArrowDown", "ArrowLeft"]) map.dispatchEvent(new KeyboardEvent("keydown", { key }));
      tips.layers = tip();
      const display = (name) => doc.defaultView.getComputedStyle(doc.getElementById("map-layers-" + name)).display;
      tips.before = [display("ratio"), display("gradient")];
      doc.getElementById("show-layers-gradient").click();
      tips.after = [display("ratio"), display("gradient")];
    }
    result[name] = { tips,
      elements: doc.querySelectorAll("*").length, injected: window.injected, scripted: !!doc.querySelector(".tip"),
      overflow: doc.documentElement.scrollWidth - doc.documentElement.clientWidth, sorted,
      background: doc.defaultView.getComputedStyle(doc.querySelector("nav") ?? doc.body).position,
    };
    frame.remove();
  }
  document.getElementById("pages").remove();
  document.getElementById("result").textContent = JSON.stringify(result);
})();
</script>"""


def visit(pages: dict[str, str], folder, width: int = 1280) -> dict[str, dict]:
    """Load each page in a frame of one browser and report what became of it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the PATH: the page was not opened in a browser")
    folder.mkdir(parents=True, exist_ok=True)
    harness = folder / "harness.html"
    harness.write_text(HARNESS % (embedded_json(pages), width), "utf-8")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=60000",
        "--timeout=120000",
        "--dump-dom",
        harness.as_uri(),
    ]
    dump = subprocess.run(command, capture_output=True, text=True, timeout=240, encoding="utf-8").stdout
    match = re.search(r'<pre id="result">(\{.*?\})</pre>', dump, re.DOTALL)
    assert match, f"the browser gave no result: {dump[-500:]}"
    return json.loads(match.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def injected_page(path, place: str, text: str) -> str:
    run = make_sample_run(
        path,
        classes=(text, *CLASSES[1:]) if place == "class" else CLASSES,
        epochs=3,
        per_class=8,
        examples=2,
        findings=False,
        model=text if place == "model" else "small_cnn",
        data=text if place == "data" else "digits",
    )
    run.find(Finding("data.check", "warning", *([text] * 3 if place == "finding" else ["title", "seen", "do"])))
    metrics, data, environment = (run.read(f"{name}.json") for name in ("metrics", "data", "environment"))
    if place == "source":
        metrics["splits"]["test"]["mistakes"][0]["source"] = text
    elif place == "baseline":
        metrics["baselines"][0]["name"] = text
    elif place == "problem":
        data["problems"][0] = {"file": text, "problem": text}
    elif place == "environment":
        environment["python"] = text
    for name, value in (("metrics", metrics), ("data", data), ("environment", environment)):
        run.write(f"{name}.json", value)
    return render(run)


def test_injected_names_change_no_element_and_run_no_script(tmp_path):
    pages = {"benign": injected_page(tmp_path / "benign", "none", "")}
    for place in PLACES:
        for kind, payload in PAYLOADS.items():
            pages[f"{place}: {kind}"] = injected_page(tmp_path / f"{place}-{kind}", place, payload)
    pages["control"] = f"<body>{PAYLOADS['script']}</body>"
    seen = visit(pages, tmp_path / "browser")
    assert seen.pop("control")["injected"] == 1, "the harness cannot see a script that runs"
    assert len(seen) == 41
    elements = seen["benign"]["elements"]
    wrong = {name: one for name, one in seen.items() if one["injected"] or one["elements"] != elements}
    assert wrong == {}
    assert all(one["scripted"] and one["background"] == "sticky" for one in seen.values())


def test_table_sorts_by_click_on_a_heading(tmp_path):
    page = render(make_sample_run(tmp_path / "run", classes=("b10", "b9", "a", "C")))
    assert visit({"page": page}, tmp_path / "browser")["page"]["sorted"] == ["a", "C"]


def test_charts_tell_the_recorded_values_when_pointed_at(tmp_path):
    run = make_sample_run(tmp_path / "run", classes=("cat", "dog"), epochs=3)
    tips = visit({"page": render(run)}, tmp_path / "browser")["page"]["tips"]
    last = read_log(run).epochs[-1]
    lines = [line.rsplit("  ", 1) for line in tips["loss"].split("\n")]
    assert lines[0] == ["epoch 3"]
    assert dict(lines[1:])["train"] == f"{last['train_loss']:.4g}"
    assert dict(lines[1:])["validation"] == f"{last['val_loss']:.4g}"
    count = run.read("metrics.json")["splits"]["test"]["confusion"]["counts"][0][0]
    assert tips["confusion"] == f"cat\npredicted cat\n{count} ({100 * count / 36:.1f} % of cat)"


def test_the_map_of_layers_is_read_with_keys_and_changes_what_it_shows(tmp_path):
    tips = visit({"page": render(make_examined_run(tmp_path / "run", epochs=3))}, tmp_path / "browser")["page"]["tips"]
    name, step, value = tips["layers"].split("\n")
    assert (name, step) == (LAYERS[1], f"step {layer_maps(watched())[0].steps[-2]}")
    assert value.startswith("Update by weight  0.000")
    assert tips["before"] == ["block", "none"] and tips["after"] == ["none", "block"]


def test_page_is_no_wider_than_a_phone(tmp_path):
    runs = {
        "digits": {},
        "fifty": {"classes": [f"species number {k}" for k in range(50)]},
        "long": {"classes": ["x" * 400, "y" * 400], "model": "m" * 300, "data": "d" * 300},
        "multi": {"multi_label": True},
        "begun": {"epochs": 0, "evaluated": False, "status": "started"},
    }
    folder = tmp_path / ("a-folder-whose-name-is-long-" * 5)
    pages = {name: render(make_sample_run(folder / name, **about)) for name, about in runs.items()}
    pages["examined"] = render(make_examined_run(folder / "examined"))
    seen = visit(pages, tmp_path / "browser", width=390)
    assert {name: one["overflow"] for name, one in seen.items()} == dict.fromkeys(pages, 0)
