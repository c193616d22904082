# ruff: noqa: F811  (a fixture of another file is a redefinition to ruff)
"""Rows 24 to 27, 34 and 36 of the faults: data files that are damaged, closed, pickled or bombs, and labels that cannot be.

What is not here stands in tests/data: flipped and cut idx files and pictures, picture bombs, pickled and boastful .npz files.
"""

import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, from_dtype
from PIL import Image

from autofash.data.cache import checked
from autofash.data.formats import LARGEST_ARRAY, read_cifar, read_idx, read_npz
from autofash.data.pictures import ModelInput, read_pictures
from autofash.data.sources import SOURCES, locate
from autofash.errors import AutofashError, DataCorrupt, DataError, UnsafeFile
from tests.data.test_formats import idx
from tests.data.test_pictures import Canary, a_plain_user, chunk, png
from tests.data.test_sources import put, tiny  # noqa: F401  (a fixture)
from tests.faults.memory import peak_growth

MOST_MEGABYTES = 200  # that a file may cost, whatever it holds
GREY, COLOUR = ModelInput(28, 28, 1, border=0, background="dark"), ModelInput(28, 28, 3, border=99)


def refused(call: Callable[[], object], kind: type[AutofashError], code: str, exit_code: int) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert (caught.value.code, caught.value.exit_code) == (code, exit_code)
    lines = [str(problem) for problem in caught.value.problems]
    assert all("\n" not in line and len(line) < 600 for line in lines)
    return "\n".join(lines)


# -- row 24: damaged files -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("offline")
def test_every_damaged_file_of_a_data_set_is_named_with_its_reason(tiny: dict[str, bytes], tmp_path: Path) -> None:
    folder = put(tiny, tmp_path / "data")
    first, second, third, _ = (folder / name for name in tiny)
    first.write_bytes(first.read_bytes()[:-9])
    second.write_bytes(bytes([*second.read_bytes()[:-1], second.read_bytes()[-1] ^ 1]))
    third.unlink()
    third.symlink_to("nowhere")
    told = refused(lambda: locate("fashion_mnist", folder), DataCorrupt, "E-DATA-CORRUPT", 3).splitlines()
    assert [line.split(": ")[0] for line in told] == [str(first), str(second), str(third)]
    assert "is corrupt or cut short" in told[0] and "is corrupt or cut short" in told[1]
    assert "there is no such file" in told[2]


