"""`autofash import` and `--warm-start` as their user meets them."""

import json
from pathlib import Path

import pytest

from autofash import loop
from autofash.cli import screen
from autofash.loop import SearchBegan, SearchEvent
from autofash.request import SearchRequest
from autofash.study import Study, load_study
from tests.cli.test_commands import autofash
from tests.tuner_projects import entry, project, trial

SPACE = 'format = 1\nfamily = "mlp"\n[params.learning_rate]\ntype = "float"\nlow = 1e-4\nhigh = 0.1\nlog = true\n'
RATE = entry("Float", "learning_rate", min_value=1e-4, max_value=0.1, step=None, sampling="log")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    trials = [trial(n, 0.5 + n / 20, {"learning_rate": 0.001 * (n + 1)}, [RATE]) for n in range(6)]
    made = project(tmp_path / "my project", *trials, trial(6, None, status="RUNNING"))
    (made / "trial_0005" / "trial.json").write_text('{"trial_id": "00')
    return made


def search(**settings: object) -> tuple[Study, list[str]]:
    events: list[SearchEvent] = []
    Path("mine.toml").write_text(SPACE)
    request = SearchRequest(**{"dataset": "digits", "space": "mine.toml", "trials": 5, "epochs": 2, **settings})
    study = loop.search(request, [events.append], task="tests.fakes:learn")
    [began] = [event for event in events if isinstance(event, SearchBegan)]
    return study, [line.plain for line in screen.opening_lines(began)]


def test_an_import_says_what_it_did_what_it_passed_over_and_what_to_type_next(folder: Path) -> None:
    done = autofash("import", str(folder), "--study", "old")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "old  5 trials imported, 1 have not ended: import them later",
        "",
        "Look at it:      autofash show old",
        "Search from it:  autofash search --warm-start old",
    ]
    named, counted = done.stderr.splitlines()
    assert named.startswith(f"autofash: warning[W-IMPORT]: {folder}: trial_0005/trial.json: not whole, or no JSON")
    assert counted == "autofash: warning[W-IMPORT]: 1 file was passed over"
    again = json.loads(autofash("import", str(folder), "--study", "old", "--json").stdout)
    assert (again["added"], again["known"], again["study"]["complete"]) == (0, 5, 5)
    listed = autofash("studies").stdout
    assert "old" in listed and "5 of 5" in listed and "unknown data" in listed
    shown = autofash("show").stdout
    assert f"imported from {folder}, searched there by kt-bayesian on unknown data" in shown and "70.00 %" in shown
    assert "autofash search --warm-start old" in autofash("best").stdout
    assert "Search from it:  autofash search --warm-start old" in autofash("report").stdout


@pytest.mark.parametrize("arguments", ["best old --export", "best old --confirm 3", "search --study old"])
def test_what_needs_a_model_of_an_imported_study_is_one_line(arguments: str, folder: Path) -> None:
    autofash("import", str(folder), "--study", "old")
    done = autofash(*arguments.split())
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "old was imported, and holds no models to go on with. Try: autofash search --warm-start old" in done.stderr


def test_what_cannot_be_imported_is_one_line() -> None:
    done = autofash("import", "nowhere")
    assert (
        done.returncode == 4
        and done.stderr.count("\n") == 1
        and "error[E-IMPORT]: nowhere: cannot be read" in done.stderr
    )
    done = autofash("search", "--dataset", "digits", "--warm-start", "nobody")
    assert done.returncode == 4 and "there is no study 'nobody'" in done.stderr and done.stderr.count("\n") == 1


def test_a_search_from_an_imported_study_says_from_what_runs_the_best_first_and_ends_at_its_total(folder: Path) -> None:
    autofash("import", str(folder), "--study", "old")
    study, said = search(warm_start="old", study="new")
    assert (
        "warm start: learning from 5 of the 5 trials of old, though on which data they ran is unknown; "
        "the best of them run here first" in said
    )
    trials = study.trials()
    assert len(trials) == 5 and all(record.finished for record in trials)
    assert [record.origin for record in trials[:3]] == [f"warm start: old trial {n}" for n in (4, 3, 2)]
    assert [record.config["learning_rate"] for record in trials[:3]] == pytest.approx([0.005, 0.004, 0.003])
    shown = autofash("show", "new").stdout
    assert "learnt from another study, not run here" in shown and "70.00 %" in shown
    assert len(json.loads(autofash("show", "new", "--json").stdout)["hints"]) == 5
    resumed, _ = search(warm_start="old", study="new", trials=6)
    assert len(resumed.trials()) == 6 and len(resumed.hints) == 5
    assert "--warm-start old" in autofash("report", "new", "--json").stdout


def test_a_study_file_may_name_its_warm_start(folder: Path) -> None:
    from autofash.study.definition import load_definition

    Path("my.toml").write_text('format = 1\nwarm_start = "old"\n')
    assert load_definition(Path("my.toml")).warm_start == "old"


def test_a_search_that_is_cut_short_where_it_learns_has_learnt_all_or_nothing(folder: Path) -> None:
    import os
    import subprocess
    import sys

    autofash("import", str(folder), "--study", "old")
    Path("mine.toml").write_text(SPACE)
    command = ["search", "--dataset", "digits", "--space", "mine.toml", "--study", "new", "--warm-start", "old"]
    for passage in (1, 2):
        killed = subprocess.run(
            [sys.executable, "-m", "autofash", *command, "--trials", "5"],
            env={**os.environ, "AUTOFASH_FAILPOINT": f"attrs:kill:{passage}"},
            capture_output=True,
            check=False,
        )
        assert killed.returncode == -9
        study = load_study("new")
        assert (len(study.hints), len(study.trials())) in ((0, 0), (5, 3))
    resumed, _ = search(warm_start="old", study="new")
    assert len(resumed.hints) == 5 and sum("warm start" in record.origin for record in resumed.trials()) == 3
