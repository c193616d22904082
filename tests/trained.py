"""A model that was trained for real, for all tests that need one to be there."""

import warnings
from pathlib import Path

from autofash import manifest
from autofash.data.sources import SOURCES
from autofash.runtimes import FORMATS


def make_model(folder: Path) -> Path:
    """A model's folder as a refit and its exports leave it: a small network that has learnt the digits, in every format."""
    import keras

    from autofash.models import build

    images, labels = SOURCES["digits"].train(Path())
    keras.utils.set_random_seed(0)
    model = build({"family": "mlp", "depth": 1, "width": 32}, (8, 8, 1), 10)
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    model.fit(images[..., None], labels, epochs=8, batch_size=64, verbose=0)
    folder.mkdir(parents=True)
    model.save(folder / manifest.MODEL)
    (folder / "openvino").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own
        for name, place in (
            ("tf_saved_model", "saved_model"),
            ("litert", "model.tflite"),
            ("onnx", "model.onnx"),
            ("openvino", "openvino/model.xml"),
        ):
            model.export(str(folder / place), format=name, verbose=False)
    told = {
        "format": manifest.FORMAT,
        "classes": list("0123456789"),
        "input": {
            "shape": [8, 8, 1],
            "dtype": "uint8",
            "range": [0, 255],
            "border": 0.0,
            "background": "dark",
        },
    }
    manifest.write(folder, told, [found.path for found in FORMATS.values()])
    return folder
