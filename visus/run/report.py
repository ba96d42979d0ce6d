"""From a run to its page: hands the record to the report room, which draws it."""

from __future__ import annotations

from html import escape
from pathlib import Path

from visus.core.errors import RunError
from visus.core.record import RunFolder


def write_report(folder: RunFolder) -> Path:
    """Draw report.html of the run anew from what is recorded."""
    from visus.report import write

    return write(folder)


def run_summary_html(folder: RunFolder) -> str:
    """Headline numbers and learning curves for a notebook."""
    from visus.report.figures import learning_curves_svg

    recorded = folder.read("metrics.json") or {}
    measured = recorded.get("splits", {}).get(recorded.get("headline", {}).get("split", "test"))
    rows = "" if measured is None else "".join(
        f"<tr><td>{escape(name)}</td><td>{metric['value']:.4f}</td></tr>"
        for name, metric in measured["metrics"].items() if metric["value"] is not None)
    about = folder.about
    try:
        curves = learning_curves_svg(folder)
    except RunError:  # no epoch has ended yet
        curves = ""
    return (f"<b>{escape(str(folder.path))}</b> {escape(str(about.get('model', '')))} "
            f"{escape(str(about.get('status', '')))}{curves}<table>{rows}</table>")
