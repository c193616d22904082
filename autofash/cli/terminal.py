"""How figures, configs and curves look on a terminal, in every command alike."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from autofash.errors import printable
from autofash.figures import value_text
from autofash.space import RESERVED

console = Console(highlight=False)
BARS = "▁▂▃▄▅▆▇█"
STATE_STYLES = {
    "complete": "green",
    "pruned": "yellow",
    "failed": "red",
    "running": "cyan",
    "paused": "blue",
    "waiting": "dim",
}
# The parameters that tell most about a config come first; the rest follow in the order of the space.
FIRST = (
    "config",
    "family",
    "conv_blocks",
    "stages",
    "depth",
    "width",
    "kernel_size",
    "normalization",
    "activation",
    "optimizer",
    "learning_rate",
)


def say(text: str) -> None:
    """A line with rich's markup, never wrapped: what stands in it may be copied whole."""
    console.print(text, soft_wrap=True)


def sparkline(curve: Sequence[float], width: int = 12) -> str:
    """The last values of a curve as bars, from its lowest to its highest."""
    shown = list(curve)[-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0
    return "".join(BARS[min(7, int(8 * (value - low) / span))] for value in shown)


def config_text(config: Mapping[str, object], most: int | None = None) -> str:
    """A config on one line, the telling parameters first; at most this many."""
    telling = [name for name in config if "hypermodel" not in config or name not in RESERVED]
    order = [name for name in FIRST if name in telling] + [name for name in telling if name not in FIRST]
    parts = [
        value_text(config[name]) if name == "family" else f"{name} {value_text(config[name])}" for name in order[:most]
    ]
    return printable(", ".join(parts))


def ago(moment: datetime) -> str:
    """How long ago, in the largest unit that fits."""
    seconds = max(0.0, (datetime.now().astimezone() - moment).total_seconds())
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table in the house's look; a column whose name ends in > is set flush right.

    Where it is too wide, the last column gives way: figures are never cut. Its cells are made by `brief`.
    """
    made = Table(title=title, box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    made.title_justify, made.title_style = "left", "bold"
    for place, name in enumerate(columns, 1):
        justify: Literal["left", "right"] = "right" if name.endswith(">") else "left"
        made.add_column(name.rstrip(">"), justify=justify, no_wrap=place < len(columns))
    return made


def shown(text: object) -> str:
    """What a user or a library wrote, fit for a line with markup: no tag of it counts, no character of it draws."""
    return escape(printable(str(text)))


def brief(text: str, style: str = "") -> Text:
    """Text on one line, cut short where it does not fit."""
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")


def state_text(state: str) -> Text:
    """A trial's state in its colour."""
    return Text(state, style=STATE_STYLES[state])


def print_json(value: object) -> None:
    """The value as JSON on stdout, dataclasses as objects."""
    sys.stdout.write(json.dumps(plain(value), indent=2) + "\n")


def plain(value: object) -> object:
    """Dataclasses, enums, paths and moments as JSON types."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value
