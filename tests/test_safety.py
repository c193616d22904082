"""Hostile .keras files, each really able to do harm, and each refused before a canary could sing; our own models pass."""

import base64
import copy
import io
import json
import random
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from autofash.errors import UnsafeFile
from autofash.runtimes import FORMATS
from autofash.safety import ALLOWED, CONFIG, WEIGHTS, check_keras_file

pytestmark = pytest.mark.keras
Config = dict[str, Any]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model of ours."""
    from autofash import models

    path = tmp_path_factory.mktemp("honest") / "model.keras"
    models.build({"family": "cnn", "width": 4, "conv_blocks": 2, "head_units": 8}, (8, 8, 1), 10).save(path)
    return path


@pytest.fixture
def canary(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once code of the model's ran; `canary_module`, importable from here, makes it."""
    (workplace / "canary_module.py").write_text(
        "from pathlib import Path\nPath('sung').touch()\nclass Layer:\n    pass\ndef function(x):\n    return x\n"
    )
    monkeypatch.syspath_prepend(str(workplace))
    return workplace / "sung"


def parts(path: Path) -> tuple[Config, bytes]:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(CONFIG)), archive.read(WEIGHTS)


def packed(path: Path, config: Config | bytes, weights: bytes) -> Path:
    """A .keras file, as Keras would pack it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr(CONFIG, config if isinstance(config, bytes) else json.dumps(config))
        archive.writestr(WEIGHTS, weights)
    return path


def with_layer(config: Config, layer: Config) -> Config:
    """The config with its rescaling layer's place taken by another."""
    changed = copy.deepcopy(config)
    place = next(number for number, old in enumerate(changed["config"]["layers"]) if old["class_name"] == "Rescaling")
    old = changed["config"]["layers"][place]
    changed["config"]["layers"][place] = {
        "name": old["name"],
        "inbound_nodes": old["inbound_nodes"],
        "registered_name": None,
        **layer,
        "config": {"name": old["name"], **layer["config"]} if isinstance(layer["config"], dict) else layer["config"],
    }
    return changed


LAYERS: dict[str, Callable[[], Config]] = {
    "a Lambda with code": lambda: {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {
            "function": {
                "class_name": "__lambda__",
                "config": {"code": marshalled(), "defaults": None, "closure": None},
            }
        },
    },
    "a Lambda that names a built-in": lambda: {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {"function": {"module": "builtins", "class_name": "function", "config": "exec"}},
    },
    "a TFSMLayer": lambda: {
        "module": "keras.layers",
        "class_name": "TFSMLayer",
        "config": {"filepath": "elsewhere", "call_endpoint": "serve"},
    },
    "a TorchModuleWrapper": lambda: {
        "module": "keras.layers",
        "class_name": "TorchModuleWrapper",
        "config": {"module": base64.b64encode(b"cos\nsystem\n(S'touch sung'\ntR.").decode()},
    },
    "a JaxLayer": lambda: {"module": "keras.layers", "class_name": "JaxLayer", "config": {"call_fn": None}},
    "a FlaxLayer": lambda: {"module": "keras.layers", "class_name": "FlaxLayer", "config": {"module": None}},
    "a vocabulary from a path": lambda: {
        "module": "keras.layers",
        "class_name": "StringLookup",
        "config": {"vocabulary": "/etc/passwd"},
    },
    "a class of another module": lambda: {"module": "canary_module", "class_name": "Layer", "config": {}},
    "a function of another module": lambda: {"module": "canary_module", "class_name": "function", "config": "function"},
    "a Keras function that is no layer": lambda: {
        "module": "keras.utils",
        "class_name": "get_file",
        "config": {"fname": "sung", "origin": "http://127.0.0.1:9/"},
    },
    "a Keras class that looks like a module of ours": lambda: {
        "module": "keras.src.utils.file_utils",
        "class_name": "get_file",
        "config": {},
    },
    "an activation that is a function": lambda: {
        "module": "keras.layers",
        "class_name": "Activation",
        "config": {"activation": {"module": "canary_module", "class_name": "function", "config": "function"}},
    },
    "a registered object": lambda: {
        "module": None,
        "class_name": "Canary",
        "registered_name": "tests>Canary",
        "config": {},
    },
    "a registered object in a layer's clothes": lambda: {
        "module": "keras.layers",
        "class_name": "Rescaling",
        "registered_name": "tests>Canary",
        "config": {"scale": 1.0},
    },
    "a layer in the old way, without a module": lambda: {"class_name": "Lambda", "config": {"function": "exec"}},
    "a type specification": lambda: {
        "class_name": "__typespec__",
        "module": "canary_module",
        "spec_name": "Layer",
        "config": [],
    },
    "a tensor placeholder that names a module": lambda: {
        "class_name": "__keras_tensor__",
        "module": "canary_module",
        "config": {},
    },
    "a name that is a list": lambda: {"module": "keras.layers", "class_name": ["Dense"], "config": {}},
    "a layer without a config": lambda: {
        "module": "keras.layers",
        "class_name": "TimeDistributed",
        "config": {"layer": {"module": "keras.layers", "class_name": "Dense"}},
    },
}


