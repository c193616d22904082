"""A warm start: what another study's trials showed, told to the sampler of a new one.

These are hints, not trials of the study: whatever counts, ranks or compares its trials never meets them. They are kept in one
attribute of the study, written in the same commit as the runs that they lead to, and one place shows them to the sampler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from autofash.errors import StudyMismatch, UsageError
from autofash.records import Config, StudySettings, Value
from autofash.space import IMPORTED, ChoiceParam, Param, Space, space_from_table
from autofash.study.ledger import Study, as_json, study_names
from autofash.study.samplers import distribution, key_of, seen_by_tpe

FIRST = 3  # of the hints, the best, that are run before anything else


def warm_start(source: str, name: str, storage: str, settings: StudySettings) -> Mapping[str, Any] | None:
    """What the study of this name and these settings is to learn from another one, as JSON; None where it has learnt it already.

    A trial counts where its config is one of the space's: every parameter that is active there is named, with a value that it
    holds, and nothing besides. Nothing is filled in: the value would then be another config's.
    Raises StudyMissing, StudyMismatch where no trial fits, UsageError.
    """
    if source == name:
        raise UsageError(f"--warm-start {source} names the study itself", f"--study {name}-2 --warm-start {source}")
    before = Study(name, storage).warm_start if name in study_names(storage) else None
    if before is not None:
        if before["study"] != source:
            raise UsageError(
                f"the study {name} has learnt from {before['study']}, and a study does so once",
                f"--new-study --warm-start {source}",
            )
        return None
    study = Study(source, storage)
    if not study.imported and study.settings.data_fingerprint != settings.data_fingerprint:
        raise _nothing(study, f"it was searched on other data, {study.settings.dataset}")
    if study.settings.objective != settings.objective:
        raise _nothing(study, f"its objective is {study.settings.objective}, not {settings.objective}")
    space = space_from_table(settings.space_table, name=settings.space, where=settings.space)
    hints, unfit = [], Counter[str]()
    for trial in study.finished_trials():
        config, why = fitted(space, study.space, study.config_of(trial))
        if why:
            unfit[why] += 1
        else:
            complete = trial.state is TrialState.COMPLETE
            hints.append(
                {"trial": trial.number, "complete": complete, "config": config, "looks": trial.intermediate_values}
            )
    of = len(hints) + unfit.total()
    if not hints:
        [(why, count)] = unfit.most_common(1) or [("it has no finished trial", 0)]
        raise _nothing(study, f"{count} of its {of} trials: {why}" if count else why)
    shape = study.space if space.hypermodel else space
    seen = {trial.number for trial in seen_by_tpe(shown_trials(hints, shape))}
    return {
        "study": source,
        "of": of,
        "fit": len(hints),
        "imported": study.imported,
        "trials": as_json([hint for place, hint in enumerate(hints) if place - len(hints) in seen]),
    }


def fitted(space: Space, source: Space, config: Config) -> tuple[Config, str]:
    """A config of another space in the space's own parameters, and why it is none of the space's, or nothing.

    A hypermodel shows its parameters only while it builds: what fits it is found out then (`shown_trials`).
    """
    if space.hypermodel:
        if not (source.hypermodel or source.family == IMPORTED):
            return {}, f"its models are of the family {source.family}"
        own = {name: config[name] for name in source.own(config) if not _constant(source.params[name])}
        return own, "" if own else "it has no parameters"
    whole = {**space.begun(), **config} if source.family == IMPORTED else config
    odd: list[str] = []

    def take(name: str, param: Param) -> Value:
        if name not in whole:
            odd.append(f"{name} is not named")
        elif not param.holds(whole[name]):
            odd.append(f"{name} lies outside of the space")
        else:
            return whole[name]
        return param.nearest(None)

    found = space.walk(take)
    if not odd and space.expand(found) != whole:
        extra = [name for name in whole if name not in space.expand(found)]
        odd.append(f"{extra[0]} is not in the space" if extra else "its configs are others")
    return space.own(found), odd[0] if odd else ""


def _constant(param: Param) -> bool:
    """Whether it is what KerasTuner calls Fixed: nothing to search."""
    return isinstance(param, ChoiceParam) and len(param.values) == 1


def shown_trials(hints: Sequence[Mapping[str, Any]], space: Space) -> list[FrozenTrial]:
    """Hints as a sampler sees trials: finished ones, numbered below 0, before all that the study has.

    Those of a hypermodel's that name a parameter which has not shown itself, or not so, are left out.
    """
    trials = []
    for place, hint in enumerate(hints):
        if not all(name in space.params and space.params[name].holds(value) for name, value in hint["config"].items()):
            continue
        looks = {int(epoch): float(value) for epoch, value in hint["looks"].items()}
        trial = create_trial(
            state=TrialState.COMPLETE if hint["complete"] else TrialState.PRUNED,
            value=max(looks.values()) if hint["complete"] else looks[max(looks)],
            params=dict(hint["config"]),
            distributions={name: distribution(space.params[name]) for name in hint["config"]},
            intermediate_values=looks,
        )
        trial.number = trial._trial_id = place - len(hints)
        trials.append(trial)
    return trials


def leaders(hints: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The hints that are worth a run first: the best, complete ones before pruned ones, each config once."""
    ranked = sorted(hints, key=lambda hint: (not hint["complete"], -max(hint["looks"].values()), hint["trial"]))
    return list({key_of(hint["config"]): hint for hint in reversed(ranked)}.values())[::-1][:FIRST]


def _nothing(study: Study, why: str) -> StudyMismatch:
    return StudyMismatch(
        f"there is nothing to learn from {study.name}: {why}", "another study, or none", code="E-WARM-START"
    )
