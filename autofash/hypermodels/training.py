"""Builds and trains what a user's code describes, as that code says, with the reports and verdicts of every other trial."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from autofash import data
from autofash.checkpoint import Checkpoint
from autofash.errors import InfeasibleConfig
from autofash.hypermodels.asking import Ask, TrialAsking, asking, hyperparameters
from autofash.hypermodels.feeding import Feed, check_outputs, is_sparse, puts_out_logits, takes_grey
from autofash.hypermodels.source import asks_like_optuna, blaming, load
from autofash.records import Action, EpochReport, ModelBuilt, Report, Suggest, TrialSpec, Value
from autofash.space import RESERVED, Param
from autofash.training import probabilities, scores, take_resources, work_of

with suppress(ImportError):  # who needs it and has it not is told when it is asked for
    import keras_tuner  # noqa: F401  (once, before trials are forked: it takes a second)

Array = np.ndarray
BATCH = 32  # images, Keras's own default: what an author gets who does not say
Fit = Callable[..., Any]


@dataclass(frozen=True)
class Built:
    """A user's model, ready to train."""

    model: keras.Model  # the user's own, compiled
    whole: keras.Model  # the same weights, from uint8 images to probabilities
    feed: Feed
    sparse: bool  # whether its loss takes labels, or one row of classes for each
    fit: Fit | None  # the user's own way to train
    batch_size: int


def run_trial(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Train the model that the user's code builds on the search's training images, asking for its parameters on the way.

    Raises InfeasibleConfig with the user's file and line where that code raises, FloatingPointError where the loss is not finite.
    """
    take_resources(spec)
    found = data.load(spec.data)

    def ask(name: str, param: Param) -> Value:
        answer = report(Suggest(spec.trial, name, param.model_dump())).value
        assert answer is not None  # to a Suggest there is no other answer
        return answer

    built = build(spec, found.train_images, len(found.classes), ask)
    parameters = built.model.count_params()
    if report(ModelBuilt(spec.trial, parameters, _work_of(built.model), built.fit is None)).action is Action.GO:
        watched = (found.validation_images, found.validation_labels)
        checkpoint = Checkpoint(Path(spec.checkpoint)) if spec.checkpoint else None
        _Training(built, spec, report, spec.epochs, watched, checkpoint).run(found.train_images, found.train_labels)
    return {"parameters": parameters}


def refitted(
    spec: TrialSpec,
    images: Array,
    labels: Array,
    validation: tuple[Array, Array],
    classes: int,
    report: Report,
    *,
    epochs: int,
    checkpoint: Checkpoint,
) -> keras.Model:
    """The user's model of a whole config, trained on all these images, from uint8 pixels to probabilities.

    validation: some of these images and their labels, for a fit of the user's own that wants validation_data.
    """

    def ask(name: str, param: Param) -> Value:
        raise InfeasibleConfig(f"it asks for {name}, which the trial did not have", "the code as it was in the search")

    built = build(spec, images, classes, ask)
    _Training(built, spec, report, epochs, validation, checkpoint, refit=True).run(images, labels)
    return built.whole


def build(spec: TrialSpec, images: Array, classes: int, ask: Ask) -> Built:
    """Build what the user's code describes for these training images, asking for what spec.config does not hold."""
    config, source = spec.config, str(spec.config["hypermodel"])
    answers = {name: value for name, value in config.items() if name not in RESERVED}
    feed = Feed.of(config, images)
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    found, fit = load(source), None
    with blaming(source):
        if inspect.isclass(found):
            found = found(**_wanted(found, feed.shape(shape), classes))
        if inspect.isroutine(found) and asks_like_optuna(found):
            model = found(TrialAsking(spec.trial, asking(answers, ask)))
        elif callable(getattr(found, "build", None)):
            hp = hyperparameters(asking(answers, ask))
            declare: Callable[[Any], None] = getattr(found, "declare_hyperparameters", lambda _: None)
            declare(hp)
            model = found.build(hp)
            fit = _own_fit(found, hp)
        elif callable(found):
            model = found(hyperparameters(asking(answers, ask)))
        else:
            raise InfeasibleConfig(
                f"it is a {type(found).__name__}", "build(hp), a HyperModel or define(trial)", where=source
            )
    if not isinstance(model, keras.Model):
        raise InfeasibleConfig(f"it returned {type(model).__name__}, no keras.Model", "return model", where=source)
    return _ready(model, source, shape, classes, feed, fit, answers)


def _ready(
    model: keras.Model,
    source: str,
    shape: tuple[int, int, int],
    classes: int,
    feed: Feed,
    fit: Fit | None,
    answers: Mapping[str, Value],
) -> Built:
    feed = replace(feed, squeezed=not feed.flat and takes_grey(model, shape))
    try:
        whole = feed.whole(model, shape, logits=puts_out_logits(model))
    except ValueError as error:  # Keras's word for shapes that do not fit
        raise InfeasibleConfig(
            f"the model does not take images of {feed.shape(shape)}: {str(error).splitlines()[0]}",
            "--flat, or another Input" if not feed.flat else "no --flat, or another Input",
            where=source,
        ) from error
    check_outputs(whole, classes, source)
    if not model.compiled:
        rate = float(answers.get("learning_rate", 1e-3))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=puts_out_logits(model))
        model.compile(optimizer=keras.optimizers.Adam(rate), loss=loss, metrics=["accuracy"])
    size = answers.get("batch_size", BATCH)
    return Built(model, whole, feed, is_sparse(model), fit, int(size) if isinstance(size, int) else BATCH)


