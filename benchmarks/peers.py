"""The contestants of the race, one a process: `python benchmarks/peers.py NAME SPACE SEED DATA SPLIT`; race.py starts them.

Each says on its stdout, a JSON line each, which trial begins and what every validation of the full validation set showed.
All search the same space and train the same models on the same split, 12 epochs a trial at most; the peers are written as
their documentation teaches, in TensorFlow's and Keras's own settings. Only what a contestant needs is imported: it pays for it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DATASET, EPOCHS = "fashion_mnist", 12
TRIALS = 1000  # more than there is time for


@dataclass(frozen=True)
class Task:
    """What a contestant is given."""

    space: str  # a shipped space's name, or a file
    seed: int
    data: Path  # the data set's own files
    split: Path  # the arrays that autofash.data.prepare made of them


def tell(trial: int, epoch: int = 0, value: float | None = None) -> None:
    """Say that a trial begins; or what its validation after an epoch, from 1, showed: accuracy, a fraction."""
    # Rounded, because 9,000 hits of 10,000 are 0.89999998 in Keras's float32.
    print(json.dumps({"trial": trial, "epoch": epoch, "value": value and round(float(value), 6)}), flush=True)


def run_autofash(task: Task, *, starters: bool | None = None) -> None:
    """The public search, everything at its default but the epochs."""
    from autofash import search
    from autofash.loop import SearchEvent, TrialBegan, TrialReported

    begun = set()

    def listen(event: SearchEvent) -> None:
        match event:
            case TrialBegan(trial=trial) if trial not in begun:  # one that is continued began before
                begun.add(trial)
                tell(trial)
            case TrialReported(report=report) if report.epoch:  # an early look sees a part of the validation images
                tell(report.trial, report.epoch, report.objective)

    search(
        task.space,
        dataset=DATASET,
        data_dir=task.data,
        trials=TRIALS,
        epochs=EPOCHS,
        seed=task.seed,
        starters=starters,
        listeners=[listen],
    )


class Bench:
    """What the Keras peers share: the arrays in memory, the builder, and what model.fit is called with."""

    def __init__(self, task: Task) -> None:
        import keras

        from autofash import data
        from autofash.space import load_space

        keras.utils.set_random_seed(task.seed)
        found = data.load(task.split)
        self.seed, self.space, self.classes = task.seed, load_space(task.space), len(found.classes)
        self.images, self.labels = np.array(found.train_images), np.array(found.train_labels)
        self.validation = np.array(found.validation_images), np.array(found.validation_labels)
        one_hot = keras.utils.to_categorical
        self.fit_arguments = {
            "epochs": EPOCHS,
            "validation_data": (self.validation[0], one_hot(self.validation[1], self.classes)),
            "verbose": 0,
        }
        self.targets = one_hot(self.labels, self.classes)

    def build(self, config: dict[str, Any]) -> Any:
        """The compiled model of a config, by autofash's own builder, with Keras's own optimizer."""
        from autofash.records import TrialSpec
        from autofash.training import compiled

        spec = TrialSpec(trial=0, config=config, seed=self.seed, epochs=EPOCHS, data="")
        model = compiled(spec, self.images.shape[1:], self.classes, len(self.images))
        averaging = model.optimizer  # a peer does not use the averages, and need not pay for them
        model.compile(type(averaging).__base__.from_config(averaging.get_config()), model.loss, metrics=["accuracy"])
        return model

    def fit(self, model: Any, config: dict[str, Any], **arguments: Any) -> Any:
        """model.fit on the arrays in memory; on autofash's batches where the config augments, which is a part of the space."""
        from autofash.data.augment import Augmentation
        from autofash.data.batches import Batches

        size, augmentation = config["batch_size"], Augmentation.of(config)
        if augmentation == Augmentation():
            return model.fit(self.images, self.targets, batch_size=size, **arguments)
        batches = Batches(
            self.images, self.labels, self.classes, batch_size=size, augmentation=augmentation, seed=self.seed
        )
        return model.fit(_epochs_of(batches, arguments.get("initial_epoch", 0)), shuffle=False, **arguments)


def _epochs_of(batches: Any, first: int) -> Any:
    """autofash's batches as model.fit takes them for several epochs."""
    import keras

    class Epochs(keras.utils.PyDataset):
        epoch = first

        def __len__(self) -> int:
            return int(batches.per_epoch)

        def __getitem__(self, index: int) -> Any:
            return batches.batch(self.epoch * batches.per_epoch + index)

        def on_epoch_end(self) -> None:
            self.epoch += 1

    return Epochs()


def telling() -> Any:
    """A Keras callback that tells of every fit and its validations; KerasTuner copies it for each trial."""
    from keras.callbacks import LambdaCallback

    numbers, trial = itertools.count(), 0

    def begin(logs: object) -> None:
        nonlocal trial
        trial = next(numbers)
        tell(trial)

    def end(epoch: int, logs: dict[str, float]) -> None:
        tell(trial, epoch + 1, logs["val_accuracy"])

    return LambdaCallback(on_train_begin=begin, on_epoch_end=end)


