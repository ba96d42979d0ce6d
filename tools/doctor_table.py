"""The page of the doctor: every check with its rule and its thresholds, and what it said of the zoo.

    python tools/doctor_table.py               run the zoo (some minutes), write docs/doctor_zoo.json and docs/doctor.md
    python tools/doctor_table.py --page        docs/doctor.md from what was measured last
    python tools/doctor_table.py --check       fail when docs/doctor.md is stale
    python tools/doctor_table.py --only NAME   run one case again and keep the other rows
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from visus.doctor import registry  # noqa: E402
from visus.doctor.thresholds import THRESHOLDS  # noqa: E402

PAGE, ROWS = ROOT / "docs" / "doctor.md", ROOT / "docs" / "doctor_zoo.json"
STAGES = {"images": "Images and labels, before there is a model", "before": "A model before training",
          "deep": "Controls that train, on demand", "during": "While it trains", "after": "The curves of a run"}


def measure(only: list[str], known: dict[str, Any]) -> dict[str, Any]:
    """Case -> its row, sick ones first; of `only`, where given, and the others as they are known."""
    import torch

    from tests.doctor.zoo.healthy import HEALTHY
    from tests.doctor.zoo.sick import SICK
    from tests.doctor.zoo.training import outcome

    torch.set_num_threads(1)
    registry.load_all()
    rows = {}
    for kind, zoo in (("sick", SICK), ("healthy", HEALTHY)):
        for name, case in zoo.items():
            if only and name not in only:
                rows[name] = known[name]
                continue
            found = outcome(case)
            rows[name] = {"kind": kind, "expected": list(case.right),
                          "found": [[f.check, f.severity] for f in found.findings],
                          "right": found.named if kind == "sick" else not found.alarms,
                          "seconds": round(found.seconds, 2)}
            print(f"{'ok   ' if rows[name]['right'] else 'WRONG'} {found.seconds:6.2f} s  {name}", flush=True)
    return rows


def page(rows: dict[str, Any]) -> str:
    """docs/doctor.md."""
    return "\n".join([
        "# The doctor's checks, and what they are worth", "",
        "Made by `python tools/doctor_table.py`. A *symptom* says that something is wrong and not what. Ranks go from "
        "1 (names one cause)", "to 9 (has many causes); causes are shown before symptoms, errors before warnings, "
        "notes last.", "", *zoo_part(rows), *checks_part(), *thresholds_part()]) + "\n"


def zoo_part(rows: dict[str, Any]) -> list[str]:
    sick = {name: row for name, row in rows.items() if row["kind"] == "sick"}
    well = {name: row for name, row in rows.items() if row["kind"] == "healthy"}
    right, first = sum(row["right"] for row in sick.values()), sum(ideal(row) for row in sick.values())
    quiet, seconds = sum(row["right"] for row in well.values()), [row["seconds"] for row in rows.values()]
    return [
        "## The zoo", "",
        f"{len(sick)} trainings with one fault each and {len(well)} without, in `tests/doctor/zoo/`: each is examined "
        "before, while and after it trains.", "",
        "| | |", "| --- | --- |",
        f"| sick trainings whose cause is among the first two findings | {right} of {len(sick)} "
        f"({100 * right / len(sick):.1f} %) |",
        f"| sick trainings whose ideal answer comes first | {first} of {len(sick)} |",
        f"| healthy trainings without an error or a warning | {quiet} of {len(well)} |",
        f"| processor time of one case, checks and training together | median {statistics.median(seconds):.1f} s, all "
        f"{sum(seconds):.0f} s |", "",
        "| sick training | expected | found first | found second | right | s |",
        "| --- | --- | --- | --- | --- | --- |",
        *[f"| {words(name)} | {row['expected'][0]}{others(row)} | {told(row, 0)} | {told(row, 1)} | "
          f"{'yes' if row['right'] else '**no**'} | {row['seconds']:.1f} |" for name, row in sick.items()], "",
        "| healthy training | found | quiet | s |", "| --- | --- | --- | --- |",
        *[f"| {words(name)} | {', '.join(f'{check} ({severity})' for check, severity in row['found'])} | "
          f"{'yes' if row['right'] else '**no**'} | {row['seconds']:.1f} |" for name, row in well.items()], ""]


def ideal(row: dict[str, Any]) -> bool:
    return bool(row["found"]) and row["found"][0][0] == row["expected"][0] and row["found"][0][1] != "note"


def words(name: str) -> str:
    return name.replace("_", " ")


def others(row: dict[str, Any]) -> str:
    return f" (or {', '.join(row['expected'][1:])})" if len(row["expected"]) > 1 else ""


def told(row: dict[str, Any], place: int) -> str:
    return "{} ({})".format(*row["found"][place]) if place < len(row["found"]) else ""


def checks_part() -> list[str]:
    lines = ["## The checks", ""]
    entries = registry.entries()
    for stage, title in STAGES.items():
        here = sorted((e for e in entries if e.about["stage"] == stage), key=lambda e: (e.about["rank"], e.name))
        lines += [f"### {title}", "", "| check | rank | rule | cost | course |", "| --- | --- | --- | --- | --- |"]
        lines += [f"| {e.name} | {e.about['rank']}{', symptom' if e.about['symptom'] else ''} | "
                  f"{cell(e.about['rule'])} | {cell(e.about['cost'])} | {e.about['course']} |" for e in here] + [""]
    return lines


def thresholds_part() -> list[str]:
    return ["## The thresholds", "", "`visus/doctor/thresholds.py`; *measured*: on the zoo and on small nets like it.",
            "",
            "| threshold | value | source |", "| --- | --- | --- |",
            *[f"| {name} | {row.value:g} | {cell(row.source)} |" for name, row in THRESHOLDS.items()]]


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--page", action="store_true", help="do not run the zoo")
    parser.add_argument("--check", action="store_true", help="write nothing, fail when the page is stale")
    parser.add_argument("--only", nargs="*", default=[], help="cases to run again")
    wanted = parser.parse_args()
    rows = json.loads(ROWS.read_text()) if ROWS.is_file() else {}
    if not (wanted.page or wanted.check):
        rows = measure(wanted.only, rows)
        ROWS.write_text("{\n" + ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
                        + "\n}\n")
    text = page(rows)
    if wanted.check:
        fresh = PAGE.is_file() and PAGE.read_text() == text and same_cases(rows)
        print("fresh" if fresh else f"{PAGE.relative_to(ROOT)} is stale: python tools/doctor_table.py")
        return 0 if fresh else 1
    PAGE.write_text(text)
    return 0


def same_cases(rows: dict[str, Any]) -> bool:
    """The rows are those of the zoo as it is now."""
    from tests.doctor.zoo.healthy import HEALTHY
    from tests.doctor.zoo.sick import SICK

    return list(rows) == [*SICK, *HEALTHY] and all(rows[n]["expected"] == list(c.right) for n, c in SICK.items())


if __name__ == "__main__":
    sys.exit(main())
