"""One process that reads mutated files: python -m tests.data.fuzz.child PARSER,PARSER FIRST COUNT FOLDER

Prints one JSON object for each parser, a line each. The parser and the number of the case in hand lie in
FOLDER/progress, for when the process does not end.
"""

from __future__ import annotations

import json
import mmap
import resource
import sys
import time
import traceback
import zlib
from pathlib import Path
from random import Random

from tests.data.fuzz.parsers import PARSERS
from visus.core.errors import UserError

MEMORY_BYTES = 4 << 30  # address space of the child
SLOW_S = 5.0


def run(name: str, first: int, count: int, folder: Path) -> dict[str, object]:
    parser = PARSERS[name]
    path, changed = parser.make(folder / name)
    healthy = changed.read_bytes()
    parser.read(path)
    (folder / "progress").write_bytes(b"%16s" % name.encode() + bytes(8))
    with open(folder / "progress", "r+b") as file:
        mark = mmap.mmap(file.fileno(), 24)
    outcome = {"read": 0, "refused": 0}
    faults: list[tuple[int, str]] = []
    begun = resource.getrusage(resource.RUSAGE_SELF)
    for case in range(first, first + count):
        mark[16:] = case.to_bytes(8, "little")
        changed.write_bytes(parser.mutation(Random(zlib.crc32(b"%s %d" % (name.encode(), case))), healthy))
        start = time.process_time()
        try:
            parser.read(path)
            outcome["read"] += 1
        except UserError as error:
            outcome["refused"] += 1
            if not str(error).strip() or len(str(error)) > 12_100:
                faults.append((case, f"a message of {len(str(error))} characters"))
        except BaseException as error:  # that is what is looked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            faults.append((case, f"{type(error).__name__}: {str(error)[:160]} "
                                 f"({Path(where.filename).name}:{where.lineno})"))
        if time.process_time() - start > SLOW_S:
            faults.append((case, f"took {time.process_time() - start:.1f} s"))
    ended = resource.getrusage(resource.RUSAGE_SELF)
    return {**outcome, "faults": faults, "grown_mb": (ended.ru_maxrss - begun.ru_maxrss) / 1024,
            "cpu_s": round(ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime, 1)}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for each in sys.argv[1].split(","):
        print(json.dumps({each: run(each, int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))}), flush=True)
