"""The page of the data sets: every card as a table row, and what each says in full.

    python tools/data_cards.py             write docs/data_sets.md
    python tools/data_cards.py --check     fail when it is stale
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from visus.data.sets import DataCard, data_cards  # noqa: E402

PAGE = ROOT / "docs" / "data_sets.md"


def page(cards: list[DataCard]) -> str:
    """docs/data_sets.md."""
    fetched = sum(card.fetchable for card in cards)
    return "\n".join([
        "# Standard data sets", "",
        "Made by `python tools/data_cards.py` from `visus/data/sets/cards.yaml`. `visus data get NAME` shows a card, "
        "fetches the set, checks and unpacks it; `visus data get NAME --check PATH` compares data that you have with "
        "the published counts.", "",
        f"{len(cards)} cards, of which visus fetches {fetched}; the others are given out after a registration, by a "
        "page of links, by an address without TLS, or not at all: their card says how to come by them. *Checked*: the "
        "digest that the file is compared with, as its publisher or a widely used library states it. No download was "
        "made from here: addresses may have moved.", "",
        "| name | set | task | published counts | licence | MB | fetched by | format | checked | row |",
        "| --- | --- | --- | --- | --- | ---: | --- | --- | --- | --- |",
        *[row(card) for card in cards], "", "## Citations, and how to come by them", "",
        *[line for card in cards for line in entry(card)]]) + "\n"


def row(card: DataCard) -> str:
    cells = [f"`{card.name}`", f"[{card.title}]({card.page})" if card.page else card.title, card.task,
             card.counts_sentence(), card.licence, "" if card.megabytes is None else f"{card.megabytes:,.0f}",
             "visus" if card.fetchable else "hand", f"`{card.format}`" if card.format else "none",
             card.verified, ", ".join(card.rows)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def entry(card: DataCard) -> list[str]:
    lines = [f"- `{card.name}`: {card.what}. {card.citation}."]
    if card.how:
        lines.append(f"  {card.how}.")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail when the page is stale")
    wanted = parser.parse_args()
    text = page(list(data_cards().values()))
    if wanted.check:
        fresh = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print("fresh" if fresh else f"{PAGE.relative_to(ROOT)} is stale: python tools/data_cards.py")
        return 0 if fresh else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
