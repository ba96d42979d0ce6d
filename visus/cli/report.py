"""Draw report.html of a run again, from what the run folder holds. Nothing is computed anew, but with --budget the
explanations, attacks, calibration and the map of images.

Several runs are put side by side on one page: the settings that differ, metrics, curves and classes, and paired tests
(McNemar, bootstrap, Holm's correction) of whether the differences are chance, where all saw the same test images.

  visus report runs/digits-1
  visus report runs/digits-1 --budget 120    what the report adds to the metrics, made anew in two minutes at most
  visus report runs/digits-1 runs/digits-2 --out compared.html"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, such as runs/digits-1")
    parser.add_argument("--budget", type=float, metavar="S", help="of one run: make explanations, attacks, calibration "
                        "and the map of images anew, within so many seconds")
    parser.add_argument("--device", default="auto", metavar="NAME", help="with --budget: auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--out", metavar="FILE", help="of several runs: the page (default: compared/N.html)")


def run(arguments: argparse.Namespace) -> int:
    import sys

    from visus.core.errors import UserError, printable

    if len(arguments.runs) == 1:
        from visus.core.record import RunFolder
        from visus.run.report import write_report

        if arguments.out:
            raise UserError("is for several runs: a run's own page lies in its folder", where=f"--out {arguments.out}",
                            remedy="Leave it out, or give a second run")
        if arguments.budget is not None:
            from visus.run.trust import renew

            print(renew(arguments.runs[0], arguments.budget, device=arguments.device, progress=True))
        else:
            print(write_report(RunFolder.open(arguments.runs[0])))
        return 0
    if arguments.budget is not None:
        raise UserError("is for one run", where=f"--budget {arguments.budget:g}", remedy="Give the runs one by one")
    from visus.run.compare import compare, free_page

    found = compare(arguments.runs, out=arguments.out or free_page(), command=["visus", *sys.argv[1:]])
    names = [row["name"] for row in found.record["runs"]]
    if found.record["refused"]:
        print(printable(found.record["refused"]))
    for row in found.record["tests"]:
        verdict = "no difference seen" if row["better"] is None else f"{names[row['better']]} is better"
        print(printable(f"{names[row['first']]} -> {names[row['second']]}: {row['metric']} {row['difference']:+.4f} "
                        f"({row['low']:+.4f} to {row['high']:+.4f}), p {row['p']:.4f}, corrected "
                        f"{row['adjusted']:.4f}: {verdict}"))
    print(found.files[0])
    return 0
