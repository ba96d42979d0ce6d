"""Data sets: look at one, write it in another format, fetch a standard one, make a toy one.

  visus data show photos/                          facts, problems, and a sheet of pictures
  visus data show coco/ --page coco.html           boxes, outlines, keypoints and label maps drawn on their images
  visus data convert voc/ --to yolo --out yolo/    one format as another
  visus data get cifar10                           a standard set
  visus data toy spiral                            points in the plane

`visus data ACTION --help` explains an action."""

from __future__ import annotations

import argparse
import importlib
from types import ModuleType

# Action -> one line of help. Its module, visus.cli.data_ACTION, offers add_arguments(parser) and run(arguments) -> int.
ACTIONS = {
    "show": "facts, problems, and pictures of images and their annotations",
    "convert": "write a data set in another format",
    "get": "fetch a standard data set, its licence and size shown before",
    "toy": "points in the plane, and where a classifier decides",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    for name, summary in ACTIONS.items():
        code = _load(name)
        action = actions.add_parser(name, help=summary, description=code.__doc__,
                                    formatter_class=parser.formatter_class)
        code.add_arguments(action)
        action.add_argument("--debug", action="store_true", default=argparse.SUPPRESS,
                            help="show Python's traceback for an error")


def run(arguments: argparse.Namespace) -> int:
    code: int = _load(arguments.action).run(arguments)
    return code


def _load(action: str) -> ModuleType:
    return importlib.import_module(f"visus.cli.data_{action}")
