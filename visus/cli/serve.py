"""Answer over HTTP: pictures in, classes with their probabilities out, and a page to try the model.

  visus serve runs/photos-1                           http://127.0.0.1:8000, for this machine only
  curl -F file=@cat.jpg http://127.0.0.1:8000/predict
  visus serve bundle/ --host 0.0.0.0 --keys-file keys.txt --workers 2

A run is exported to RUN/export/bundle first. The answers are those of `visus predict BUNDLE`, to the last bit. There is
also the Open Inference Protocol (/v2), /metrics for Prometheus and /openapi.json. What is too large, too slow or too
much is refused before it costs anything; the first SIGTERM or Ctrl-C finishes what is under way, the second ends at
once; SIGHUP, or --watch, takes a new bundle without losing a request. Images are never kept."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN|BUNDLE", help="a run folder, a bundle, or an .onnx file of ours")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1); beyond this "
                        "machine only with --keys-file or --insecure")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default: 8000; 0: a free one")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes, each with its own model; one "
                        "that dies is started again (default: 1)")
    parser.add_argument("--streams", type=int, default=0, metavar="N", help="images that a worker computes at a time "
                        "(default: one for each core)")
    parser.add_argument("--queue", type=int, default=64, metavar="N", help="requests that may wait; more get 429 "
                        "(default: 64)")
    parser.add_argument("--backend", metavar="NAME", help="runtime (default: what `visus optimize` found fastest)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images computed together at most; 0: "
                        "measured at the start (default: 1, which is best on processors)")
    parser.add_argument("--keys-file", metavar="FILE", help="API keys that may ask, one a line, or sha256:HEX")
    parser.add_argument("--insecure", action="store_true", help="listen beyond this machine without keys")
    parser.add_argument("--watch", action="store_true", help="take a new bundle as soon as it is there")
    parser.add_argument("--statistics", default="", metavar="FILE", help="keep statistics of the images, for `visus "
                        "monitor` (histograms, never images)")
    parser.add_argument("--access-log", default="-", metavar="FILE", help="a JSON line a request; - standard error "
                        "(the default), '' none")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="assignments",
                        help="any other limit: max_body_bytes, max_pixels, max_images, max_connections, "
                        "header_seconds, body_seconds, answer_seconds, keep_alive_seconds, drain_seconds, hosts, ...")


def run(arguments: argparse.Namespace) -> int:
    from visus.run.serve import serve

    given = {name: getattr(arguments, name) for name in ("host", "port", "workers", "streams", "queue", "batch",
                                                         "insecure", "watch", "statistics", "access_log")}
    clean = serve(arguments.path, keys_file=arguments.keys_file, backend=arguments.backend, on_listening=_announce,
                  **given | _assigned(arguments.assignments))
    return 0 if clean else 1


def _assigned(assignments: list[str]) -> dict[str, object]:
    """NAME=VALUE: a number, true or false, or for `hosts` names with commas between them."""
    from visus.core.errors import UserError

    found: dict[str, object] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UserError("is not NAME=VALUE", where=f"--set {assignment}")
        if name == "hosts":
            found[name] = tuple(filter(None, text.split(",")))
            continue
        try:
            found[name] = int(text)
        except ValueError:
            try:
                found[name] = float(text)
            except ValueError:
                found[name] = {"true": True, "false": False}.get(text.lower(), text)
    return found


def _announce(address: str, limits: str) -> None:
    # in one piece: a line of the log that goes to the same place would else begin within it
    print(f"Listening at {address} (the page; POST {address}/predict; {address}/openapi.json)\n"
          f"{limits} Stop with Ctrl-C.\n", end="", flush=True)
