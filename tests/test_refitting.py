"""The way to the final model, for real: search, refit, test once, save, reload, on the digits."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import numpy as np
import pytest

from autofash import loop, manifest
from autofash.errors import NoTrial, ResourceError, StudyBusy, UnsafeFile, UsageError
from autofash.executors import Executor
from autofash.manifest import GALLERY, MODEL, PREDICTIONS
from autofash.records import FittedModel
from autofash.refitting import refit
from autofash.request import SearchRequest
from autofash.study import Study, load_study
from tests.contracts.test_exporter import NoExecutor

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
def fitted(searched: Study, executor: Executor) -> FittedModel:
    return refit(searched, command="a test", executor=executor)


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
    told = manifest.read(fitted.folder)
    assert told["classes"] == list("0123456789")
    assert told["input"] == {
        "shape": [8, 8, 1],
        "dtype": "uint8",
        "range": [0, 255],
        "border": 0.0,
        "background": "dark",
    }
    assert told["config"] == dict(searched.best().config) and told["epochs"] == searched.best().best_epoch
    assert told["data_fingerprint"] == searched.settings.data_fingerprint
    assert told["space_fingerprint"] == searched.settings.space_fingerprint
    assert told["metrics"]["test_accuracy"] == fitted.metrics["test_accuracy"]
    assert set(told["files"]) == {MODEL, PREDICTIONS, GALLERY} and told["versions"]["keras"]


def test_the_test_predictions_are_kept_for_reports_and_the_pictures_that_tell_most(fitted: FittedModel) -> None:
    with np.load(fitted.folder / PREDICTIONS, allow_pickle=False) as kept:
        guesses, labels = kept["probabilities"].argmax(axis=1), kept["labels"]
    assert (guesses == labels).mean() == pytest.approx(fitted.metrics["test_accuracy"])
    with np.load(fitted.folder / GALLERY, allow_pickle=False) as gallery:
        rows, images = gallery["rows"], gallery["images"]
    mistakes = int((guesses != labels).sum())
    assert images.shape == (len(rows), 8, 8, 1) and images.dtype == np.uint8
    assert (guesses[rows] != labels[rows]).sum() == min(30, mistakes), "the surest mistakes"
    hits = rows[guesses[rows] == labels[rows]]
    assert set(labels[hits]) == set(range(10)), "sure hits of every class"


def test_a_second_export_trains_nothing_and_opens_nothing(searched: Study, fitted: FittedModel) -> None:
    before = (len(searched.openings), fitted.model.stat().st_mtime_ns)
    again = refit(searched)
    assert again.repeated and dict(again.metrics) == dict(fitted.metrics)
    assert (len(load_study(searched.name, searched.storage).openings), fitted.model.stat().st_mtime_ns) == before


def test_another_trial_has_a_folder_of_its_own(searched: Study, fitted: FittedModel, executor: Executor) -> None:
    other = next(trial.number for trial in searched.trials() if trial.number != fitted.trial)
    assert refit(searched, other, executor=executor).folder.name == f"trial-{other}"
    assert refit(searched).repeated, "the best one is untouched"


def test_a_file_that_was_changed_is_found_out_and_repaired_and_said_so(
    searched: Study, fitted: FittedModel, executor: Executor
) -> None:
    whole = fitted.model.read_bytes()
    fitted.model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UnsafeFile, match="not what the manifest vouches for") as caught:
        manifest.verify(fitted.folder, manifest.read(fitted.folder))
    assert (caught.value.code, caught.value.exit_code) == ("E-MODEL-INCOMPLETE", 7)
    again = refit(searched, executor=executor)
    assert not again.repeated and again.repaired == str(fitted.model)
    manifest.verify(fitted.folder, manifest.read(fitted.folder))


def test_nothing_but_finished_folders_lies_beside_the_model(searched: Study, fitted: FittedModel) -> None:
    assert not [path for path in fitted.folder.parent.iterdir() if path.name.startswith(".")]


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_trained(
    searched: Study, fitted: FittedModel
) -> None:
    (searched.folder / ".refit").write_text("in the way")
    try:
        with pytest.raises(ResourceError, match="cannot be written") as caught:
            refit(searched, searched.trials()[-1].number, epochs=1, executor=NoExecutor())
        assert caught.value.code == "E-EXPORT-DIR"
    finally:
        (searched.folder / ".refit").unlink()


def test_an_ensemble_is_one_file_that_answers_with_the_mean_of_its_members(
    searched: Study, fitted: FittedModel, executor: Executor
) -> None:
    import keras

    both = refit(searched, ensemble=2, executor=executor)
    told = manifest.read(both.folder)
    assert both.folder.name == "ensemble-2" and len(told["members"]) == 2
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1)).astype(np.uint8)
    singles = []
    for member in told["members"]:
        single = refit(searched, member["trial"], epochs=member["epochs"], executor=executor)
        singles.append(keras.models.load_model(single.model).predict(images, verbose=0))
    mean = keras.models.load_model(both.model).predict(images, verbose=0)
    assert np.abs(mean - np.mean(singles, axis=0)).max() < 1e-5


def test_flip_averaging_is_in_the_saved_model_itself(searched: Study, fitted: FittedModel, executor: Executor) -> None:
    import keras

    flipping = refit(searched, tta=True, executor=executor)
    assert flipping.folder.name == "best-tta"
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1)).astype(np.uint8)
    plain = keras.models.load_model(fitted.model)
    wanted = (plain.predict(images, verbose=0) + plain.predict(images[:, :, ::-1], verbose=0)) / 2
    assert np.abs(keras.models.load_model(flipping.model).predict(images, verbose=0) - wanted).max() < 1e-5


def test_more_members_than_there_are_trials_are_refused_with_the_most_that_can_be(searched: Study) -> None:
    with pytest.raises(UsageError, match="has 3 complete trials. Try: --ensemble 3"):
        refit(searched, ensemble=4)


def test_two_refits_of_one_study_exclude_each_other(searched: Study) -> None:
    with filelock.FileLock(searched.folder / "refit.lock"), pytest.raises(StudyBusy, match="another process"):
        refit(searched)


def test_a_kill_between_the_two_renames_of_the_replacement_loses_nothing(searched: Study, fitted: FittedModel) -> None:
    fitted.folder.rename(fitted.folder.with_name(".best.old"))
    assert refit(searched).repeated and fitted.model.exists()


def test_what_a_kill_after_the_replacement_leaves_is_no_obstacle_to_the_next_refit(
    searched: Study, fitted: FittedModel, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the working folder is left behind without what has become the model's folder."""
    shutil.rmtree(fitted.folder)
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda *_, **__: None)
        refit(searched, executor=executor)
    assert [path.name for path in (searched.folder / ".refit").glob("*/*.json")]
    shutil.rmtree(fitted.folder)
    assert not refit(searched, executor=executor).repeated
    manifest.verify(fitted.folder, manifest.read(fitted.folder))
    assert not (searched.folder / ".refit").exists()


