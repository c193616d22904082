"""One trial: seed, build, compile, fit, report, pause or go on. It knows no study and no other trial."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from autofash import data, models
from autofash.checkpoint import Checkpoint
from autofash.data.augment import Augmentation
from autofash.data.batches import Batches
from autofash.errors import InfeasibleConfig
from autofash.models.averaging import averaging
from autofash.models.fused import fuse_normalization
from autofash.records import Action, Config, EpochReport, ModelBuilt, Report, TrialSpec
from autofash.space import HYPERMODEL

Array = np.ndarray
EARLY_SHARE = 4  # an early look takes in every fourth validation image: a look may not cost more than the rung
SETTLING_BATCHES = 8  # whose statistics batch normalization predicts with
PREDICT_BATCH = 1000  # large batches predict 1.3 times faster than batches of 128 here, and hold 60 MB at 28 × 28


def run_trial(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Train the model of spec.config on the search's training images, reporting its size, then on the validation images.

    Raises InfeasibleConfig where no model can be built, FloatingPointError where the loss stops being finite.
    """
    take_resources(spec)
    found = data.load(spec.data)
    height, width, channels = found.train_images.shape[1:]
    with keras.StatelessScope(
        initialize_variables=False
    ):  # no weight is made: a model that is too large takes no memory
        model = models.build(spec.config, (height, width, channels), len(found.classes))
    built = ModelBuilt(spec.trial, model.count_params(), work_of(model))
    if report(built).action is Action.GO:
        with keras.StatelessScope():
            pass  # at whose end the weights are made
        fit(
            prepared(model, spec, len(found.train_images)),
            spec,
            found.train_images,
            found.train_labels,
            (found.validation_images, found.validation_labels),
            len(found.classes),
            report,
            epochs=spec.epochs,
            checkpoint=Checkpoint(Path(spec.checkpoint)) if spec.checkpoint else None,
        )
    return {"parameters": built.parameters}


