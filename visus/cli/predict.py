"""Classify images with a run's model: files, folders, globs, or '-' for a list of paths on standard input.

  visus predict runs/photos-1 new/*.jpg
  visus predict runs/photos-1/export/bundle new/    what visus export wrote answers without torch

The network sees exactly the pixels that validation saw: orientation, colour and size are handled by the same code."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from visus.run.predict import Prediction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder, such as runs/digits-1, or a bundle or .onnx file "
                        "that visus export wrote")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="images, folders, globs, or - for standard input")
    parser.add_argument("--output", choices=("table", "jsonl", "csv"), default="table", help="default: table")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes per image (default: 5)")
    parser.add_argument("--annotate", metavar="DIR", help="also write each image with its answer drawn on it")
    parser.add_argument("--on-bad-image", choices=("stop", "skip"), default="skip",
                        help="unreadable files: name them and go on (skip, exit code 2 at the end) or stop")
    parser.add_argument("--calibrated", action="store_true", help="probabilities corrected as `visus calibrate` found")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps")


def run(arguments: argparse.Namespace) -> int:
    import sys
    from pathlib import Path

    from visus.core.errors import UserError
    from visus.run import predict as verb
    from visus.run.predict import is_bundle

    if arguments.top < 1:
        raise UserError("must be at least 1", where=f"--top {arguments.top}")
    if arguments.calibrated and is_bundle(arguments.run):
        print("note: what was exported corrects its probabilities by itself; --calibrated changes nothing",
              file=sys.stderr)
    if arguments.alone:
        verb.reserve_memory(arguments.run)
    paths = (path for given in arguments.paths for path in (verb.stdin_paths() if given == "-" else [given]))
    answers = verb.iter_predictions(arguments.run, paths, top=arguments.top, device=arguments.device,
                                    on_bad_image=arguments.on_bad_image, keep_pixels=bool(arguments.annotate),
                                    calibrated=arguments.calibrated)
    write = _writer(arguments.output, arguments.top)
    bad = 0
    for number, answer in enumerate(answers):
        if answer.error is not None:
            bad += 1
            print(f"error: {answer.source}\n  {answer.error}", file=sys.stderr)
        if arguments.output != "table" or answer.error is None:
            write(answer)
        if arguments.annotate and answer.error is None:
            verb.annotate(answer, Path(arguments.annotate), number)
    return 2 if bad else 0


def _writer(output: str, top: int) -> Callable[[Prediction], object]:
    import sys

    from visus.run import predict as verb

    if output == "jsonl":
        return lambda answer: print(verb.as_json_line(answer))
    if output == "csv":
        return verb.csv_writer(sys.stdout, top)

    def row(answer: Prediction) -> None:
        from visus.core.errors import printable

        others = "  ".join(f"{printable(label)} {prob:.1%}" for label, prob
                           in list(zip(answer.labels, answer.probs, strict=True))[:top])
        notes = f"  ({'; '.join(answer.notes)})" if answer.notes else ""
        print(f"{answer.source}: {others}{notes}")

    return row
