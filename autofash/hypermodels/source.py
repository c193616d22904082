"""Loads a user's code by file or module, and lays the blame where it belongs: on a line of that code."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autofash.errors import InfeasibleConfig, cut

INSTALLED = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sysconfig.get_path("stdlib")})
OWN = str(Path(__file__).parent.parent)
LONGEST = 300  # characters of what an exception says


def load(source: str) -> Any:
    """The function, class or object that FILE.py:NAME or package.module:NAME stands for.

    Modules beside the file can be imported, as they can when it is run. Raises InfeasibleConfig naming the line at fault.
    """
    place, _, name = source.rpartition(":")
    with blaming(place):
        if place.endswith(".py"):
            path = Path(place).absolute()
            sys.path.insert(0, str(path.parent))
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None and spec.loader is not None  # of a file that ends in .py there is one
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module  # where the classes of the file say that they are defined
            spec.loader.exec_module(module)
        else:
            sys.path.insert(0, os.getcwd())
            module = importlib.import_module(place)
        return getattr(module, name)


@contextmanager
def blaming(where: str) -> Iterator[None]:
    """Turn what a user's code raises into one line with its file and line. where: what to name where no line can be."""
    try:
        yield
    except (InfeasibleConfig, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise InfeasibleConfig(
            f"{type(error).__name__}: {cut(' '.join(str(error).split()), LONGEST)}", where=_line_of(error) or where
        ) from error


def _line_of(error: BaseException) -> str:
    """FILE:LINE of the innermost frame that is a user's: neither ours nor an installed package's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((OWN, "<", *INSTALLED)):
            return f"{_short(frame.filename)}:{frame.lineno}"
    return ""


def _short(file: str) -> str:
    """A file's path, from here where it lies below."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else file


def asks_like_optuna(function: Callable[..., Any]) -> bool:
    """Whether a function is an Optuna-style define(trial): its first parameter says so by its name or its type."""
    first = next(iter(inspect.signature(function).parameters.values()), None)
    return first is not None and (first.name == "trial" or "Trial" in str(first.annotation))
