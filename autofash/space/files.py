"""Space files: found by name or path, validated whole, every problem with its file, key and fix."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import stat
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from autofash.errors import MOST_PROBLEMS, Problem, SpaceError, brief, cut, first, unknown
from autofash.records import Value
from autofash.space.params import ChoiceParam, Param
from autofash.space.space import HYPERMODEL, IMPORTED, Hypermodel, NamedConfig, Space
from autofash.space.vocabulary import FAMILIES

LARGEST_FILE = 2**20  # bytes; a space of a thousand parameters is a tenth of it
PARAM_KEYS = ("type", "low", "high", "step", "log", "values", "when")
DEEPEST = 8  # tables within tables; [params.NAME] when has three
LONGEST = 200  # characters of a name or a number outside quotes
# Texts and comments, where TOML's marks are none. Each takes all that it can, so that none is looked at twice.
QUOTED = re.compile(
    r"""\"{3}(?:\\.|[^\\])*?(?:\"{3}|\\?\Z)|'{3}.*?(?:'{3}|\Z)|"(?:\\.|[^"\\\n])*+"?|'[^'\n]*+'?|\#[^\n]*+""", re.DOTALL
)
DOTTED = re.compile(rf"(?<![\w~-])(?:[\w~-]++[ \t]*+\.[ \t]*+){{{DEEPEST}}}")
LONG = re.compile(rf"[\w.+-]{{{LONGEST + 1}}}")
NOT_SEARCHED = ("starters", "baselines")  # fixed configs that lie beside the spaces


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    source: str
    pixels: str = "unit"
    flat: bool = False


