"""Pictures from real files: what a model then sees, and what is refused."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from autofash.data.pictures import ModelInput, read_pictures
from autofash.errors import AutofashError, DataCorrupt, DataError, DataMissing, UnsafeFile, UsageError

DARK = ModelInput(8, 8, 1, border=0, background="dark")
LIGHT = ModelInput(8, 8, 1, border=255, background="light")
PHOTO = ModelInput(8, 8, 3, border=120, background="mixed")


def blob(size: tuple[int, int] = (8, 8), ground: int = 0, figure: int = 200) -> np.ndarray:
    """A rectangle in the middle of an even ground, uint8 (height, width)."""
    height, width = size
    image = np.full(size, ground, np.uint8)
    image[height // 4 : -(height // 4), width // 4 : -(width // 4)] = figure
    return image


def saved(image: np.ndarray | Image.Image, name: str = "a.png", **options: object) -> Path:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(name, **options)
    return Path(name)


def read(*given: Path | str, wanted: ModelInput = DARK, **options: object) -> np.ndarray:
    return read_pictures(given, wanted, **options).images


# -- what reaches the model ----------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    channels=st.sampled_from([1, 3]),
    suffix=st.sampled_from(["png", "bmp", "npz"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_picture_of_the_right_size_and_colour_reaches_the_model_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, channels: int, suffix: str, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    path = tmp_path_factory.mktemp("picture") / f"a.{suffix}"
    if suffix == "npz":
        np.savez(path, images=image[None])
    else:
        Image.fromarray(image[..., 0] if channels == 1 else image).save(path)
    found = read_pictures([path], ModelInput(height, width, channels))
    assert (found.images == image[None]).all() and found.images.dtype == np.uint8
    assert found.about == "1 picture, as it is"


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    wanted=st.builds(
        ModelInput,
        st.integers(1, 40),
        st.integers(1, 40),
        st.sampled_from([1, 3]),
        st.integers(0, 255),
        st.sampled_from(["dark", "light", "mixed"]),
    ),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"]),
    invert=st.sampled_from(["auto", "yes", "no"]),
)
def test_every_kind_of_picture_comes_out_in_the_models_shape(
    tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int], wanted: ModelInput, mode: str, invert: str
) -> None:
    folder = tmp_path_factory.mktemp("picture")
    path = folder / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, size).save(path)
    found = read_pictures([path], wanted, invert=invert)
    assert found.images.shape == (1, wanted.height, wanted.width, wanted.channels)


def test_dark_on_white_is_inverted_for_a_model_that_knows_light_on_black_and_the_other_way_round() -> None:
    ink, chalk = saved(blob(ground=255, figure=30), "ink.png"), saved(blob(ground=0, figure=225), "chalk.png")
    assert (read(ink) == read(chalk)).all() and (read(chalk)[0, :, :, 0] == blob(ground=0, figure=225)).all()
    assert (read(chalk, wanted=LIGHT) == read(ink, wanted=LIGHT)).all()
    assert read_pictures([ink, chalk], DARK).about == "2 pictures: 1 inverted (this model knows light on dark)"
    assert read_pictures([ink, chalk], LIGHT).about == "2 pictures: 1 inverted (this model knows dark on light)"


def test_polarity_is_left_alone_where_the_model_knows_none_or_the_user_says_so() -> None:
    ink = saved(blob(ground=255, figure=30), "ink.png")
    assert read_pictures([ink], PHOTO).about == "1 picture: made colour"
    assert (read(ink, invert="no")[0, :, :, 0] == blob(ground=255, figure=30)).all()
    asked = read_pictures([saved(blob())], DARK, invert="yes")
    assert (asked.images[0, :, :, 0] == 255 - blob()).all() and asked.about == "1 picture: 1 inverted (as asked)"
    with pytest.raises(UsageError, match="there is no way to invert 'yess'. Try: yes"):
        read(ink, invert="yess")


def test_an_uneven_border_is_no_background() -> None:
    half = np.full((8, 8), 250, np.uint8)
    half[:, :4] = 100
    assert (read(saved(half))[0, :, :, 0] == half).all()


def test_no_image_of_the_digits_is_taken_for_inverted_and_each_is_known_when_it_is() -> None:
    from sklearn.datasets import load_digits

    images = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    np.savez("digits.npz", images=images)
    np.savez("inverted.npz", images=255 - images)
    assert (read("digits.npz")[..., 0] == images).all()
    assert (read("inverted.npz")[..., 0] == images).all()


def test_the_aspect_is_kept_by_padding_with_the_pictures_own_border() -> None:
    wide = saved(blob((40, 80), ground=17, figure=200))
    found = read_pictures([wide], DARK)
    image = found.images[0, :, :, 0]
    assert (image[:2] == 17).all() and (image[-2:] == 17).all() and image[4, 4] > 180
    assert found.about == "1 picture: resized to 8 × 8 grey, padded to square"
    tall = read(saved(blob((80, 40), ground=17, figure=200)))[0, :, :, 0]
    assert abs(tall.astype(int) - image.T).max() <= 1


def test_a_line_of_a_million_pixels_is_not_padded_to_a_million_squared() -> None:
    saved(Image.new("1", (1_000_000, 1)), "line.png")
    assert read("line.png").shape == (1, 8, 8, 1)


def test_shrinking_smooths_instead_of_leaving_lines_out() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    inner = read(saved(stripes))[0, 2:-2, 2:-2, 0]
    assert abs(inner.astype(int) - 127).max() <= 2


def test_colour_becomes_grey_by_its_brightness_and_grey_becomes_three_equal_channels() -> None:
    green = saved(Image.new("RGB", (8, 8), (0, 255, 0)), "green.png")
    assert (read(green, invert="no") == 150).all()  # 0.587 of 255, ITU-R 601
    grey = read(saved(blob(), "grey.png"), wanted=PHOTO)[0]
    assert all((grey[..., channel] == blob()).all() for channel in range(3))


def test_sixteen_bits_are_scaled_to_eight_and_not_cut_off() -> None:
    image = blob(figure=180)
    found = read_pictures([saved(image.astype(np.uint16) * 257)], DARK)
    assert (found.images[0, :, :, 0] == image).all() and found.about == "1 picture: scaled from 16 bits to 8"


def test_exif_says_which_side_is_up() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter, clockwise
    found = read_pictures([saved(image, exif=exif)], DARK)
    assert (found.images[0, :, :, 0] == np.rot90(image, -1)).all() and found.about == "1 picture: turned upright"


@pytest.mark.parametrize("figure", [0, 255])
@pytest.mark.parametrize("wanted", [DARK, LIGHT, ModelInput(8, 8, 1, border=20, background="dark")], ids=str)
def test_what_is_drawn_on_nothing_stands_out_from_the_background_that_the_model_knows(
    figure: int, wanted: ModelInput
) -> None:
    layers = np.zeros((8, 8, 4), np.uint8)
    layers[2:6, 2:6] = (figure, figure, figure, 255)
    image = read(saved(layers), wanted=wanted)[0, :, :, 0]
    assert (image[0] == wanted.border).all()
    assert abs(int(image[4, 4]) - wanted.border) > 200


@pytest.mark.parametrize("invert", ["yes", "no"])
def test_a_clear_background_is_the_models_own_whether_inverted_or_not(invert: str) -> None:
    saved(Image.new("LA", (8, 8), (90, 0)))
    assert (read("a.png", wanted=ModelInput(8, 8, 1, border=30, background="dark"), invert=invert) == 30).all()


def test_the_transparent_colour_of_a_palette_of_grey_and_of_sixteen_bits_counts() -> None:
    wanted = ModelInput(8, 8, 1, border=40, background="mixed")
    saved(Image.new("L", (8, 8), 7), "grey.png", transparency=7)
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 90, 90, 90])
    saved(palette, "palette.png", transparency=1)
    saved(Image.fromarray(np.full((8, 8), 515, np.uint16)), "deep.png", transparency=515)
    assert (read("grey.png", "palette.png", "deep.png", wanted=wanted) == 40).all()


# -- which files ---------------------------------------------------------------------------------------------------------------


def test_a_folder_stands_for_its_pictures_sorted_those_below_it_too() -> None:
    for name in ("b/z.PNG", "b/y.jpeg", "b/c/x.bmp", "b/.hidden.png", "b/.cache/w.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(blob()).save(name)
    Path("b/notes.txt").write_text("no picture")
    Path("b/loop").symlink_to(".")
    assert (
        read_pictures("b", DARK).names == read_pictures([Path("b")], DARK).names == ("b/y.jpeg", "b/z.PNG", "b/c/x.bmp")
    )


@pytest.mark.parametrize("arrays", [("images", "x"), ("x_test", "x", "x_train"), ("x",), ("anything",)])
def test_an_npz_gives_the_array_that_holds_images(arrays: tuple[str, ...]) -> None:
    images = np.stack([blob(figure=figure) for figure in (100, 200)])
    np.savez_compressed("a.npz", **{arrays[0]: images}, **{name: np.zeros(3) for name in arrays[1:]})
    found = read_pictures(["a.npz"], DARK)
    assert found.names == ("a.npz[0]", "a.npz[1]") and (found.images[..., 0] == images).all()


def test_images_in_the_order_of_columns_are_read_as_they_were_written() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.savez("a.npz", images=np.asfortranarray(images))
    assert (read("a.npz", wanted=PHOTO) == images).all()


# -- what is refused -----------------------------------------------------------------------------------------------------------


def refused(*given: str | Path, kind: type[AutofashError], code: str, wanted: ModelInput = DARK) -> AutofashError:
    with pytest.raises(kind) as caught:
        read_pictures(given, wanted)
    assert caught.value.code == code
    return caught.value


def test_every_bad_file_of_a_call_is_counted_and_the_first_five_are_named() -> None:
    for number in range(9):
        Path(f"{number}.png").write_bytes(b"no picture")
    saved(blob(), "good.png")
    error = refused(*(f"{n}.png" for n in range(9)), "good.png", kind=DataCorrupt, code="E-DATA-CORRUPT")
    assert [problem.where for problem in error.problems[:5]] == [f"{number}.png" for number in range(5)]
    assert str(error.problems[5]).startswith("9 of 10 cannot be used, 5 of them named above. Try: --skip-bad")
    assert len(error.problems) == 6


def test_bad_files_are_left_out_where_that_is_asked_for_and_something_is_left() -> None:
    Path("bad.png").write_bytes(b"no picture")
    found = read_pictures(["bad.png", saved(blob(), "good.png"), "gone.png"], DARK, skip_bad=True)
    assert found.names == ("good.png",)
    assert [problem.where for problem in found.skipped] == ["bad.png", "gone.png"]
    with pytest.raises(DataCorrupt, match="is no PNG, JPEG or BMP picture"):
        read_pictures(["bad.png"], DARK, skip_bad=True)


def test_what_is_not_there_or_is_no_file_is_said_without_waiting_for_it() -> None:
    os.mkfifo("pipe.png")
    Path("loop.png").symlink_to("loop.png")
    Path("empty").mkdir()
    refused("gone.png", kind=DataMissing, code="E-DATA-MISSING")
    refused("a\0b.png", kind=DataError, code="E-DATA-UNREADABLE")
    refused("pipe.png", kind=DataError, code="E-DATA-UNREADABLE")
    refused("loop.png", kind=DataError, code="E-DATA-UNREADABLE")
    assert "holds no PNG, JPEG or BMP picture" in str(refused("empty", kind=DataMissing, code="E-DATA-MISSING"))
    assert "there is no picture to predict" in str(refused(kind=DataMissing, code="E-DATA-MISSING"))


@contextmanager
def a_plain_user() -> Iterator[None]:
    """The superuser reads everything: become nobody for a while."""
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_or_folder_that_may_not_be_read_is_named() -> None:
    saved(blob()).chmod(0)
    Path("closed").mkdir(mode=0)
    for name in ("a.png", "closed"):
        with a_plain_user():
            assert "Permission denied" in str(refused(name, kind=DataError, code="E-DATA-UNREADABLE"))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "ICO", "PPM"])
def test_other_kinds_of_pictures_are_not_even_looked_at(kind: str) -> None:
    Image.fromarray(blob()).save("a.png", format=kind)
    assert "is no PNG, JPEG or BMP picture" in str(refused("a.png", kind=DataCorrupt, code="E-DATA-CORRUPT"))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int) -> bytes:
    """A grey PNG of this size, all black, whose compressed rows are made without holding them."""
    squeeze, parts = zlib.compressobj(9), []
    for _ in range(height):
        parts.append(squeeze.compress(bytes(1 + width)))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = b"".join([*parts, squeeze.flush()])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(5001, 5000), (13_500, 13_500), (60_000, 60_000)], ids=str)
def test_a_picture_bomb_is_refused_by_its_header_without_taking_memory(size: tuple[int, int]) -> None:
    width, height = size
    Path("bomb.png").write_bytes(
        png(width, min(height, 200))[:16] + struct.pack(">II", width, height) + b"\x08\0\0\0\0"
    )
    whole = png(width, 10)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    Path("bomb.png").write_bytes(whole[:8] + chunk(b"IHDR", header) + whole[33:])
    before = psutil.Process().memory_info().rss
    error = refused("bomb.png", kind=UnsafeFile, code="E-TOO-LARGE")
    assert "25 megapixels are the most" in str(error) and error.exit_code == 7
    assert psutil.Process().memory_info().rss - before < 50 * 2**20


def test_a_text_chunk_that_unpacks_to_a_bomb_is_refused() -> None:
    whole = png(8, 8)
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9))
    Path("bomb.png").write_bytes(whole[:33] + bomb + whole[33:])
    before = psutil.Process().memory_info().rss
    refused("bomb.png", kind=DataCorrupt, code="E-DATA-CORRUPT")
    assert psutil.Process().memory_info().rss - before < 50 * 2**20


def test_a_picture_of_numbers_without_a_palette_is_refused_in_one_line() -> None:
    rows = chunk(b"IDAT", zlib.compress(b"\0\0\1\2\3" * 4))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 3, 0, 0, 0))
    Path("a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", b"\0\1") + rows + chunk(b"IEND", b""))
    assert "palette" in str(refused("a.png", kind=DataCorrupt, code="E-DATA-CORRUPT"))


def test_one_bomb_among_damaged_files_decides_the_exit_code() -> None:
    whole = png(8, 8)
    Path("bomb.png").write_bytes(
        whole[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0)) + whole[33:]
    )
    Path("bad.png").write_bytes(whole[:40])
    error = refused("bad.png", "bomb.png", kind=UnsafeFile, code="E-TOO-LARGE")
    assert len(error.problems) == 3


KINDS = [("png", "P"), ("png", "LA"), ("png", "I;16"), ("jpeg", "L"), ("jpeg", "CMYK"), ("bmp", "RGB")]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_flipped_or_cut_file_is_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kind, mode = data.draw(st.sampled_from([*KINDS, ("npz", "L")]))
    path, whole = tmp_path_factory.mktemp("picture") / f"a.{kind}", io.BytesIO()
    if kind == "npz":
        np.savez_compressed(whole, images=blob()[None])
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(blob((9, 8))).convert(mode).save(whole, kind, exif=exif)
    content = bytearray(whole.getvalue())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        found = read_pictures([path], DARK)
    except (DataError, UnsafeFile) as error:
        assert all(str(path) == problem.where for problem in error.problems)
    else:
        assert found.images.shape[1:] == (8, 8, 1)


class Canary:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch sung",)


def test_a_pickle_in_an_npz_is_refused_and_never_run() -> None:
    np.savez("objects.npz", images=np.array([Canary()], dtype=object))
    Path("bare.npz").write_bytes(b"\x80\x04cos\nsystem\n(S'touch sung'\ntR.")
    for name in ("objects.npz", "bare.npz"):
        error = refused(name, kind=UnsafeFile, code="E-UNSAFE-NPZ")
        assert error.exit_code == 7 and "Try: np.savez(file, images=…)" in str(error)
    assert not Path("sung").exists()


def test_an_npz_bomb_is_refused_by_what_it_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed("bomb.npz", images=np.zeros((1, 5000, 5000), np.uint8))
    monkeypatch.setattr("autofash.data.pictures.LARGEST_CALL", 24_000_000)
    before = psutil.Process().memory_info().rss
    assert "unpacks to 25,000,128 bytes" in str(refused("bomb.npz", kind=UnsafeFile, code="E-TOO-LARGE"))
    assert psutil.Process().memory_info().rss - before < 10 * 2**20


def npz(shape: str, dtype: str = "|u1") -> str:
    """An .npz whose header claims this, over ten bytes."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    with zipfile.ZipFile("claims.npz", "w") as archive:
        archive.writestr(
            "images.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(10)
        )
    return "claims.npz"


