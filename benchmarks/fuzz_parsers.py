"""Every parser that reads what a user or a stranger wrote, with files to begin from: what `make fuzz` and a test of it feed.

An input's first byte says how the rest becomes a file. Even: it is the file. Odd: it is what the format wraps, and gets a right
checksum, compression or archive around it, so that the wrapping alone does not refuse all that is changed.
A reader imports what it needs by itself: each parser runs in a process of its own, which pays for no other's libraries.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import random
import sqlite3
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
AS_IT_IS, WRAPPED = b"\0", b"\1"
BETWEEN = b"\0--8<--\0"  # of config and weights, in an input for a .keras archive
CODE = b"\x80\x04cos\nsystem\n(S'touch canary'\ntR."  # a pickle that sings


@dataclass(frozen=True, slots=True)
class Parser:
    """A parser, and what it takes to feed it."""

    name: str
    count: int  # inputs, unless asked for another number
    file: str  # name of the file that an input becomes
    read: Callable[[Path], object]
    seeds: Callable[[], Sequence[bytes]]  # inputs to begin from, each with its first byte
    wrapped: Callable[[bytes], bytes] = bytes
    words: tuple[bytes, ...] = ()  # that mean something to the parser
    beside: tuple[str, bytes] | None = None  # name and content of a file that lies beside it

    def content(self, given: bytes) -> bytes:
        """The file that an input becomes."""
        return self.wrapped(given[1:]) if given[:1] and given[0] % 2 else given[1:]


# -- TOML ----------------------------------------------------------------------------------------------------------------------

FAULTY = """format = 1
family = "all"
about = '''x'''
[params.family]
type = "choice"
values = ["cnn", "mlp", 1, true, nan]
[params.cnn_depth]
type = "int"
low = 9
high = -1
step = 0
log = true
[params."cnn_width"]
type = "float"
low = -inf
high = 1e308
step = 5e-324
when = { family = ["cnn", "x"], nothing = [], cnn_depth = [0x7f] }
[configs.a]
family = "cnn"
"""
STUDY = """format = 1
dataset = "digits"
space = "mine.toml"
sampler = "tpe"
pruner = "asha"
objective = "accuracy"
trials = 50
epochs = 6
budget = "1h30m"
target = 0.93
workers = 2
seed = 0
starters = false
"""
NUMBERS = (
    b"-1",
    b"0",
    b"1e400",
    b"nan",
    b"inf",
    b"-0.0",
    b"9" * 30,
    b"9" * 5000,
    b"0x" + b"f" * 5000,
    b"true",
    b"1979-05-27",
)
TOML = (
    *(
        b"[params.",
        b"[configs.",
        b"[[",
        b"]]",
        b"{",
        b"}",
        b"=",
        b'"""',
        b"'''",
        b"\\u0000",
        b"\\U0010ffff",
        b"#",
        b"\n",
        b".",
    ),
    *(
        b"format",
        b"family",
        b"about",
        b"type",
        b"low",
        b"high",
        b"step",
        b"log",
        b"values",
        b"when",
        b'"int"',
        b'"float"',
    ),
    *(b'"choice"', b'"bool"', b'"fixed"', b'"all"', b'"cnn"', b"a.a.a.a.a.a.a.a.a.", b"\xff", b"\xef\xbb\xbf"),
    *NUMBERS,
)