def marshalled() -> str:
    """Marshalled code that makes the canary sing, as Keras stores a lambda."""
    from keras.src.utils import python_utils

    def sing(x: Any) -> Any:
        __import__("pathlib").Path("sung").touch()
        return x

    return str(python_utils.func_dump(sing)[0])


@pytest.mark.parametrize("kind", list(LAYERS))
def test_a_layer_that_is_not_keras_own_is_refused_by_name_before_anything_of_it_runs(
    kind: str, honest: Path, canary: Path, tmp_path: Path
) -> None:
    import keras

    class Canary(keras.layers.Layer):
        def __init__(self, **_: Any) -> None:
            canary.touch()
            super().__init__()

    config, weights = parts(honest)
    path = packed(tmp_path / "model.keras", with_layer(config, LAYERS[kind]()), weights)
    with keras.saving.custom_object_scope({"tests>Canary": Canary}), pytest.raises(UnsafeFile) as caught:
        FORMATS["keras"].load(path)
    assert (caught.value.code, caught.value.exit_code) == ("E-UNSAFE-MODEL", 7)
    assert "rescale" in str(caught.value) and str(path) in str(caught.value) and "Try: " in str(caught.value)
    assert not canary.exists() and "canary_module" not in sys.modules


def test_the_canary_does_sing_where_nobody_looks_first(honest: Path, canary: Path, tmp_path: Path) -> None:
    import keras

    config, weights = parts(honest)
    path = packed(tmp_path / "model.keras", with_layer(config, LAYERS["a Lambda with code"]()), weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            keras.models.load_model(path, safe_mode=False)(np.zeros((1, 8, 8, 1), np.uint8))
        except (TypeError, ValueError):
            pass  # the layers behind it may not like what it gives them
    assert canary.exists()


def built(content: Callable[[h5py.File], object]) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        content(file)
    return stream.getvalue()


def late(file: h5py.File) -> None:
    """An array of a terabyte, of which nothing was ever written."""
    space = h5py.h5s.create_simple((2**38,))
    h5py.h5d.create(file.id, b"weights", h5py.h5t.NATIVE_FLOAT, space)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "float32")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "weights", (4,))
    file.create_virtual_dataset("weights", layout)


def loop(file: h5py.File) -> None:
    file.create_group("layers")["again"] = file["/"]


WEIGHT_FILES: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "an external link": (lambda file: file.update({"layers": h5py.ExternalLink("/etc/passwd", "/")}), "E-UNSAFE-MODEL"),
    "a soft link": (lambda file: file.update({"layers": h5py.SoftLink("/elsewhere")}), "E-UNSAFE-MODEL"),
    "an external array": (
        lambda file: file.create_dataset("weights", (4,), "u1", external=[("/etc/passwd", 0, 4)]),
        "E-UNSAFE-MODEL",
    ),
    "a virtual array": (virtual, "E-UNSAFE-MODEL"),
    "a compressed array": (
        lambda file: file.create_dataset("weights", data=np.zeros(10**6), compression="gzip"),
        "E-UNSAFE-MODEL",
    ),
    "an array of text": (lambda file: file.create_dataset("weights", data=["text"]), "E-UNSAFE-MODEL"),
    "an empty array": (lambda file: file.create_dataset("weights", data=h5py.Empty("f4")), "E-UNSAFE-MODEL"),
    "a group within itself": (loop, "E-UNSAFE-MODEL"),
    "an array larger than its file": (late, "E-TOO-LARGE"),
}


