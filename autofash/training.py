"""One trial: seed, build, compile, fit, report each epoch. It knows no study and no other trial."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from autofash import data, models
from autofash.checkpoint import Checkpoint
from autofash.data.augment import Augmentation
from autofash.data.batches import Batches
from autofash.errors import InfeasibleConfig
from autofash.records import Action, Config, EpochReport, Report, TrialSpec

Array = np.ndarray
PREDICT_BATCH = 1000  # large batches predict 1.3 times faster than batches of 128 here, and hold 60 MB at 28 × 28


def run_trial(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Train the model of spec.config on the search's training images, reporting on the validation images after each epoch.

    Raises InfeasibleConfig where no model can be built, FloatingPointError where the loss stops being finite.
    """
    take_resources(spec)
    found = data.load(spec.data)
    model = compiled(spec, found.train_images.shape[1:], len(found.classes), len(found.train_images))
    fit(
        model,
        spec,
        found.train_images,
        found.train_labels,
        (found.validation_images, found.validation_labels),
        len(found.classes),
        report,
        epochs=spec.epochs,
    )
    return {"parameters": model.count_params()}


def take_resources(spec: TrialSpec) -> None:
    """Give this process its threads, precision and seed; before its first op, or the backend will not listen."""
    os.environ["OMP_NUM_THREADS"] = str(spec.threads)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(spec.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    elif keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(spec.threads)
    keras.config.set_dtype_policy(spec.precision)
    keras.utils.set_random_seed(spec.seed)


def compiled(spec: TrialSpec, image_shape: tuple[int, ...], classes: int, images: int) -> keras.Model:
    """The model of spec.config, ready to train on this many images for its epochs."""
    height, width, channels = image_shape
    model = models.build(spec.config, (height, width, channels), classes)
    steps = max(1, images // _batch_size(spec.config, images)) * spec.epochs
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=float(spec.config.get("label_smoothing", 0.0)))
    model.compile(optimizer=optimizer(spec.config, steps), loss=loss, metrics=["accuracy"])
    return model


def optimizer(config: Config, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer of a config over this many steps, its schedule included.

    schedule: "constant"; "cosine" falls to zero; "onecycle" rises over the first quarter, then falls as cosine
    (Smith & Topin 2018, arXiv:1708.07120).
    """
    peak = float(config.get("learning_rate", 1e-3))
    rate: float | keras.optimizers.schedules.LearningRateSchedule = peak
    match config.get("schedule", "constant"):
        case "cosine":
            rate = keras.optimizers.schedules.CosineDecay(peak, steps)
        case "onecycle":
            rising = max(1, steps // 4)
            rate = keras.optimizers.schedules.CosineDecay(
                peak / 25, max(1, steps - rising), warmup_target=peak, warmup_steps=rising
            )
    decay = float(config.get("weight_decay", 0.0)) or None
    match config.get("optimizer", "adam"):
        case "sgd":
            return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=decay)
        case "adamw":
            return keras.optimizers.AdamW(rate, weight_decay=decay or 0.0)
        case "lion":
            return keras.optimizers.Lion(rate, weight_decay=decay)
        case "muon":
            return keras.optimizers.Muon(rate, weight_decay=decay or 0.0)
        case _:
            return keras.optimizers.Adam(rate, weight_decay=decay)


def fit(
    model: keras.Model,
    spec: TrialSpec,
    images: Array,
    labels: Array,
    watched: tuple[Array, Array] | None,
    classes: int,
    report: Report,
    *,
    epochs: int,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train a compiled model, reporting after each epoch until `epochs` or a STOP.

    watched: validation images and labels; None where there are none (a refit), and then the reports carry the training figures.
    checkpoint: where the state is kept after each epoch, and where one that is there already is gone on from.
    """
    done = checkpoint.restore(model) if checkpoint else 0
    batches = Batches(
        images,
        labels,
        classes,
        batch_size=_batch_size(spec.config, len(images)),
        augmentation=Augmentation.of(spec.config),
        seed=spec.seed,
        epoch=done,
    )
    reporting = _Reporting(spec, watched, report, images_per_epoch=len(batches) * _batch_size(spec.config, len(images)))
    keeping = [_Keeping(checkpoint, epochs)] if checkpoint else []
    callbacks = [reporting, *keeping, _NonFinite()]
    # Shuffled by the batches themselves, by seed and epoch: Keras's shuffle on top hangs on how many epochs this process ran.
    model.fit(batches, initial_epoch=done, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)


def probabilities(model: keras.Model, images: Array) -> Array:
    """Class probabilities, float32 (n, classes), of uint8 images (n, height, width, channels)."""
    return np.asarray(model.predict(images, batch_size=PREDICT_BATCH, verbose=0), dtype=np.float32)


def scores(predicted: Array, labels: Array) -> dict[str, float]:
    """How good the probabilities (n, classes) are for the labels (n,).

    accuracy and macro_f1: fractions, 0 to 1; a class that is neither there nor predicted counts as 0 in macro_f1.
    loss: mean cross-entropy in nats.
    """
    classes = predicted.shape[1]
    guesses = predicted.argmax(axis=1)
    confusion = np.bincount(labels * classes + guesses, minlength=classes * classes).reshape(classes, classes)
    hits = np.diag(confusion)
    sizes = confusion.sum(axis=0) + confusion.sum(axis=1)
    f1 = np.divide(2 * hits, sizes, out=np.zeros(classes), where=sizes > 0)
    chosen = predicted[np.arange(len(labels)), labels].astype(np.float64)
    return {
        "accuracy": float(hits.sum() / len(labels)),
        "macro_f1": float(f1.mean()),
        "loss": float(-np.log(np.clip(chosen, 1e-7, 1.0)).mean()),
    }


def device_touched() -> bool:
    """Whether the backend has run an op or opened a device: from then on, forking this process is not safe."""
    if keras.backend.backend() == "tensorflow":
        from tensorflow.python.eager import context

        found = context.context_safe()
        return found is not None and bool(found._initialized)
    if keras.backend.backend() == "jax":
        from jax._src import xla_bridge

        return bool(xla_bridge._backends)
    import torch

    return bool(torch.cuda.is_initialized())


class _Reporting(keras.callbacks.Callback):
    """Reports after each epoch, and stops the fit when the verdict says so."""

    def __init__(
        self, spec: TrialSpec, watched: tuple[Array, Array] | None, report: Report, images_per_epoch: int
    ) -> None:
        super().__init__()
        self._spec, self._watched, self._report, self._images = spec, watched, report, images_per_epoch
        self._begun = time.monotonic()
        self._enough = float(spec.config.get("stop_at_train_accuracy", math.inf))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        logs = logs or {}
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(f"epoch {epoch + 1}: the training loss is not finite")
        train = {"accuracy": float(logs["accuracy"]), "loss": float(logs["loss"])}
        seen = {**train, "macro_f1": train["accuracy"]}
        if self._watched is not None:
            seen = scores(probabilities(self.model, self._watched[0]), self._watched[1])
        verdict = self._report(
            EpochReport(
                trial=self._spec.trial,
                epoch=epoch + 1,
                objective=seen[self._spec.objective],
                accuracy=seen["accuracy"],
                loss=seen["loss"],
                train_accuracy=train["accuracy"],
                train_loss=train["loss"],
                images=(epoch + 1) * self._images,
                seconds=time.monotonic() - self._begun,
            )
        )
        # Not an exception: one inside on_epoch_end would skip the other callbacks' on_train_end.
        if verdict.action is Action.STOP or train["accuracy"] >= self._enough:
            self.model.stop_training = True


class _Keeping(keras.callbacks.Callback):
    """Keeps the state after each epoch; a training that has stopped early as one that is at its end."""

    def __init__(self, checkpoint: Checkpoint, epochs: int) -> None:
        super().__init__()
        self._checkpoint, self._epochs = checkpoint, epochs

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._checkpoint.save(self.model, self._epochs if self.model.stop_training else epoch + 1)


class _NonFinite(keras.callbacks.Callback):
    """Ends a fit within 50 steps of its loss leaving the finite numbers, rather than at the epoch's end."""

    async_safe = True  # the loss is read every 50 steps only, so that Keras need not wait for it after each

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        if logs and batch % 50 == 49 and not math.isfinite(logs["loss"]):
            raise FloatingPointError(f"step {batch + 1}: the training loss is not finite")


def _batch_size(config: Config, images: int) -> int:
    size = int(config.get("batch_size", 128))
    if size < 1:
        raise InfeasibleConfig(f"batch_size = {size} is not above 0")
    return min(size, images)
