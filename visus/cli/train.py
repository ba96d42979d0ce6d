"""Train a classifier on your images, and leave a run folder with the model, the evidence and one report.

PATH is a folder of class folders (with or without train/val/test), an .npz with images and labels, a CSV of paths and
labels, IDX files, or a built-in data set: digits. The kind is recognised and said aloud, and so is every choice that is
made for you; any of them is changed with a flag or with --set. The test split is touched once, at the end."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", metavar="PATH", help="images to learn from, or a built-in name: digits")
    parser.add_argument("--recipe", metavar="NAME|FILE", help="start from a recipe: see `visus recipes`")
    parser.add_argument("--model", metavar="NAME", help="a registered model: see `visus models`")
    parser.add_argument("--weights", metavar="FILE|ORIGIN", help="start from weights: a file, or the public ones of "
                        "torchvision, timm, ... (fetched once; with a file, --set model.origin=timm)")
    parser.add_argument("--epochs", type=int, metavar="N", help="passes over the training images")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per step")
    parser.add_argument("--lr", type=float, metavar="RATE", help="peak learning rate")
    parser.add_argument("--image-size", type=int, metavar="PX", help="side of the images that the model sees")
    parser.add_argument("--seed", type=int, metavar="N", help="same seed, same machine, same recipe: the same bits")
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that load images (0: none)")
    parser.add_argument("--defend", choices=("none", "fgsm", "pgd", "free", "trades", "double_backprop"),
                        help="train against attacks, with --set defend.eps=0.03 and the like")
    parser.add_argument("--distill", metavar="RUN", help="learn from this run's model too, with --set "
                        "distill.method=hints and the like")
    parser.add_argument("--format", metavar="NAME", help="such as folder, table, coco, voc, yolo; default: recognised")
    parser.add_argument("--on-bad-image", choices=("stop", "skip"), help="unreadable images: list all, stop or skip")
    parser.add_argument("--folds", metavar="K", help="cross-validation: K trainings that each hold another part of the "
                        "images out, and one joined report; 'groups': leave one group out")
    parser.add_argument("--split", metavar="FILE", help="a split to use: a CSV of path,split, or a run folder")
    parser.add_argument("--report-budget", type=float, metavar="S", help="seconds for explanations, attacks and the "
                        "rest of the report (default 30; 0: metrics only)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="assignments",
                        help="any field of the recipe: --set optimizer.name=adamw; fields: visus recipes --fields")
    parser.add_argument("--out", metavar="DIR", help="run folder to create (default: runs/NAME-N)")
    parser.add_argument("--resume", metavar="RUN", help="go on with an interrupted run, to the very same bits")
    parser.add_argument("--resume-anyway", action="store_true", help="resume though the images have changed since")
    parser.add_argument("--profile", action="store_true", default=None, help="measure where the time of a step goes, "
                        "and what to change: a table here, a picture in the report")
    parser.add_argument("--tensorboard", action="store_true", help="also write TensorBoard events (extra: tensorboard)")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the result")


FLAGS = {"model": "model.name", "weights": "model.weights", "epochs": "train.epochs",
         "batch_size": "train.batch_size", "lr": "optimizer.lr",
         "image_size": "data.image_size", "seed": "train.seed", "device": "device", "workers": "data.workers",
         "format": "data.format", "defend": "defend.method", "distill": "distill.teacher",
         "on_bad_image": "data.on_bad_image", "report_budget": "report.budget_s", "split": "data.split",
         "folds": "data.folds", "profile": "train.profile"}


def run(arguments: argparse.Namespace) -> int:
    import sys

    from visus.core.errors import UserError
    from visus.run.recipe import parse_assignments

    flags = {field: value for flag, field in FLAGS.items() if (value := getattr(arguments, flag)) is not None}
    if arguments.folds is not None and arguments.folds.isdecimal():
        flags["data.folds"] = int(arguments.folds)
    assignments = parse_assignments(arguments.assignments)
    if arguments.resume:
        if arguments.path or arguments.recipe or arguments.out:
            raise UserError("goes on with the run's own recipe and images, and takes no path, recipe or --out",
                            where="--resume", remedy="Drop them, or start a new run without --resume")
        from visus.run.train import resume

        resume(arguments.resume, values=flags | assignments, progress=not arguments.quiet,
               changed_data_is_fine=arguments.resume_anyway, tensorboard=arguments.tensorboard)
        return 0
    if not arguments.path and not arguments.recipe:
        raise UserError("no images given", where="PATH", remedy="Give a folder, a file, or the built-in set: "
                        "visus train digits")
    from visus.run.train import train

    train(arguments.path, recipe=arguments.recipe, values=flags | assignments, out=arguments.out,
          progress=not arguments.quiet, tensorboard=arguments.tensorboard, command=["visus", *sys.argv[1:]])
    return 0
