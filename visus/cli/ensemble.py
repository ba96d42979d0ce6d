"""Several trained models as one: the mean of their answers is right more often than any of them, and surer of itself.

  visus ensemble runs/photos-1 runs/photos-2 runs/photos-3     the mean of their probabilities
  visus ensemble runs/* --top 3                                the best three on the validation split
  visus ensemble runs/photos-1 --snapshots                     of one run with --set train.snapshots=5
  visus ensemble runs/photos-1 --checkpoints                   of the weights that one run still holds
  visus ensemble runs/a runs/b runs/c --soup greedy            one model: the mean of weights (fine-tuned alike)
  visus predict runs/ensemble-1 new/*.jpg                      and evaluate, explain, attack, calibrate, report

Members should be good and should differ: other seeds (--seed 1, --seed 2), other models, other settings. They must have
been trained on the same images with the same split, and see images of the same size; their means and standard
deviations may differ. The result is a run folder of its own that holds copies of their weights. An ensemble takes the
time of all its members; a soup takes that of one, but works only for weights that began alike. Who is chosen is decided
on the validation split; the gain is measured on the test split, with intervals and paired tests."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, such as runs/digits-1 runs/digits-2")
    parser.add_argument("--top", type=int, metavar="K", help="only the best K of them on the validation split")
    parser.add_argument("--snapshots", action="store_true", help="of one run: what train.snapshots kept")
    parser.add_argument("--checkpoints", action="store_true", help="of one run: its best and its resumable weights")
    parser.add_argument("--soup", metavar="KIND", help="average the weights: uniform, or greedy (each that is no loss "
                        "on the validation split)")
    parser.add_argument("--of", default="probs", metavar="WHAT", help="what is averaged: probs (default), logits or "
                        "votes")
    parser.add_argument("--out", metavar="DIR", help="run folder to create (default: runs/ensemble-N)")
    parser.add_argument("--report-budget", type=float, metavar="S", help="seconds for explanations, attacks and the "
                        "rest of the report (default: as the first run; 0: metrics only)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def run(arguments: argparse.Namespace) -> int:
    import sys

    from visus.run.ensemble import ensemble

    ensemble(arguments.runs, top=arguments.top, snapshots=arguments.snapshots, checkpoints=arguments.checkpoints,
             soup=arguments.soup, of=arguments.of, out=arguments.out, report_budget_s=arguments.report_budget,
             device=arguments.device, progress=not arguments.quiet, command=["visus", *sys.argv[1:]])
    return 0
