"""Draw docs/course_map.md from docs/course_map.yaml and docs/catalogue.tsv. `--check`: exit 1 when it is stale."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import yaml

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "course_map.md"
HEAD = """# Course map

What the standard courses on deep learning for computer vision name, row by row, and where it lives here: {done} of
{total} rows so far. A row is in only when it works and a test would fail if it did not. Generated from
[course_map.yaml](course_map.yaml) by `python tools/course_map.py`; `tests/test_course_map.py` resolves every entry.
"""


def rows() -> dict[str, dict[str, str]]:
    """Catalogue id -> {where, run, test} for what works."""
    return yaml.safe_load((DOCS / "course_map.yaml").read_text())["rows"]


def catalogue() -> dict[str, tuple[str, str]]:
    """Catalogue id -> (section, name)."""
    with open(DOCS / "catalogue.tsv", newline="", encoding="utf-8") as file:
        return {row["id"]: (row["section"], row["name"]) for row in csv.DictReader(file, delimiter="\t")}


def render() -> str:
    """The page as Markdown: a table of what works in each section, then the names of what is not there yet."""
    mapped, names = rows(), catalogue()
    lines = [HEAD.format(done=len(mapped), total=len(names))]
    for section in dict.fromkeys(section for section, _ in names.values()):
        ids = [i for i, (s, _) in names.items() if s == section]
        done = [i for i in ids if i in mapped]
        lines.append(f"\n## {section}\n\n{len(done)} of {len(ids)} rows.\n")
        if done:
            lines += ["| row | what | where | run | proof |", "| --- | --- | --- | --- | --- |"]
            lines += [f"| {i} | {cell(names[i][1])} | `{mapped[i]['where']}` | `{cell(mapped[i]['run'])}` | "
                      f"`{mapped[i]['test'].removeprefix('tests/')}` |" for i in done]
        missing = [f"{i} {names[i][1]}" for i in ids if i not in mapped]
        if missing:
            lines.append(f"\n<details><summary>Not yet there: {len(missing)}</summary>\n\n"
                         + "\n".join(f"- {cell(name)}" for name in missing) + "\n\n</details>")
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is stale")
    page = render()
    if not parser.parse_args().check:
        PAGE.write_text(page)
    elif not PAGE.exists() or PAGE.read_text() != page:
        print("docs/course_map.md is stale: run python tools/course_map.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
