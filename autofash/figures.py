"""How figures are written, on the page and on the terminal alike."""

from __future__ import annotations


def percent(fraction: float | None) -> str:
    """A fraction as 92.41 %, or a dash."""
    return "–" if fraction is None else f"{100 * fraction:.2f} %"


def duration(seconds: float | None) -> str:
    """Seconds as 42 s, 3:07 min or 1:02 h, or a dash."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02} min" if whole < 6000 else f"{whole // 3600}:{whole % 3600 // 60:02} h"


def value_text(value: object) -> str:
    """A parameter's value, numbers to three digits; a dash where a config has none."""
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
