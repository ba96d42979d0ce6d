"""Is a gradient that you wrote the derivative of its function? Compares it with differences, as the courses teach.

  visus check-grad my_layers.py:Swish --input 4x6
  visus check-grad torch.nn:Linear --set in_features=6 --set out_features=4 --input 3x6
  visus check-grad torch.nn:CrossEntropyLoss --input 4x10 --input int10:4
  visus check-grad visus.foundations.layers:affine --input 4x6 --input 6x3 --input 3

NAME is an nn.Module, a torch.autograd.Function, a function of tensors, or, in NumPy, a layer that is written as
NAME_forward and NAME_backward, or a loss that gives (loss, gradient). A FILE.py that you name is run.

In double precision, at several points (some after a few steps of descent), at a few entries of every parameter and
input; entries at a kink are drawn again; dropout is off. The table says where the two disagree, and by how much:
right up to 1e-6, doubtful up to 1e-4, wrong above. Exit code 1 where a gradient is wrong."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="MODULE:NAME", help="FILE.py:NAME or package.module:NAME")
    parser.add_argument("--input", action="append", default=[], metavar="SHAPE", help="one for each argument: 2x3x8x8, "
                        "uniform:4x5 (in [0, 1)), positive:4x5, int10:4 (classes below 10), - for one number")
    parser.add_argument("--set", action="append", default=[], metavar="A=B", dest="assignments",
                        help="an argument to build or call it with: --set in_features=6")
    parser.add_argument("--entries", type=int, default=10, metavar="N", help="compared of each tensor (default: 10)")
    parser.add_argument("--points", type=int, default=3, metavar="N", help="places to compare at (default: 3)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of inputs and entries (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    from visus.run.check_grad import check_grad
    from visus.run.recipe import parse_assignments

    report = check_grad(arguments.name, arguments.input, parse_assignments(arguments.assignments), seed=arguments.seed,
                        entries=arguments.entries, points=arguments.points)
    print(report)
    wrong = sum(row.verdict == "wrong" for row in report.rows)
    print(f"{wrong} of {len(report.rows)} gradients are wrong" if wrong else
          "every gradient agrees" if report.right else "no gradient is wrong; look at the doubtful ones")
    return 1 if wrong else 0