@pytest.mark.parametrize("kind", list(WEIGHT_FILES))
def test_weights_that_lie_elsewhere_or_are_not_what_they_say_are_refused(
    kind: str, honest: Path, tmp_path: Path
) -> None:
    content, code = WEIGHT_FILES[kind]
    path = packed(tmp_path / "model.keras", parts(honest)[0], built(content))
    with pytest.raises(UnsafeFile, match=WEIGHTS) as caught:
        check_keras_file(path)
    assert (caught.value.code, caught.value.exit_code) == (code, 7)


def rezipped(path: Path, change: Callable[[zipfile.ZipFile], object], honest: Path) -> Path:
    packed(path, *parts(honest))
    with zipfile.ZipFile(path, "a") as archive:
        change(archive)
    return path


def declare(archive: zipfile.ZipFile) -> None:
    archive.writestr("assets/bomb", b"\0", compress_type=zipfile.ZIP_DEFLATED)
    archive.getinfo("assets/bomb").file_size = 2**31


ARCHIVES: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "a plain .h5": (lambda folder, _: wrote(folder / "model.h5", built(lambda file: file.create_group("layers"))), ""),
    "a plain .h5 under another name": (
        lambda folder, _: wrote(folder / "model.keras", built(lambda file: file.create_group("layers"))),
        "",
    ),
    "a folder": (lambda folder, _: made(folder / "model.keras"), ""),
    "nothing": (lambda folder, _: folder / "model.keras", ""),
    "not a zip": (lambda folder, _: wrote(folder / "model.keras", b"GIF89a" * 100), ""),
    "an empty file": (lambda folder, _: wrote(folder / "model.keras", b""), ""),
    "half a zip": (
        lambda folder, honest: wrote(folder / "model.keras", honest.read_bytes()[: len(honest.read_bytes()) // 2]),
        "",
    ),
    "a member too many": (
        lambda folder, honest: rezipped(folder / "model.keras", lambda zip: zip.writestr("assets/x", b""), honest),
        "",
    ),
    "a member that leaves the archive": (
        lambda folder, honest: rezipped(folder / "model.keras", lambda zip: zip.writestr("../x", b""), honest),
        "",
    ),
    "a bomb": (lambda folder, honest: rezipped(folder / "model.keras", declare, honest), "E-TOO-LARGE"),
    "compressed weights": (lambda folder, honest: squeezed(folder / "model.keras", honest), ""),
    "a config that is not JSON": (lambda folder, honest: packed(folder / "model.keras", b"{", parts(honest)[1]), ""),
    "a config that is a number": (lambda folder, honest: packed(folder / "model.keras", b"1", parts(honest)[1]), ""),
    "a config of a million brackets": (
        lambda folder, honest: packed(folder / "model.keras", b"[" * 10**6 + b"]" * 10**6, parts(honest)[1]),
        "E-TOO-LARGE",
    ),
    "a config of 100,000 brackets": (
        lambda folder, honest: packed(folder / "model.keras", b"[" * 10**5 + b"]" * 10**5, parts(honest)[1]),
        "",
    ),
    "a config of 300 brackets": (
        lambda folder, honest: packed(folder / "model.keras", deep(300), parts(honest)[1]),
        "",
    ),
    "a config of 17 MiB": (
        lambda folder, honest: packed(folder / "model.keras", b" " * 17 * 2**20, parts(honest)[1]),
        "E-TOO-LARGE",
    ),
    "a layer of a trillion units": (
        lambda folder, honest: packed(folder / "model.keras", *vast(honest)),
        "E-TOO-LARGE",
    ),
}


def wrote(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def made(path: Path) -> Path:
    path.mkdir()
    (path / CONFIG).write_text("{}")
    return path


def squeezed(path: Path, honest: Path) -> Path:
    config, _ = parts(honest)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr(CONFIG, json.dumps(config))
        archive.writestr(WEIGHTS, bytes(50 * 2**20))
    return path


def deep(levels: int) -> Config:
    inner: object = 0
    for _ in range(levels):
        inner = [inner]
    return {"module": "keras", "class_name": "Sequential", "config": {"layers": inner}, "registered_name": None}


def vast(honest: Path) -> tuple[Config, bytes]:
    config, weights = parts(honest)
    return with_layer(config, {"module": "keras.layers", "class_name": "Dense", "config": {"units": 10**12}}), weights


@pytest.mark.parametrize("kind", list(ARCHIVES))
def test_a_file_that_is_no_whole_keras_archive_of_bounded_size_is_refused(
    kind: str, honest: Path, tmp_path: Path
) -> None:
    make, code = ARCHIVES[kind]
    path = make(tmp_path, honest)
    with pytest.raises(UnsafeFile) as caught:
        FORMATS["keras"].load(path)
    assert (caught.value.code, caught.value.exit_code) == (code or "E-UNSAFE-MODEL", 7)
    assert str(path) in str(caught.value) and "Try: " in str(caught.value)


def test_a_damaged_file_is_refused_or_harmless_and_never_a_crash(honest: Path, tmp_path: Path) -> None:
    whole, dice, path = honest.read_bytes(), random.Random(0), tmp_path / "model.keras"
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(dice.randrange(1, 8)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        path.write_bytes(content[: dice.randrange(len(content))] if dice.random() < 0.2 else content)
        try:
            check_keras_file(path)
        except UnsafeFile as refused:
            assert refused.exit_code == 7


def saved(name: str, folder: Path) -> Path:
    """A model such as a search, a refit or a user's own hypermodel would save."""
    import keras
    from keras import layers

    from autofash import models

    path = folder / "model.keras"
    if name in models.FAMILIES:
        options: Mapping[str, Any] = {"mlp": {"width": 8}, "cnn": {"width": 4}, "resnet": {"width": 4}}[name]
        normal = "layer" if name == "cnn" else "batch"
        model = models.build({"family": name, "normalization": normal, "dropout": 0.1, **options}, (8, 8, 1), 10)
    elif name == "flip averaging of an ensemble":
        inputs = keras.Input((8, 8, 1), dtype="uint8")
        members = [models.build({"family": "mlp", "width": 8 + number}, (8, 8, 1), 10) for number in range(2)]
        for number, member in enumerate(members):
            member.name = f"member_{number}"
        views = [inputs, keras.ops.flip(inputs, axis=2)]
        model = keras.Model(inputs, layers.Average()([member(view) for member in members for view in views]))
    elif name == "compiled":
        model = models.build({"family": "mlp", "width": 8}, (8, 8, 1), 10)
        schedule = keras.optimizers.schedules.CosineDecay(1e-3, 10)
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
        model.compile(keras.optimizers.AdamW(schedule), loss, metrics=["accuracy", keras.metrics.F1Score()])
    else:
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.RandomTranslation(0.1, 0.1),
                layers.RandomFlip(),
                layers.Conv2D(4, 3, kernel_regularizer="l2", kernel_constraint=keras.constraints.MaxNorm(2)),
                layers.PReLU(),
                layers.Reshape((-1, 4)),
                layers.Bidirectional(layers.LSTM(3)),
                layers.Dense(10, "softmax", kernel_initializer=keras.initializers.HeNormal()),
            ]
        )
    model.save(path)
    return path


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "flip averaging of an ensemble", "compiled", "other layers"])
def test_models_of_standard_layers_pass(name: str, tmp_path: Path) -> None:
    path = saved(name, tmp_path)
    check_keras_file(path)
    answer = FORMATS["keras"].load(path)(np.zeros((2, 8, 8, 1), np.uint8))
    assert answer.shape == (2, 10) and answer.dtype == np.float32


def test_every_allowed_name_is_a_class_that_keras_saves_under_it() -> None:
    import keras
    from keras.src import api_export
    from keras.src.ops import numpy

    forbidden = {
        "Lambda",
        "TFSMLayer",
        "TorchModuleWrapper",
        "JaxLayer",
        "FlaxLayer",
        "StringLookup",
        "TextVectorization",
    }
    for module, names in ALLOWED.items():
        assert not names & forbidden
        if str(module).startswith("keras.src"):
            continue
        for name in names:
            found = api_export.get_symbol_from_name(f"{module}.{name}")
            assert found is not None and found.__name__ == name and hasattr(found, "from_config"), (module, name)
    assert issubclass(numpy.Flip, keras.Operation)