class _SpaceFile(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal[1]
    family: str
    about: str = ""
    params: dict[str, Param] = Field(default_factory=dict)
    configs: dict[str, dict[str, Value]] = Field(default_factory=dict)
    model: _Model | None = None  # of a hypermodel


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
    space = space_from_table(read_toml(path), name=path.stem, where=str(path))
    check_searchable(space)
    return space


def check_searchable(space: Space) -> None:
    """Raise SpaceError where the space is another program's: no family of ours could build a model of it."""
    if space.family == IMPORTED:
        raise SpaceError(*unknown("family", IMPORTED, [*FAMILIES, "all", "fixed"]), where=space.where or space.name)


def space_from_table(table: Mapping[str, Any], *, name: str, where: str) -> Space:
    """The space that a parsed TOML file holds. Raises SpaceError with every problem."""
    try:
        parsed = _SpaceFile.model_validate(table)
    except ValidationError as error:
        problems = [*problems_of(error, where, list(_SpaceFile.model_fields)), *_others(table, error, where)]
        raise SpaceError(first(problems, where)) from None
    configs = {key: _named(key, entry) for key, entry in parsed.configs.items()}
    params = {"config": ChoiceParam(values=list(configs))} if parsed.family == "fixed" else parsed.params
    problems = []
    if configs and parsed.family != "fixed":
        problems.append(Problem('configs go with family = "fixed"', "leave [configs] out", where))
    if parsed.params and parsed.family == "fixed":
        problems.append(Problem("a fixed space has configs, no params", "leave [params] out", where))
    if not params and parsed.model is None and not problems:
        problems.append(Problem("there is nothing to search", "[params.learning_rate]", where))
    if problems:
        raise SpaceError(problems)
    own = Hypermodel(**parsed.model.model_dump()) if parsed.model else None
    return Space(parsed.family, params, name=name, where=where, about=parsed.about, configs=configs, hypermodel=own)


def hypermodel_space(source: str, pixels: str = "unit", flat: bool = False) -> Space:
    """The space of a user's own code, FILE.py:NAME or package.module:NAME, which is looked for and not run.

    pixels, flat: as its author feeds it; see Hypermodel.
    Raises SpaceError where there is no such file, module or name.
    """
    place, _, name = source.rpartition(":")
    if not place.endswith(".py") and not source.endswith(".py"):
        _check_module(place, source)
    else:
        names = _names_in(Path(place if place.endswith(".py") else source))
        if name not in names or not place:
            fact, fix = unknown("function or class", name if place else "", names)
            near = [fix] if fix in names else names
            raise SpaceError(
                fact, " or ".join(f"{place or source}:{n}" for n in near[:3]) or fix, where=place or source
            )
    return Space(HYPERMODEL, {}, name=name, where=source, hypermodel=Hypermodel(source, pixels, flat))


def source_digest(hypermodel: Hypermodel) -> str:
    """SHA-256 of the file that a user's model is written in, without what it imports; empty where it cannot be read."""
    place = hypermodel.source.rpartition(":")[0]
    try:
        if not place.endswith(".py"):
            found = _spec_of(place)
            place = (found.origin if found else None) or ""
        return hashlib.sha256(Path(place).read_bytes()).hexdigest()
    except (OSError, ImportError, ValueError):
        return ""


def _spec_of(module: str) -> ModuleSpec | None:
    """Where a trial will find a module, here first; unlike importlib's own search it runs no package on the way."""
    name, *rest = module.split(".")
    found = PathFinder.find_spec(name, [os.getcwd(), *sys.path]) or (importlib.util.find_spec(name) if name else None)
    for below in rest:
        if found is None or found.submodule_search_locations is None:
            return None
        name = f"{name}.{below}"
        found = PathFinder.find_spec(name, found.submodule_search_locations)
    return found


def _check_module(module: str, source: str) -> None:
    try:
        found = _spec_of(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise SpaceError(
            f"{brief(source)} names no module that can be found", "my_model.py:build_model, or package.module:NAME"
        )


def _names_in(path: Path) -> list[str]:
    """What a Python file defines, read and not run: functions and classes first, then other names."""
    try:
        told = path.stat()
        if not stat.S_ISREG(told.st_mode):  # a pipe or a device might never end
            raise SpaceError("is no file", "the file that defines it", where=str(path))
        if told.st_size > LARGEST_FILE:
            raise SpaceError("is too large", f"a file below {LARGEST_FILE:,} bytes", where=str(path))
        parsed = ast.parse(path.read_bytes())
    except OSError as error:
        raise SpaceError(f"cannot be read: {error.strerror}", "another path", where=str(path)) from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # deep nesting ends in any of them
        line = f"{path}:{error.lineno}" if isinstance(error, SyntaxError) else str(path)
        fact = getattr(error, "msg", str(error)) or "it is nested too deeply"
        raise SpaceError(f"not Python: {fact}", "mend that line", where=line) from None
    statements = list(_outside_functions(parsed.body))
    named = [told.name for told in statements if isinstance(told, (ast.FunctionDef, ast.ClassDef))]
    targets = [target for told in statements if isinstance(told, ast.Assign) for target in told.targets]
    targets += [told.target for told in statements if isinstance(told, ast.AnnAssign) and told.value]
    assigned = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    imported = [
        alias.asname or alias.name for told in statements if isinstance(told, ast.ImportFrom) for alias in told.names
    ]
    return [*named, *assigned, *imported]


def _outside_functions(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """A module's statements, those within its if, try and with among them."""
    for told in body:
        yield told
        if isinstance(told, (ast.If, ast.Try, ast.With)):
            yield from _outside_functions(
                [*told.body, *getattr(told, "orelse", []), *getattr(told, "finalbody", [])]
                + [one for handler in getattr(told, "handlers", []) for one in handler.body]
            )


def load_starters() -> list[NamedConfig]:
    """The known-good configs that a search begins with."""
    return list(load_space("starters").configs.values())


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a table. Raises SpaceError where it cannot be read, is too large, or is not TOML."""
    try:
        told = path.stat()
        if not stat.S_ISREG(told.st_mode):  # a pipe or a device might never end
            raise SpaceError("is no file", "another path", where=str(path))
        if told.st_size > LARGEST_FILE:
            raise SpaceError(
                f"{told.st_size:,} bytes are too many", f"a file below {LARGEST_FILE:,} bytes", where=str(path)
            )
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte in it
        names = "another path, or --space " + " | ".join(shipped_spaces())
        raise SpaceError(
            f"cannot be read: {getattr(error, 'strerror', None) or error}",
            f"chmod +r {path}" if isinstance(error, PermissionError) else names,
            where=str(path),
        ) from None
    try:
        text = content.decode()
        _check_shape(text, str(path))
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        line, column = content.count(b"\n", 0, error.start) + 1, error.start - content.rfind(b"\n", 0, error.start)
        fact = f"byte {column} of line {line} is not UTF-8"
        raise SpaceError(fact, "save the file as UTF-8", where=str(path)) from None
    except tomllib.TOMLDecodeError as error:
        fact, _, place = str(error).rpartition(" (at ")
        fact = fact.replace("Cannot overwrite a value", "this key is there already")
        raise SpaceError(f"not TOML: {cut(fact, 120)} (at {place}", "mend that line", where=str(path)) from None
    except ValueError as error:  # a day that no calendar has
        raise SpaceError(f"not TOML: {cut(str(error), 120)}", "mend that line", where=str(path)) from None


def _check_shape(text: str, where: str) -> None:
    """Raise SpaceError for what no space needs, and what Python's parser needs hours or a deep stack for.

    Its time grows with the square of a dotted key's parts: half a megabyte of "a.a.a.a" would take a day.
    """
    bare = QUOTED.sub(_masked, text)
    deep, long = DOTTED.search(bare), LONG.search(bare)
    place = deep.start() if deep else long.start() if long else None
    depth = 0
    for found in re.finditer(r"[\[\]{}]", bare):
        depth += 1 if found[0] in "[{" else -1
        if depth > DEEPEST:
            deep, place = found, found.start()
            break
    if place is None:
        return
    line, column = text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place)
    fact, fix = ("nested too deeply", "at most a table in a table")
    if not deep:
        fact, fix = f"a name or a number of more than {LONGEST} characters", "a shorter one"
    raise SpaceError(f"{fact} (at line {line}, column {column})", fix, where=where)


def _masked(found: re.Match[str]) -> str:
    lines = found[0].split("\n")
    return "~" * len(found[0]) if len(lines) == 1 else "\n".join("~" * len(line) for line in lines)


def problems_of(error: ValidationError, where: str, keys: Sequence[str] = ()) -> list[Problem]:
    """Pydantic's findings in our words: the key in TOML's notation, the fact, the fix.

    keys: those of the file's top level, for the nearest one to a key that does not exist.
    """
    problems: list[Problem] = []
    for found in error.errors(include_url=False)[: MOST_PROBLEMS + 1]:
        # Pydantic names the kind of a parameter as a step of the path; the reader's file has no such step.
        path = [cut(str(step)) for step in found["loc"]]
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
                    Problem(f"{brief(found['input'])}: {found['msg'][:1].lower()}{found['msg'][1:]}", "", place)
                )
    return list({(p.where, p.fact): p for p in problems}.values())


def _others(table: Mapping[str, Any], error: ValidationError, where: str) -> list[Problem]:
    """What is wrong with the parameters that are well formed, so that a file's problems are all told at once."""
    family, params = table.get("family"), table.get("params")
    if not isinstance(family, str) or not isinstance(params, Mapping) or family == "fixed":
        return []
    places = [found["loc"] for found in error.errors(include_url=False)]
    broken = {place[1] for place in places if place[0] == "params" and len(place) > 1}
    read = TypeAdapter(Param).validate_python
    try:
        Space(family, {name: read(told) for name, told in params.items() if name not in broken}, where=where)
    except SpaceError as found:
        # Of a condition on a parameter that is not well formed itself nothing can be said yet.
        unsure = tuple(f"when names {brief(name)}," for name in broken)
        return [problem for problem in found.problems if not problem.fact.startswith(unsure)]
    return []


def _named(name: str, entry: Mapping[str, Value]) -> NamedConfig:
    remarks = {key: str(entry.get(key, "")) for key in ("about", "claim")}
    return NamedConfig(name, {key: value for key, value in entry.items() if key not in remarks}, **remarks)
