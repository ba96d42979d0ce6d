"""Write a run's model as one artifact that holds its preprocessing, labels, thresholds, calibration and licence.

  visus export runs/photos-1                         a bundle: a folder with all that an answer needs
  visus export runs/photos-1 --to onnx               one self-describing file: uint8 RGB images -> probabilities
  visus export runs/photos-1 --to openvino           or torch-export, or safetensors (the portable model alone)
  visus export runs/photos-1 --int8                  smaller and faster, declined where it costs accuracy
  visus export --check runs/photos-1/export/bundle   every file of a bundle, and its golden batch, once more
  visus predict runs/photos-1/export/bundle new/     answers without torch

Up to 64 real images (of the run's test split) go through the original and through the written files. The largest
difference of a probability and the decisions that changed are printed and written into the artifact; beyond
--tolerance nothing is left behind."""

from __future__ import annotations

import argparse

KINDS = ("bundle", "onnx", "torch-export", "safetensors", "openvino")  # of visus.run.export, which loads torch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder, such as runs/digits-1; with --check a bundle")
    parser.add_argument("--to", choices=KINDS, default="bundle", metavar="KIND", help=f"{', '.join(KINDS)} "
                        "(default: bundle)")
    parser.add_argument("--out", metavar="PATH", help="default: RUN/export/NAME")
    parser.add_argument("--licence", metavar="TEXT", help="of the weights: an SPDX identifier or a sentence")
    parser.add_argument("--images", metavar="PATH", help="images for the comparison, in place of the run's own")
    parser.add_argument("--tolerance", type=float, metavar="P",
                        help="largest difference of a probability that is let through (default: 1e-4; of nets that "
                        "round 0.05)")
    parser.add_argument("--half", action="store_true", help="weights in 16 bits: half the size")
    parser.add_argument("--int8", action="store_true", help="8 bits, calibrated on the run's images")
    parser.add_argument("--accept-loss", action="store_true",
                        help="with --half or --int8: also where accuracy falls by more than 0.5 points")
    parser.add_argument("--thresholds", metavar="VALUE|FILE", help="of a model with several labels: from which "
                        "probability on a label is given; a JSON file has one for each (default: 0.5)")
    parser.add_argument("--fixed-batch", type=int, metavar="N", help="always N images at once (default: any number)")
    parser.add_argument("--dynamic-size", action="store_true", help="any height and width, where the net allows")
    parser.add_argument("--force", action="store_true", help="replace the artifact that is there")
    parser.add_argument("--check", action="store_true", help="look at a bundle and put its golden batch through again")


def run(arguments: argparse.Namespace) -> int:
    from visus.run import export as verb

    if arguments.check:
        print(verb.check(arguments.run, progress=True).sentence)
        return 0
    verb.export(arguments.run, arguments.to, arguments.out, licence=arguments.licence, tolerance=arguments.tolerance,
                images=arguments.images, half=arguments.half, int8=arguments.int8, accept_loss=arguments.accept_loss,
                thresholds=arguments.thresholds, fixed_batch=arguments.fixed_batch, dynamic_size=arguments.dynamic_size,
                force=arguments.force, progress=True)
    return 0
