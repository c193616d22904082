"""Rows 33 and 35 of the faults, and the manifest that stands before every model: hostile archives, read without a model library.

The corpus of hostile layers, weights and archives is in tests/test_safety.py, with real models and a canary that does sing.
"""

import gzip
import io
import json
import os
import random
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from autofash import manifest
from autofash.data.formats import read_cifar
from autofash.errors import AutofashError, UnsafeFile
from autofash.predict import find_model
from autofash.safety import CONFIG, MOST_PARTS, WEIGHTS, check_keras_file
from tests.data.test_pictures import a_plain_user
from tests.faults.memory import peak_growth
from tests.test_safety import packed

Config = dict[str, Any]
FOLDER = Path("best")


def layer(name: str, **config: object) -> Config:
    return {"module": "keras.layers", "class_name": name, "config": config, "registered_name": None}


def model(*layers: object, **more: object) -> Config:
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "net", "layers": [layer("InputLayer", batch_shape=[None, 8, 8, 1]), *layers]},
        "registered_name": None,
        "build_config": {"input_shape": [None, 8, 8, 1]},
        **more,
    }


def weights() -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_dataset("layers/dense/vars/0", data=np.zeros((64, 10), np.float32))
    return stream.getvalue()


HONEST = model(layer("Flatten"), layer("Dense", units=10))


def refused(path: Path, code: str = "E-UNSAFE-MODEL") -> str:
    with pytest.raises(UnsafeFile) as caught:
        check_keras_file(path)
    assert (caught.value.code, caught.value.exit_code) == (code, 7)
    assert len(caught.value.problems) == 1 and len(str(caught.value)) < 600
    return str(caught.value)


def test_the_honest_model_that_the_hostile_ones_are_made_from_passes() -> None:
    check_keras_file(packed(Path("model.keras"), HONEST, weights()))


# -- row 33: what hides deeper -------------------------------------------------------------------------------------------------

LAMBDA = layer("Lambda", function={"class_name": "__lambda__", "config": {"code": "4wEAAAA="}})
nested: object = "Dense"
for _ in range(900):
    nested = [nested]
HIDDEN: dict[str, tuple[Config, str]] = {
    "in a wrapper": (model(layer("TimeDistributed", layer=LAMBDA)), "keras.layers.Lambda"),
    "in a wrapper of a wrapper": (
        model(layer("Bidirectional", layer=layer("RNN", cell=[layer("LSTMCell", units=1), LAMBDA]))),
        "keras.layers.Lambda",
    ),
    "in a model within the model": (model(model(model(LAMBDA))), "keras.layers.Lambda"),
    "as an initializer": (
        model(layer("Dense", units=1, kernel_initializer={"module": "os", "class_name": "system", "config": {}})),
        "os.system",
    ),
    "in the compile config": (
        {**HONEST, "compile_config": {"loss": {"module": "builtins", "class_name": "function", "config": "exec"}}},
        "builtins.function",
    ),
    "in the build config": (
        {**HONEST, "build_config": {"x": [[{"class_name": "__typespec__", "spec_name": "x"}]]}},
        "None",
    ),
    "as a whole model": (LAMBDA, "keras.layers.Lambda"),
    "behind a name that is a list of lists": (
        model({**LAMBDA, "class_name": nested, "registered_name": nested}),
        "nested",
    ),
    "behind a name that is long": (
        model({**LAMBDA, "class_name": "L" * 10**6, "registered_name": "x" * 10**6}),
        "LLLL",
    ),
    "behind a name that draws": (model({**LAMBDA, "module": "a\nb\x1b[2J"}), "a\\nb\\x1b[2J.Lambda"),
}


@pytest.mark.parametrize("place", list(HIDDEN))
def test_code_is_found_wherever_it_hides_and_named_on_one_line(place: str) -> None:
    config, named = HIDDEN[place]
    text = refused(packed(Path("model.keras"), config, weights()))
    assert named in text and "\n" not in text and "\x1b" not in text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_a_config_in_another_encoding_or_with_a_key_twice_is_read_as_keras_reads_it(encoding: str) -> None:
    text = json.dumps(model(LAMBDA))
    assert "Lambda" in refused(packed(Path("model.keras"), text.encode(encoding), weights()))
    twice = text.replace('"class_name": "Lambda"', '"class_name": "Dense", "class_name": "Lambda"')
    assert "Lambda" in refused(packed(Path("model.keras"), twice.encode(encoding), weights()))


