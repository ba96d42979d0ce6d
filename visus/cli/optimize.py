"""The fastest way to compute a model on this machine, each candidate checked for equality with the original.

  visus optimize runs/photos-1               exports a bundle if there is none, and works on that
  visus optimize bundle/ --threads 1         one thread only
  visus optimize bundle/ --batch 8           for eight images at once
  visus optimize bundle/ --half              bfloat16 and float16 too, where the processor computes them
  visus optimize runs/photos-1 --int8        8-bit integers too, judged on test images
  visus optimize bundle/ --compile           torch.compile too (its first call takes 10 to 80 s)

Tried are torch as it is, channels-last, with batch norms folded, and the runtimes that are installed: onnxruntime
(pip install 'visus[export]') and OpenVINO ('visus[openvino]'). What computes something else is refused. Candidates are
timed in turns, the best few longest. The choice lies in the bundle's choices.json, for this machine and this model;
`visus predict BUNDLE` and `visus serve` use it. Run it again after an upgrade, or on another machine."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN|BUNDLE", help="run folder, bundle or .onnx file of ours")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images at once (default: 1)")
    parser.add_argument("--threads", default="auto", metavar="N",
                        help="auto (default): 1, 2, 4, ... and all cores are tried; or one number")
    parser.add_argument("--int8", action="store_true", help="8-bit integers too: other probabilities, the same answers")
    parser.add_argument("--half", action="store_true", help="16-bit floats too: other probabilities, the same answers")
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="of timing, at most (default: 20)")
    parser.add_argument("--json", action="store_true", help="print everything that was measured as JSON")


def run(arguments: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from visus.core.errors import UserError, printable
    from visus.core.files import finite
    from visus.run.optimize import left_out, optimize, optimize_table

    threads: int | str = arguments.threads
    if threads != "auto":
        if not str(threads).isdecimal():
            raise UserError("must be auto or a number", where=f"--threads {threads}")
        threads = int(threads)
    found = optimize(arguments.path, batch=arguments.batch, threads=threads, half=arguments.half,
                     int8=arguments.int8, compiled=arguments.compile, seconds=arguments.seconds,
                     progress=not arguments.json)
    if arguments.json:
        print(json.dumps(finite(found.to_dict()), indent=2))
        return 0
    console, best, tuned = Console(highlight=False), found.choice, found.tuned
    console.width = console.width if console.is_terminal else 110
    console.print(optimize_table(found))
    for line in left_out(found):
        console.print(line, style="dim", markup=False, soft_wrap=True)
    plain = min((row.p50_ms for row in found.table if row.candidate == "torch" and row.p50_ms), default=None)
    times = f", {plain / best.p50_ms:.2f} x as fast as torch at its best" if plain and best.p50_ms else ""
    console.print(f"\nfastest: {best.candidate} on {best.threads} thread{'s' if best.threads > 1 else ''}{times} "
                  f"({tuned.wall_s:.1f} s of tuning)", markup=False, soft_wrap=True)
    free = tuned.without_torch
    if free is not None and free is not best:
        console.print(f"without torch: {free.candidate} on {free.threads}; this is what visus predict uses",
                      markup=False, soft_wrap=True)
    if tuned.busy:
        console.print(f"the machine was busy (load {tuned.load:.1f}): run it again on a quiet one", markup=False,
                      soft_wrap=True)
    console.print(f"remembered in {printable(str(found.bundle))}" if found.remembered else
                  "not remembered: a single .onnx file has no room for it; use the bundle's folder", markup=False,
                  soft_wrap=True)
    return 0
