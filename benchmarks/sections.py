"""Sections of RESULTS.md: each benchmark replaces its own, and leaves the others' alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def write_section(title: str, lines: Sequence[str], page: Path = RESULTS) -> None:
    """Put the lines under this title in the place of those of an earlier run, or at the page's end."""
    name = title.lower()
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    text = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
    head, _, rest = text.partition(begin)
    tail = rest.partition(end)[2]
    section = "\n".join([begin, f"## {title}", "", *lines, end])
    page.write_text(f"{head.rstrip()}\n\n{section}\n{tail.rstrip()}\n".rstrip() + "\n", encoding="utf-8")