KILLED = """
import os, signal, sys
from autofash.refitting import refit
from autofash.study import load_study

def watch(doing, done, total):
    if doing == sys.argv[2] and done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

refit(load_study(None, sys.argv[1]), epochs=8, command="killed", watch=watch)
"""


@pytest.mark.parametrize(("doing", "done"), [("training on train + validation", 5), ("opening the test set", 0)])
def test_a_refit_that_is_killed_goes_on_where_it_was_and_ends_with_the_same_weights(
    searched: Study, fitted: FittedModel, executor: Executor, doing: str, done: int
) -> None:
    shutil.rmtree(fitted.folder)
    opened = len(load_study(searched.name, searched.storage).openings)
    killed = subprocess.run([sys.executable, "-c", KILLED, searched.storage, doing, str(done)], check=False)
    assert killed.returncode == -signal.SIGKILL
    seen: list[tuple[str, int]] = []
    resumed = refit(searched, epochs=8, executor=executor, watch=lambda doing, done, _: seen.append((doing, done)))
    epochs = [done for doing, done in seen if doing == "training on train + validation"]
    assert epochs == ([5, 6, 7, 8] if done else []), "from the checkpoint of epoch 4, or not at all"
    assert len(load_study(searched.name, searched.storage).openings) == opened + 1
    shutil.rmtree(fitted.folder)
    whole = refit(searched, epochs=8, executor=executor)
    assert "refit_seconds" not in resumed.metrics, "the earlier attempt's are not known"
    assert resumed.metrics == {name: value for name, value in whole.metrics.items() if name != "refit_seconds"}


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

    searched = autofash(
        "search", "--dataset", "digits", "--space", "small.toml", "--trials", "2", "--epochs", "3", "--pruner", "none"
    )
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
    confirmed = autofash("best", "--confirm", "2", "--seeds", "2", "--export", "--formats", "keras,litert")
    assert confirmed.returncode == 0, confirmed.stderr
    for shown in ("4/4", "digits-small, confirmed", "95 % interval", "proven by its own runtime", "litert"):
        assert shown in confirmed.stdout, shown
    refused = autofash("best", "--export", "--formats", "keras,litter")
    assert refused.returncode == 2 and "there is no format 'litter'. Try: litert" in refused.stderr
    assert "--formats onnx is of --export" in autofash("best", "--formats", "onnx").stderr
