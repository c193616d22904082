"""The command line as its user meets it: real processes, exit codes, one line an error."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autofash import loop
from autofash.cli import show
from autofash.records import State
from autofash.request import SearchRequest
from autofash.study import load_study

AUTOFASH = [sys.executable, "-m", "autofash"]
PATIENCE_SECONDS = 120.0  # with a process that may share its core with others


def autofash(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*AUTOFASH, *arguments], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study of fakes, to be copied."""
    folder = tmp_path_factory.mktemp("searched")
    request = SearchRequest(dataset="digits", space="mlp", trials=8, epochs=3, storage=f"sqlite:///{folder}/studies.db")
    loop.search(request, task="tests.fakes:learn")
    return folder


@pytest.fixture
def study(searched: Path, workplace: Path) -> str:
    """A copy of it, in the default storage of the current folder."""
    shutil.copytree(searched, workplace / "studies")
    return "digits-mlp"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("serach", 2, "autofash: error[E-USAGE]: there is no command 'serach'. Try: search"),
        ("search --trails 5", 2, "autofash: error[E-USAGE]: there is no option '--trails'. Try: --trials"),
        ("search --trials", 2, "autofash: error[E-USAGE]: Option '--trials' requires an argument. Try: autofash"),
        ("search --trials many", 2, "autofash: error[E-USAGE]: Invalid value for '--trials'"),
        ("search --space cnm", 2, "autofash: error[E-SPACE]: there is no space 'cnm'. Try: cnn"),
        ("search --space missing.toml", 2, "autofash: error[E-SPACE]: missing.toml: cannot be read"),
        ("search --sampler tpa", 2, "autofash: error[E-USAGE]: there is no sampler 'tpa'. Try: tpe"),
        ("search --pruner ahsa", 2, "autofash: error[E-USAGE]: there is no pruner 'ahsa'. Try: asha"),
        ("search --dataset mnits", 3, "autofash: error[E-DATA-UNKNOWN]: there is no data set 'mnits'. Try: mnist"),
        (
            "search --dataset digits --budget soon",
            2,
            "autofash: error[E-USAGE]: 'soon' is no duration. Try: --budget 30m",
        ),
        ("search --dataset digits --study a/b", 2, "autofash: error[E-USAGE]: 'a/b' cannot be a study's name"),
        (
            "search --dataset digits --study studies.db",
            2,
            "autofash: error[E-USAGE]: 'studies.db' is the database's own name",
        ),
        (
            "search --dataset digits --workers 1000000000",
            2,
            "autofash: error[E-USAGE]: --workers 1000000000 is more than eight a core",
        ),
        ("search cnn", 2, "autofash: error[E-SPACE]: cnn: cannot be read"),
        (
            "search --dataset digits --storage nonsense",
            2,
            "autofash: error[E-USAGE]: --storage 'nonsense' is no database URL",
        ),
        ("search nothing.toml", 2, "autofash: error[E-SPACE]: nothing.toml: cannot be read"),
        (
            "best",
            4,
            "autofash: error[E-STUDY-MISSING]: there is no study yet in studies/studies.db. Try: autofash search",
        ),
        ("show nobody", 4, "autofash: error[E-STUDY-MISSING]: there is no study 'nobody'"),
        ("spaces cnm", 2, "autofash: error[E-SPACE]: there is no space 'cnm'. Try: cnn"),
        ("dashboard", 4, "autofash: error[E-STUDY-MISSING]"),
    ],
)
def test_a_mistake_is_one_line_with_its_exit_code_and_leaves_nothing_behind(
    arguments: str, code: int, message: str
) -> None:
    done = autofash(*arguments.split())
    assert done.returncode == code
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
    assert not list(Path().iterdir())


def test_a_grid_without_an_end_is_refused_before_a_study_is_made() -> None:
    done = autofash("search", "--dataset", "digits", "--sampler", "grid")
    assert done.returncode == 2 and "[params.dropout]: a float without a step has no grid. Try:" in done.stderr
    assert all(line.startswith("autofash: error[E-SPACE]: cnn.toml: [params.") for line in done.stderr.splitlines())
    assert not Path("studies").exists()