def _wanted(kind: type, shape: tuple[int, ...], classes: int) -> dict[str, Any]:
    """What a HyperModel's class wants to know of the data, by the names that KerasTuner's own have for it."""
    known = {"input_shape": shape, "classes": classes, "num_classes": classes}
    return {name: known[name] for name in inspect.signature(kind).parameters if name in known}


def _own_fit(hypermodel: Any, hp: Any) -> Fit | None:
    """The fit that a HyperModel overrides; None where it leaves KerasTuner's own."""
    import keras_tuner

    if getattr(type(hypermodel), "fit", keras_tuner.HyperModel.fit) is keras_tuner.HyperModel.fit:
        return None
    names_epochs = "epochs" in inspect.signature(hypermodel.fit).parameters

    def fit(model: keras.Model, *args: Any, epochs: int, **kwargs: Any) -> Any:
        # Whoever passes kwargs on beside epochs of their own does not want ours.
        return hypermodel.fit(hp, model, *args, **kwargs, **({"epochs": epochs} if names_epochs else {}))

    return fit


def _work_of(model: keras.Model) -> float:
    """As work_of; of a model whose layers do not say what they put out, its parameters."""
    try:
        return work_of(model)
    except (AttributeError, ValueError, TypeError):
        return float(model.count_params())


class _Over(BaseException):
    """Leaves a user's fit where its training is over: what it does after that would find half a training."""


