"""What is wrong, with evidence and remedy: of images, of a training that is to begin, of a run.

  visus doctor photos/                what `visus train photos/` would begin with: images, model, loss, batches
  visus doctor my-recipe.yaml         the same for a recipe, or for the name of a shipped one
  visus doctor runs/photos-1          its curves, its answers, what was seen while it trained; its page is drawn again
  visus doctor data photos/           the images and labels alone, with a page that shows them
  visus doctor photos/ --deep         also the controls that train, minutes: shuffled labels, blank images, more data
  visus doctor digits --depth         activations and gradients of every layer at its first weights, by each init rule
  visus doctor --list                 every check: its rule, its cost, the lesson that it comes from

`visus train` does the same before its first step and while it trains (doctor.before, doctor.watch). Nothing that you
give is changed. Exit code 1 when an error was found, 0 else. From Python, on any model and loader of yours:
visus.diagnose(model, loader, loss), visus.Watcher(model, optimizer)."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", nargs="*", metavar="RUN|RECIPE|PATH", help="what to look at; `data PATH` for images "
                        "alone")
    parser.add_argument("--deep", action="store_true", help="also the controls that train for minutes")
    parser.add_argument("--recipe", metavar="NAME|FILE", help="with a PATH: how it would be trained")
    parser.add_argument("--set", action="append", default=[], metavar="A=B", dest="assignments",
                        help="a field of the recipe, as for visus train: --set optimizer.lr=0.01")
    parser.add_argument("--model", metavar="NAME", help="the same as --set model.name=NAME")
    parser.add_argument("--budget", type=float, default=20.0, metavar="SECONDS", help="no check begins later "
                        "(default: 20)")
    parser.add_argument("--skip", action="append", default=[], metavar="CHECK", help="leave a check out")
    parser.add_argument("--no-images", action="store_true", help="leave the images alone, look at the training only")
    parser.add_argument("--format", default="auto", metavar="NAME", help="data PATH: its format (default: recognised)")
    parser.add_argument("--out", metavar="FILE", help="data PATH: the page to write (default: doctor.html); --depth: "
                        "the drawing (default: depth.svg)")
    parser.add_argument("--depth", action="store_true", help="mean, spread, zeros, saturation and gradient by depth "
                        "before the first step, as a table and in --out (default: depth.svg)")
    parser.add_argument("--inits", metavar="A,B", help="--depth: values of model.init to compare")
    parser.add_argument("--quiet", action="store_true", help="the findings alone")
    parser.add_argument("--list", action="store_true", help="every check: rule, cost, lesson")


def run(arguments: argparse.Namespace) -> int:
    from visus.core.errors import UserError

    if arguments.list:
        print(_listed())
        return 0
    words = arguments.subject
    if not words or len(words) > (2 if words[0] == "data" else 1):
        raise UserError("give one run, recipe or path, or `data PATH`", where=" ".join(words),
                        remedy="See: visus doctor --help")
    if arguments.depth:
        return _depth(arguments)
    if words[0] == "data" and len(words) == 2:
        from visus.run.display import Display
        from visus.run.doctor_data import doctor_data

        page = arguments.out or "doctor.html"
        with Display().reading() as reading:
            found = doctor_data(words[1], format=arguments.format, out=page, budget_s=arguments.budget,
                                skip=arguments.skip, reading=reading)
        print(found)
        print(f"page     {page}")
    else:
        from visus.run.doctor import doctor
        from visus.run.recipe import parse_assignments

        values = parse_assignments(arguments.assignments)
        if arguments.model:
            values["model.name"] = arguments.model
        found = doctor(words[0], recipe=arguments.recipe, values=values, deep=arguments.deep,
                       budget_s=arguments.budget, skip=arguments.skip, images=not arguments.no_images,
                       progress=not arguments.quiet)
        print(found)
    return 1 if any(finding.severity == "error" for finding in found.findings) else 0


def _depth(arguments: argparse.Namespace) -> int:
    from visus.run.depth import COMPARED, depth
    from visus.run.recipe import parse_assignments

    values = parse_assignments(arguments.assignments)
    if arguments.model:
        values["model.name"] = arguments.model
    inits = COMPARED if arguments.inits is None else tuple(arguments.inits.split(","))
    out = arguments.out or "depth.svg"
    print(depth(arguments.subject[0], recipe=arguments.recipe, values=values, inits=inits, out=out,
                progress=not arguments.quiet))
    print(f"drawing  {out}")
    return 0


def _listed() -> str:
    from visus.run.doctor import listed_checks

    return listed_checks()