def test_several_mistakes_are_one_line_each() -> None:
    done = autofash("search", "--sampler", "tpa", "--pruner", "ash")
    assert [line.split(":")[2].strip() for line in done.stderr.splitlines()] == [
        "there is no sampler 'tpa'. Try",
        "there is no pruner 'ash'. Try",
    ]


def test_a_cut_data_file_is_named_with_its_expected_hash_before_the_first_trial(tmp_path: Path) -> None:
    from autofash.data import SOURCES

    for name in SOURCES["fashion_mnist"].files:
        (tmp_path / name).write_bytes(b"\x1f\x8b cut short")
    done = autofash("search", "--dataset", "fashion_mnist", "--data-dir", str(tmp_path))
    assert done.returncode == 3 and not Path("studies").exists()
    assert (
        str(tmp_path) in done.stderr
        and "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84" in done.stderr
    )


def test_a_study_is_shown_listed_and_read_by_programs(study: str) -> None:
    listed = autofash("studies").stdout
    assert study in listed and "8 of 8" in listed
    assert "complete" in autofash("show").stdout
    best = json.loads(autofash("best", "--json").stdout)
    shown = json.loads(autofash("show", study, "--json").stdout)
    assert best["study"] == study and len(shown["trials"]) == 8
    ranked = [trial["value"] for trial in shown["trials"] if trial["state"] == "complete"]
    assert best["trial"]["value"] == max(ranked)
    number = best["trial"]["number"]
    assert json.loads(autofash("show", "--trial", str(number), "--json").stdout)["trial"] == best["trial"]
    assert json.loads(autofash("studies", "--json").stdout)[0]["name"] == study
    assert f"trial {number}, rank 1" in autofash("best").stdout


def test_of_a_large_study_the_best_trials_are_shown_and_how_to_see_all(
    study: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show, "ROWS", 3)
    best = load_study(study).best()
    show.show(study)
    cut = capsys.readouterr().out
    assert "8 of 8 trials finished" in cut and cut.count("\n") == 4 + 3 + 2
    assert cut.splitlines()[4].split()[:3] == [str(best.number), "complete", f"{100 * best.value:.2f}"]
    assert f"and 5 more: autofash show {study} --all" in cut
    show.show(study, all_trials=True)
    whole = capsys.readouterr().out
    assert whole.startswith("\n".join(cut.splitlines()[:7])) and whole.count("\n") == 4 + 8


def test_a_trial_that_is_not_there_is_refused_with_those_that_are(study: str) -> None:
    done = autofash("show", "--trial", "99")
    assert done.returncode == 2 and "has no trial 99. Try: --trial with a number from 0 to 7" in done.stderr


def test_a_finished_search_says_that_nothing_is_left_and_how_to_add(study: str) -> None:
    done = autofash("search", "--dataset", "digits", "--space", "mlp", "--trials", "8", "--epochs", "3")
    assert done.returncode == 0 and "all 8 trials are finished already" in done.stdout
    assert "autofash search --study digits-mlp --more 20" in done.stdout
    answer = json.loads(autofash("search", "--study", study, "--json").stdout)
    assert answer["study"]["complete"] + answer["study"]["pruned"] == 8 and answer["best"]["value"]
    assert autofash("search", "--study", study, "--quiet").stdout == ""


def test_another_space_under_the_same_name_is_refused_with_the_difference(study: str) -> None:
    done = autofash("search", "--dataset", "digits", "--study", study, "--space", "cnn")
    assert done.returncode == 4 and "E-SPACE-MISMATCH" in done.stderr and "family mlp → cnn" in done.stderr


def test_spaces_are_listed_shown_and_checked() -> None:
    listed = autofash("spaces").stdout
    assert all(name in listed for name in ("cnn", "mlp", "resnet", "all"))
    shown = autofash("spaces", "cnn").stdout
    assert re.search(r"learning_rate\s+0\.\d+ to 0\.\d+, by logarithm", shown) and "head is dense" in shown
    Path("mine.toml").write_text('format = 1\nfamily = "cnn"\n[params.width]\ntype = "int"\nlow = 8\nhigh = 64\n')
    assert "fine" in autofash("spaces", "--check", "mine.toml").stdout
    Path("mine.toml").write_text('format = 1\nfamily = "cnn"\n[params.widht]\ntype = "int"\nlow = 64\nhigh = 8\n')
    done = autofash("spaces", "--check", "mine.toml")
    assert done.returncode == 2 and done.stderr.count("autofash: error[E-SPACE]: mine.toml: [params.widht]") == 2


