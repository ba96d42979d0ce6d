"""visus VERB ...: parse, load that verb's module, run it, turn errors into one message and an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

# verb -> (module, one line of help). A module offers add_arguments(parser) and run(arguments) -> exit code.
VERBS = {
    "train": ("visus.cli.train", "your images -> a trained, evaluated model and one report"),
    "evaluate": ("visus.cli.evaluate", "measure a run's model on its test split or on other images"),
    "predict": ("visus.cli.predict", "classify images, folders, globs or a list on standard input"),
    "explain": ("visus.cli.explain", "what a model looks at: attention maps, rollout, distance, positions"),
    "attack": ("visus.cli.attack", "how many right answers stand when images are changed on purpose"),
    "doctor": ("visus.cli.doctor", "what is wrong with images, a training to be, or a run: evidence and remedy"),
    "check-grad": ("visus.cli.check_grad", "compare a gradient that you wrote with differences"),
    "calibrate": ("visus.cli.calibrate", "correct a run's probabilities; sets with a guarantee; strangers; groups"),
    "probe": ("visus.cli.probe", "what a frozen network knows of your images: linear and nearest-neighbour probes"),
    "regions": ("visus.cli.regions", "proposals, regions or edges of images by methods that learn nothing"),
    "ensemble": ("visus.cli.ensemble", "several trained models as one: averaged answers, or averaged weights"),
    "tune": ("visus.cli.tune", "search the best learning rate, decay, ... by short trainings, then train the best"),
    "export": ("visus.cli.export", "one portable artifact with its preprocessing, proven to compute the same"),
    "optimize": ("visus.cli.optimize", "the fastest way to compute a model on this machine, each checked for equality"),
    "bench": ("visus.cli.bench", "latency, throughput and memory by batch size and threads, beside the machine's peak"),
    "compress": ("visus.cli.compress", "a smaller net: pruning, quantisation-aware, low rank, distillation"),
    "serve": ("visus.cli.serve", "answer over HTTP, with a page to try the model"),
    "monitor": ("visus.cli.monitor", "whether recent images still look like those of the training"),
    "report": ("visus.cli.report", "draw a run's report.html again"),
    "models": ("visus.cli.models", "look around in the registered models, or at one, layer by layer"),
    "data": ("visus.cli.data", "look at a data set: contact sheet, class counts, sizes, problems"),
    "demo": ("visus.cli.demo", "one idea of the course, computed, drawn and judged on one page"),
    "lab": ("visus.cli.lab", "the courses' assignments: write a function, have it checked, see what it does"),
    "optimizers": ("visus.cli.optimizers", "each optimizer in a line; its paths over surfaces; unit tests as colours"),
    "recipes": ("visus.cli.recipes", "the recipes that ship, and every field that a recipe can have"),
}

DESCRIPTION = "Deep learning for computer vision: from a folder of images to a trained, evaluated, deployable model."
EPILOG = """\
examples:
  visus train digits                    the built-in data set: a report in under a minute or two
  visus train photos/                   photos/cat/*.jpg, photos/dog/*.jpg, with or without train/val/test
  visus train labels.csv --epochs 20    a table with a path and a label column
  visus predict runs/photos-1 new/*.jpg
  visus models --search resnet

`visus VERB --help` explains a verb. Exit codes: 0 done, 1 a check that
found something wrong, or a bug of ours, 2 something to put right, 130 interrupted."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=min(110, int(os.environ.get("COLUMNS", 100))))


class Parser(argparse.ArgumentParser):
    """argparse with near misses for verbs and a remedy in every message."""

    def error(self, message: str) -> NoReturn:
        from visus.core.errors import UserError

        raise UserError(message, remedy=f"See: {self.prog} --help")


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser; only the arguments of `verb` are loaded."""
    parser = Parser(prog="visus", description=DESCRIPTION, epilog=EPILOG, formatter_class=HelpFormatter)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", parser_class=Parser)
    for name, (module, summary) in VERBS.items():
        if name == verb:
            code = importlib.import_module(module)
            _fill(verbs.add_parser(name, help=summary, description=code.__doc__, formatter_class=HelpFormatter), code)
        else:
            verbs.add_parser(name, help=summary, add_help=False)
    return parser


def parse(words: list[str], verb: str | None) -> argparse.Namespace:
    """The words as values. What a verb takes may stand on either side of its options."""
    if verb in VERBS and words[0] == verb:
        sub = verb_parser(verb)
        if not any(action.nargs == argparse.PARSER for action in sub._actions):  # verbs of a verb stay in order
            return sub.parse_intermixed_args(words[1:], argparse.Namespace(verb=verb, version=False))
    return build_parser(verb).parse_args(words)


def verb_parser(verb: str) -> Parser:
    """The parser of one verb alone."""
    code = importlib.import_module(VERBS[verb][0])
    return _fill(Parser(prog=f"visus {verb}", description=code.__doc__, formatter_class=HelpFormatter), code)


def _fill(parser: Parser, code: Any) -> Parser:
    code.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show Python's traceback for an error")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    from visus.core.errors import UserError

    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        verb = next((word for word in words if not word.startswith("-")), None)
        if verb is not None and verb not in VERBS and not any(w in ("-h", "--help", "--version") for w in words):
            from visus.core.errors import did_you_mean

            raise UserError(f"there is no verb {verb!r}", remedy=did_you_mean(verb, VERBS))
        parsed = parse(words, verb)
        if parsed.version:
            from visus import __version__

            print(f"visus {__version__}")
            return 0
        if parsed.verb is None:
            build_parser().print_help()
            return 0
        parsed.alone = arguments is None  # the process is this command's, and ends with it
        return importlib.import_module(VERBS[parsed.verb][0]).run(parsed) or 0
    except UserError as error:
        if debug:
            raise
        print_error(error)
        return error.exit_code
    except BrokenPipeError:  # the reader has seen enough: `visus models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        return _report_bug(error)


def print_error(error: Any) -> None:
    """Where, what, what to do: on standard error, without a traceback."""
    lines = ["error: " + (f"{error.where}" if error.where else error.problem)]
    if error.where:
        lines.append("  " + error.problem)
    if error.remedy:
        lines.append("  -> " + error.remedy)
    sys.stdout.flush()
    encoding = sys.stderr.encoding or "utf-8"
    print("\n".join(lines).encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)


def _report_bug(error: Exception) -> int:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="visus-bug-", suffix=".txt", delete=False,
                                     errors="backslashreplace") as file:
        file.write(f"visus {' '.join(sys.argv[1:])}\n\n")
        traceback.print_exception(error, file=file)
    print(f"error: {type(error).__name__}: {error}\n  This is a bug in visus. The traceback is in {file.name}\n"
          "  -> Run the command again with --debug to see it here", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