def test_on_the_command_line_damaged_files_are_a_line_each_before_anything_is_made(tmp_path: Path) -> None:
    for name in SOURCES["fashion_mnist"].files:
        (tmp_path / name).write_bytes(b"\x1f\x8b cut short")
    done = subprocess.run(
        [sys.executable, "-m", "autofash", "search", "--dataset", "fashion_mnist", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3 and not list(Path().iterdir())
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == ["error[E-DATA-CORRUPT]"] * 4
    assert all(name in done.stderr for name in SOURCES["fashion_mnist"].files)


def cifar(content: bytes, name: str = "cifar-10-batches-bin/test_batch.bin", **member: object) -> bytes:
    """A gzipped tar with one member, as CIFAR-10 is published."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        for key, value in member.items():
            setattr(entry, key, value)
        archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), 1)


def npz(**arrays: object) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


READERS: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "npz": (npz(x=np.zeros((4, 3, 3), np.uint8), y=np.arange(4)), lambda path: read_npz(path, ("x", "y"))),
    "tar.gz": (cifar(bytes(2 * 3073)), lambda path: read_cifar(path, ("test_batch.bin",))),
    "tar": (gzip.decompress(cifar(bytes(2 * 3073))), lambda path: read_cifar(path, ("test_batch.bin",))),
}


@pytest.mark.parametrize("kind", list(READERS))
@settings(deadline=None)
@given(data=st.data())
def test_a_flipped_or_cut_archive_is_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    whole, read = READERS[kind]
    path, content = tmp_path_factory.mktemp("archive") / "a", bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    path.write_bytes(gzip.compress(cut, 1) if kind == "tar" else cut)
    try:
        read(path)
    except (DataError, UnsafeFile) as error:
        assert all(problem.where == str(path) and problem.fact for problem in error.problems)


def test_what_is_an_array_to_one_reader_and_a_zip_to_another_is_no_crash() -> None:
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    Path("both.npz").write_bytes(array.getvalue() + npz(x=np.arange(3), y=np.arange(3)))
    assert read_npz(Path("both.npz"), ("x",))[0].tolist() == [0, 1, 2]
    for name, content in {
        "header": b"(" * 300,
        "shape": b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 9)}",
    }.items():
        with zipfile.ZipFile(f"{name}.npz", "w") as archive:
            archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(content)) + content + bytes(9))
        refused(lambda name=name: read_npz(Path(f"{name}.npz"), ("x",)), DataCorrupt, "E-DATA-CORRUPT", 3)
    np.savez("floats.npz", x=np.zeros(3), t=np.array(["text"]))
    for array_name in ("x", "t", "nothing"):
        refused(lambda name=array_name: read_npz(Path("floats.npz"), (name,)), DataCorrupt, "E-DATA-CORRUPT", 3)


# -- rows 25 and 26: labels ----------------------------------------------------------------------------------------------------

CLASSES = ("a", "b", "c")


LABELS = st.one_of(
    arrays(dtype, st.integers(1, 12), elements=from_dtype(np.dtype(dtype)) | st.integers(0, 3))
    for dtype in ("int8", "int64", "uint8", "uint64")
)


@given(LABELS)
def test_the_first_label_out_of_range_is_named_with_its_row_and_an_empty_class_by_its_name(labels: np.ndarray) -> None:
    wrong = [row for row, label in enumerate(labels.tolist()) if not 0 <= label < 3]
    images = np.zeros((len(labels), 2, 2), np.uint8)
    if wrong:
        told = refused(lambda: checked(images, labels, CLASSES, where="mine"), DataError, "E-LABEL-RANGE", 3)
        assert told.startswith(f"mine: row {wrong[0]}: label {labels[wrong[0]]}, want 0 to 2")
        assert (f"the first of {len(wrong)}" in told) == (len(wrong) > 1)
    elif missing := set(range(3)) - set(labels.tolist()):
        told = refused(lambda: checked(images, labels, CLASSES, where="mine"), DataError, "E-CLASS-EMPTY", 3)
        assert (
            told
            == f"mine: no image of {', '.join(CLASSES[label] for label in sorted(missing))}. Try: leave the class out"
        )
    else:
        found = checked(images, labels, CLASSES, where="mine")
        assert found.labels.dtype == np.int64 and found.labels.tolist() == labels.tolist()


@pytest.mark.parametrize(
    "labels", [np.array([0.0, 1.5]), np.array(["a", "b"]), np.array([0, None]), np.array([True, False])]
)
def test_labels_that_are_no_whole_numbers_are_refused_and_not_cut_off(labels: np.ndarray) -> None:
    told = refused(
        lambda: checked(np.zeros((2, 0, 2), np.uint8), labels, CLASSES, where="mine"), DataError, "E-DATA", 3
    )
    assert "images are uint8 (2, 0, 2, 1), want" in told and "want whole numbers. Try: labels.astype('int64')" in told


# -- row 27: files that cannot be read -----------------------------------------------------------------------------------------


def closed(path: Path) -> None:
    path.chmod(0)


def looped(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def foldered(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (closed, "cannot be read: Permission denied. Try: chmod +r "),
        (looped, "cannot be read: Too many levels of symbolic links. Try: another name"),
        (piped, "is no file. Try: a file"),
        (foldered, "is no file. Try: a file"),
    ],
)
def test_a_data_file_that_cannot_be_read_is_named_with_the_systems_word(
    tiny: dict[str, bytes],
    workplace: Path,
    change: Callable[[Path], None],
    reason: str,
) -> None:
    folder = put(tiny, workplace / "data")
    for parent in (workplace, *workplace.parents[:3]):
        parent.chmod(0o755)
    name = next(iter(tiny))
    change(folder / name)
    for call in (lambda: locate("fashion_mnist", Path("data")), lambda: read_idx(Path("data") / name)):
        with a_plain_user():
            told = refused(call, DataError, "E-DATA-UNREADABLE", 3)
        assert told.startswith(f"data/{name}: {reason}")


@pytest.mark.usefixtures("offline")
def test_a_closed_folder_is_said_to_be_closed_and_not_to_be_empty(tiny: dict[str, bytes], workplace: Path) -> None:
    put(tiny, workplace / "data").chmod(0)
    with a_plain_user():
        told = refused(lambda: locate("fashion_mnist", Path("data")), DataError, "E-DATA-UNREADABLE", 3)
    assert told == "data: cannot be read: Permission denied. Try: chmod u+rx data"


# -- row 34: pickles -----------------------------------------------------------------------------------------------------------


def test_a_pickle_in_a_data_sets_npz_is_refused_and_never_run() -> None:
    np.savez("objects.npz", x=np.array([Canary()], dtype=object))
    Path("bare.npz").write_bytes(b"\x80\x04cos\nsystem\n(S'touch sung'\ntR.")
    for name in ("objects.npz", "bare.npz"):
        refused(lambda name=name: read_npz(Path(name), ("x",)), UnsafeFile, "E-UNSAFE-NPZ", 7)
    assert not Path("sung").exists()


# -- row 36: bombs -------------------------------------------------------------------------------------------------------------


def cost_of_refusing(call: Callable[[], object]) -> float:
    """Megabytes that it takes to refuse a bomb."""
    return peak_growth(lambda: refused(call, UnsafeFile, "E-TOO-LARGE", 7))


def zeros(megabytes: int, head: bytes = b"") -> bytes:
    """Gzipped zeros behind a head, made without holding them."""
    squeeze = zlib.compressobj(1, wbits=31)
    return b"".join(
        [squeeze.compress(head), *(squeeze.compress(bytes(10**6)) for _ in range(megabytes)), squeeze.flush()]
    )


def npz_of_zeros(path: Path, megabytes: int, name: str) -> None:
    header = io.BytesIO()
    shape = (megabytes, 1000, 1000)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive, archive.open(name, "w") as out:
        out.write(header.getvalue())
        for _ in range(megabytes):
            out.write(bytes(10**6))


def test_a_picture_of_22_kilobytes_and_182_megapixels_is_refused_by_its_header() -> None:
    side, row = 13_500, bytes(1 + 13_500 // 8 + 1)
    squeeze = zlib.compressobj(9)
    body = b"".join([*(squeeze.compress(row) for _ in range(side)), squeeze.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    Path("bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
    assert 20_000 < os.path.getsize("bomb.png") < 25_000
    told: list[str] = []
    grown = peak_growth(
        lambda: told.append(refused(lambda: read_pictures("bomb.png", GREY), UnsafeFile, "E-TOO-LARGE", 7))
    )
    assert grown < MOST_MEGABYTES / 4 and "25 megapixels are the most" in told[0]


def test_an_npz_of_300_kilobytes_and_300_megabytes_is_refused_by_what_it_declares() -> None:
    npz_of_zeros(Path("bomb.npz"), 300, "images.npy")
    assert os.path.getsize("bomb.npz") < 320_000

    def both() -> None:
        told = refused(lambda: read_pictures("bomb.npz", GREY), UnsafeFile, "E-TOO-LARGE", 7)
        assert "unpacks to 300,000,128 bytes, " in told and "times its size. Try: a smaller one" in told
        refused(lambda: read_npz(Path("bomb.npz"), ("images",)), UnsafeFile, "E-TOO-LARGE", 7)

    assert peak_growth(both) < MOST_MEGABYTES / 4


def test_blank_images_that_are_no_bomb_are_read() -> None:
    npz_of_zeros(Path("blank.npz"), 60, "images.npy")
    [images] = read_npz(Path("blank.npz"), ("images",))
    assert images.shape == (60, 1000, 1000)


@pytest.mark.parametrize("shape", [(2**31,), (2**29, 2, 2), (LARGEST_ARRAY + 1,), (0xFFFFFFFF,) * 4])
def test_an_idx_file_of_two_gigabytes_is_refused_by_its_header(shape: tuple[int, ...]) -> None:
    head = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    Path("bomb.gz").write_bytes(zeros(40, head))
    assert cost_of_refusing(lambda: read_idx(Path("bomb.gz"))) < 20


def test_an_idx_file_that_unpacks_to_more_than_its_header_claims_is_not_unpacked() -> None:
    Path("bomb.gz").write_bytes(zeros(40, idx_head := gzip.decompress(idx(np.zeros((2, 2), np.uint8)))))
    assert len(idx_head) == 16
    assert peak_growth(lambda: refused(lambda: read_idx(Path("bomb.gz")), DataCorrupt, "E-DATA-CORRUPT", 3)) < 20


def tar_header(kind: bytes, size: int) -> bytes:
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = kind, size
    return entry.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
def test_a_tar_whose_header_claims_two_gigabytes_is_refused_before_they_are_unpacked(kind: bytes) -> None:
    Path("bomb.tar.gz").write_bytes(zeros(40, tar_header(kind, 2**31)))
    assert cost_of_refusing(lambda: read_cifar(Path("bomb.tar.gz"), ("test_batch.bin",))) < MOST_MEGABYTES / 2


def test_a_tar_of_a_million_members_is_refused_before_they_are_counted() -> None:
    Path("bomb.tar.gz").write_bytes(gzip.compress(tar_header(tarfile.DIRTYPE, 0) * 200_000, 1))
    assert cost_of_refusing(lambda: read_cifar(Path("bomb.tar.gz"), ("test_batch.bin",))) < 20


def test_a_zip_of_which_the_table_of_contents_would_fill_the_memory_is_refused() -> None:
    with zipfile.ZipFile("bomb.npz", "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number:060}", b"")
    for call in (lambda: read_npz(Path("bomb.npz"), ("x",)), lambda: read_pictures("bomb.npz", GREY)):
        assert cost_of_refusing(call) < 20


def test_an_npy_header_of_a_hundred_megabytes_is_not_read() -> None:
    with zipfile.ZipFile("bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as out:
        out.write(b"\x93NUMPY\x02\x00" + struct.pack("<I", 60 * 10**6))
        for _ in range(60):
            out.write(b" " * 10**6)
    for call in (lambda: read_npz(Path("bomb.npz"), ("images",)), lambda: read_pictures("bomb.npz", GREY)):
        assert cost_of_refusing(call) < 20


@pytest.mark.parametrize(("mode", "wanted"), [("I;16", COLOUR), ("RGBA", COLOUR), ("RGBA", GREY), ("L", COLOUR)])
def test_the_largest_picture_that_is_taken_costs_no_more_than_a_file_may(mode: str, wanted: ModelInput) -> None:
    Image.new(mode, (5000, 5000)).save("large.png", compress_level=1)
    # A tenth more, because the process that runs the tests grows by itself too.
    assert peak_growth(lambda: read_pictures("large.png", wanted)) < 1.1 * MOST_MEGABYTES


def test_a_line_of_25_million_pixels_is_refused() -> None:
    whole = png(25, 1)
    header = struct.pack(">IIBBBBB", 25_000_000, 1, 1, 0, 0, 0, 0)
    Path("line.png").write_bytes(whole[:8] + chunk(b"IHDR", header) + whole[33:])
    assert "25,000,000 × 1 pixels" in refused(lambda: read_pictures("line.png", GREY), UnsafeFile, "E-TOO-LARGE", 7)


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(["L", "LA", "P", "RGB", "RGBA", "I;16", "1"]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_picture_that_is_read_in_bands_comes_out_as_one_that_is_read_whole(
    tmp_path_factory: pytest.TempPathFactory, mode: str, size: tuple[int, int], channels: int, seed: int
) -> None:
    from autofash.data import pictures

    dice, path = np.random.default_rng(seed), tmp_path_factory.mktemp("bands") / "a.png"
    if mode == "I;16":
        picture = Image.fromarray(dice.integers(0, 2**16, size[::-1], dtype=np.uint16))
    else:
        levels = dice.integers(0, 256, (*size[::-1], 4), dtype=np.uint8)
        picture = (
            Image.fromarray(levels, "RGBA").convert("RGB").convert("P")
            if mode == "P"
            else Image.fromarray(levels).convert(mode)
        )
    picture.save(path)
    wanted = ModelInput(9, 9, channels, border=0, background="dark")
    whole = read_pictures(path, wanted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "BAND", 50)
        bands = read_pictures(path, wanted)
    assert (whole.images == bands.images).all() and whole.about == bands.about