def test_markup_in_a_users_file_is_shown_and_not_obeyed() -> None:
    Path("my [bold].toml").write_text(
        'format = 1\nfamily = "cnn"\nabout = "see [/docs] \\u001b[2J"\n[params.width]\ntype = "int"\nlow = 8\nhigh = 64\n'
    )
    done = autofash("spaces", "my [bold].toml")
    assert done.returncode == 0 and "see [/docs] \\x1b[2J" in done.stdout


def test_help_is_shown_for_nothing_at_all_and_exits_well() -> None:
    done = autofash()
    assert done.returncode == 0 and "autofash search --trials 50" in done.stdout and done.stderr == ""


def test_a_closed_pipe_ends_quietly(study: str) -> None:
    done = subprocess.run(
        f"{' '.join(AUTOFASH)} show | head -1", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stderr == "" and study in done.stdout


def test_a_database_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("nonsense " * 1000)
    done = autofash("studies", "--storage", f"sqlite:///{tmp_path}/x.db")
    assert done.returncode == 4 and "E-DB-CORRUPT" in done.stderr


# -- on a terminal ---------------------------------------------------------------------------------------------------------

DRIVER = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C on it reaches this process
from autofash.cli import main, search
from autofash import loop
real = loop.search
loop.search = lambda *given, **more: real(*given, **more, task="tests.fakes:learn")
sys.argv = ["autofash", *sys.argv[1:]]
main()
"""


def on_a_terminal(*arguments: str, send: bytes = b"", when: bytes = b"") -> tuple[int, str]:
    """Run the command line over fakes on a terminal of 120 columns, and type something once something is shown."""
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"},
        start_new_session=True,
    )
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                block = os.read(terminal, 65536)
            except OSError:
                break
            if not block:
                break
            shown += block
            if send and when in shown:
                os.write(terminal, send)
                send = b""
    os.close(terminal)
    try:
        return process.wait(PATIENCE_SECONDS), shown.decode(errors="replace")
    finally:
        process.kill()


def test_the_live_screen_shows_progress_best_and_running_trials_then_the_leaderboard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.2")
    code, shown = on_a_terminal("search", "--dataset", "digits", "--space", "mlp", "--trials", "6", "--epochs", "4")
    assert code == 0
    for part in ("of 6 trials", "best so far", "running", "validation", "rank", "autofash best digits-mlp --export"):
        assert part in shown, part
    assert any(bar in shown for bar in "▂▃▄▅▆▇█")
    assert "learns with seed" not in shown, "what a trial prints belongs into its log"
    assert "\x1b[?25h" in shown, "the cursor is given back"


def test_ctrl_c_on_the_terminal_keeps_what_is_finished_and_prints_how_to_resume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.3")
    code, shown = on_a_terminal(
        "search", "--dataset", "digits", "--space", "mlp", "--epochs", "4", send=b"\x03", when=b"complete"
    )
    assert code == 128 + signal.SIGINT
    assert re.search(
        r"\d+ finished trials are kept(, and \d+ that are paused)?\. Try: autofash search --study digits-mlp", shown
    )
    assert "Traceback" not in shown
    states = [trial.state for trial in load_study().trials()]
    assert State.RUNNING not in states and State.COMPLETE in states


@pytest.mark.usefixtures("offline")
def test_digits_serve_loudly_where_fashion_mnist_cannot_be_had_and_the_study_remembers() -> None:
    done = autofash("search", "--space", "mlp", "--trials", "1", "--epochs", "1", "--quiet")
    assert done.returncode == 0
    assert done.stderr == (
        "autofash: warning[W-DATA]: fashion_mnist was not found and could not be fetched: searching on digits instead\n"
    )
    assert json.loads(autofash("show", "--json").stdout)["settings"]["substituted"] == "fashion_mnist"
    refused = autofash("search", "--dataset", "fashion_mnist")
    assert refused.returncode == 3 and "--dataset digits" in refused.stderr and refused.stderr.count("\n") == 1
