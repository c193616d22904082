"""Real training on the real digits, in this process and in processes of its own."""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from autofash import training
from autofash.checkpoint import Checkpoint
from autofash.data import prepare
from autofash.errors import InfeasibleConfig
from autofash.executors import ProcessExecutor
from autofash.records import Ending, EpochReport, ModelBuilt, Outcome, Report, TrialSpec, Verdict
from tests.contracts.test_executor import everything

pytestmark = pytest.mark.keras
CONFIG = {"family": "mlp", "depth": 1, "width": 64, "learning_rate": 5e-3, "batch_size": 32}


def spec(trial: int = 0, epochs: int = 3, threads: int = 1, **config: object) -> TrialSpec:
    folder = prepare("digits", Path(), seed=0, validation=1 / 6).folder
    return TrialSpec(trial, {**CONFIG, **config}, seed=7, epochs=epochs, data=folder, threads=threads)


def run(given: TrialSpec, stop_after: int = 99, pause_after: int = 99) -> list[EpochReport]:
    return trained(given, stop_after, pause_after)[1]


def trained(given: TrialSpec, stop_after: int = 99, pause_after: int = 99) -> tuple[keras.Model, list[EpochReport]]:
    reports: list[EpochReport] = []

    def report(said: EpochReport) -> Verdict:
        reports.append(said)
        if said.epoch == pause_after:
            return Verdict.pause("others first")
        return Verdict.stop("enough") if said.epoch >= stop_after else Verdict.go()

    # take_resources wants a process that has run nothing yet; here others have
    keras.utils.set_random_seed(given.seed)
    found = training.data.load(given.data)
    model = training.compiled(given, found.train_images.shape[1:], 10, len(found.train_images))
    watched = (found.validation_images, found.validation_labels)
    kept = Checkpoint(Path(given.checkpoint)) if given.checkpoint else None
    training.fit(
        model, given, found.train_images, found.train_labels, watched, 10, report, epochs=given.epochs, checkpoint=kept
    )
    return model, reports


def outcome(executor: ProcessExecutor, given: TrialSpec) -> tuple[Outcome, list[EpochReport]]:
    executor.submit(given)
    events = everything(executor)
    end = events[-1]
    assert isinstance(end, Outcome)
    return end, [event for event in events if isinstance(event, EpochReport)]


def test_a_trial_learns_real_digits_and_reports_each_epoch() -> None:
    reports = run(spec(epochs=8))
    assert [report.epoch for report in reports] == list(range(1, 9))
    assert reports[-1].accuracy > max(0.92, reports[0].accuracy)
    assert reports[-1].objective == reports[-1].accuracy and 0 < reports[-1].loss < 1
    assert reports[-1].images == 8 * 37 * 32 and reports[-1].seconds > reports[0].seconds > 0


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow traces a step in Python")
def test_a_step_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    traced, step = [], keras.Model.train_step

    def counted(model: keras.Model, data: Any) -> Any:
        traced.append(model)
        return step(model, data)

    monkeypatch.setattr(keras.Model, "train_step", counted)
    run(spec(epochs=2))
    assert len(traced) == 1


def test_a_stop_ends_the_training_after_that_epoch() -> None:
    assert len(run(spec(epochs=9), stop_after=2)) == 2


