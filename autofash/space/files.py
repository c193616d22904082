"""Space files: found by name or path, validated whole, every problem with its file, key and fix."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autofash.errors import Problem, SpaceError, unknown
from autofash.records import Value
from autofash.space.params import ChoiceParam, Param
from autofash.space.space import NamedConfig, Space

LARGEST_FILE = 2**20  # bytes; a space of a thousand parameters is a tenth of it
PARAM_KEYS = ("type", "low", "high", "step", "log", "values", "when")
NOT_SEARCHED = ("starters", "baselines")  # fixed configs that lie beside the spaces


class _SpaceFile(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal[1]
    family: str
    about: str = ""
    params: dict[str, Param] = Field(default_factory=dict)
    configs: dict[str, dict[str, Value]] = Field(default_factory=dict)


def shipped_folder() -> Path:
    """The folder of the spaces that come with autofash: beside the checkout's package, or inside the wheel."""
    inside = Path(str(files("autofash") / "search_spaces"))
    return inside if inside.is_dir() else Path(str(files("autofash"))).parent / "search_spaces"


def shipped_spaces() -> list[str]:
    """Names of the spaces that come with autofash."""
    return sorted(path.stem for path in shipped_folder().glob("*.toml") if path.stem not in NOT_SEARCHED)


def load_space(name: str | Path) -> Space:
    """The space of this name (`cnn`) or file (`my/space.toml`).

    Raises SpaceError: an unknown name, with the nearest one; or every problem of the file.
    """
    if isinstance(name, str) and not name.endswith(".toml"):
        if name not in (*shipped_spaces(), *NOT_SEARCHED):
            fact, fix = unknown("space", name, shipped_spaces())
            raise SpaceError(fact, fix)
        return space_from_table(read_toml(shipped_folder() / f"{name}.toml"), name=name, where=f"{name}.toml")
    path = Path(name)
    return space_from_table(read_toml(path), name=path.stem, where=str(path))


def space_from_table(table: Mapping[str, Any], *, name: str, where: str) -> Space:
    """The space that a parsed TOML file holds. Raises SpaceError with every problem."""
    try:
        parsed = _SpaceFile.model_validate(table)
    except ValidationError as error:
        raise SpaceError(problems_of(error, where, list(_SpaceFile.model_fields))) from None
    configs = {key: _named(key, entry) for key, entry in parsed.configs.items()}
    params = {"config": ChoiceParam(values=list(configs))} if parsed.family == "fixed" else parsed.params
    problems = []
    if configs and parsed.family != "fixed":
        problems.append(Problem('configs go with family = "fixed"', "leave [configs] out", where))
    if parsed.params and parsed.family == "fixed":
        problems.append(Problem("a fixed space has configs, no params", "leave [params] out", where))
    if not params and not problems:
        problems.append(Problem("there is nothing to search", "[params.learning_rate]", where))
    if problems:
        raise SpaceError(problems)
    return Space(parsed.family, params, name=name, where=where, about=parsed.about, configs=configs)


def load_starters() -> list[NamedConfig]:
    """The known-good configs that a search begins with."""
    return list(load_space("starters").configs.values())


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a table. Raises SpaceError where it cannot be read, is too large, or is not TOML."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise SpaceError(
                f"{path.stat().st_size:,} bytes are too many", f"a file below {LARGEST_FILE:,} bytes", where=str(path)
            )
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise SpaceError(
            f"cannot be read: {error.strerror}",
            "another path, or --space " + " | ".join(shipped_spaces()),
            where=str(path),
        ) from None
    except UnicodeDecodeError as error:
        raise SpaceError(f"byte {error.start} is not UTF-8", "save the file as UTF-8", where=str(path)) from None
    except tomllib.TOMLDecodeError as error:
        raise SpaceError(f"not TOML: {error}", "mend that line", where=str(path)) from None
    except ValueError as error:  # a whole number of more than 4,300 digits
        raise SpaceError(f"not TOML: {error}", "a smaller number", where=str(path)) from None
    except RecursionError:
        raise SpaceError("nested too deeply", "at most a table in a table", where=str(path)) from None


def problems_of(error: ValidationError, where: str, keys: Sequence[str] = ()) -> list[Problem]:
    """Pydantic's findings in our words: the key in TOML's notation, the fact, the fix.

    keys: those of the file's top level, for the nearest one to a key that does not exist.
    """
    problems = []
    for found in error.errors(include_url=False):
        # Pydantic names the kind of a parameter as a step of the path; the reader's file has no such step.
        path = [str(step) for step in found["loc"]]
        if len(path) > 2 and path[0] == "params" and path[2] in ("int", "float", "choice", "bool"):
            del path[2]
        *tables, key = path or [""]
        place = f"{where}: [{'.'.join(tables)}] {key}" if tables else f"{where}: {key}"
        context = found.get("ctx", {})
        match found["type"]:
            case "missing":
                problems.append(Problem("is missing", f"{key} = …", place))
            case "extra_forbidden":
                problems.append(Problem(*unknown("key", key, PARAM_KEYS if tables else keys), place))
            case "union_tag_not_found":
                problems.append(Problem("type is missing", 'type = "int", "float", "choice" or "bool"', place))
            case "union_tag_invalid":
                problems.append(
                    Problem(*unknown("type", str(context.get("tag")), ["int", "float", "choice", "bool"]), place)
                )
            case _:
                problems.append(
                    Problem(f"{_shown(found['input'])}: {found['msg'][:1].lower()}{found['msg'][1:]}", "", place)
                )
    return list({(p.where, p.fact): p for p in problems}.values())


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _named(name: str, entry: Mapping[str, Value]) -> NamedConfig:
    remarks = {key: str(entry.get(key, "")) for key in ("about", "claim")}
    return NamedConfig(name, {key: value for key, value in entry.items() if key not in remarks}, **remarks)
