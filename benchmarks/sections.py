"""Sections of RESULTS.md: each benchmark replaces its own, and leaves the others' alone."""

from __future__ import annotations

import re
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def put_section(page: Path, name: str, text: str) -> None:
    """Put a text between the page's markers of this name; at its end where there are none yet."""
    begin, end = f"<!-- {name}: written by its program -->", f"<!-- end of {name} -->"
    before = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
    section = f"{begin}\n{text.strip()}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    after = pattern.sub(lambda _: section, before) if pattern.search(before) else f"{before.rstrip()}\n\n{section}\n"
    page.write_text(after, encoding="utf-8")
