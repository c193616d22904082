"""Which parameters decided a study: Optuna's importances over its finished trials."""

from __future__ import annotations

import warnings
from collections import Counter

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from autofash.study.ledger import Study
from autofash.study.storage import ledger_errors

FEWEST = 20  # finished trials: the best fifth of fewer is less than four
BEST = 0.2  # of the finished trials


def importances(study: Study) -> dict[str, float]:
    """Each parameter's share in what sets the best fifth of the finished trials apart from all: the greatest first, sum 1.

    Pruned trials count with the best that they had reached: of fifty trials pruning leaves six or so complete, too few to
    compare, and whatever it stopped was behind its peers at the same epoch. A conditional parameter is judged among the
    trials that have it. Empty where fewer than FEWEST trials are finished, or fewer than two parameters varied.
    Raises LedgerError.
    Source: PED-ANOVA, Watanabe et al. 2023, arXiv:2304.10255; its conditional form, arXiv:2601.20800.
    """
    with ledger_errors(study.storage):
        finished = study._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    finished = [trial for trial in finished if trial.intermediate_values]
    seen = {(name, value) for trial in finished for name, value in trial.params.items()}
    values = Counter(name for name, _ in seen)
    varied = sorted(name for name, count in values.items() if count > 1)
    if len(finished) < FEWEST or len(varied) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # Optuna's major version is pinned
        # A study in memory, because Optuna itself looks at complete trials only.
        compared = optuna.create_study(direction="maximize")
        for trial in finished:
            best = max(trial.intermediate_values.values())
            compared.add_trial(create_trial(params=trial.params, distributions=trial.distributions, value=best))
        found = get_param_importances(
            compared, evaluator=PedAnovaImportanceEvaluator(target_quantile=BEST), params=varied
        )
    return dict(sorted(found.items(), key=lambda entry: (-entry[1], entry[0])))
