"""KerasTuner's projects as studies: those that it wrote itself, and those that nobody would write."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autofash.errors import AutofashError, StudyBusy, StudyError, StudyMismatch, UsageError
from autofash.importing import import_keras_tuner
from autofash.keras_tuner_folder import LARGEST_FILE, read_folder, read_trial
from autofash.records import State
from autofash.report import gather, page
from autofash.space import ChoiceParam, FloatParam, IntParam
from autofash.study import StudyWriter, load_study
from autofash.study.importances import importances
from tests.study.test_writer import SETTINGS, STORAGE
from tests.tuner_projects import RATE, UNITS, entry, project, searched, trial


@pytest.mark.keras
def test_what_keras_tuners_bayesian_optimization_wrote_becomes_a_study_of_the_same_values(tmp_path: Path) -> None:
    folder = searched(tmp_path, "BayesianOptimization", "val_accuracy")
    done = import_keras_tuner(folder, "old")
    assert (done.added, done.failed, done.known, done.strange, done.remarks) == (4, 0, 0, (), ())
    study = load_study("old")
    told = [json.loads((folder / f"trial_{n}" / "trial.json").read_text()) for n in range(4)]
    for record, state in zip(study.trials(), told, strict=True):
        assert record.state is State.COMPLETE and record.value == state["score"]
        assert record.best_epoch == state["best_step"] + 1
        assert record.config == state["hyperparameters"]["values"]
        assert ("units_1" in record.config) is (record.config["layers"] == 2)
        assert record.origin == f"imported from KerasTuner's trial {state['trial_id']}"
    assert study.settings.sampler == "kt-bayesian" and study.best().value == max(state["score"] for state in told)
    assert study.space.params["rate"] == FloatParam(low=1e-3, high=1e-1, log=True)
    assert study.space.params["units_0"] == IntParam(low=8, high=32, step=8)
    again = import_keras_tuner(folder, "old")
    assert (again.added, again.known) == (0, 4) and len(load_study("old").trials()) == 4


@pytest.mark.keras
def test_of_hyperbands_trials_the_promoted_say_whom_they_continue_and_nothing_of_the_tuners_is_a_parameter(
    tmp_path: Path,
) -> None:
    folder = searched(tmp_path, "Hyperband", "val_loss")
    done = import_keras_tuner(folder)
    assert done.study.name == "project" and "KerasTuner went by val_loss" in done.remarks[0]
    trials = done.study.trials()
    assert not any(name.startswith("tuner") for record in trials for name in record.config)
    for record, found in zip(trials, read_folder(folder).trials, strict=True):
        if "trial_id" in found.tuner:
            before = next(other for other in trials if other.origin.endswith(f"trial {found.tuner['trial_id']}"))
            assert record.continues == before.number
            assert record.config == before.config and (record.best_epoch or 0) > found.tuner["initial_epoch"]
        else:
            assert record.continues is None
    assert sum(record.continues is not None for record in trials) >= 1
    assert done.study.settings.sampler == "kt-hyperband"


def test_failed_trials_keep_the_last_line_of_their_error_and_count_for_nothing(tmp_path: Path) -> None:
    message = "Traceback (most recent call last):\n  File 'x'\nValueError: no \x1b[31mmemory\n"
    failed = trial(1, None, status="FAILED", message=message)
    done = import_keras_tuner(project(tmp_path / "p", trial(0), failed, trial(2, None, status="INVALID")))
    assert (done.added, done.failed) == (3, 2)
    records = load_study("p").trials()
    assert [record.state for record in records] == [State.COMPLETE, State.FAILED, State.FAILED]
    assert records[1].why == "ValueError: no \\x1b[31mmemory"
    assert "does not say why" in records[2].why
    assert load_study("p").summary().trials == 1


def test_a_search_that_goes_on_is_imported_again_and_only_what_is_new_is_added(tmp_path: Path) -> None:
    running = [trial(1, None, status="RUNNING"), trial(2, None, status="INVALID")]
    folder = project(tmp_path / "p", trial(0, 0.4), *running, ongoing_trials={"tuner0": "0001"}, retry_queue=["0002"])
    done = import_keras_tuner(folder)
    assert (done.added, done.unfinished) == (1, 2)
    project(folder, trial(0, 0.4), trial(1, 0.8), trial(2, 0.6), trial(3, 0.7))
    done = import_keras_tuner(folder)
    assert (done.added, done.known, done.unfinished) == (3, 1, 0)
    assert [record.value for record in load_study("p").trials()] == [0.4, 0.8, 0.6, 0.7]
    assert load_study("p").summary().trials == 4


def test_a_parameter_that_shows_itself_later_joins_the_study(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", trial(0))
    import_keras_tuner(folder)
    later = entry("Choice", "head", values=["dense", "average"])
    values = {"rate": 0.01, "units": 72, "head": "dense"}  # one unit more than its range: it was tried all the same
    project(folder, trial(0), trial(1, 0.9, values, [RATE, UNITS, later]))
    import_keras_tuner(folder)
    study = load_study("p")
    assert study.best().config == values
    assert study.space.params["head"] == ChoiceParam(values=["dense", "average"])
    assert study.space.params["units"] == IntParam(low=8, high=72)


def test_only_active_parameters_are_taken_though_two_of_them_share_a_name(tmp_path: Path) -> None:
    kind = entry("Choice", "kind", values=["mlp", "cnn"])
    width = [
        entry("Int", "width", {"kind": ["mlp"]}, min_value=64, max_value=512, step=64, sampling="linear"),
        entry("Int", "width", {"kind": ["cnn"]}, min_value=8, max_value=32, step=8, sampling="linear"),
    ]
    space = [kind, *width]
    trials = [trial(0, 0.5, {"kind": "mlp", "width": 128}, space), trial(1, 0.6, {"kind": "cnn", "width": 16}, space)]
    done = import_keras_tuner(project(tmp_path / "p", *trials))
    assert not done.strange and done.study.space.params["width"] == IntParam(low=8, high=512)


def test_steps_by_factors_and_mirrored_logarithms_become_ranges_that_hold_their_values(tmp_path: Path) -> None:
    space = [
        entry("Int", "batch", min_value=2, max_value=33, step=2, sampling="log"),
        entry("Float", "mirrored", min_value=0.1, max_value=10.0, step=None, sampling="reverse_log"),
        entry("Float", "drop", min_value=0.1, max_value=0.55, step=0.1, sampling="linear"),
        entry("Int", "odd", min_value=6, max_value=13, step=3, sampling="linear"),
        entry("Boolean", "flip"),
        entry("Fixed", "classes", value=10),
    ]
    values = {"batch": 8, "mirrored": 9.0, "drop": 0.1 + 0.1 * 2, "odd": 12, "flip": True, "classes": 10}
    study = import_keras_tuner(project(tmp_path / "p", trial(0, 0.5, values, space))).study
    assert study.best().config == {**values, "drop": 0.3}
    params = study.space.params
    assert params["batch"] == IntParam(low=2, high=33, log=True) and params["mirrored"] == FloatParam(
        low=0.1, high=10.0
    )
    assert params["odd"] == IntParam(low=6, high=12, step=3)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ('{"trial_id": "0001", "hyperpar', "not whole, or no JSON"),
        ("[" * 100_000, "not whole, or no JSON"),
        ("9" * 5000, "not whole, or no JSON"),
        ("\xff", "not whole, or no JSON"),
        ("[]", "valid dictionary"),
        (json.dumps({**trial(1), "trial_id": "0002"}), "it says that it is trial '0002'"),
        (json.dumps(trial(1, values={"rate": "fast", "units": 16})), "rate = 'fast' is none of its values"),
        (json.dumps(trial(1, values={"rate": 0.1, "unheard": 16})), "'unheard' is a value without a hyperparameter"),
        (json.dumps(trial(1, 92.5)), "its val_accuracy is no fraction"),
        (json.dumps(trial(1, None)), "it has no val_accuracy"),
        (json.dumps(trial(1, float("nan"))), "it has no val_accuracy"),
        (json.dumps(trial(1, status="DANCING")), "status: input should be"),
        (" " * (LARGEST_FILE + 1), "bytes"),
    ],
    ids=lambda text: text[:16].strip() or "long",
)
def test_a_strange_trial_is_named_and_the_others_are_imported(told: str, words: str, tmp_path: Path) -> None:
    folder = project(tmp_path / "p", trial(0), trial(1), trial(2))
    (folder / "trial_0001" / "trial.json").write_text(told, encoding="latin-1")
    done = import_keras_tuner(folder)
    assert done.added == 2
    [line] = done.strange
    assert line.startswith("trial_0001/trial.json: ") and words in line and line.isprintable() and len(line) < 300


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", trial(0), trial(1), trial(2))
    secret = tmp_path / "secret.json"
    (folder / "trial_0001" / "trial.json").rename(secret)
    (folder / "trial_0001" / "trial.json").symlink_to(secret)
    (folder / "trial_0002" / "trial.json").unlink()
    os.mkfifo(folder / "trial_0002" / "trial.json")
    elsewhere = project(tmp_path / "elsewhere", trial(3))
    (folder / "trial_0003").symlink_to(elsewhere / "trial_0003")
    done = import_keras_tuner(folder)
    assert done.added == 1
    assert [line.partition(":")[0] for line in done.strange] == [
        "trial_0001/trial.json",
        "trial_0002/trial.json",
        "trial_0003",
    ]
    assert done.strange[1].endswith("is no file") and done.strange[2].endswith("a link, which is not followed")


def test_a_cut_oracle_json_costs_nothing_but_the_order(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", trial(0), trial(1))
    (folder / "oracle.json").write_text('{"ongoing_trials": {')
    done = import_keras_tuner(folder)
    assert done.added == 2 and done.strange[0].startswith("oracle.json: not whole")


def test_a_search_by_loss_is_ranked_by_accuracy_and_says_so_and_without_accuracy_it_is_refused(tmp_path: Path) -> None:
    def by_loss(number: int, loss: float, accuracy: float | None) -> dict[str, object]:
        told = trial(number, accuracy)
        told["metrics"]["metrics"]["val_loss"] = {"direction": "min", "observations": [{"value": [loss], "step": 1}]}
        return {**told, "score": loss}

    done = import_keras_tuner(project(tmp_path / "p", by_loss(0, 0.5, 0.8), by_loss(1, 0.6, 0.9)))
    assert done.study.best().value == 0.9
    assert done.remarks == (
        "KerasTuner went by val_loss: shown, and ranked by, is val_accuracy in the epoch that was best by that",
    )
    with pytest.raises(
        StudyError, match=r"hold no validation accuracy, only val_loss.*metrics=\['accuracy'\]"
    ) as caught:
        import_keras_tuner(project(tmp_path / "q", by_loss(0, 0.5, None)))
    assert caught.value.code == "E-IMPORT" and not (Path("studies") / "q").exists()


def test_the_mean_of_several_executions_counts_and_every_step_that_was_kept_is_in_the_curve(tmp_path: Path) -> None:
    told = trial(0, 0.6)
    told["metrics"]["metrics"]["val_accuracy"]["observations"] = [
        {"value": [0.2, 0.4], "step": 0},
        {"value": [0.5, 0.7], "step": 1},
        {"value": [0.4, 0.6], "step": 2},
    ]
    record = import_keras_tuner(project(tmp_path / "p", told)).study.best()
    assert record.curve == pytest.approx((0.3, 0.6, 0.5)) and record.best_epoch == 2


def test_another_folder_under_the_same_name_is_refused_and_so_is_a_study_that_was_searched(tmp_path: Path) -> None:
    import_keras_tuner(project(tmp_path / "p", trial(0)), "old")
    with pytest.raises(StudyMismatch, match="imported from another folder, .*its trial '0000' has other values"):
        import_keras_tuner(project(tmp_path / "q", trial(0, values={"rate": 0.05, "units": 8})), "old")
    with pytest.raises(StudyMismatch, match="or before it was overwritten: its trial '0000' has other values"):
        import_keras_tuner(project(tmp_path / "p", trial(0, 0.99)), "old")
    StudyWriter("s", STORAGE, SETTINGS, target=1).close()
    with pytest.raises(StudyMismatch, match="was searched here"):
        import_keras_tuner(tmp_path / "p", "s")
    assert len(load_study("old").trials()) == 1 and load_study("s").trials() == []


def test_a_value_a_hair_beside_its_step_is_that_step_and_no_word_of_optunas_is_seen(tmp_path: Path) -> None:
    space = [entry("Float", "drop", min_value=0.1, max_value=0.75, step=0.1, sampling="linear")]
    told = [trial(n, values={"drop": value}, space=space) for n, value in enumerate((0.30000001, 0.7000000000000001))]
    study = import_keras_tuner(project(tmp_path / "p", *told)).study
    assert [record.config["drop"] for record in study.trials()] == [0.3, 0.7]
    assert study.space.params["drop"] == FloatParam(low=0.1, high=0.7, step=0.1)


def test_a_folder_that_is_no_project_is_refused_and_the_project_within_it_named(tmp_path: Path) -> None:
    project(tmp_path / "dir" / "project", trial(0))
    with pytest.raises(StudyError, match=r"no oracle\.json.*Try: .*dir/project$"):
        import_keras_tuner(tmp_path / "dir")
    with pytest.raises(StudyError, match="No such file"):
        import_keras_tuner(tmp_path / "nowhere")
    with pytest.raises(StudyError, match="no trial of it can be imported, 1 that have not ended"):
        import_keras_tuner(project(tmp_path / "p", trial(0, None, status="RUNNING")))


def test_a_long_import_does_not_take_its_own_lock_for_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("autofash.study.soundness.WARN_SECONDS", 0.5)
    monkeypatch.setattr("autofash.study.imports.AT_ONCE", 2)
    told = [trial(n, values={"rate": 0.001 + n / 10_000, "units": 16}) for n in range(100)]
    assert import_keras_tuner(project(tmp_path / "p", *told)).added == 100
    assert not caplog.records


def test_while_one_import_writes_a_study_another_says_who_does(tmp_path: Path) -> None:
    from autofash.study.opening import OpenedStudy

    folder = project(tmp_path / "p", trial(0))
    import_keras_tuner(folder)
    holder = OpenedStudy("p", STORAGE, load_study("p").settings, None)
    try:
        with pytest.raises(StudyBusy):
            import_keras_tuner(project(folder, trial(0), trial(1)))
    finally:
        holder.close()


def test_the_report_and_the_importances_work_without_a_model_and_say_that_there_is_none(tmp_path: Path) -> None:
    names = {"learning $rate_{x}$": 0.01, "<b>&": 8}
    space = [
        entry("Float", "learning $rate_{x}$", min_value=1e-4, max_value=0.1, step=None, sampling="log"),
        entry("Int", "<b>&", min_value=1, max_value=64, step=None, sampling="log"),
    ]
    trials = [
        trial(n, 0.3 + 0.02 * n, {name: value * (1 + n % 7) for name, value in names.items()}, space) for n in range(24)
    ]
    study = import_keras_tuner(project(tmp_path / "p", *trials)).study
    assert set(importances(study)) == set(names)
    facts = gather(study)
    assert facts.export_command == "autofash search --warm-start p" and facts.cost.searching_seconds is None
    assert any("holds no models" in caveat for caveat in facts.caveats)
    assert facts.reproduce.commands[0] == f"autofash import {tmp_path / 'p'} --study p"
    text = page(facts)
    assert "An imported study holds no models; search from it:" in text and "<b>&" not in text


def test_what_needs_a_model_or_a_search_of_our_own_refuses_in_one_line_with_the_way_on(tmp_path: Path) -> None:
    import autofash

    import_keras_tuner(project(tmp_path / "p", trial(0)))
    for attempt in (
        lambda: autofash.search(study="p"),
        lambda: autofash.refit("p"),
        lambda: autofash.confirm("p"),
    ):
        with pytest.raises(
            UsageError, match=r"p was imported, and holds no models.*Try: autofash search --warm-start p"
        ):
            attempt()
    with pytest.raises(AutofashError, match="there is no family 'imported'"):
        autofash.search(load_study("p").space, dataset="digits")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_trial_in_which_anything_is_anything_is_read_or_refused_on_one_line(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    told: object = trial(0)
    steps, inner = data.draw(st.integers(1, 7)), told
    for _ in range(steps):  # to some place in it, which then holds something else
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner))) if isinstance(inner, list) else []
        if not keys:
            break
        outer, key = inner, data.draw(st.sampled_from(keys))
        inner = outer[key]
    outer[key] = data.draw(JSON)
    folder = tmp_path_factory.mktemp("project") / "trial_0000"
    folder.mkdir()
    (folder / "trial.json").write_text(json.dumps(told))
    try:
        found = read_trial(folder / "trial.json")
    except StudyError as error:
        assert str(error).isprintable() and len(str(error)) < 500
    else:
        assert found.values.keys() == found.params.keys()
        assert all(found.params[name].holds(value) for name, value in found.values.items())
    whole = read_folder(folder.parent) if not (folder.parent / "oracle.json").exists() else None
    assert whole is None or len(whole.trials) + len(whole.strange) == 1


@settings(max_examples=100, deadline=None)
@given(
    low=st.integers(1, 50),
    span=st.integers(0, 200),
    step=st.none() | st.integers(2, 9),
    sampling=st.sampled_from(["linear", "log", "reverse_log"]),
    share=st.floats(0, 1, exclude_max=True),
)
def test_whatever_keras_tuner_draws_is_one_of_the_parameters_values(
    low: int, span: int, step: int | None, sampling: str, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    high = low + span
    if step is None:
        value = int({"linear": low + share * (span + 1), "log": low * ((high + 1) / low) ** share}.get(sampling, high))
    else:
        values = [low + n * step for n in range(span // step + 1)]
        if sampling != "linear":
            values = [low * step**n for n in range(20) if low * step**n <= high]
        value = values[int(share * len(values))]
    hyperparameter = entry("Int", "n", min_value=low, max_value=high, step=step, sampling=sampling)
    folder = project(tmp_path_factory.mktemp("drawn") / "p", trial(0, 0.5, {"n": value}, [hyperparameter]))
    found = read_trial(folder / "trial_0000" / "trial.json")
    assert found.values == {"n": value} and found.params["n"].holds(value)
