"""Points in the plane, and where a linear classifier and a network of two layers decide.

  visus data toy spiral                     trains both in seconds; spiral.png in the current folder
  visus data toy xor --hidden 8 --out xor.png

Sets: spiral, xor, moons, circles, blobs. The spiral is that of CS231n's notes: the linear classifier stays at about
half of the points, the network gets nearly all."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="spiral, xor, moons, circles or blobs")
    parser.add_argument("--hidden", type=int, default=100, metavar="N", help="units of the network (default: 100)")
    parser.add_argument("--steps", type=int, default=500, metavar="N", help="of its training (default: 500)")
    parser.add_argument("--points", type=int, default=100, metavar="N", help="per class (default: 100)")
    parser.add_argument("--noise", type=float, metavar="X", help="of the points (default: the set's own)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--out", metavar="FILE.png", help="the picture (default: NAME.png; - for none)")


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from visus.core.files import write_bytes
    from visus.run.toy import decision_boundary

    found = decision_boundary(arguments.name, arguments.hidden, arguments.steps, arguments.seed,
                              count=arguments.points, noise=arguments.noise)
    print(f"linear    {100 * found.linear:.1f} % of the points")
    print(f"2 layers  {100 * found.network:.1f} %, {arguments.hidden} hidden units, {arguments.steps:,} steps")
    if arguments.out != "-":
        path = Path(arguments.out or f"{arguments.name}.png")
        write_bytes(path, found.png)
        print(f"picture   {path}")
    return 0
