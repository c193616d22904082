"""Rules of the house that matter enough to be tests."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main

import autofash
from autofash import errors
from tests.conftest import ROOT

SOURCES = sorted((ROOT / "autofash").rglob("*.py"))


def test_the_floors_hold() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("module", ["autofash", "autofash.cli"])
def test_nothing_heavy_is_imported_before_it_is_used(module: str) -> None:
    heavy = "{'keras', 'tensorflow', 'optuna', 'numpy', 'sklearn', 'pydantic', 'sqlalchemy'}"
    program = f"import sys, {module}; found = {heavy} & set(sys.modules); assert not found, found"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_the_public_names_are_these() -> None:
    functions = {name for name in autofash.__all__ if inspect.isfunction(getattr(autofash, name))}
    loading = {"import_keras_tuner", "list_studies", "load_model", "load_space", "load_study"}
    assert functions == {"search", "confirm", "refit"} | loading
    kinds = {name for name in autofash.__all__ if inspect.isclass(getattr(autofash, name))}
    records = {"EpochReport", "FittedModel", "State", "StudySettings", "StudySummary", "TrialRecord"}
    failures = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert kinds == {"Confirmed", "Imported", "LoadedModel", "Space", "Study"} | records | failures
    assert set(autofash.__all__) == functions | kinds | {"errors", "records"}


def test_no_public_function_shares_its_name_with_a_module() -> None:
    modules = {path.stem for path in (ROOT / "autofash").glob("*")}
    assert not {name for name in autofash.__all__ if inspect.isroutine(getattr(autofash, name))} & modules


def test_there_is_no_drawer_of_odds_and_ends() -> None:
    assert not [path for path in SOURCES if path.stem in {"utils", "util", "helpers", "helper", "common", "misc"}]


def test_every_module_says_what_it_is_for() -> None:
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def commands() -> list[str]:
    from autofash.cli import app

    return sorted(typer.main.get_command(app).commands)


@pytest.mark.parametrize("command", commands())
def test_every_command_is_in_the_readme_and_its_help_begins_with_an_example(command: str) -> None:
    from autofash.cli import app

    assert f"autofash {command}" in (ROOT / "README.md").read_text()
    text = str(typer.main.get_command(app).commands[command].help)
    assert re.search(rf"\A[^\n]+\n+\s*\*\*autofash {command}", text), text


def test_the_readme_shows_every_room_and_no_other() -> None:
    readme = (ROOT / "README.md").read_text()
    tree = readme[readme.index("```text\nautofash/") : readme.index("```", readme.index("```text\nautofash/") + 3)]
    rooms = {
        p.name if p.is_file() else f"{p.name}/"
        for p in (ROOT / "autofash").iterdir()
        if p.name[0] not in "_p" and p.suffix != ".pyc"
    }
    for room in rooms:
        assert re.search(rf"\b{re.escape(room)}", tree), room


def test_the_changelog_knows_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_is_pinned_and_says_why_it_is_there() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)
    groups = project["dependency-groups"].values()
    wanted = [*project["project"]["dependencies"], *(requirement for group in groups for requirement in group)]
    pins = {
        line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    for requirement in wanted:
        name = re.split(r"[<>=\[ ]", requirement)[0].lower()
        assert name in pins, name
        assert re.search(rf'"{re.escape(requirement)}",\s+# \S', text), requirement


def test_the_pins_name_no_host() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+( ; python_version .*)?|#.*|", line), line


def test_the_vocabulary_is_the_families_own(tmp_path: Path) -> None:
    """The families' signatures are read, not imported: Keras takes seconds."""
    from autofash.space.vocabulary import FAMILIES

    for family, names in FAMILIES.items():
        tree = ast.parse((ROOT / "autofash" / "models" / f"{family}.py").read_text())
        [function] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == family]
        assert [argument.arg for argument in function.args.kwonlyargs] == list(names), family
