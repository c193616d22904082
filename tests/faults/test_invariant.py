"""The invariant itself: it is silent about a sound study, and sees each thing that can be wrong with one."""

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from autofash.records import TrialRecord
from autofash.study import StudyWriter
from tests.faults.invariant import broken
from tests.study.test_writer import STORAGE, opened, run

LEDGER = Path("studies/studies.db")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[TrialRecord]]:
    """A study of three trials that are finished and told, and one that its writer left running."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.chdir(folder)
        writer = opened(target=4)
        records = [writer.read.trial(run(writer, 0.5, 0.7)) for _ in range(3)]
        writer.ask()
        writer.close()
    return folder, records


@pytest.fixture
def ended(made: tuple[Path, list[TrialRecord]]) -> list[TrialRecord]:
    """A copy of it here, and what was told."""
    shutil.copytree(made[0] / "studies", "studies")
    return made[1]


def change(statement: str, *values: object) -> None:
    with closing(sqlite3.connect(LEDGER)) as ledger, ledger:
        assert ledger.execute(statement, values).rowcount


def note(trial: int, key: str, value: object) -> None:
    change(
        "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)", trial, key, json.dumps(value)
    )


def test_a_sound_study_has_nothing_wrong(ended: list[TrialRecord]) -> None:
    assert broken(STORAGE, "s", acknowledged=ended, workers={3}, finished=3, said="all is well") == []
    assert broken(LEDGER, "s", acknowledged=ended, searching=True) == []
    assert broken(STORAGE, "another") == [] == broken("elsewhere.db", "s")


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("UPDATE trials SET number = 7 WHERE number = 2", "numbers: "),
        ("UPDATE trials SET state = 'FAIL' WHERE number = 2", "told otherwise"),
        ("UPDATE trial_values SET value = 0.1 WHERE trial_id = 1", "values: trial 0"),
        ("DELETE FROM trial_values WHERE trial_id = 1", "values: trial 0"),
        ("UPDATE trial_intermediate_values SET intermediate_value = 0.9", "told otherwise"),
        ("UPDATE trial_params SET param_value = 1.0 WHERE trial_id = 2", "told otherwise"),
        ("DELETE FROM trials WHERE number = 1", "and is gone"),
        ("DELETE FROM studies", "the study s is gone"),
    ],
)
def test_what_was_told_and_is_not_in_the_ledger_so_is_seen(
    ended: list[TrialRecord], statement: str, sentence: str
) -> None:
    change(statement)
    assert any(sentence in found for found in broken(STORAGE, "s", acknowledged=ended))


def test_an_end_that_is_told_twice_is_seen(ended: list[TrialRecord]) -> None:
    [found] = broken(STORAGE, "s", acknowledged=[*ended, ended[0]])
    assert found == "told once: trial 0's end was told 2 times"


def test_a_config_that_is_finished_twice_with_one_seed_is_seen(ended: list[TrialRecord]) -> None:
    change("DELETE FROM trial_params WHERE trial_id < 3")
    change("UPDATE trial_user_attributes SET value_json = '5' WHERE key = 'seed'")
    assert any("2 finished trials have the config" in found for found in broken(STORAGE, "s"))


def test_a_trial_that_is_queued_again_twice_or_though_it_is_finished_is_seen(ended: list[TrialRecord]) -> None:
    note(4, "retry_of", 1)
    assert broken(STORAGE, "s") == ["told once: trial 1 is COMPLETE, and was queued again"]
    note(3, "retry_of", 1)
    assert "told once: trial 1 was queued again 2 times" in broken(STORAGE, "s")


def test_a_running_trial_without_a_worker_is_seen_once_the_study_was_opened_again(ended: list[TrialRecord]) -> None:
    assert broken(STORAGE, "s", acknowledged=ended) == []
    assert broken(STORAGE, "s", workers=()) == ["stuck: trial 3 is RUNNING, has no worker and is not paused"]
    note(4, "paused", {"rung": 1, "runs": False})
    assert broken(STORAGE, "s", workers=()) == []


def test_a_trial_that_was_told_to_be_paused_and_has_no_whole_checkpoint_is_seen(ended: list[TrialRecord]) -> None:
    note(4, "paused", {"rung": 1, "runs": False})
    place = LEDGER.parent / "s" / "trials" / "3" / "checkpoint"
    place.mkdir(parents=True)
    missing = "stuck: trial 3 was told to be paused, and has no checkpoint"
    assert broken(STORAGE, "s", paused=[3]) == [missing]
    (place / "epoch").write_text("")
    assert broken(STORAGE, "s", paused=[3]) == [missing, f"partial: {place}/epoch"]
    (place / "epoch").write_text("1")
    assert broken(STORAGE, "s", paused=[3]) == []


def test_too_few_and_too_many_finished_trials_are_seen(ended: list[TrialRecord]) -> None:
    for wanted in (2, 4):
        assert broken(STORAGE, "s", finished=wanted) == [f"exactly --trials: 3 are finished, not {wanted}"]


def test_a_damaged_ledger_and_one_that_is_gone_are_seen(ended: list[TrialRecord]) -> None:
    whole = LEDGER.read_bytes()
    LEDGER.write_bytes(whole[:8192] + b"\xff" * 4096 + whole[12288:])
    assert any(found.startswith("integrity_check: ") for found in broken(STORAGE, "s"))
    LEDGER.unlink()
    assert broken(STORAGE, "s", acknowledged=ended) == ["kept: the ledger is gone"]


@pytest.mark.parametrize(
    "place", ["best/model.keras", "trials/0/checkpoint/step-5.npz", ".refit/k/member-0.keras", ".refit/k/tested.json"]
)
def test_half_a_file_under_a_final_name_is_seen(ended: list[TrialRecord], place: str) -> None:
    half = LEDGER.parent / "s" / place
    half.parent.mkdir(parents=True)
    half.write_text('{"PK')
    [found] = broken(STORAGE, "s")
    assert found.startswith("partial: ")


def test_a_process_that_is_left_and_a_traceback_are_seen(workplace: Path) -> None:
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        [found] = broken(STORAGE, "s")
        assert found.startswith(f"orphan: process {left.pid} still works in {workplace}")
        assert broken(STORAGE, "s", searching=True) == []
    finally:
        left.kill()
        left.wait()
    log = LEDGER.parent / "s" / "server.log"
    log.parent.mkdir(parents=True)
    log.write_text("Traceback (most recent call last):\n")
    said = "autofash: error[E-DB]: a fact\nTraceback (most recent call last):"
    assert len(broken(STORAGE, "s", said=said)) == 2


def test_a_study_is_looked_into_without_rolling_back_what_its_rerun_is_to_roll_back(ended: list[TrialRecord]) -> None:
    """A copy of file and journal in the midst of a commit is what a kill leaves."""
    writing = sqlite3.connect(LEDGER, isolation_level=None)
    writing.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the commit
    writing.execute("BEGIN")
    writing.execute("UPDATE trial_intermediate_values SET intermediate_value = 0.1")
    writing.execute("CREATE TABLE large AS SELECT randomblob(4000000)")
    cut = Path("cut/studies.db")
    cut.parent.mkdir()
    files = [LEDGER, LEDGER.with_name("studies.db-journal")]
    for file in files:
        (cut.parent / file.name).write_bytes(file.read_bytes())
    writing.close()
    before = [(cut.parent / file.name).read_bytes() for file in files]
    assert broken(cut, "s", acknowledged=ended) == []
    assert [(cut.parent / file.name).read_bytes() for file in files] == before


def test_what_a_writer_leaves_is_sound_after_it_was_opened_again(ended: list[TrialRecord]) -> None:
    heir: StudyWriter = opened(target=4)
    assert broken(STORAGE, "s", acknowledged=ended, workers=(), finished=3) == []
    heir.close()
