"""How a saved model is run: one runtime for each format, each a function of uint8 images to class probabilities."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autofash.errors import UsageError, unknown
from autofash.manifest import MODEL
from autofash.safety import check_keras_file

Array = np.ndarray
# Of uint8 images (n, height, width, channels), one batch, to class probabilities, float32 (n, classes).
Predictor = Callable[[Array], Array]
BATCH = 1000  # images at once, where there are many


@dataclass(frozen=True, slots=True)
class Format:
    """A format that models are saved in."""

    name: str
    path: str  # of the file or folder, in the model's folder
    load: Callable[[Path], Predictor]
    needs: tuple[str, ...] = ()  # modules that an extra of the same name brings
    about: str = ""


def probabilities(predictor: Predictor, images: Array) -> Array:
    """Class probabilities, float32 (n, classes), of any number of images, batch by batch."""
    parts = [predictor(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return np.concatenate(parts).astype(np.float32, copy=False)


def check_format(name: str) -> Format:
    """The format of this name. Raises UsageError where there is none, or where its extra is not installed."""
    if name not in FORMATS:
        raise UsageError(*unknown("format", name, FORMATS))
    found = FORMATS[name]
    missing = [module for module in found.needs if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(
            f"the format {name} needs {' and '.join(missing)}", f"pip install 'autofash[{name}]'", code="E-EXTRA"
        )
    return found


def _keras(path: Path) -> Predictor:
    check_keras_file(path)
    import keras

    model = keras.models.load_model(path, safe_mode=True, compile=False)
    return lambda images: np.asarray(model.predict_on_batch(images), dtype=np.float32)


def _saved_model(path: Path) -> Predictor:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return lambda images: loaded.serve(tf.constant(images)).numpy()  # type: ignore[no-any-return]


def _litert(path: Path) -> Predictor:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # it is deprecated in favour of a package of its own, which TensorFlow does not bring
        import tensorflow as tf

        interpreter = tf.lite.Interpreter(str(path))
    [read], [written] = interpreter.get_input_details(), interpreter.get_output_details()
    batch = 0

    def predict(images: Array) -> Array:
        nonlocal batch
        if len(images) != batch:
            interpreter.resize_tensor_input(read["index"], images.shape)
            interpreter.allocate_tensors()
            batch = len(images)
        interpreter.set_tensor(read["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(written["index"])  # type: ignore[no-any-return]

    return predict


def _onnx(path: Path) -> Predictor:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]  # type: ignore[no-any-return]


def _openvino(path: Path) -> Predictor:
    import openvino

    compiled: Any = openvino.Core().compile_model(str(path / "model.xml"), "CPU")
    return lambda images: np.array(compiled(images)[0])


FORMATS = {
    found.name: found
    for found in (
        Format("keras", MODEL, _keras, about="Keras 3, any backend"),
        Format("saved_model", "saved_model", _saved_model, about="TensorFlow Serving, tf.saved_model.load"),
        Format("litert", "model.tflite", _litert, about="phones and small devices"),
        Format("onnx", "model.onnx", _onnx, needs=("tf2onnx", "onnxruntime"), about="ONNX Runtime, any language"),
        Format("openvino", "openvino", _openvino, needs=("openvino",), about="Intel CPUs, GPUs and NPUs"),
    )
}
