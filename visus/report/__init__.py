"""The report: a run folder on disk, drawn as one self-contained HTML page. No torch, and nothing is computed anew.

`render(run)` gives the page as text, `write(run)` puts it into the run folder, `visus.report.figures` gives the
charts alone as SVG.
"""

from __future__ import annotations

from visus.report.page import render, write

__all__ = ["render", "write"]
