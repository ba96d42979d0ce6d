"""Draw docs/figures/models.svg, kinds.svg and ilsvrc.svg from the passports. `--check`: exit 1 when one is stale."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from visus.core.files import write_text  # noqa: E402
from visus.report.kind_chart import kind_chart  # noqa: E402
from visus.report.model_chart import model_chart, winners_chart  # noqa: E402

FIGURES = ROOT / "docs" / "figures"


def figures() -> dict[Path, str]:
    from visus.run.models import passports

    known = passports().values()
    return {FIGURES / "models.svg": model_chart(known), FIGURES / "kinds.svg": kind_chart(known),
            FIGURES / "ilsvrc.svg": winners_chart()}


def main() -> int:
    for path, text in figures().items():
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"{path.relative_to(ROOT)} is stale: run python tools/model_chart.py")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