def _tomls(folder: str, *more: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [
        AS_IT_IS + text
        for text in (*(p.read_bytes() for p in sorted((ROOT / folder).glob("*.toml"))), *map(str.encode, more))
    ]


def _read_space(path: Path) -> object:
    from autofash.space import load_space, space_from_table

    space = load_space(path)
    space.sample(random.Random(0))
    return space_from_table(space.table(), name="again", where="again").fingerprint


def _read_study(path: Path) -> object:
    from autofash.study.definition import load_definition, seconds

    found = load_definition(path)
    return seconds(found.budget) if found.budget is not None else found


# -- arrays and pictures -------------------------------------------------------------------------------------------------------


def _zipped(compression: int, **members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return out.getvalue()


def _npy(array: Any) -> bytes:
    import numpy as np

    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _arrays() -> list[Any]:
    import numpy as np

    return [
        np.zeros((2, 3, 3), np.uint8),
        np.asfortranarray(np.arange(48, dtype=np.uint8).reshape(2, 4, 2, 3)),
        np.arange(4, dtype=np.int64),
        np.zeros((1, 2, 2), np.float32),
        np.zeros(2, [("a", "u1"), ("b", "f8", 3)]),
        np.array(["text", "more"]),
        np.array(3, np.uint8),
    ]


def _npz_seeds() -> Sequence[bytes]:
    import numpy as np

    first, *_, labels = arrays = [_npy(array) for array in _arrays()]
    objects = io.BytesIO()
    np.savez(objects, images=np.array([{"a": 1}], dtype=object))
    return [
        AS_IT_IS + _zipped(zipfile.ZIP_DEFLATED, images=first, labels=labels),
        AS_IT_IS + _zipped(zipfile.ZIP_STORED, images=first, labels=labels),
        AS_IT_IS + objects.getvalue(),
        AS_IT_IS + CODE,
        *(WRAPPED + array for array in arrays),
        WRAPPED + b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(128) + CODE,
        WRAPPED + b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{'descr'",
    ]


def _in_a_zip(array: bytes) -> bytes:
    return _zipped(zipfile.ZIP_STORED, images=array, labels=_npy(_arrays()[2]))


NPY = (
    b"'descr'",
    b"'fortran_order'",
    b"'shape'",
    b"True",
    b"'|u1'",
    b"'|O'",
    b"'<i8'",
    b"(",
    b")",
    b",",
    b"PK\x01\x02",
    *NUMBERS,
)


def _read_npz(path: Path) -> object:
    from autofash.data.formats import read_npz

    return read_npz(path, ("images", "labels"))


def _idx_seeds() -> Sequence[bytes]:
    files = [
        bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape) + bytes(48)
        for shape in ((48,), (3, 4, 4), (1, 48, 1, 1), (2**31,), (0,), (0xFFFFFFFF, 0xFFFFFFFF))
    ]
    return [*(WRAPPED + file for file in files), *(AS_IT_IS + gzip.compress(file) for file in files[:2])]


def _read_idx(path: Path) -> object:
    from autofash.data.formats import read_idx

    return read_idx(path)


def _tar_seeds() -> Sequence[bytes]:
    files = []
    for kind, name, link in (
        (tarfile.REGTYPE, "cifar-10-batches-bin/test_batch.bin", ""),
        (tarfile.SYMTYPE, "cifar-10-batches-bin/test_batch.bin", "../../canary"),
        (tarfile.REGTYPE, "../canary", ""),
    ):
        for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode="w", format=form) as archive:
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname, entry.size = kind, link, 3073 if kind == tarfile.REGTYPE else 0
                entry.pax_headers = {"comment": "x" * 120}
                archive.addfile(entry, io.BytesIO(bytes(3073)))
            files.append(out.getvalue()[:6144])
    return [*(WRAPPED + file for file in files), AS_IT_IS + gzip.compress(files[0])]


def _read_tar(path: Path) -> object:
    from autofash.data.formats import read_cifar

    return read_cifar(path, ("test_batch.bin",))


def _quickly_gzipped(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def _picture_seeds() -> Sequence[bytes]:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = []
    for kind, modes in (
        ("PNG", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        ("JPEG", ("L", "RGB", "CMYK")),
        ("BMP", ("1", "P", "RGB")),
    ):
        for mode in modes:
            out = io.BytesIO()
            more: dict[str, Any] = {"transparency": 0} if mode in ("P", "L") and kind == "PNG" else {}
            Image.new(mode, (9, 7)).save(out, kind, exif=exif, **more) if kind != "BMP" else Image.new(
                mode, (9, 7)
            ).save(out, kind)
            seeds.append((WRAPPED if kind == "PNG" else AS_IT_IS) + out.getvalue())
    huge = bytearray(seeds[1])
    huge[17:25] = struct.pack(">II", 13_500, 13_500)
    return [*seeds, bytes(huge)]


def _with_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold now."""
    made, place = bytearray(content), 8
    while place + 12 <= len(made):
        end = place + 8 + int.from_bytes(made[place : place + 4], "big")
        if end + 4 > len(made):
            break
        made[end : end + 4] = struct.pack(">I", zlib.crc32(made[place + 4 : end]))
        place = end + 4
    return bytes(made)


CHUNKS = (
    b"IHDR",
    b"IDAT",
    b"IEND",
    b"PLTE",
    b"tRNS",
    b"eXIf",
    b"zTXt",
    b"iTXt",
    b"iCCP",
    b"acTL",
    b"fcTL",
    b"fdAT",
    b"pHYs",
    b"gAMA",
)
WANTED = (9, 7, 1, 0, "dark")  # height, width, channels, border, background


def _read_pictures(path: Path) -> object:
    from autofash.data.pictures import ModelInput, read_pictures

    return read_pictures([path], ModelInput(*WANTED))


# -- models --------------------------------------------------------------------------------------------------------------------


def _layer(name: str, **config: object) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": name, "config": {"name": name, **config}, "registered_name": None}


def _network(*layers: object) -> dict[str, Any]:
    return {
        **_layer("Sequential", layers=list(layers)),
        "module": "keras",
        "build_config": {"input_shape": [None, 8, 8, 1]},
    }


def _weights() -> bytes:
    import h5py
    import numpy as np

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for number, shape in enumerate(((3, 3, 1, 4), (4,), (256, 10), (10,))):
            file.create_dataset(f"layers/dense/vars/{number}", data=np.zeros(shape, np.float32))
        file["layers"].attrs["name"] = "x"
    return out.getvalue()


def _linked() -> bytes:
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file["soft"], file["out"] = h5py.SoftLink("/canary"), h5py.ExternalLink("canary.h5", "/")
    return out.getvalue()


def _in_an_archive(content: bytes) -> bytes:
    config, _, weights = content.partition(BETWEEN)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", weights)
    return out.getvalue()


def _keras_seeds() -> Sequence[bytes]:
    code = {"class_name": "__lambda__", "config": {"code": "4wEAAAA=", "defaults": None, "closure": None}}
    networks = [
        _network(
            _layer("InputLayer", batch_shape=[None, 8, 8, 1]), _layer("Conv2D", filters=4), _layer("Dense", units=10)
        ),
        _network(_layer("Lambda", function=code)),
        _network(_layer("TimeDistributed", layer=_layer("TFSMLayer", filepath="canary"))),
        _network({"module": "canary", "class_name": "Layer", "config": {}, "registered_name": "canary>Layer"}),
    ]
    honest, linked = _weights(), _linked()
    texts = [json.dumps(network).encode() for network in networks]
    return [
        *(WRAPPED + text + BETWEEN + honest for text in texts),
        WRAPPED + texts[0] + BETWEEN + linked,
        AS_IT_IS + _in_an_archive(texts[0] + BETWEEN + honest),
    ]


JSON = (
    b'{"',
    b'":',
    b"[",
    b"]",
    b"{",
    b"}",
    b"null",
    b'"class_name"',
    b'"module"',
    b'"registered_name"',
    b'"config"',
    b'"units"',
    *NUMBERS,
)
KERAS = (
    *JSON,
    b'"Lambda"',
    b'"keras.layers"',
    b'"builtins"',
    b"PK\x03\x04",
    b"\x89HDF\r\n\x1a\n",
    b"TREE",
    b"SNOD",
    b"HEAP",
    b"OHDR",
)


def _read_keras(path: Path) -> object:
    from autofash.safety import check_keras_file

    return check_keras_file(path)


def _manifest_seeds() -> Sequence[bytes]:
    import hashlib

    model = {"sha256": hashlib.sha256(b"model").hexdigest(), "bytes": 5}
    whole = {
        "format": 1,
        "study": "digits-cnn",
        "trial": 3,
        "classes": ["a", "b"],
        "members": [1, 2],
        "input": {"shape": [8, 8, 1], "border": 0, "background": "dark"},
        "files": {"model.keras": model},
    }
    astray = {**whole, "files": {"model.keras": model, "../canary": {"sha256": "", "bytes": 0}}}
    return [AS_IT_IS + json.dumps(told).encode() for told in (whole, astray)]


def _read_manifest(path: Path) -> object:
    from autofash import manifest
    from autofash.predict import find_model

    found = find_model(path.parent)
    return manifest.verify(path.parent, found.manifest)


def _tuner_seeds() -> Sequence[bytes]:
    """Trials as KerasTuner keeps them: of every kind of hyperparameter, of Hyperband, and one that failed."""
    space = [
        ("Int", {"min_value": 8, "max_value": 32, "step": 8, "sampling": "linear", "default": None}, 16),
        ("Float", {"min_value": 1e-4, "max_value": 0.1, "step": None, "sampling": "log", "default": 1e-4}, 0.01),
        ("Float", {"min_value": 0.1, "max_value": 0.5, "step": 0.1, "sampling": "linear", "default": 0.1}, 0.3),
        ("Choice", {"values": ["relu", "tanh"], "ordered": False, "default": "relu"}, "tanh"),
        ("Boolean", {"default": False}, True),
        ("Fixed", {"value": 7}, 7),
    ]
    parent = {"class_name": "Parent", "config": {"name": "h3", "values": ["tanh"]}}
    hyperparameters = {
        "space": [
            {"class_name": kind, "config": {"name": f"h{n}", "conditions": [parent] if n == 5 else [], **config}}
            for n, (kind, config, _) in enumerate(space)
        ],
        "values": {f"h{n}": value for n, (_, _, value) in enumerate(space)},
    }
    metrics = {
        name: {"direction": direction, "observations": [{"value": [0.5, 0.25], "step": step} for step in range(3)]}
        for name, direction in (("val_accuracy", "max"), ("val_loss", "min"))
    }
    whole = {
        "trial_id": "0003",
        "hyperparameters": hyperparameters,
        "metrics": {"metrics": metrics},
        "score": 0.375,
        "best_step": 0,
        "status": "COMPLETED",
        "message": None,
    }
    tuner = {
        "tuner/epochs": 3,
        "tuner/initial_epoch": 1,
        "tuner/bracket": 1,
        "tuner/round": 1,
        "tuner/trial_id": "0002",
    }
    promoted = {**hyperparameters, "values": {**hyperparameters["values"], **tuner}}
    failed = {**whole, "metrics": {"metrics": {}}, "score": None, "status": "FAILED", "message": "Traceback\nNo: no\n"}
    return [AS_IT_IS + json.dumps(told).encode() for told in (whole, {**whole, "hyperparameters": promoted}, failed)]


def _read_tuner(path: Path) -> object:
    from autofash.keras_tuner_folder import read_trial
    from autofash.space import IMPORTED, Space

    trial = read_trial(path)
    return Space(IMPORTED, trial.params), trial


@functools.cache
def _small_ledger() -> bytes:
    """A SQLite ledger of one study with four trials."""
    from autofash.records import Ending, EpochReport, Outcome, StudySettings
    from autofash.space import load_space
    from autofash.study import StudyWriter

    space = load_space("mlp")
    settings = StudySettings(
        dataset="digits",
        data_fingerprint="d",
        space=space.name,
        space_table=space.table(),
        space_fingerprint=space.fingerprint,
        sampler="random",
        pruner="none",
        objective="accuracy",
        epochs=3,
        seed=0,
        validation=0.1,
        starters=False,
    )
    with tempfile.TemporaryDirectory() as made:
        writer = StudyWriter("s", f"sqlite:///{made}/studies.db", settings, target=5)
        for _ in range(4):
            asked = writer.ask()
            if asked is not None:
                writer.observe(EpochReport(asked.number, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 1000, 0.1))
                writer.tell(Outcome(asked.number, Ending.DONE))
        writer.close()
        return (Path(made) / "studies.db").read_bytes()


CELLS = [  # what a ledger's rows hold, besides numbers
    *(
        f"UPDATE {table} SET value_json = ? WHERE rowid = {row}"
        for table in ("study_user_attributes", "trial_user_attributes")
        for row in range(1, 9)
    ),
    *(
        f"UPDATE {table} SET {column} = ? WHERE rowid = 1"
        for table, column in (("studies", "study_name"), ("trials", "state"), ("trials", "datetime_complete"))
    ),
    *(
        f"UPDATE trial_params SET {column} = ? WHERE rowid = 1"
        for column in ("param_name", "param_value", "distribution_json")
    ),
    *(
        f"UPDATE trial_intermediate_values SET {column} = ? WHERE rowid = 1"
        for column in ("step", "intermediate_value", "intermediate_value_type")
    ),
]


def _in_a_ledger(content: bytes) -> bytes:
    """The small ledger with one of its cells changed: the first byte says which, the rest is what it holds."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as ledger:
        ledger.deserialize(_small_ledger())
        ledger.execute(CELLS[content[0] % len(CELLS)] if content else CELLS[0], (content[1:].decode(errors="replace"),))
        return ledger.serialize()


def _ledger_seeds() -> Sequence[bytes]:
    with contextlib.closing(sqlite3.connect(":memory:")) as ledger:
        ledger.deserialize(_small_ledger())
        told = [
            row[0].encode()
            for table in ("study_user_attributes", "trial_user_attributes")
            for row in ledger.execute(f"SELECT value_json FROM {table}")
        ]
    cells = [WRAPPED + bytes([cell]) + text for cell, text in enumerate(told[: len(CELLS)])]
    return [AS_IT_IS + _small_ledger(), *cells, *(WRAPPED + bytes([cell]) + b"1" for cell in range(len(CELLS)))]


def _read_ledger(path: Path) -> object:
    from autofash.study import list_studies, load_study

    storage = f"sqlite:///{path}"
    found = load_study(None, storage)
    return list_studies(storage), found.trials(), found.standings(), found.best(), found.runs, found.openings


SQLITE = (
    b"SQLite format 3\0",
    b"CREATE TABLE",
    b'{"',
    b'"format"',
    b'"settings"',
    b"null",
    b"COMPLETE",
    b"\xff" * 8,
    b"\0" * 100,
    *NUMBERS,
)
PARSERS = {
    parser.name: parser
    for parser in (
        Parser("space", 100_000, "mine.toml", _read_space, _tomls("search_spaces", FAULTY), words=TOML),
        Parser("study", 100_000, "mine.toml", _read_study, _tomls("studies", STUDY), words=TOML),
        Parser("idx", 100_000, "a.gz", _read_idx, _idx_seeds, _quickly_gzipped),
        Parser("npz", 100_000, "a.npz", _read_npz, _npz_seeds, _in_a_zip, NPY),
        Parser(
            "tar",
            100_000,
            "a.tar.gz",
            _read_tar,
            _tar_seeds,
            _quickly_gzipped,
            (b"ustar\x0000", b"ustar  \0", b"GNU.sparse.", b"size="),
        ),
        Parser("picture", 100_000, "a.png", _read_pictures, _picture_seeds, _with_checksums, CHUNKS),
        Parser("picture-npz", 50_000, "a.npz", _read_pictures, _npz_seeds, _in_a_zip, NPY),
        Parser(
            "manifest",
            100_000,
            "manifest.json",
            _read_manifest,
            _manifest_seeds,
            words=(*JSON, b'"files"', b'"shape"'),
            beside=("model.keras", b"model"),
        ),
        Parser(
            "keras-tuner",
            100_000,
            "trial.json",
            _read_tuner,
            _tuner_seeds,
            words=(
                *JSON,
                b'"Float"',
                b'"log"',
                b'"step"',
                b'"values"',
                b'"conditions"',
                b"NaN",
                b"-Infinity",
                b'"tuner/',
            ),
        ),
        Parser("ledger", 5_000, "studies.db", _read_ledger, _ledger_seeds, _in_a_ledger, (*SQLITE, *JSON)),
        Parser("keras", 20_000, "model.keras", _read_keras, _keras_seeds, _in_an_archive, KERAS),
    )
}