def lying(change: Callable[[zipfile.ZipInfo], None]) -> Path:
    """The honest archive, its weights' entry changed."""
    path = Path("model.keras")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr(CONFIG, json.dumps(HONEST))
        entry = zipfile.ZipInfo(WEIGHTS)
        change(entry)
        archive.writestr(entry, "/etc/passwd" if stat.S_ISLNK(entry.external_attr >> 16) else weights())
    return path


def as_a_link(entry: zipfile.ZipInfo) -> None:
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "C:\\x", "model.weights.h5/../../x", "a" * 60_000])
def test_a_member_whose_name_leads_elsewhere_is_refused_and_nothing_is_written(name: str) -> None:
    path = packed(Path("model.keras"), HONEST, weights())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"out")
    refused(path)
    assert [found.name for found in Path().iterdir()] == ["model.keras"] and not Path("../x").exists()


def test_a_link_and_a_second_member_of_the_same_name_and_a_cipher_are_refused() -> None:
    assert f"{WEIGHTS} is not an HDF5 file" in refused(lying(as_a_link))
    with zipfile.ZipFile("model.keras", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(CONFIG, json.dumps(model(LAMBDA)))
    assert "holds metadata.json, config.json, model.weights.h5, config.json" in refused(Path("model.keras"))
    content = bytearray(packed(Path("model.keras"), HONEST, weights()).read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = -1
        while (start := content.find(signature, start + 1)) >= 0:
            content[start + place] |= 1  # encrypted
    Path("model.keras").write_bytes(content)
    assert "is not a whole .keras archive" in refused(Path("model.keras"))


def test_what_is_no_file_is_refused_without_waiting_for_it() -> None:
    os.mkfifo("pipe.keras")
    Path("loop.keras").symlink_to("loop.keras")
    packed(Path("closed.keras"), HONEST, weights()).chmod(0)
    assert "is not a .keras file" in refused(Path("pipe.keras"))
    assert "cannot be read: Too many levels of symbolic links" in refused(Path("loop.keras"))
    assert "cannot be read: File name too long" in refused(Path("a" * 300 + ".keras"))
    with a_plain_user():
        assert "cannot be read: Permission denied" in refused(Path("closed.keras"))


@pytest.mark.parametrize(
    "part", [b"{}", b'{"a":1}', b"[]", b'"ab"', b"1.5"], ids=["tables", "full tables", "lists", "texts", "numbers"]
)
def test_a_config_that_would_fill_the_memory_is_refused_before_it_is_parsed(part: bytes) -> None:
    count = 2**24 // (len(part) + 1) - 10
    path = packed(Path("model.keras"), b"[" + b",".join([part] * count) + b"]", weights())
    assert peak_growth(lambda: refused(path, "E-TOO-LARGE")) < 100


def test_the_largest_config_that_is_parsed_costs_no_more_than_a_file_may() -> None:
    names = ",".join(f'{{"k{n}":1}}' for n in range(MOST_PARTS // 2 - 30))
    config = json.dumps(HONEST)[:-1] + f', "more": [{names}]}}'
    path = packed(Path("model.keras"), config.encode(), weights())
    assert peak_growth(lambda: check_keras_file(path)) < 200


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_damaged_config_or_weights_file_is_refused_or_harmless_and_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    dice, path = random.Random(seed), tmp_path_factory.mktemp("damaged") / "model.keras"
    parts = [bytearray(json.dumps(HONEST).encode()), bytearray(weights())]
    for part in parts:
        for _ in range(dice.randrange(4)):
            part[dice.randrange(len(part))] = dice.randrange(256)
    try:
        check_keras_file(packed(path, bytes(parts[0]), bytes(parts[1])))
    except UnsafeFile as error:
        assert error.exit_code == 7 and [problem.where for problem in error.problems] == [str(path)]


# -- row 35: tar ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("../out", tarfile.REGTYPE, ""),
        ("/tmp/autofash-out", tarfile.REGTYPE, ""),
        ("cifar-10-batches-bin/../../out", tarfile.REGTYPE, ""),
        ("cifar-10-batches-bin/test_batch.bin", tarfile.SYMTYPE, "/etc/passwd"),
        ("cifar-10-batches-bin/test_batch.bin", tarfile.LNKTYPE, "../out"),
        ("cifar-10-batches-bin/test_batch.bin", tarfile.CHRTYPE, ""),
        ("cifar-10-batches-bin/test_batch.bin", tarfile.FIFOTYPE, ""),
    ],
)
def test_a_tar_that_leads_out_of_itself_is_refused_and_nothing_is_written(name: str, kind: bytes, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    packed_tar = io.BytesIO()
    with tarfile.open(fileobj=packed_tar, mode="w") as archive:
        archive.addfile(entry)
    Path("cifar.tar.gz").write_bytes(gzip.compress(packed_tar.getvalue()))
    with pytest.raises(UnsafeFile, match="is a link or a device, or leads out of the archive") as caught:
        read_cifar(Path("cifar.tar.gz"), ("test_batch.bin",))
    assert (caught.value.code, caught.value.exit_code) == ("E-UNSAFE-ARCHIVE", 7)
    assert [path.name for path in Path().iterdir()] == ["cifar.tar.gz"]
    assert not Path("../out").exists() and not Path("/tmp/autofash-out").exists()


# -- the manifest --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def told() -> dict[str, Any]:
    """What a good manifest says; its model lies in FOLDER."""
    FOLDER.mkdir()
    packed(FOLDER / manifest.MODEL, HONEST, weights())
    about = {"format": 1, "study": "digits-cnn", "trial": 3, "classes": ["a", "b"], "input": {"shape": [8, 8, 1]}}
    manifest.write(FOLDER, about, [manifest.MODEL])
    return dict(manifest.read(FOLDER))


def not_found(say: object | bytes) -> str:
    (FOLDER / manifest.MANIFEST).write_bytes(say if isinstance(say, bytes) else json.dumps(say).encode())
    with pytest.raises(UnsafeFile) as caught:
        find_model(FOLDER)
    assert (caught.value.code, caught.value.exit_code) == ("E-MODEL-INCOMPLETE", 7)
    assert len(str(caught.value)) < 600 and len(caught.value.problems) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"null", b'{"format": 1}', b"\xff", b"[" * 10**6, b'{"format": 1, "files": [["a", {"sha256": 1}]]}',
     b'{"format": 1, "files": {"model.keras": {"sha256": "x"}}}', b'{"format": 1, "files": {"model.keras": "x"}}',
     b'{"format": 1, "files": ' + b"9" * 5000 + b"}", b" " * (manifest.LARGEST_FILE + 1)],
    ids=range(12),
)  # fmt: skip
def test_what_is_no_manifest_is_refused(told: dict[str, Any], content: bytes) -> None:
    assert "there is no manifest that can be read. Try: autofash best --export" in not_found(content)


@pytest.mark.parametrize(
    "change",
    [
        {"input": {"shape": [8, 8, 1], "border": 1e999}},
        {"input": {"shape": [1e999, 8, 1]}},
        {"input": {"shape": [8.5, 8, 1]}},
        {"input": {"shape": [2**40, 1, 1]}},
        {"input": {"shape": [25_000_000, 1, 1]}},
        {"input": {"shape": [8, 8, 1], "background": "<b>"}},
        {"input": {"shape": [8, 8, 1], "background": []}},
        {"input": []},
        {"classes": [[["a"]], "b"]},
        {"classes": [1, 2]},
        {"classes": {}},
    ],
    ids=range(11),
)
def test_a_manifest_that_says_what_cannot_be_is_refused(told: dict[str, Any], change: dict[str, Any]) -> None:
    assert "the manifest does not say which images the model reads" in not_found({**told, **change})


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a\0b", "a" * 300, "loop", "pipe", "folder", "link"])
def test_a_file_outside_the_folder_or_none_at_all_is_not_vouched_for(told: dict[str, Any], name: str) -> None:
    Path("out").write_text("x")
    (FOLDER / "loop").symlink_to("loop")
    (FOLDER / "folder").mkdir()
    (FOLDER / "link").symlink_to(Path("out").absolute())
    os.mkfifo(FOLDER / "pipe")
    digest = manifest.digest(Path("out"))
    with pytest.raises(UnsafeFile, match="is missing, or is not what the manifest vouches for") as caught:
        manifest.verify(FOLDER, {"files": {name: {"sha256": digest, "bytes": 1}}})
    assert caught.value.code == "E-MODEL-INCOMPLETE" and len(str(caught.value)) < 600


def test_a_model_that_is_a_loop_of_links_or_closed_is_refused_with_the_systems_word(told: dict[str, Any]) -> None:
    (FOLDER / manifest.MODEL).chmod(0)
    for parent in (Path().absolute(), *Path().absolute().parents[:3]):
        parent.chmod(0o755)
    with a_plain_user():
        assert "vouches for: Permission denied" in not_found_as_it_is()
    (FOLDER / manifest.MODEL).unlink()
    (FOLDER / manifest.MODEL).symlink_to(manifest.MODEL)
    assert "is missing, or is not what the manifest vouches for" in not_found_as_it_is()
    (FOLDER / manifest.MANIFEST).unlink()
    os.mkfifo(FOLDER / manifest.MANIFEST)
    assert "there is no manifest that can be read" in not_found_as_it_is()


def not_found_as_it_is() -> str:
    with pytest.raises(UnsafeFile) as caught:
        find_model(FOLDER)
    return str(caught.value)


def test_a_strangers_manifest_cannot_put_a_command_into_the_advice(told: dict[str, Any]) -> None:
    (FOLDER / manifest.MODEL).write_bytes(b"other")
    assert not_found(told).endswith("Try: autofash best digits-cnn --export")
    for study in ("x; rm -rf ~", "$(reboot)", "-rf", "a" * 70, ["x"], "x\n"):
        advice = not_found({**told, "study": study, "members": 3, "trial": "3; reboot"}).partition("Try: ")[2]
        assert advice in ("autofash best --export", "autofash best -rf --export")
    FOLDER.rename("ensemble-3")
    Path("best").symlink_to("ensemble-3")
    assert "Try: autofash best digits-cnn --export --ensemble 2" in not_found({**told, "members": [1, 2]})
    assert "--ensemble" not in not_found({**told, "members": 3})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    key=st.sampled_from(["format", "files", "classes", "input", "study", "shape", "border", "background", "sha256"]),
    value=JSON,
)
def test_no_manifest_makes_anything_but_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    folder = tmp_path_factory.mktemp("model")
    (folder / manifest.MODEL).write_bytes(b"model")
    about: dict[str, Any] = {"format": 1, "classes": ["a"], "input": {"shape": [8, 8, 1], "border": 0}}
    manifest.write(folder, about, [manifest.MODEL])
    told = dict(manifest.read(folder))
    place = {
        "shape": told["input"],
        "border": told["input"],
        "background": told["input"],
        "sha256": told["files"][manifest.MODEL],
    }
    place.get(key, told)[key] = value
    (folder / manifest.MANIFEST).write_text(json.dumps(told))
    try:
        found = find_model(folder)
    except AutofashError as error:
        assert error.exit_code in (2, 7) and "\n" not in str(error)
    else:
        assert found.input.channels in (1, 3) and all(isinstance(label, str) for label in found.classes)


def test_on_the_command_line_a_model_with_code_in_it_is_exit_code_7_and_one_line(told: dict[str, Any]) -> None:
    packed(FOLDER / manifest.MODEL, model(LAMBDA), weights())
    manifest.write(FOLDER, told, [manifest.MODEL])
    Image.new("L", (8, 8)).save("a.png")
    done = subprocess.run(
        [sys.executable, "-m", "autofash", "predict", str(FOLDER), "a.png"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7 and done.stdout == "" and done.stderr.count("\n") == 1
    where = "best/model.keras: layer 'net' brings keras.layers.Lambda, "
    assert done.stderr.startswith(f"autofash: error[E-UNSAFE-MODEL]: {where}")


def test_an_hdf5_file_that_claims_more_members_than_may_be_is_refused() -> None:
    stream = io.BytesIO()
    with h5py.File(stream, "w", libver="latest") as file:
        for number in range(300):
            file.create_dataset(f"{number}", data=np.zeros(1))
    path = packed(Path("model.keras"), HONEST, stream.getvalue())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autofash.safety.MOST_OBJECTS", 200)
        assert "one object too many" in refused(path)
    assert struct.unpack("<I", b"PK\x03\x04")[0]  # the archive itself is a plain zip