def run_optuna(task: Task) -> None:
    """Optuna alone, as its Keras example has it: TPE, MedianPruner and the pruning callback, one trial at a time."""
    import keras
    from optuna import Trial, create_study
    from optuna.pruners import MedianPruner
    from optuna.samplers import TPESampler
    from optuna_integration import KerasPruningCallback

    from autofash.space import BoolParam, ChoiceParam, FloatParam, IntParam, Param

    bench, told = Bench(task), telling()

    def choose(trial: Trial, name: str, param: Param) -> Any:
        match param:
            case IntParam():
                return trial.suggest_int(name, param.low, param.high, step=param.step, log=param.log)
            case FloatParam():
                return trial.suggest_float(name, param.low, param.high, step=param.step, log=param.log)
            case ChoiceParam():
                return trial.suggest_categorical(name, param.values)
            case BoolParam():
                return trial.suggest_categorical(name, [False, True])

    def objective(trial: Trial) -> float:
        keras.backend.clear_session()
        config = bench.space.walk(functools.partial(choose, trial))
        callbacks = [told, KerasPruningCallback(trial, "val_accuracy")]
        history = bench.fit(bench.build(config), config, callbacks=callbacks, **bench.fit_arguments)
        return max(history.history["val_accuracy"])

    study = create_study(direction="maximize", sampler=TPESampler(seed=task.seed), pruner=MedianPruner())
    study.optimize(objective, n_trials=TRIALS)


def run_keras_tuner(task: Task, tuner: str, **settings: Any) -> None:
    """One of KerasTuner's tuners: a HyperModel that builds and fits, and the tuner's own search."""
    import keras_tuner as kt

    from autofash.space import BoolParam, ChoiceParam, FloatParam, IntParam

    bench = Bench(task)

    def config_of(hp: kt.HyperParameters) -> dict[str, Any]:
        for name, param in bench.space.params.items():
            with contextlib.ExitStack() as scopes:
                for parent, values in param.when.items():
                    scopes.enter_context(hp.conditional_scope(parent, values))
                match param:
                    case IntParam():
                        sampling = "log" if param.log else "linear"
                        hp.Int(name, param.low, param.high, None if param.log else param.step, sampling)
                    case FloatParam():
                        sampling = "log" if param.log else "linear"
                        hp.Float(name, param.low, param.high, param.step, sampling)
                    case ChoiceParam():
                        hp.Choice(name, param.values)
                    case BoolParam():
                        hp.Boolean(name)
        return dict(bench.space.walk(lambda name, _: hp.get(name)))

    class Model(kt.HyperModel):
        def build(self, hp: kt.HyperParameters) -> Any:
            model = bench.build(config_of(hp))
            model.optimizer.build(
                model.trainable_variables
            )  # so that a promoted trial goes on with its optimizer's state
            return model

        def fit(self, hp: kt.HyperParameters, model: Any, *args: Any, **arguments: Any) -> Any:
            return bench.fit(model, config_of(hp), **arguments)

    made = getattr(kt, tuner)(
        Model(), objective="val_accuracy", seed=task.seed, directory=".", project_name="tuner", **settings
    )
    made.search(callbacks=[telling()], **bench.fit_arguments)


def run_autokeras(task: Task) -> None:
    """AutoKeras on its own space, which begins with three known configs of its own."""
    import autokeras as ak
    from autokeras.graph import Graph

    bench, set_shapes = Bench(task), Graph.set_io_shapes

    def set_whole_shapes(graph: Graph, shapes: Any) -> None:
        set_shapes(graph, shapes)
        for node in graph.outputs:
            node.in_blocks[0].shape = [int(size) for size in node.in_blocks[0].shape]

    Graph.set_io_shapes = (
        set_whole_shapes  # a mend: AutoKeras 3.0.0 gives NumPy integers to Dense, which Keras 3.15 refuses
    )
    classifier = ak.ImageClassifier(max_trials=TRIALS, objective="val_accuracy", seed=task.seed, directory=".")
    arguments = {**bench.fit_arguments, "validation_data": bench.validation}
    classifier.fit(bench.images, bench.labels, batch_size=128, callbacks=[telling()], **arguments)


CONTESTANTS: dict[str, Callable[[Task], None]] = {
    "autofash": run_autofash,
    "autofash-no-starters": functools.partial(run_autofash, starters=False),
    "optuna": run_optuna,
    # As many iterations as there is time for, as its documentation advises; every other setting is its default.
    "kt-hyperband": functools.partial(
        run_keras_tuner, tuner="Hyperband", max_epochs=EPOCHS, hyperband_iterations=TRIALS
    ),
    "kt-bayesian": functools.partial(run_keras_tuner, tuner="BayesianOptimization", max_trials=TRIALS),
    "kt-random": functools.partial(run_keras_tuner, tuner="RandomSearch", max_trials=TRIALS),
    "autokeras": run_autokeras,
}


if __name__ == "__main__":
    name, space, seed, data, split = sys.argv[1:]
    CONTESTANTS[name](Task(space, int(seed), Path(data), Path(split)))
