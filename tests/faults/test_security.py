"""What is safe by default, and stays so. What is not here is named in docs/faults.md, with the test that holds it."""

import ast
import io
import os
import pickle  # noqa: TID251  (to plant one)
import re
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autofash import cli, loop
from autofash.errors import Problem, UnsafeFile, UsageError, without_secrets
from autofash.request import SearchRequest
from autofash.study import load_study
from autofash.study.dashboard import Dashboard
from autofash.study.samplers import make_sampler
from autofash.study.storage import check_name, redacted
from tests.conftest import ROOT
from tests.contracts.test_sampler import STEPPED

SOURCES = sorted((ROOT / "autofash").rglob("*.py"))
RUFF = str(Path(sys.executable).parent / "ruff")


def search(trials: int, *, sampler: str = "tpe") -> None:
    request = SearchRequest(dataset="digits", space="mlp", trials=trials, epochs=2, sampler=sampler, starters=False)
    loop.search(request, task="tests.fakes:learn")


# -- nothing is executed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"])
def test_what_unpickles_does_not_pass_the_lint(module: str) -> None:
    for code in (f"import {module}", f"from {module} import loads", f"def load():\n    import {module} as harmless"):
        done = subprocess.run(
            [RUFF, "check", "--no-cache", "--stdin-filename", "autofash/new.py", "-"],
            input=f'"""New."""\n\n{code}\n',
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1 and "TID251" in done.stdout


def test_the_one_place_that_reads_pickles_is_the_one_that_knows_what_may_be_in_them() -> None:
    reading = {
        path.name for path in SOURCES if re.search(r"^\s*(import|from) (pickle|marshal|shelve)", path.read_text(), re.M)
    }
    assert reading == {"samplers.py"}
    assert "pickle.load" not in (ROOT / "autofash" / "study" / "samplers.py").read_text()


def _loads(tree: ast.AST) -> list[str]:
    """How every call of NumPy's load treats pickles."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            told = [f"{key.arg}={ast.unparse(key.value)}" for key in node.keywords if key.arg == "allow_pickle"]
            found.append(told[0] if told else "nothing")
    return found


def test_every_array_is_loaded_without_pickles_and_said_so() -> None:
    loads = {str(path): _loads(ast.parse(path.read_text())) for path in SOURCES}
    assert sum(map(len, loads.values())) >= 2
    assert {told for found in loads.values() for told in found} == {"allow_pickle=False"}, loads


def test_no_archive_is_extracted_no_text_is_executed_and_no_shell_is_started() -> None:
    banned = {"extract", "extractall", "unpack_archive", "system", "popen"}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                assert name not in banned and not (isinstance(node.func, ast.Name) and name in ("eval", "exec")), path
                assert not [key for key in node.keywords if key.arg == "shell"], path


def test_keras_loads_a_file_in_one_place_alone_and_there_it_was_looked_into() -> None:
    loading = {path.name for path in SOURCES if "models.load_model(" in path.read_text()}
    assert loading == {"runtimes.py"}
    [function] = [
        node
        for node in ast.parse((ROOT / "autofash" / "runtimes.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "open_keras"
    ]
    assert ast.unparse(function.body[1]) == "check_keras_file(path)", "the first thing after the docstring"
    assert "safe_mode=True" in ast.unparse(function)


class Canary:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch sung",)


@pytest.mark.parametrize(
    "planted", [pickle.dumps(Canary()).hex(), b"\x80\x04N.".hex() + "zz", pickle.dumps(print).hex()]
)
def test_a_pickle_that_somebody_planted_in_a_ledger_is_refused_and_never_run(planted: str) -> None:
    study = optuna.create_study(direction="maximize")
    for _ in range(3):
        study.add_trial(
            optuna.trial.create_trial(
                value=0.5,
                params={"x": 0.5, "y": 0.5},
                distributions={name: optuna.distributions.FloatDistribution(0, 1) for name in "xy"},
                system_attrs={"cma:optimizer:0": planted},
            )
        )
    study.sampler = make_sampler("cmaes", STEPPED, seed=0, trial_seed=0)
    with pytest.raises(UnsafeFile, match="holds no state of CMA-ES") as caught:
        study.ask({name: optuna.distributions.FloatDistribution(0, 1) for name in "xy"})
    assert (caught.value.code, caught.value.exit_code) == ("E-UNSAFE-LEDGER", 7)
    assert not Path("sung").exists()


def test_cmaes_goes_on_from_the_state_that_it_wrote_itself() -> None:
    study = optuna.create_study(direction="maximize")
    space = {name: optuna.distributions.FloatDistribution(0, 1) for name in "xy"}
    for number in range(30):
        study.sampler = make_sampler("cmaes", STEPPED, seed=0, trial_seed=number)
        trial = study.ask(space)
        study.tell(trial, -((trial.params["x"] - 0.3) ** 2))
    states = [trial for trial in study.trials if any(key.startswith("cma:optimizer") for key in trial.system_attrs)]
    assert len(states) >= 2
    restored = study.sampler._restore_optimizer(study.trials)  # type: ignore[attr-defined]
    assert restored.generation == len(states) and restored.population_size > 1


# -- secrets -------------------------------------------------------------------------------------------------------------------

SECRET = "hunter2"
URLS = [
    f"postgresql://me:{SECRET}@127.0.0.1:9/studies",
    f"postgresql+psycopg://me:{SECRET}@127.0.0.1:9/studies?sslmode=require",
    f"postgresql://127.0.0.1:9/studies?user=me&password={SECRET}",
    f"mysql://:{SECRET}@127.0.0.1:9/studies",
    f"nodatabase://me:{SECRET}@127.0.0.1/studies",
    f"sqlite://me:{SECRET}@/studies.db",
]
MISTYPED = [
    f"postgresql//me:{SECRET}@127.0.0.1/studies",
    f"postgresql:me:{SECRET}@127.0.0.1/studies",
    f"me:{SECRET}@127.0.0.1/studies",
    f"postgresql://me:a/b@{SECRET}@127.0.0.1/studies",
]


def run(*arguments: str) -> tuple[int, str]:
    """The command line, in this process: its exit code, and all that it printed."""
    out, complaint = io.StringIO(), io.StringIO()
    from autofash.cli.terminal import console

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["autofash", *arguments])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", complaint)
        patch.setattr(console, "_file", out)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0), out.getvalue() + complaint.getvalue()


COMMANDS = [
    ["search", "--dataset", "digits", "--trials", "1", "--storage", "URL"],
    ["best", "--storage", "URL"],
    ["show", "--storage", "URL"],
    ["studies", "--storage", "URL"],
    ["report", "--storage", "URL"],
    ["dashboard", "--storage", "URL"],
    # An address where none belongs is repeated in the complaint about it.
    ["show", "URL"],
    ["show", "one", "URL"],
    ["URL"],
    ["search", "URL"],
    ["spaces", "URL"],
    ["search", "--dataset", "URL"],
    ["search", "--study", "URL", "--dataset", "digits"],
    ["search", "--trials", "URL"],
    ["predict", "URL", "URL"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_prints_a_password_of_a_database(command: list[str]) -> None:
    for url in (*URLS, *MISTYPED):
        code, printed = run(*(url if word == "URL" else word for word in command))
        assert (code in (2, 3, 4) and printed.startswith("autofash: error[E-")) or "no study yet" in printed, printed
        assert SECRET not in printed and "Traceback" not in printed, (url, printed)


def test_a_traceback_that_was_asked_for_shows_neither_passwords_nor_local_variables() -> None:
    program = (
        "import sys\nfrom autofash import cli, request\n"
        f"def settle(*_):\n    password = {SECRET[:3]!r} + {SECRET[3:]!r}\n    raise ZeroDivisionError('in the midst')\n"
        "request.settle = settle\nimport autofash.loop\nautofash.loop.settle = settle\n"
        f"sys.argv = ['autofash', 'search', '--debug', '--storage', {URLS[0]!r}]\ncli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "in the midst" in done.stderr and "Traceback" in done.stderr
    assert SECRET not in done.stderr + done.stdout and "password" not in done.stderr


def test_what_a_study_says_about_itself_names_its_storage_without_the_password() -> None:
    search(2)
    study = load_study("digits-mlp")
    for url in URLS[:4]:
        study.storage = url
        assert "***" in study.arguments and SECRET not in study.arguments and SECRET not in redacted(url)


@pytest.mark.filterwarnings("ignore:Query string argument")  # SQLite knows no passwords, and says so
def test_a_study_leaves_no_password_on_the_disk_and_none_on_the_screen() -> None:
    url = f"sqlite:///{Path().absolute()}/studies/studies.db?password={SECRET}"
    request = SearchRequest(dataset="digits", space="mlp", trials=8, epochs=2, starters=False, storage=url)
    loop.search(request, task="tests.fakes:learn")
    for command in (["show"], ["best"], ["studies"], ["report"], ["best", "--json"], ["show", "--trial", "99"]):
        _, printed = run(*command, "--storage", url)
        assert printed and SECRET not in printed
    assert any(path.suffix == ".html" for path in Path().rglob("*"))
    assert not [path for path in Path().rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@given(
    st.text(
        st.characters(exclude_characters="@ \n\t\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0", exclude_categories=["Z"]),
        min_size=4,
    )
)
def test_a_password_of_any_characters_is_made_unreadable(password: str) -> None:
    url = f"postgresql://me:{password}@host/studies"
    assert without_secrets(f"see {url}, please") == "see postgresql://me:***@host/studies, please"
    assert str(Problem("fact", f"autofash show --storage '{url}'")).endswith("'postgresql://me:***@host/studies'")


def test_texts_without_a_password_are_left_alone() -> None:
    for text in (
        "http://127.0.0.1:8080/dashboard/studies/1",
        "cnn.toml: [params.depth] low: '1': input should be a valid integer",
        "row 40: label 12, want 0 to 9",
        "autofash show digits-cnn@confirm",
        "study: digits-cnn@confirm",
        "sqlite:////home/me/studies.db",
    ):
        assert without_secrets(text) == text


# -- who may read, and from where ----------------------------------------------------------------------------------------------


def test_what_a_search_makes_is_its_owners_alone_whatever_the_umask() -> None:
    before = os.umask(0)
    try:
        search(2)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in Path("studies").glob("*.db*")} == {0o600}
    for folder in (Path("studies"), Path("studies/digits-mlp")):
        assert folder.stat().st_mode & 0o777 == 0o700, folder


def test_the_dashboards_copy_is_its_owners_alone_and_gone_when_it_ends() -> None:
    search(1)
    made = Dashboard("sqlite:///studies/studies.db", "digits-mlp", port=0)
    folder = Path(made._folder.name)
    assert folder.stat().st_mode & 0o777 == 0o700
    serving = threading.Thread(target=made.serve)
    serving.start()
    made.close()
    serving.join()
    assert not folder.exists()


@given(st.text(max_size=80))
def test_no_name_of_a_study_leads_out_of_its_folder_or_hides_in_it(name: str) -> None:
    try:
        check_name(name, "sqlite:///studies/studies.db")
    except UsageError as error:
        assert error.exit_code == 2 and len(str(error)) < 600
        return
    assert Path("studies", name).resolve().parent == Path("studies").resolve()
    assert name.isascii() and name.isprintable() and not name.startswith(".") and len(name) <= 64


def test_dependencies_are_at_least_what_closed_their_holes() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    floors = {name: version for name, _, version in (re.split(r"(>=)", line.partition(",")[0]) for line in wanted)}
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for name, least in {"keras": (3, 15, 1), "pillow": (12, 3), "typer": (0, 23)}.items():
        assert tuple(map(int, floors[name].split("."))) >= least, name
        assert tuple(map(int, re.findall(r"\d+", pins[name])[:3])) >= least, name
