"""Attack a run's model: how many of its right answers stand when images are changed a little, on purpose.

  visus attack runs/photos-1                                 PGD within 8/255, on the run's own test split
  visus attack runs/photos-1 --method fgsm --eps 2/255
  visus attack runs/photos-1 new/ --curve                    robust accuracy by distance, on labelled images
  visus attack runs/photos-1 --method deepfool               the smallest change; --norm linf
  visus attack runs/photos-1 --method pgd --norm l2 --eps 0.5 --set restarts=5 --set steps=40
  visus attack runs/photos-1 --method carlini_wagner --target cat --limit 100
  visus attack runs/photos-1 --transfer runs/photos-2        does what fools one model fool the other
  visus attack runs/photos-1 --corruptions                   accuracy under 15 corruptions, severities 1 to 5
  visus attack runs/photos-1 --masking                       can the gradients, and so the attacks, be trusted

Images are changed in [0, 1], before the model's normalisation; the model is never altered. A robust accuracy is an
upper bound: a stronger attack (more steps, restarts, another method) can only lower it. `--method list` names all
attacks."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder, such as runs/digits-1")
    parser.add_argument("path", nargs="?", metavar="PATH", help="labelled images; default: the run's own split")
    parser.add_argument("--method", default="pgd", metavar="NAME", help="default: pgd; list: all of them")
    parser.add_argument("--eps", metavar="E", help="largest distance, a number or a fraction such as 8/255")
    parser.add_argument("--norm", metavar="NORM", help="linf, l2, l1 or l0; default: the attack's own")
    parser.add_argument("--target", metavar="CLASS", help="the class that the model is to answer; default: any other")
    parser.add_argument("--curve", nargs="?", const="", metavar="E,E,...", help="robust accuracy at several distances")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--transfer", nargs="+", metavar="RUN", help="attack each of these runs too, and show every "
                         "model what fools another")
    instead.add_argument("--corruptions", nargs="?", const="", metavar="KIND,...", help="in place of an attack: noise, "
                         "blur, weather, compression (default: all 15)")
    instead.add_argument("--masking", action="store_true", help="in place of an attack: signs of a hidden gradient")
    parser.add_argument("--reference", metavar="RUN", help="--corruptions: the run that the mCE is measured by")
    parser.add_argument("--set", action="append", default=[], metavar="A=B", dest="assignments",
                        help="any option of the attack: --set steps=40")
    parser.add_argument("--split", default="test", metavar="NAME", help="without PATH: train, val or test (default)")
    parser.add_argument("--limit", type=int, default=None, metavar="N", help="images, drawn with the seed; 0 is all "
                        "(default: 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the images and of the attack's own draws")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="images attacked at once")
    parser.add_argument("--format", default="auto", metavar="NAME", help="of PATH, such as folder, table, voc;"
                        " default: recognised")
    parser.add_argument("--out", metavar="DIR", help="folder to write (default: attacked/RUN-METHOD-N)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--json", action="store_true", help="print what was measured as JSON")


def run(arguments: argparse.Namespace) -> int:
    import json
    import sys

    from rich.console import Console

    from visus.core.errors import UserError
    from visus.core.validate import positive
    from visus.run.attack import LIMIT, attack, free_folder, number_rows, registry, sentence
    from visus.run.display import metrics_table
    from visus.run.recipe import parse_assignments

    if arguments.method == "list":
        for entry in sorted(registry.entries(), key=lambda entry: entry.name):
            print(f"{entry.name:<18} {entry.about['summary']}")
        return 0
    positive(batch_size=arguments.batch_size)
    if arguments.reference is not None and arguments.corruptions is None:
        raise UserError("is for --corruptions", where=f"--reference={arguments.reference}", remedy="Leave it out")
    if arguments.transfer or arguments.masking or arguments.corruptions is not None:
        return _measure(arguments)
    curve: bool | list[str] = arguments.curve is not None
    if arguments.curve:
        curve = arguments.curve.split(",")
    made = attack(
        arguments.run, arguments.path, arguments.method, eps=arguments.eps, norm=arguments.norm,
        target=arguments.target, curve=curve, split=arguments.split,
        limit=LIMIT if arguments.limit is None else arguments.limit, seed=arguments.seed, format=arguments.format,
        device=arguments.device, batch_size=arguments.batch_size, progress=not arguments.json,
        out=arguments.out or free_folder(arguments.run, arguments.method), command=["visus", *sys.argv[1:]],
        **parse_assignments(arguments.assignments))
    if arguments.json:
        print(json.dumps(made.to_dict(), indent=2))
        return 0
    for note in made.notes:
        print(f"note: {note}")
    print(sentence(made))
    Console(highlight=False).print(metrics_table(f"{made.clean.count:,} images ({made.split})", number_rows(made)))
    page, *others = made.files
    print(f"{page} and {len(others)} file{'s' if len(others) != 1 else ''} beside it")
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    import json

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from visus.core.errors import UserError
    from visus.run.attack import free_folder
    from visus.run.recipe import parse_assignments
    from visus.run.robustness import corruptions, masking, transfer

    if arguments.target is not None or arguments.curve is not None:
        raise UserError("goes with an attack alone", where="--target" if arguments.target is not None else "--curve",
                        remedy="Leave it out")
    what = "transfer" if arguments.transfer else "masking" if arguments.masking else "corruptions"
    if what != "transfer" and (arguments.assignments or arguments.norm or arguments.method != "pgd"):
        raise UserError("takes no attack and no options of one", where=f"--{what}",
                        remedy="Leave --method, --norm and --set out")
    common = {"split": arguments.split, "seed": arguments.seed, "format": arguments.format,
              "device": arguments.device, "out": arguments.out or free_folder(arguments.run, what)}
    if arguments.limit is not None:
        common["limit"] = arguments.limit
    if what == "transfer":
        made = transfer(arguments.run, arguments.transfer, arguments.path, arguments.method, eps=arguments.eps,
                        norm=arguments.norm, batch_size=arguments.batch_size, **common,
                        **parse_assignments(arguments.assignments))
    elif what == "masking":
        made = masking(arguments.run, arguments.path, **common,
                       **({} if arguments.eps is None else {"eps": arguments.eps}))
    else:
        kinds = [kind for kind in arguments.corruptions.split(",") if kind]
        made = corruptions(arguments.run, arguments.path, kinds, reference=arguments.reference,
                           batch_size=arguments.batch_size, **common)
    if arguments.json:
        print(json.dumps(made.record, indent=2))
        return 0
    for note in made.notes:
        print(f"note: {note}")
    print(made.sentence)
    table = Table(*(escape(column) for column in made.columns), box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in made.rows:
        table.add_row(*(escape(cell) for cell in row))
    Console(highlight=False).print(table)
    print(", ".join(str(file) for file in made.files))
    return 0
