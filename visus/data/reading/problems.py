"""What is wrong with the records of one file: counted by kind, the first of each kind named, refused in one error."""

from __future__ import annotations

from collections.abc import Sequence

from visus.core.errors import DataError, printable

_SHOWN_KINDS, _SHOWN = 5, 10


class Problems:
    """What is wrong with the records of one file, counted by kind, the first of each kind named."""

    def __init__(self, path: str):
        self.path = path
        self._found: dict[str, tuple[int, list[str], str]] = {}

    def add(self, kind: str, records: Sequence[str], remedy: str) -> None:
        """kind: such as "annotations without 'bbox'". records: names of those concerned."""
        if len(records):
            count, shown, _ = self._found.get(kind, (0, [], ""))
            shown = shown + [name for name in records if name][:_SHOWN - len(shown)]
            self._found[kind] = (count + len(records), shown, remedy)

    def refuse(self) -> None:
        """Raises DataError naming all of it, if there is any."""
        if not self._found:
            return
        kinds = [f"{_counted(count, kind)}: {', '.join(shown)}"
                 + (f" and {count - len(shown)} more" if count > len(shown) else "")
                 for kind, (count, shown, _) in list(self._found.items())[:_SHOWN_KINDS]]
        remedies = dict.fromkeys(remedy for _, _, remedy in self._found.values())
        raise DataError("; ".join(kinds), where=self.path, remedy=". ".join(list(remedies)[:2]))


def _counted(count: int, kind: str) -> str:
    plural, _, rest = kind.partition(" ")
    one = plural[:-3] + "y" if plural.endswith("ies") else plural.removesuffix("s")
    return f"{count:,} {plural if count != 1 else one} {rest}"


def record_name(section: str, at: int, record: object) -> str:
    """'annotations[12] (id 77)'."""
    number = record.get("id") if isinstance(record, dict) else None
    return f"{section}[{at}]" + ("" if number is None else f" (id {printable(str(number))[:40]})")
