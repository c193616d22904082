"""Whether a .keras file may be loaded: its parts are looked at one by one before anything of it is made into an object."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from autofash.archives import open_zip
from autofash.errors import UnsafeFile, brief, cut

LARGEST_FILE = 2**30  # bytes that the archive's members may declare together
LARGEST_CONFIG = 16 * 2**20  # bytes of config.json; a network of a thousand layers has one
MOST_PARTS = (
    500_000  # entries of config.json, each a hundred bytes or two of memory; a network of a thousand layers has 60,000
)
DEEPEST_CONFIG = 100  # brackets within brackets; flip averaging over a residual network has 14
MOST_OBJECTS = 100_000  # groups and datasets in the weights
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
MEMBERS = {"metadata.json", CONFIG, WEIGHTS}
FIX = "a model that autofash best --export has made"

# What a config may name, by the module that it names it from. None of it brings code, and none reads files: there is no Lambda,
# no TFSMLayer, no wrapper of another framework's layers, and no lookup layer, whose vocabulary may be a path or an address.
ALLOWED: dict[str, frozenset[str]] = {
    module: frozenset(names.split())
    for module, names in {
        "keras": "DTypePolicy Sequential",
        "keras.src.models.functional": "Functional",
        "keras.src.ops.numpy": "Flip",
        "keras.layers": """
            Activation ActivityRegularization AdaptiveAveragePooling2D AdaptiveMaxPooling2D Add AdditiveAttention AlphaDropout
            Attention AugMix AutoContrast Average AveragePooling1D AveragePooling2D AveragePooling3D BatchNormalization
            Bidirectional CenterCrop Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose Cropping1D
            Cropping2D Cropping3D CutMix Dense DepthwiseConv1D DepthwiseConv2D Dot Dropout ELU EinsumDense Embedding Equalization
            Flatten GRU GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
            GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization Identity InputLayer
            LSTM LSTMCell LayerNormalization LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D Maximum Minimum MixUp
            MultiHeadAttention Multiply Normalization PReLU Permute RMSNormalization RNN RandAugment RandomBrightness
            RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing RandomFlip
            RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation
            RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom ReLU RepeatVector Rescaling Reshape Resizing
            SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell Softmax Solarization SpatialDropout1D SpatialDropout2D
            SpatialDropout3D SpectralNormalization StackedRNNCells Subtract TimeDistributed UnitNormalization UpSampling1D
            UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D""",
        "keras.initializers": """
            Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones Orthogonal RandomNormal
            RandomUniform TruncatedNormal VarianceScaling Zeros""",
        "keras.regularizers": "L1 L1L2 L2 OrthogonalRegularizer",
        "keras.constraints": "MaxNorm MinMaxNorm NonNeg UnitNorm",
        "keras.optimizers": """
            Adadelta Adafactor Adagrad Adam AdamW Adamax Ftrl Lamb Lion LossScaleOptimizer Muon Nadam RMSprop SGD
            ScheduleFreeAdamW""",
        "keras.optimizers.schedules": """
            CosineDecay CosineDecayRestarts ExponentialDecay InverseTimeDecay PiecewiseConstantDecay PolynomialDecay""",
        "keras.losses": """
            BinaryCrossentropy BinaryFocalCrossentropy CategoricalCrossentropy CategoricalFocalCrossentropy
            CategoricalGeneralizedCrossEntropy CategoricalHinge CosineSimilarity Dice Hinge Huber KLDivergence LogCosh
            MeanAbsoluteError MeanSquaredError Poisson SparseCategoricalCrossentropy SquaredHinge Tversky""",
        "keras.metrics": """
            AUC Accuracy BinaryAccuracy BinaryCrossentropy CategoricalAccuracy CategoricalCrossentropy CategoricalHinge
            CosineSimilarity F1Score FBetaScore FalseNegatives FalsePositives Hinge KLDivergence LogCoshError Mean
            MeanAbsoluteError MeanSquaredError Poisson Precision PrecisionAtRecall Recall RecallAtPrecision RootMeanSquaredError
            SensitivityAtSpecificity SparseCategoricalAccuracy SparseCategoricalCrossentropy SparseTopKCategoricalAccuracy
            SpecificityAtSensitivity SquaredHinge Sum TopKCategoricalAccuracy TrueNegatives TruePositives""",
    }.items()
}
NAMING = {"class_name", "module", "registered_name", "spec_name"}  # a table with one of these is made into an object
SIZES = {"units", "filters", "input_dim", "output_dim", "num_heads", "key_dim", "value_dim"}


def check_keras_file(path: Path) -> None:
    """Raise UnsafeFile unless this is a .keras archive of standard layers and plain weights. Nothing that it names is imported.

    The archive: three members, stored as Keras stores them, at most 1 GiB together. config.json: bounded in length and depth, and
    every class in it one of ALLOWED. The weights: plain arrays of numbers, no link to another place or file, none larger than
    the file that holds it. E-TOO-LARGE: more than may be read; E-UNSAFE-MODEL: everything else.

    Not covered: layers of which each is within bounds and whose product exceeds the memory, and faults of HDF5 itself.
    """
    if path.suffix != ".keras" or (os.path.exists(path) and not os.path.isfile(path)):
        _refuse(path, "is not a .keras file, the one kind of model file that can be looked into before it is loaded")
    try:
        with path.open("rb") as stream, open_zip(stream, str(path), LARGEST_FILE) as archive:
            _check_members(path, archive.infolist())
            config, weights = archive.read(CONFIG), archive.read(WEIGHTS)
    except UnsafeFile:
        raise
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror or error}")
    except Exception:  # zipfile has a dozen words for a broken archive
        _refuse(path, "is not a whole .keras archive")
    wanted = _check_config(path, config)
    held = _check_weights(path, weights)
    if wanted > held:
        asked = cut(f"{wanted:,}", 30)
        _refuse(path, f"a layer asks for {asked} units, and the weights are {held:,} numbers", "E-TOO-LARGE")


def _refuse(path: Path, fact: str, code: str = "E-UNSAFE-MODEL") -> NoReturn:
    raise UnsafeFile(fact, FIX, where=str(path), code=code) from None


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    if sorted(names) != sorted(MEMBERS):
        _refuse(path, f"holds {cut(', '.join(names[:5]), 200) or 'nothing'}, want {', '.join(sorted(MEMBERS))}")
    for member in members:
        # Keras compresses nothing, so what is declared is what lies on the disk, and no member can be a bomb.
        if member.compress_type != zipfile.ZIP_STORED:
            _refuse(path, f"{member.filename} is compressed, which Keras does not do")
        if member.filename != WEIGHTS and member.file_size > LARGEST_CONFIG:
            _refuse(path, f"{member.filename} has {member.file_size:,} bytes", "E-TOO-LARGE")


def _check_config(path: Path, content: bytes) -> int:
    """The most units that a layer asks for, once every object of the config is one that may be made."""
    if sum(map(content.count, (b"{", b"[", b","))) > MOST_PARTS:
        _refuse(path, f"{CONFIG} has more than {MOST_PARTS:,} entries", "E-TOO-LARGE")
    try:
        config = json.loads(content)  # with Keras's own reader, so that both see the same
    except RecursionError:
        _refuse(path, f"{CONFIG} is nested too deeply")
    except ValueError:
        _refuse(path, f"{CONFIG} is not JSON")
    if not isinstance(config, dict) or "class_name" not in config:
        _refuse(path, f"{CONFIG} describes no model")
    wanted = 0
    if any(depth > DEEPEST_CONFIG for _, _, depth in _parts(config)):  # first: Python compares and prints by recursion
        _refuse(path, f"{CONFIG} is nested too deeply")
    for found, layer, _ in _parts(config):
        if not isinstance(found, dict):
            continue
        if NAMING & set(found) and not _allowed(found):
            named = f"{found.get('module')}.{found.get('class_name')}"
            alias = found.get("registered_name")
            known_as = f" (registered as {brief(alias)})" if alias not in (None, found.get("class_name")) else ""
            _refuse(
                path, f"layer {layer[:60]!r} brings {named[:120]}{known_as}, which is not one of Keras's own layers"
            )
        wanted = max([wanted, *(value for key, value in found.items() if key in SIZES and isinstance(value, int))])
    return wanted


def _parts(config: dict[str, Any]) -> Iterator[tuple[object, str, int]]:
    """Every table and list in the config, with the name of the layer that it belongs to, and how deep it lies."""
    left: list[tuple[object, str, int]] = [(config, "", 0)]
    while left:  # not by recursion: the depth is the file's to choose
        found, layer, depth = left.pop()
        if isinstance(found, dict):
            inner = found.get("config")
            name = found.get("name") or (inner.get("name") if isinstance(inner, dict) else None)
            layer = name if isinstance(name, str) and "class_name" in found else layer
        if isinstance(found, dict | list):
            yield found, layer, depth
            values = found.values() if isinstance(found, dict) else found
            left += [(value, layer, depth + 1) for value in values if isinstance(value, dict | list)]


def _allowed(table: dict[str, Any]) -> bool:
    if table.get("class_name") == "__keras_tensor__":  # shape, dtype and where it came from
        return "module" not in table and "registered_name" not in table and "spec_name" not in table
    module, name = table.get("module"), table.get("class_name")
    known = ALLOWED.get(module, frozenset()) if isinstance(module, str) else frozenset()
    # A table without "config" is not made into an object, but then it has no business in a model; Keras reads one without
    # "module" in its old way, which looks names up elsewhere; and a registered name would win over the built-in class.
    alias = table.get("registered_name")
    return isinstance(name, str) and name in known and alias in (None, name) and isinstance(table.get("config"), dict)


def _check_weights(path: Path, content: bytes) -> int:
    """How many numbers the weights are, once all of them lie in the file itself."""
    import h5py

    try:
        with h5py.File(io.BytesIO(content), "r") as weights:
            return _numbers(path, weights, len(content))
    except UnsafeFile:
        raise
    except Exception:  # h5py raises nearly anything over a damaged file
        _refuse(path, f"{WEIGHTS} is not an HDF5 file that can be read")


def _numbers(path: Path, weights: Any, size: int) -> int:
    import h5py

    left, numbers, declared = [weights["/"]], 0, 0
    seen: set[int] = set()  # addresses in the file
    while left:
        group = left.pop()
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"[:120]
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                _refuse(path, f"{WEIGHTS}: {where} is a link to another place, which Keras does not write")
            found = group[name]
            place = h5py.h5o.get_info(found.id).addr
            if place in seen or len(seen) >= MOST_OBJECTS:
                _refuse(path, f"{WEIGHTS}: {where} is a second name for an object, or one object too many")
            seen.add(place)
            if isinstance(found, h5py.Group):
                left.append(found)
                continue
            if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiub" or found.shape is None:
                _refuse(path, f"{WEIGHTS}: {where} is not an array of numbers")
            made = found.id.get_create_plist()
            # Whole and in this file: neither virtual nor in pieces or compressed, nor external.
            if made.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or made.get_external_count():
                _refuse(path, f"{WEIGHTS}: {where} does not lie in the file in one piece, as Keras writes it")
            declared, numbers = declared + found.nbytes, numbers + found.size
            if declared > size:
                _refuse(
                    path,
                    f"{WEIGHTS}: {where} makes it {declared:,} bytes of numbers in a file of {size:,}",
                    "E-TOO-LARGE",
                )
    return numbers
