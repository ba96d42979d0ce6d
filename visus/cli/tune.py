"""Search the best values of a recipe's fields by short trainings, then train the best recipe in full.

What is searched: --vary FIELD=RANGE, any field of the recipe (`visus recipes --fields`), or a file of such lines; else
the learning rate, the weight decay and the augmentation. Ranges: log:1e-4..1e-1 (even by the logarithm: rates, decays),
uniform:0..0.5, int:1..8, logint:16..256; choices: sgd,adamw. Every trial is judged on val; test is touched once, by the
full training of the best recipe. With --stages 3 the search goes from coarse to fine. A study that is stopped goes on
when the same command is given again, or with --resume STUDY.

  visus tune digits --minutes 5
  visus tune photos --vary optimizer.lr=log:1e-4..1e-1 --vary optimizer.name=sgd,adamw --trials 30 --workers 4
  visus tune photos --recipe course         the seven steps of the course, from the first loss to the curves"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", metavar="PATH", help="images to learn from, or a built-in name: digits")
    parser.add_argument("--recipe", metavar="NAME|FILE", help="the recipe around which is searched; 'course': seven "
                        "steps (initial loss, a small sample learnt, a rate, a coarse grid, finer, curves, again)")
    parser.add_argument("--model", metavar="NAME", help="a registered model: see `visus models`")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="assignments",
                        help="a field of the recipe that stays the same: --set train.epochs=30")
    parser.add_argument("--vary", action="append", default=[], metavar="FIELD=RANGE",
                        help="a field that is searched: optimizer.lr=log:1e-4..1e-1; optimizer.name=sgd,adamw")
    parser.add_argument("--search", metavar="FILE", help="a YAML file of such fields: one line FIELD: RANGE each")
    parser.add_argument("--method", default="gp", metavar="NAME", help="gp (Bayesian optimisation, the default), "
                        "random, grid, tpe, cmaes, optuna_gp")
    parser.add_argument("--acquisition", default="ei", metavar="NAME", help="gp: ei (expected improvement), pi "
                        "(probability of improvement), ucb (upper confidence bound)")
    parser.add_argument("--points", type=int, default=3, metavar="N", help="grid: values of each range (default 3)")
    parser.add_argument("--trials", type=int, metavar="N", help="in all stages together (default 20, or the grid)")
    parser.add_argument("--minutes", type=float, metavar="M", help="begin no trial after so many minutes")
    parser.add_argument("--epochs", metavar="N[,N...]", help="of the trials of each stage (default: a quarter of a "
                        "full training; with stages 1/2 in the last, half of that before it, ...)")
    parser.add_argument("--pruner", default="halving", metavar="NAME", help="how hopeless trials are ended early: "
                        "halving (successive halving, the default), median, none")
    parser.add_argument("--stages", type=int, default=1, metavar="N", help="coarse to fine: each stage has a third of "
                        "the range around the best so far, or more where that lies at an edge")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that make trials (default 1)")
    parser.add_argument("--storage", metavar="URL", help="sqlite:///FILE or postgresql://USER@HOST/DATABASE, shared by "
                        "workers on many machines (or VISUS_TUNE_STORAGE; default: a file in the study's folder)")
    parser.add_argument("--study", metavar="NAME", help="its name in the storage (default: the folder's); where it was "
                        "begun elsewhere, this process helps")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default 0)")
    parser.add_argument("--no-train-best", action="store_true", help="do not train the best recipe in full")
    parser.add_argument("--out", metavar="STUDY", help="folder to create (default: studies/NAME-N)")
    parser.add_argument("--resume", metavar="STUDY", help="go on with a search; --trials and --minutes may be new")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the result")
    parser.add_argument("--as-worker", metavar="STAGE", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    import sys

    from visus.core.errors import UserError
    from visus.run.recipe import parse_assignments
    from visus.run.tune import resume_study, tune, work_as
    from visus.run.tune_storage import hidden

    command = ["visus", *map(hidden, sys.argv[1:])]
    sys.argv[1:] = command[1:]  # what reports a bug writes them down
    if arguments.resume:
        if arguments.path or arguments.recipe or arguments.out or arguments.vary or arguments.search:
            raise UserError("goes on with the study's own recipe, images and ranges", where="--resume",
                            remedy="Drop the others, or start a new study without --resume")
        if arguments.as_worker:
            work_as(arguments.resume, arguments.as_worker, arguments.minutes)
            return 0
        resume_study(arguments.resume, storage=arguments.storage, trials=arguments.trials, minutes=arguments.minutes,
                     workers=arguments.workers, progress=not arguments.quiet)
        return 0
    if not arguments.path and (not arguments.recipe or arguments.recipe == "course"):
        raise UserError("no images given", where="PATH", remedy="Give a folder, a file, or the built-in set: "
                        "visus tune digits")
    epochs = None
    if arguments.epochs is not None:
        if not all(part.strip().isdecimal() for part in arguments.epochs.split(",")):
            raise UserError("is not a list of whole numbers", where=f"--epochs {arguments.epochs}",
                            remedy="For example: --epochs 1,3,10")
        epochs = [int(part) for part in arguments.epochs.split(",")]
    values = parse_assignments(arguments.assignments) | ({} if arguments.model is None
                                                         else {"model.name": arguments.model})
    tune(arguments.path, recipe=arguments.recipe, values=values, search=arguments.search, vary=arguments.vary,
         method=arguments.method, acquisition=arguments.acquisition, trials=arguments.trials, minutes=arguments.minutes,
         pruner=arguments.pruner, stages=arguments.stages, epochs=epochs, points=arguments.points,
         workers=arguments.workers or 1, seed=arguments.seed, storage=arguments.storage, study=arguments.study,
         train_best=not arguments.no_train_best, out=arguments.out, progress=not arguments.quiet, command=command)
    return 0
