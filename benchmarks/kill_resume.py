"""kill -9 at random moments of training runs, and inside checkpoint writes; resume; compare every bit.

    python benchmarks/kill_resume.py [--kills 50]

With 0 and with 2 loader workers; each resumed run is compared with one that was never stopped: weights, optimizer,
averages, generators, metrics. Exit code 1 when a bit differs. Results: benchmarks/results/kill_resume.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.run.kill_harness import torture  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results = {}
    for workers in (0, 2):
        with tempfile.TemporaryDirectory() as folder:
            outcome = torture(Path(folder), workers=workers, kills=arguments.kills, seed=arguments.seed)
        results[f"{workers} loader workers"] = {
            "kills": outcome.kills, "processes started": outcome.starts, "runs compared": outcome.runs,
            "all bits the same": outcome.same, "seconds": round(outcome.seconds)}
        print(workers, results[f"{workers} loader workers"], flush=True)
    out = ROOT / "benchmarks" / "results" / "kill_resume.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"command": ["python", *sys.argv], "results": results}, indent=2) + "\n")
    return 0 if all(r["all bits the same"] for r in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