def test_a_header_that_claims_more_than_is_there_takes_no_memory() -> None:
    assert "claims" in str(refused(npz("(1048576, 1024, 1024)"), kind=DataCorrupt, code="E-DATA-CORRUPT"))
    refused(npz("(1, 100000, 100000)"), kind=UnsafeFile, code="E-TOO-LARGE")
    for shape in ("(-1, 8, 8)", "(0, 8, 8)", "(True, 8, 8)", "8", "(8, 8)", "(1, 8, 8, 2)", "(" * 300, "__import__"):
        with pytest.raises(DataError):
            read(npz(shape))


def test_images_that_are_no_bytes_are_refused_with_the_way_to_make_them_so() -> None:
    np.savez("a.npz", x=np.zeros((2, 8, 8), np.float32))
    error = str(refused("a.npz", kind=DataError, code="E-DATA"))
    assert "`x` is float32 (2, 8, 8), want uint8" in error and "(images * 255).round().astype('uint8')" in error
    np.savez("a.npz", left=blob(), right=blob())
    assert "holds left, right, and no array `images`" in str(refused("a.npz", kind=DataError, code="E-DATA"))


def test_more_pictures_than_fit_are_refused_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autofash.data.pictures.LARGEST_CALL", 1000)
    with pytest.raises(
        UsageError, match="there are more than 15 pictures, or 1,000 bytes of them. Try: fewer at a time"
    ):
        read_pictures([saved(blob())] * 20, DARK)
