"""The five classic Fashion-MNIST classifiers: what was claimed for each, and what was measured here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from autofash import manifest
from autofash.errors import UnsafeFile
from autofash.space import load_space
from autofash.study import Study
from autofash.study.ledger import study_names

STORIED = "fashion_mnist"  # the data set that the five classics were published for


@dataclass(frozen=True, slots=True)
class Baseline:
    """A classic classifier: what was claimed for it, and what was measured here."""

    name: str
    about: str
    claim: str
    train_accuracy: float | None  # None where it was not measured
    test_accuracy: float | None


def baselines(study: Study) -> tuple[Baseline, ...]:
    """The five classics; none where the study's data set is not theirs."""
    if study.settings.dataset != STORIED:
        return ()
    measured = _measured(study)
    return tuple(
        Baseline(
            name=classic,
            about=named.about,
            claim=named.claim,
            train_accuracy=measured.get(classic, {}).get("train_accuracy"),
            test_accuracy=measured.get(classic, {}).get("test_accuracy"),
        )
        for classic, named in load_space("baselines").configs.items()
    )


def _measured(study: Study) -> Mapping[str, Any]:
    """Each classic's figures, where `autofash baselines` ran on the same data in the same storage."""
    name, measured = f"{study.settings.dataset}-baselines", {}
    if name in study_names(study.storage):
        other = Study(name, study.storage)
        same = other.settings.data_fingerprint == study.settings.data_fingerprint
        for record in other.trials() if same else []:
            with suppress(KeyError, UnsafeFile):  # it was searched, and not refitted
                told = manifest.read(other.folder / f"trial-{record.number}")
                measured[str(record.config["config"])] = told["metrics"]
    return measured
