"""Models that a user's own code builds: a KerasTuner `build(hp)` or `HyperModel`, or an Optuna-style `define(trial)`."""

from autofash.hypermodels.training import refitted, run_trial

__all__ = ["refitted", "run_trial"]
