"""The way to the final model, for real: search, refit, test once, save, reload, on the digits."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autofash import loop
from autofash.errors import NoTrial, ResourceError, UnsafeFile, UsageError
from autofash.loop import SearchRequest
from autofash.records import FittedModel
from autofash.refitting import MANIFEST, MODEL, PREDICTIONS, read_manifest, refit
from autofash.study import Study, load_study

pytestmark = pytest.mark.keras
SPACE = """
format = 1
family = "mlp"
[params.width]
type = "choice"
values = [64, 96]
[params.learning_rate]
type = "float"
low = 3e-3
high = 6e-3
[params.dropout]
type = "float"
low = 0.0
high = 0.2
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished study of real trainings."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "small.toml").write_text(SPACE)
    request = SearchRequest(
        space=str(folder / "small.toml"),
        dataset="digits",
        trials=3,
        epochs=6,
        pruner="none",
        storage=f"sqlite:///{folder}/studies/studies.db",
    )
    return loop.search(request)


@pytest.fixture(scope="module")
def fitted(searched: Study) -> FittedModel:
    return refit(searched, command="a test")


def test_the_test_set_is_opened_once_and_the_ledger_says_when_by_whom_and_what_it_showed(
    searched: Study, fitted: FittedModel
) -> None:
    [opening] = [
        found for found in load_study(searched.name, searched.storage).openings if found["command"] == "a test"
    ]
    assert (
        opening["trial"] == fitted.trial
        and opening["test_accuracy"] == fitted.metrics["test_accuracy"]
        and opening["when"]
    )


def test_the_saved_model_scores_the_same_in_a_python_that_has_only_keras(fitted: FittedModel) -> None:
    program = (
        "import sys, json, numpy as np, keras\nfrom sklearn.datasets import load_digits\n"
        "from sklearn.model_selection import train_test_split\n"
        "bunch = load_digits()\nimages = np.round(bunch.images * (255 / 16)).astype('uint8')[..., None]\n"
        "_, test = train_test_split(np.arange(len(images)), test_size=0.2, random_state=0, stratify=bunch.target)\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "print((model.predict(images[test], verbose=0).argmax(1) == bunch.target[test]).mean())\n"
        "assert 'autofash' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(fitted.model)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout.split()[-1]) == pytest.approx(fitted.metrics["test_accuracy"], abs=1e-9)
    assert fitted.metrics["test_accuracy"] > 0.85


def test_the_manifest_tells_all_that_a_user_of_the_model_needs(searched: Study, fitted: FittedModel) -> None:
    manifest = json.loads((fitted.folder / MANIFEST).read_text())
    assert manifest["classes"] == list("0123456789")
    assert manifest["input"] == {"shape": [8, 8, 1], "dtype": "uint8", "range": [0, 255]}
    assert manifest["config"] == dict(searched.best().config) and manifest["epochs"] == searched.best().best_epoch
    assert manifest["data_fingerprint"] == searched.settings.data_fingerprint
    assert manifest["space_fingerprint"] == searched.settings.space_fingerprint
    assert manifest["metrics"]["test_accuracy"] == fitted.metrics["test_accuracy"]
    assert set(manifest["files"]) == {MODEL, PREDICTIONS} and manifest["versions"]["keras"]


def test_the_test_predictions_are_kept_for_reports(fitted: FittedModel) -> None:
    with np.load(fitted.folder / PREDICTIONS, allow_pickle=False) as kept:
        accuracy = (kept["probabilities"].argmax(axis=1) == kept["labels"]).mean()
    assert accuracy == pytest.approx(fitted.metrics["test_accuracy"])


def test_a_second_export_trains_nothing_and_opens_nothing(searched: Study, fitted: FittedModel) -> None:
    before = (len(searched.openings), fitted.model.stat().st_mtime_ns)
    again = refit(searched)
    assert again.repeated and dict(again.metrics) == dict(fitted.metrics)
    assert (len(load_study(searched.name, searched.storage).openings), fitted.model.stat().st_mtime_ns) == before


def test_another_trial_has_a_folder_of_its_own(searched: Study, fitted: FittedModel) -> None:
    other = next(trial.number for trial in searched.trials() if trial.number != fitted.trial)
    assert refit(searched, other).folder.name == f"trial-{other}"
    assert refit(searched).repeated, "the best one is untouched"


def test_a_file_that_was_changed_is_found_out_and_repaired(searched: Study, fitted: FittedModel) -> None:
    whole = fitted.model.read_bytes()
    fitted.model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UnsafeFile, match="not what the manifest vouches for") as caught:
        read_manifest(fitted.folder)
    assert (caught.value.code, caught.value.exit_code) == ("E-MODEL-INCOMPLETE", 7)
    assert not refit(searched).repeated
    read_manifest(fitted.folder)


def test_nothing_but_finished_folders_lies_beside_the_model(searched: Study, fitted: FittedModel) -> None:
    assert not [path for path in fitted.folder.parent.iterdir() if path.name.startswith(".")]


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_trained(
    searched: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(ResourceError, match="cannot be written: Permission denied") as caught:
        refit(searched, searched.trials()[-1].number, epochs=1)
    assert caught.value.code == "E-EXPORT-DIR"


def test_a_trial_that_is_not_there_or_a_study_without_one_is_refused(searched: Study) -> None:
    with pytest.raises(UsageError, match="has no trial 99"):
        refit(searched, 99)
    with pytest.raises(NoTrial):
        loop.search(
            SearchRequest(dataset="digits", space="mlp", trials=1, budget_seconds=0.0), task="tests.fakes:learn"
        )
    with pytest.raises(NoTrial):
        refit(load_study("digits-mlp"))


def test_the_whole_way_on_the_command_line(workplace: Path) -> None:
    (workplace / "small.toml").write_text(SPACE)

    def autofash(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "autofash", *arguments], capture_output=True, text=True, check=False
        )

    searched = autofash("search", "--dataset", "digits", "--space", "small.toml", "--trials", "2", "--epochs", "3")
    assert searched.returncode == 0, searched.stderr
    assert "2/2" in searched.stdout and "autofash best digits-small --export" in searched.stdout
    exported = autofash("best", "--export", "--json")
    assert exported.returncode == 0, exported.stderr
    told = json.loads(exported.stdout)
    assert (
        Path(told["model"]["model"]).is_file()
        and told["model"]["metrics"]["test_accuracy"] > 0.5
        and len(told["openings"]) == 1
    )
    assert "nothing was trained or opened" in autofash("best", "--export").stdout