def take_resources(spec: TrialSpec) -> None:
    """Give this process its threads, precision and seed; before its first op, or the backend will not listen."""
    os.environ["OMP_NUM_THREADS"] = str(spec.threads)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        from autofash.data import untuned

        tf.config.threading.set_intra_op_parallelism_threads(spec.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        untuned.end_at_once()
    elif keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(spec.threads)
    # The author of a model of their own knows of no other precision.
    keras.config.set_dtype_policy("float32" if spec.config.get("family") == HYPERMODEL else spec.precision)
    keras.utils.set_random_seed(spec.seed)


def compiled(spec: TrialSpec, image_shape: tuple[int, ...], classes: int, images: int) -> keras.Model:
    """The model of spec.config, ready to train on this many images for its epochs."""
    height, width, channels = image_shape
    return prepared(models.build(spec.config, (height, width, channels), classes), spec, images)


def prepared(model: keras.Model, spec: TrialSpec, images: int) -> keras.Model:
    """A model with the optimizer, loss and metrics of spec.config for its epochs of this many images."""
    steps = max(1, images // _batch_size(spec.config, images)) * spec.epochs
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=float(spec.config.get("label_smoothing", 0.0)))
    model.compile(optimizer=optimizer(spec.config, steps), loss=loss, metrics=["accuracy"])
    return model


def optimizer(config: Config, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer of a config over this many steps, its schedule included; it averages the latest weights.

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
            return averaging(keras.optimizers.SGD)(rate, momentum=0.9, nesterov=True, weight_decay=decay)
        case "adamw":
            return averaging(keras.optimizers.AdamW)(rate, weight_decay=decay or 0.0)
        case "lion":
            return averaging(keras.optimizers.Lion)(rate, weight_decay=decay)
        case "muon":
            return averaging(keras.optimizers.Muon)(rate, weight_decay=decay or 0.0)
        case _:
            return averaging(keras.optimizers.Adam)(rate, weight_decay=decay)


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
    keep_each_epoch: bool = False,
) -> None:
    """Train a compiled model, reporting at the early look and after each epoch, until spec.until, `epochs`, a STOP or a PAUSE.

    What is looked at is the average of the latest weights.
    watched: validation images and labels; None where there are none (a refit): then the reports carry the training figures, and
    the model is left with that average.
    checkpoint: where a state that is there is gone on from, and where it is kept at a pause, at the end of a trial that another
    may continue, or after each epoch.
    Raises FloatingPointError where the loss stops being finite.
    """
    batches = Batches(
        images,
        labels,
        classes,
        batch_size=_batch_size(spec.config, len(images)),
        augmentation=Augmentation.of(spec.config),
        seed=spec.seed,
    )
    fuse_normalization(model)
    _make_variables(model, classes)
    last = epochs * batches.per_epoch
    enough = float(spec.config.get("stop_at_train_accuracy", math.inf))
    done = checkpoint.restore(model) if checkpoint else 0
    begun = time.monotonic()
    for epoch, step in _looks(spec.early, batches, epochs):
        if step <= done:
            continue
        train = _train(model, batches, done, step)
        done = step
        seen = train if watched is None else _look(model, watched, batches, every=1 if epoch else EARLY_SHARE)
        verdict = report(
            EpochReport(
                trial=spec.trial,
                epoch=epoch,
                objective=seen[spec.objective],
                accuracy=seen["accuracy"],
                loss=seen["loss"],
                train_accuracy=train["accuracy"],
                train_loss=train["loss"],
                images=step * batches.size,
                seconds=time.monotonic() - begun,
            )
        )
        stopped = verdict.action is Action.STOP or train["accuracy"] >= enough
        ends = stopped or verdict.action is Action.PAUSE or epoch == (spec.until or epochs)
        if checkpoint and (keep_each_epoch or verdict.action is Action.PAUSE or (ends and spec.until)):
            checkpoint.save(model, last if stopped else step)
        if ends:
            break
    if watched is None:
        _take_averages(model, batches)


def work_of(model: keras.Model) -> float:
    """What one image's forward pass costs in multiply-adds: those of convolutions and dense layers, and what the rest amounts to.

    An element that a layer puts out counts as 20 multiply-adds, one of a normalization as 100: on CPUs such layers wait for
    memory (docs/LOG.md has how well it foretells a step's time).
    """
    work = 0.0
    for layer in model.layers:
        elements = float(np.prod(layer.output.shape[1:]))
        work += elements * (100 if "Normalization" in type(layer).__name__ else 20)
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            # A kernel (…, ins, outs) is applied once for each output position: elements / outs.
            work += elements * float(np.prod(kernel.shape[:-1]))
    return work


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


def _make_variables(model: keras.Model, classes: int) -> None:
    """Make the optimizer's variables and the metrics' before the first step.

    Keras makes them while TensorFlow traces that step, and TensorFlow then traces it again: a second for a small network.
    """
    model.optimizer.build(model.trainable_variables)
    nothing = np.zeros((1, classes), dtype=np.float32)
    model.compute_metrics(None, nothing, nothing)
    model.reset_metrics()


def _looks(early: int, batches: Batches, epochs: int) -> list[tuple[int, int]]:
    """Epoch and step of every report: the early look as epoch 0, then each epoch's end."""
    ends = [(epoch, epoch * batches.per_epoch) for epoch in range(1, epochs + 1)]
    step = -(-early // batches.size)
    return [(0, step), *ends] if 0 < step < batches.per_epoch else ends


def _train(model: keras.Model, batches: Batches, begin: int, end: int) -> dict[str, float]:
    """Train from one step to another; accuracy and loss on the way, augmentation and dropout included."""
    # Shuffled by the batches themselves, by seed and epoch: Keras's shuffle on top hangs on how often fit was called.
    told = model.fit(batches.between(begin, end), shuffle=False, verbose=0, callbacks=[_NonFinite()]).history
    accuracy, loss = float(told["accuracy"][-1]), float(told["loss"][-1])
    if not math.isfinite(loss):
        raise FloatingPointError(f"by step {end} the training loss is not finite")
    return {"accuracy": accuracy, "macro_f1": accuracy, "loss": loss}


def _look(model: keras.Model, watched: tuple[Array, Array], batches: Batches, every: int) -> dict[str, float]:
    """How good the average of the latest weights is on every so many-th validation image. The training does not notice."""
    kept = [(variable, np.array(variable)) for variable in model.variables]
    _take_averages(model, batches)
    images, labels = (array[::every] for array in watched)
    seen = scores(probabilities(model, images), labels)
    for variable, value in kept:
        variable.assign(value)
    return seen


def _take_averages(model: keras.Model, batches: Batches) -> None:
    """Put the average of the latest weights into the model, and take batch normalization's anew, over some batches, for them.

    Its running averages belong to weights of other steps. Source: Izmailov et al. 2018, arXiv:1803.05407, section 3.2; Wu &
    Johnson 2021, arXiv:2105.07576, section 3.
    """
    for variable, average in zip(model.trainable_variables, model.optimizer.averages, strict=True):
        variable.assign(average)
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in layers]
    for number in range(min(SETTLING_BATCHES, batches.per_epoch) if layers else 0):
        for layer in layers:
            layer.momentum = number / (number + 1)  # so that each batch counts alike
        model(batches.batch(number)[0], training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


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
