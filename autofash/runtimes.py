"""How a saved model is run: one runtime for each format, each a function of uint8 images to class probabilities.

Whoever loads a file here has compared it with its manifest first (`autofash.manifest.verify`); a .keras file is looked into
besides. All of them compute in float32, whatever the machine could do in less.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autofash.errors import AutofashError, UnsafeFile, UsageError, unknown
from autofash.manifest import FIX, MODEL
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
    start: Callable[[Path], Predictor]  # the runtime, with no care for what it raises
    needs: tuple[str, ...] = ()  # modules that run it; an extra of the same name brings them
    written_by: tuple[str, ...] = ()  # modules that only writing it takes; of the same extra
    about: str = ""

    def load(self, path: Path) -> Predictor:
        """The model of this file or folder, ready to predict.

        Raises UnsafeFile E-UNSAFE-MODEL or E-TOO-LARGE for a .keras file that may not be loaded, and E-MODEL-UNREADABLE for
        any file that its runtime does not take.
        """
        try:
            return self.start(path)
        except AutofashError:
            raise
        except Exception as error:  # five runtimes, each with errors of its own
            cause = (str(error).strip() or type(error).__name__).splitlines()[-1][:200]
            raise UnsafeFile(
                f"cannot be loaded as {self.name}: {cause}", FIX, where=str(path), code="E-MODEL-UNREADABLE"
            ) from error


def probabilities(predictor: Predictor, images: Array) -> Array:
    """Class probabilities, float32 (n, classes), of any number of uint8 images (n, height, width, channels), from 1."""
    parts = [predictor(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return np.concatenate(parts).astype(np.float32, copy=False)


def check_format(name: str, *, to_write: bool = False) -> Format:
    """The format of this name. Raises UsageError where there is none, or where its extra is not installed (E-EXTRA)."""
    if name not in FORMATS:
        raise UsageError(*unknown("format", name, FORMATS))
    found = FORMATS[name]
    needs = (*found.needs, *(found.written_by if to_write else ()))
    missing = [module for module in needs if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(
            f"the format {name} needs {' and '.join(missing)}", f"pip install 'autofash[{name}]'", code="E-EXTRA"
        )
    return found


def open_keras(path: Path) -> Any:
    """The keras.Model of a .keras file, looked into first, and not compiled. Raises UnsafeFile for one that may not be loaded."""
    check_keras_file(path)
    import keras

    return keras.models.load_model(path, safe_mode=True, compile=False)


def load_keras(path: Path) -> Any:
    """As open_keras, and computing in float32."""
    import keras

    model = open_keras(path)
    # Layers keep the precision that they were trained in. What is proven and shipped is float32: half the precision of a weight
    # would be a difference of 1e-2 between two runtimes.
    told = model.to_json()
    whole = told.replace('"mixed_bfloat16"', '"float32"').replace('"mixed_float16"', '"float32"')
    if whole == told:
        return model
    same = keras.models.model_from_json(whole)
    same.set_weights(model.get_weights())
    return same


def _keras(path: Path) -> Predictor:
    model = load_keras(path)
    return lambda images: np.asarray(model.predict_on_batch(images), dtype=np.float32)


def _saved_model(path: Path) -> Predictor:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return lambda images: loaded.serve(tf.constant(images)).numpy()


def _litert(path: Path) -> Predictor:
    with warnings.catch_warnings():
        # It is deprecated in favour of a package of its own, which TensorFlow does not bring.
        warnings.simplefilter("ignore")
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

    onnxruntime.set_default_logger_severity(3)  # errors; it warns of GPUs that are not there
    session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _openvino(path: Path) -> Predictor:
    import openvino

    # On a CPU that multiplies bfloat16 it would choose that by itself.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled: Any = openvino.Core().compile_model(str(path / "model.xml"), "CPU", exact)
    return lambda images: np.array(compiled(images)[0])


FORMATS = {
    found.name: found
    for found in (
        Format("keras", MODEL, _keras, about="Keras 3, any backend"),
        Format("saved_model", "saved_model", _saved_model, about="TensorFlow Serving, tf.saved_model.load"),
        Format("litert", "model.tflite", _litert, about="phones and small devices"),
        Format(
            "onnx",
            "model.onnx",
            _onnx,
            needs=("onnxruntime",),
            written_by=("tf2onnx",),
            about="ONNX Runtime, any language",
        ),
        Format("openvino", "openvino", _openvino, needs=("openvino",), about="Intel CPUs, GPUs and NPUs"),
    )
}
