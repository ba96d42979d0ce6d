"""The templates of a linear classifier, as run/templates.py recorded them, for the page."""

from __future__ import annotations

from typing import Any

from visus.core.record import RunFolder
from visus.report import thumbnails
from visus.report.contents import mapping, rows
from visus.report.formatting import number

FILE = "templates.json"
MAX_TEMPLATES = 20


def view(run: RunFolder) -> dict[str, Any] | None:
    """{"pictures": [{"uri", "label"}], "left": classes that are not drawn}, or None where there are no templates."""
    record = mapping(run.read(FILE))
    found = [(thumbnails.data_uri(run.path, str(row.get("image") or "")), str(row.get("class") or ""))
             for row in rows(record.get("rows"))[:MAX_TEMPLATES]]
    pictures = [{"uri": uri, "label": label} for uri, label in found if uri]
    left = int(number(record.get("classes")) or 0) - len(pictures)
    return {"pictures": pictures, "left": max(0, left)} if pictures else None
