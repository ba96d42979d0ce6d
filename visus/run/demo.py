"""visus demo: one idea of the course, computed, drawn and judged on one page."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visus.core.errors import UserError, did_you_mean
from visus.core.validate import natural

if TYPE_CHECKING:
    from visus.report.demo import Shown

FOLDER = Path(__file__).parent / "demos"
TOPICS = ("convolution", "pooling and upsampling", "gradients", "networks", "training", "classical", "pytorch")
Tell = Callable[[int, int | None], None]  # (so far, of how much)


@dataclass(frozen=True)
class About:
    """A row of the list."""

    name: str
    topic: str
    summary: str
    source: str


@dataclass(frozen=True)
class Demo:
    """What `demo` gives. shown: the drawings and the facts; record: the same in plain values; file: the page."""

    about: About
    seed: int
    shown: Shown
    record: dict[str, Any]
    file: Path | None

    @property
    def holds(self) -> bool:
        """Whether every claim held in this run."""
        return all(fact.holds for fact in self.shown.facts)


def list_demos(topic: str | None = None) -> list[About]:
    """Every demo, or those of a topic, by topic and name. The files are read, not run: torch is not loaded."""
    if topic is not None and topic not in TOPICS:
        raise UserError(f"there is no topic {topic!r} of demos", where="topic", remedy=did_you_mean(topic, TOPICS))
    found = [_about(path) for path in FOLDER.glob("*.py") if not path.name.startswith("_")]
    rank = {name: place for place, name in enumerate(TOPICS)}
    return sorted((one for one in found if topic in (None, one.topic)), key=lambda one: (rank[one.topic], one.name))


def demo(name: str, *, seed: int = 0, out: str | Path | None = None, progress: bool = False, small: bool = False,
         command: Sequence[str] = ()) -> Demo:
    """Compute the demo `name` and draw it. seed: of everything random in it, from 0 on. out: the page to write; None:
    no file. small: with less of everything, where the demo has much. Raises UserError for an unknown name or a seed
    below 0."""
    about = find_demo(name)
    natural(seed=seed)
    from visus.report.demo import demo_record, render_demo
    from visus.run.display import Display

    module = importlib.import_module(f"visus.run.demos.{about.name}")
    with Display(progress).working(about.name) as tell, _own_random_state(seed):
        options = {"small": small} if "small" in inspect.signature(module.make).parameters else {}
        shown = module.make(seed, tell or _silent, **options)
    record = {"name": about.name, "topic": about.topic, "summary": about.summary, "source": about.source,
              "seed": seed, **demo_record(shown)}
    page = None if out is None else Path(out)
    if page is not None:
        from visus.core.files import write_text

        write_text(page, render_demo(shown, name=about.name, topic=about.topic, source=about.source,
                                     code=inspect.getsource(module), command=command))
    return Demo(about, seed, shown, record, page)


def find_demo(name: str) -> About:
    """The demo of this name; hyphens and underscores are the same. UserError names the nearest ones."""
    path = FOLDER / f"{str(name).replace('-', '_')}.py"
    if not path.stem.isidentifier() or path.stem.startswith("_") or not path.is_file():
        raise UserError(f"there is no demo {name!r}", remedy=_nearest(str(name)) + " See: visus demo list")
    return _about(path)


def _nearest(name: str) -> str:
    """A remedy: demos that speak of the word, else those whose names, or words of them, come near."""
    found = list_demos()
    words = {word: one.name for one in found for word in one.name.split("_") if len(word) > 3}
    said = [one.name for one in found if len(name) > 2 and name.lower() in f"{one.name} {one.summary}".lower()]
    close = [words[word] for word in get_close_matches(name, words, n=2, cutoff=0.75)]
    if said or close:
        return "Did you mean " + " or ".join(repr(one) for one in dict.fromkeys([*said[:3], *close])) + "?"
    return did_you_mean(name, (one.name for one in found))


def _about(path: Path) -> About:
    """TOPIC, SUMMARY and SOURCE of a demo's file, read from its text up to its first function."""
    found: dict[str, str] = {}
    for node in ast.parse(path.read_text("utf-8").partition("\ndef ")[0].partition("\n@")[0]).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id in ("TOPIC", "SUMMARY", "SOURCE"):
                found[node.targets[0].id] = str(ast.literal_eval(node.value))
    return About(path.stem, found["TOPIC"], found["SUMMARY"], found["SOURCE"])


def _silent(done: int, of: int | None) -> None:
    pass


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """torch's global generator starts from the seed inside, where a demo has loaded torch, and is as before after."""
    if "torch" not in sys.modules:
        yield
        return
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
