"""`autofash spaces`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autofash.cli.options import Json

if TYPE_CHECKING:
    from autofash.space import Param


def spaces(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="Show this space.", show_default=False)
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Validate a space file; every problem is named.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """List the search spaces, show one, or check a file of your own.

    **autofash spaces**

    **autofash spaces cnn**

    **autofash spaces --check my_space.toml**
    """
    from autofash.cli.terminal import brief, config_text, console, print_json, say, shown, table
    from autofash.space import load_space, shipped_spaces

    if check is not None:
        space = load_space(check)
        say(f"{shown(check)}: [green]fine[/], family {space.family}, {len(space.params)} parameters")
        return
    if name is None:
        found = [load_space(shipped) for shipped in shipped_spaces()]
        if json:
            print_json(
                [
                    {"name": space.name, "about": space.about, "fingerprint": space.fingerprint, **space.table()}
                    for space in found
                ]
            )
            return
        made = table("space", "parameters>", "about")
        for space in found:
            made.add_row(space.name, str(len(space.params)), brief(space.about))
        console.print(made)
        return
    space = load_space(name)
    if json:
        print_json({"name": space.name, "about": space.about, "fingerprint": space.fingerprint, **space.table()})
        return
    console.print(f"[bold]{shown(space.name)}[/]  {shown(space.about or space.family)}\n")
    if space.configs:
        made = table("config", "parameters")
        for config in space.configs.values():
            made.add_row(shown(config.name), brief(config_text(config.config)))
    else:
        made = table("parameter", "values", "only when")
        for parameter, param in space.params.items():
            made.add_row(
                parameter,
                _values(param),
                ", ".join(f"{key} is {' or '.join(map(str, values))}" for key, values in param.when.items()),
            )
    console.print(made)


def _values(param: Param) -> str:
    values = getattr(param, "values", None)
    if values is not None:
        return ", ".join(map(str, values))
    if param.type == "bool":
        return "true, false"
    step = getattr(param, "step", None)
    how = ", by logarithm" if getattr(param, "log", False) else f", step {step:g}" if step not in (None, 1) else ""
    return f"{getattr(param, 'low', 0):g} to {getattr(param, 'high', 0):g}{how}"