@pytest.mark.parametrize("family", ["mlp", "cnn"])
def test_an_early_look_comes_within_the_first_epoch_and_changes_nothing_of_the_training(family: str) -> None:
    given = spec(epochs=2, **{"family": family, "width": 8, "dropout": 0.2, "normalization": "batch"})
    plain, looked = trained(given), trained(replace(given, early=500))
    assert [report.epoch for report in looked[1]] == [0, 1, 2]
    assert looked[1][0].images == 16 * 32, "500 images, in whole batches"
    assert [r.loss for r in looked[1][1:]] == [r.loss for r in plain[1]]
    for one, other in zip(plain[0].get_weights(), looked[0].get_weights(), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("pause_after", [0, 1])
def test_a_paused_training_goes_on_in_the_midst_of_an_epoch_and_ends_with_the_same_weights(
    pause_after: int, tmp_path: Path
) -> None:
    config = {"dropout": 0.3, "optimizer": "adamw", "schedule": "onecycle", "mixup": 0.2}
    whole, reports = trained(replace(spec(epochs=3, **config), early=500))
    given = replace(spec(epochs=3, **config), early=500, checkpoint=str(tmp_path / "state"))
    before = run(given, pause_after=pause_after)
    model, after = trained(given)
    assert [r.epoch for r in before + after] == [r.epoch for r in reports] == [0, 1, 2, 3]
    assert [r.loss for r in before + after] == [r.loss for r in reports]
    for one, other in zip(whole.get_weights(), model.get_weights(), strict=True):
        assert np.array_equal(one, other)


def test_a_trial_that_continues_another_where_that_one_was_to_end_ends_with_the_weights_of_a_whole_one(
    tmp_path: Path,
) -> None:
    config = {"dropout": 0.3, "schedule": "cosine"}
    whole, reports = trained(spec(epochs=4, **config))
    given = replace(spec(epochs=4, **config), checkpoint=str(tmp_path / "state"))
    rounds = [trained(replace(given, until=until)) for until in (1, 3, 0)]
    assert [[report.epoch for report in told] for _, told in rounds] == [[1], [2, 3], [4]]
    assert [report.loss for _, told in rounds for report in told] == [report.loss for report in reports]
    for one, other in zip(whole.get_weights(), rounds[-1][0].get_weights(), strict=True):
        assert np.array_equal(one, other)


def test_a_damaged_checkpoint_is_no_obstacle_the_training_begins_anew(tmp_path: Path) -> None:
    given = replace(spec(epochs=2), checkpoint=str(tmp_path / "state"))
    run(given, pause_after=1)
    [kept] = (tmp_path / "state").iterdir()
    kept.write_bytes(kept.read_bytes()[:-200])
    assert [report.epoch for report in run(given)] == [1, 2]


def test_the_work_of_a_model_is_that_of_its_convolutions_and_dense_layers_and_something_for_the_rest() -> None:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dense(10)(keras.layers.Flatten()(x))
    work = training.work_of(keras.Model(inputs, x))
    elements = 20 * (8 * 8 * 3) + 20 * (8 * 8 * 4) + 100 * (8 * 8 * 4) + 20 * (8 * 8 * 4) + 20 * 10
    assert work == (8 * 8 * 4) * (3 * 3 * 3) + 10 * (8 * 8 * 4) + elements


def test_training_stops_at_the_training_accuracy_that_was_asked_for() -> None:
    reports = run(spec(epochs=40, stop_at_train_accuracy=0.9))
    assert len(reports) < 40 and reports[-1].train_accuracy >= 0.9 > reports[-2].train_accuracy


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "lion", "muon"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_every_optimizer_trains_with_every_schedule(optimizer: str, schedule: str) -> None:
    rate = {"sgd": 0.1, "lion": 5e-4}.get(optimizer, 5e-3)
    reports = run(spec(epochs=2, optimizer=optimizer, schedule=schedule, learning_rate=rate, weight_decay=1e-3))
    assert reports[-1].accuracy > 0.2


def test_a_schedule_ends_near_zero_and_one_cycle_peaks_in_between() -> None:
    rates = {
        name: training.optimizer({"learning_rate": 0.01, "schedule": name}, 100) for name in ("cosine", "onecycle")
    }
    at = {name: [float(made._learning_rate(step)) for step in range(101)] for name, made in rates.items()}
    assert at["cosine"][0] == pytest.approx(0.01) and at["cosine"][100] == pytest.approx(0, abs=1e-6)
    assert at["onecycle"][0] == pytest.approx(0.0004) and max(at["onecycle"]) == pytest.approx(0.01, rel=0.05)
    assert at["onecycle"].index(max(at["onecycle"])) == 25 and at["onecycle"][100] == pytest.approx(0, abs=1e-6)


def test_augmentation_and_label_smoothing_are_the_trainings_not_the_validations() -> None:
    reports = run(spec(epochs=4, mixup=0.4, erase=0.3, shift=1, flip=True, label_smoothing=0.1))
    assert all(math.isfinite(report.loss) for report in reports)


def test_a_loss_that_leaves_the_numbers_fails_the_trial(executor: ProcessExecutor) -> None:
    end, _ = outcome(executor, spec(trial=1, epochs=5, optimizer="sgd", learning_rate=1e30))
    assert end.ending is Ending.FAILED and "not finite" in end.reason


def test_a_model_that_is_too_large_is_refused_before_its_weights_take_memory(executor: ProcessExecutor) -> None:
    giant = {"family": "cnn", "width": 1024, "depth": 8, "conv_blocks": 3, "kernel_size": 15}
    executor.submit(spec(**giant))
    began, ends = time.monotonic(), []
    while not ends:
        for event in executor.events(0.5):
            if isinstance(event, ModelBuilt):
                assert event.parameters > 10**10 and event.work > 10**10, "40 GB, had they been made"
                executor.reply(event.trial, Verdict.stop("too large"))
            if isinstance(event, Outcome):
                ends.append(event)
        assert time.monotonic() - began < 120
    assert ends[0].ending is Ending.DONE and ends[0].details["parameters"] > 10**10


def test_a_trial_begins_with_the_weights_that_its_seed_gives_whenever_they_are_made(executor: ProcessExecutor) -> None:
    given = spec(epochs=1, family="cnn", conv_blocks=2, width=8, normalization="batch", head_dropout=0.3)
    _, told = outcome(executor, given)  # made after the verdict about its size
    here = run(given)  # made as the layers are
    assert told[0].loss == pytest.approx(here[0].loss, rel=1e-3)


def test_a_config_that_cannot_be_built_fails_at_once_with_its_reason(executor: ProcessExecutor) -> None:
    end, reports = outcome(executor, spec(trial=2, family="cnn", conv_blocks=6))
    assert end.ending is Ending.FAILED and "a pooling too many" in end.reason and not reports


def test_the_server_forks_with_keras_loaded_and_the_same_seed_gives_the_same_curve(executor: ProcessExecutor) -> None:
    curves = [[r.loss for r in outcome(executor, spec(trial=trial))[1]] for trial in (3, 4)]
    assert executor.started_as == "fork"
    assert curves[0] == curves[1] and len(curves[0]) == 3


def multiply(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Multiply matrices for a second or so; tell how many cores that kept busy, and how many threads there are."""
    training.take_resources(spec)
    product = matrix = keras.ops.ones((1500, 1500))
    wall, cpu = time.monotonic(), time.process_time()
    for _ in range(20):
        product = keras.ops.matmul(product, matrix) / 1500
    float(keras.ops.sum(product))
    busy = (time.process_time() - cpu) / (time.monotonic() - wall)
    return {"busy": busy, "threads": len(os.listdir("/proc/self/task"))}


def test_a_plan_of_two_threads_uses_two_cores(executor: ProcessExecutor) -> None:
    """A child inherits one-thread settings from the server; its own plan must win."""
    used = {}
    for threads in (1, 2):
        end, _ = outcome(executor, replace(spec(threads=threads), task="tests.test_training:multiply"))
        assert end.ending is Ending.DONE, end.reason
        used[threads] = end.details
    assert used[2]["threads"] > used[1]["threads"], "two threads are two threads, on however busy a machine"
    assert used[1]["busy"] < 1.2


def test_scores_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    rng = np.random.default_rng(0)
    predicted = rng.dirichlet(np.ones(5), 300)
    labels = rng.integers(0, 5, 300)
    found = training.scores(predicted, labels)
    guesses = predicted.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, guesses))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, guesses, average="macro"))
    assert found["loss"] == pytest.approx(log_loss(labels, predicted))


def test_an_infeasible_batch_size_is_an_error_of_ours() -> None:
    with pytest.raises(InfeasibleConfig, match="batch_size"):
        training._batch_size({"batch_size": 0}, 10)


def test_a_refit_is_left_with_the_average_of_its_latest_weights_and_a_trial_with_the_weights_themselves() -> None:
    given, left = spec(epochs=2), []
    found = training.data.load(given.data)
    watched = (found.validation_images, found.validation_labels)
    for seen in (watched, None):
        keras.utils.set_random_seed(given.seed)
        model = training.compiled(given, found.train_images.shape[1:], 10, len(found.train_images))
        training.fit(
            model, given, found.train_images, found.train_labels, seen, 10, lambda _: Verdict.go(), epochs=given.epochs
        )
        left.append((model.get_weights(), [np.array(average) for average in model.optimizer.averages]))
    (weights, averages), (refitted, same) = left
    for one, other, kept, again in zip(weights, averages, refitted, same, strict=True):
        assert np.array_equal(other, again) and np.array_equal(kept, again) and not np.array_equal(one, other)