class _Training:
    """One training by a user's code: its calls of model.fit, and what is said after each epoch of them."""

    def __init__(
        self,
        built: Built,
        spec: TrialSpec,
        report: Report,
        epochs: int,
        validation: tuple[Array, Array],
        checkpoint: Checkpoint | None,
        *,
        refit: bool = False,
    ) -> None:
        """epochs: most in all. validation: images and labels. refit: report the training alone, with a checkpoint each epoch."""
        self._built, self._spec, self._report = built, spec, report
        self._epochs, self._validation, self._checkpoint, self._refit = epochs, validation, checkpoint, refit
        self._calls = self.epoch = 0
        self._over = False
        self._begun = time.monotonic()

    def run(self, images: Array, labels: Array) -> None:
        """Train on these images, as the user's code does. Raises FloatingPointError where the loss stops being finite."""
        built = self._built
        self._classes = built.whole.output_shape[-1]
        self._fit = built.model.fit
        self._images, self._labels = images, labels
        x, y = built.feed.arrays(images), self._targets(labels)
        given: dict[str, Any] = {"callbacks": []}
        with blaming(str(self._spec.config["hypermodel"])), suppress(_Over):
            if built.fit is None:
                self._fit_once(x, y, batch_size=built.batch_size, **given)
            else:
                seen, told = self._validation
                built.model.fit = self._fit_once
                validation = (built.feed.arrays(seen), self._targets(told))
                built.fit(built.model, x, y, validation_data=validation, epochs=self._epochs, **given)
        if not self.epoch:  # a training loop of the user's own: there is one result, at its end
            self.told({})

    def _targets(self, labels: Array) -> Array:
        return labels if self._built.sparse else np.eye(self._classes, dtype=np.float32)[labels]

    def _fit_once(self, *args: Any, **kwargs: Any) -> Any:
        """What stands for model.fit in the user's code: its own settings, and autofash's epochs and reports."""
        self._calls += 1
        done = 0
        if self._calls == 1 and self._checkpoint:
            done = self.epoch = self._checkpoint.restore(self._built.model)
        # A trial whose training another may continue ends early, with its state kept.
        last = self._spec.until or self._epochs
        if self._over or self.epoch >= last:
            raise _Over
        wanted = min(int(kwargs.get("epochs", self._epochs)), last - (0 if self._calls == 1 else self.epoch))
        if wanted <= done:  # this call had ended before the trial paused, and its next one had begun
            return keras.callbacks.History()
        reports = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: self.told(logs or {}))
        callbacks = [*(kwargs.get("callbacks") or []), reports]
        history = self._fit(
            *args, **{"verbose": 0, **kwargs, "epochs": wanted, "initial_epoch": done, "callbacks": callbacks}
        )
        if self._over:
            raise _Over
        return history

    def told(self, logs: Mapping[str, float]) -> None:
        """Report an epoch that has ended, and heed the answer."""
        self.epoch += 1
        built, spec = self._built, self._spec
        loss = float(logs.get("loss", 0.0))
        if not math.isfinite(loss):
            raise FloatingPointError(f"after epoch {self.epoch} the training loss is not finite")
        train = self._train_scores(logs)
        images, labels = self._validation
        seen = train if self._refit else scores(probabilities(built.whole, images), labels)
        verdict = self._report(
            EpochReport(
                trial=spec.trial,
                epoch=self.epoch,
                objective=seen[spec.objective],
                accuracy=seen["accuracy"],
                loss=seen["loss"],
                train_accuracy=train["accuracy"],
                train_loss=train["loss"],
                images=self.epoch * len(self._images),
                seconds=time.monotonic() - self._begun,
            )
        )
        stopped = verdict.action is Action.STOP
        keeping = verdict.action is Action.PAUSE or self.epoch == self._spec.until or self._refit
        # In its second call of model.fit, a user's code is at a place to which a checkpoint alone does not lead back.
        if self._checkpoint and self._calls == 1 and keeping:
            self._checkpoint.save(built.model, self._epochs if stopped else self.epoch)
        if verdict.action is not Action.GO:
            self._over = built.model.stop_training = True

    def _train_scores(self, logs: Mapping[str, float]) -> dict[str, float]:
        """Accuracy and loss on the way, as Keras or the user's metrics tell them; else those of some training images."""
        accuracy = next((float(v) for k, v in logs.items() if "acc" in k and not k.startswith("val_")), None)
        if accuracy is None or "loss" not in logs:
            sample = slice(None, None, max(1, len(self._images) // 1000))
            found = scores(probabilities(self._built.whole, self._images[sample]), self._labels[sample])
            return {**found, "loss": float(logs.get("loss", found["loss"]))}
        return {"accuracy": accuracy, "macro_f1": accuracy, "loss": float(logs["loss"])}
