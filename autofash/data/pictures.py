"""Pictures as a model wants them: read without trust, then turned upright, resized, padded and inverted, and it says so."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from autofash.archives import open_zip, too_large
from autofash.data.formats import opened, pickled, read_npy_header, unreadable
from autofash.errors import (
    AutofashError,
    DataCorrupt,
    DataError,
    DataMissing,
    Problem,
    UnsafeFile,
    UsageError,
    cut,
    unknown,
)

Array = np.ndarray
FORMATS = ("PNG", "JPEG", "BMP")  # what is looked at; the rest of what Pillow can open is attack surface
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")  # of the pictures in a folder
LARGEST_PICTURE = 25_000_000  # pixels
LONGEST_SIDE = 2**20  # pixels; to shrink one of 25 million takes Pillow a gigabyte of coefficients
BAND = 2**20  # pixels that are changed at once: of 25 megapixels two versions are then in memory, 200 MB, and not five
LARGEST_FILE = 2**28  # bytes; a PNG of 25 megapixels, four channels of 16 bits, uncompressed, has 200 MB
LARGEST_CALL = 2**30  # bytes: of what an .npz unpacks to, and of all images of a call as the model wants them
NAMES = ("images", "x_test", "x")  # of the array in an .npz, where it holds several
SHOWN = 5  # bad files that are named one by one
INVERT = ("auto", "yes", "no")
# A border speaks of the background where 60 % of it lies within 32 levels of its median, and that is clearly light or dark.
# Of the 71,797 images of Fashion-MNIST and digits none is then taken for inverted; of their test images, inverted, 99.9 % are.
EVEN, WITHIN, DARK, LIGHT = 0.6, 32, 95, 160


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What a model reads."""

    height: int  # pixels
    width: int  # pixels
    channels: int  # 1: grey, 3: colour
    border: int = 0  # median grey level of the outermost pixels of what it learnt from, 0 to 255
    background: str = "mixed"  # what it learnt from: "dark" or "light"; "mixed": nothing is inverted unasked


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures as a model wants them."""

    names: tuple[str, ...]  # the file; or file.npz[row], from 0
    images: Array  # uint8 (n, height, width, channels)
    about: str  # what was done to them, in words
    skipped: tuple[Problem, ...] = ()  # what could not be used, and was left out


def read_pictures(
    given: str | Path | Iterable[str | Path], wanted: ModelInput, *, invert: str = "auto", skip_bad: bool = False
) -> Pictures:
    """Read pictures, and make of each what the model wants.

    given: PNG, JPEG and BMP files; folders, for all such files in and below them, sorted, hidden ones left out; .npz files with
    uint8 images (n, height, width) or (n, height, width, 1 or 3) under `images`, `x_test` or `x`, or as their only array.
    invert: "auto": those with an even border that is light where the model knows a dark one, or dark where it knows a light
    one; "yes": all; "no": none. skip_bad: leave out what cannot be used, as long as something is left.

    A picture of the right size, colour and polarity comes out as it is, bit by bit. Others keep their aspect: they are scaled by
    Lanczos' filter, which smooths as it shrinks, and padded with the median of their own border. Transparent ones are laid on the
    model's background, 16 bits are scaled to 8, EXIF's orientation counts, colour profiles do not.

    Raises DataMissing, DataCorrupt or DataError, or UnsafeFile for what is too large or pickled, with every bad file, five by
    name; UsageError for an unknown `invert`, and for more pictures than LARGEST_CALL holds.
    """
    if invert not in INVERT:
        raise UsageError(*unknown("way to invert", invert, INVERT))
    names: list[str] = []
    images: list[Array] = []
    changes: Counter[str] = Counter()
    bad: list[AutofashError] = []
    most = LARGEST_CALL // (wanted.height * wanted.width * wanted.channels)
    files = 0
    for path in _files([given] if isinstance(given, str | Path) else given, bad):
        files += 1
        try:
            for name, picture, turned in _opened(path):
                image, changed = _fitted(picture, wanted, invert)
                names.append(name)
                images.append(image)
                changes.update(changed, turned=turned)
                if len(images) > most:
                    raise UsageError(
                        f"there are more than {most:,} pictures, or {LARGEST_CALL:,} bytes of them", "fewer at a time"
                    )
        except (DataError, UnsafeFile) as error:
            bad.append(error)
    if bad and not (skip_bad and images):
        raise _together(bad, files, skip_bad)
    if not images:
        raise DataMissing("there is no picture to predict", "autofash predict MODEL a.png b.jpg folder/")
    problems = tuple(problem for error in bad for problem in error.problems)
    return Pictures(tuple(names), np.stack(images), _about(len(images), changes, wanted, invert), problems)


# -- finding files -------------------------------------------------------------------------------------------------------------


def _files(given: Iterable[str | Path], bad: list[AutofashError]) -> Iterator[Path]:
    """The files that are named, and those in the folders that are named; what goes wrong on the way is added to `bad`."""
    for name in given:
        path = Path(name)
        if not os.path.isdir(name):  # of "" too, which as a path would be the current folder
            yield path
            continue
        found = list(_below(path, bad))
        if not found:
            bad.append(DataMissing("holds no PNG, JPEG or BMP picture", "a folder that does", where=str(path)))
        yield from found


def _below(folder: Path, bad: list[AutofashError]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        bad.append(unreadable(Path(error.filename), error))

    for place, folders, files in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        # Hidden ones are no pictures even where they are called so: macOS writes a ._a.png beside each a.png.
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(place, name)


def _stream(path: Path) -> IO[bytes]:
    """The file, opened to read, if it is one of a size that pictures have."""
    stream = opened(path)
    size = os.fstat(stream.fileno()).st_size
    most = LARGEST_CALL if path.suffix.lower() == ".npz" else LARGEST_FILE
    if size > most:
        stream.close()
        raise too_large(str(path), f"has {size:,} bytes, more than {most:,}")
    return stream


def _together(bad: Sequence[AutofashError], files: int, skip_bad: bool) -> AutofashError:
    """All that went wrong as one error, of the gravest kind."""
    gravest = max(bad, key=lambda error: error.exit_code)
    problems = [problem for error in bad for problem in error.problems]
    shown = problems[:SHOWN]
    if len(problems) > 1 or files > 1:
        more = f", {SHOWN} of them named above" if len(problems) > SHOWN else ""
        fix = "" if skip_bad or len(problems) >= files else "--skip-bad, which leaves them out"
        shown.append(Problem(f"{len(problems):,} of {max(files, len(problems)):,} cannot be used{more}", fix))
    return type(gravest)(shown, code=gravest.code)


# -- reading them --------------------------------------------------------------------------------------------------------------


def _opened(path: Path) -> Iterator[tuple[str, Image.Image, bool]]:
    """The pictures of a file: name, picture, and whether it was turned."""
    if path.suffix.lower() == ".npz":
        for row, image in enumerate(_read_npz(path)):
            yield f"{path}[{row}]", Image.fromarray(image), False
    else:
        yield str(path), *_read_picture(path)


def _read_picture(path: Path) -> tuple[Image.Image, bool]:
    """The picture, decoded and upright, and whether it had to be turned."""
    with _stream(path) as stream, warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            picture = Image.open(stream, formats=FORMATS)
            if math.prod(picture.size) <= LARGEST_PICTURE and max(picture.size) <= LONGEST_SIDE:
                turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
                ImageOps.exif_transpose(picture, in_place=True)  # and decoded: a copy more would be 100 MB more
                if picture.mode in ("P", "PA") and picture.palette is None:
                    raise ValueError("its colours are numbers of a palette, and it has none")
                return picture, turned
            size = f"{picture.width:,} × {picture.height:,} pixels"
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            size = "far more pixels"
        except UnidentifiedImageError:
            raise DataCorrupt("is no PNG, JPEG or BMP picture", "save it as PNG", where=str(path)) from None
        except Exception as error:  # of a broken file Pillow may raise almost anything
            raise _corrupt(path, error) from None
    raise too_large(str(path), f"has {size}; 25 megapixels are the most")


def _corrupt(path: Path, error: Exception) -> DataCorrupt:
    reason = cut((str(error) or type(error).__name__).splitlines()[0], 200)
    return DataCorrupt(f"is damaged: {reason}", "save it anew", where=str(path))


def _read_npz(path: Path) -> Array:
    """The images of an .npz file, uint8 (n, height, width) or (n, height, width, 3); sizes are added up before it is read."""
    with _stream(path) as stream:
        if stream.read(1) == b"\x80":
            raise pickled(path)
        try:
            with open_zip(stream, str(path), LARGEST_CALL) as archive:
                entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
                name = next((name for name in NAMES if name in entries), None)
                if name is None and len(entries) == 1:
                    [name] = entries
                if name is None:
                    held = cut(", ".join(sorted(entries)), 200) or "nothing"
                    raise DataError(f"holds {held}, and no array `images`", "np.savez(file, images=…)", where=str(path))
                with archive.open(entries[name]) as array:
                    return _read_npy(path, cut(name), array, entries[name].file_size)
        except AutofashError:
            raise
        except Exception as error:  # zipfile, zlib and NumPy's header parser have a dozen words for a broken file
            raise _corrupt(path, error) from None


def _read_npy(path: Path, name: str, stream: IO[bytes], size: int) -> Array:
    """The array of an .npy stream of this many bytes; its header is read before memory is taken, and nothing is unpickled."""
    shape, by_column, dtype = read_npy_header(path, stream)
    good = dtype == np.uint8 and (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))) and min(shape) > 0
    if not good:
        fix = f"np.savez(file, {name}=images.astype('uint8'))"
        if dtype.kind == "f":
            fix = f"np.savez(file, {name}=(images * 255).round().astype('uint8')), if they reach from 0 to 1"
        want = "uint8 (n, height, width) or (n, height, width, 1 or 3)"
        raise DataError(f"`{name}` is {cut(f'{dtype} {shape}')}, want {want}", fix, where=str(path))
    if math.prod(shape[1:3]) > LARGEST_PICTURE or max(shape[1:3]) > LONGEST_SIDE:
        raise too_large(str(path), f"has images of {shape[2]:,} × {shape[1]:,} pixels; 25 megapixels are the most")
    if math.prod(shape) > size:
        raise DataCorrupt(
            f"is damaged: `{name}` claims {cut(str(shape))}, and has {size:,} bytes", "save it anew", where=str(path)
        )
    images = np.frombuffer(stream.read(math.prod(shape)), np.uint8).reshape(shape, order="F" if by_column else "C")
    return np.ascontiguousarray(images[..., 0] if shape[3:] == (1,) else images)


# -- making of them what the model wants ---------------------------------------------------------------------------------------


def _fitted(picture: Image.Image, wanted: ModelInput, invert: str) -> tuple[Array, set[str]]:
    """The image, uint8 (height, width, channels), and what was done to it."""
    changes = set()
    mode = "L" if wanted.channels == 1 else "RGB"
    recoloured = Image.getmodebase(picture.mode) != mode
    if picture.mode.startswith("I"):
        changes.add("scaled")
    clear = picture.has_transparency_data and any(
        band.getchannel("A").getextrema() != (255, 255) for _, band in _bands(picture)
    )
    if clear:
        changes.add("laid")
    picture = _flat(picture, mode, _paper(picture, wanted, invert) if clear else None)
    border = _border(picture)
    if invert == "yes" or (invert == "auto" and _contrary(border, wanted)):
        changes.add("inverted")

    scale = min(wanted.width / picture.width, wanted.height / picture.height)
    width, height = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        changes.add("resized")
    elif recoloured:
        changes.add("recoloured")
    image = np.asarray(picture).reshape(height, width, wanted.channels)
    if (width, height) != (wanted.width, wanted.height):
        top, left = (wanted.height - height) // 2, (wanted.width - width) // 2
        padded = np.empty((wanted.height, wanted.width, wanted.channels), np.uint8)
        padded[:] = np.median(border, axis=0).round()
        padded[top : top + height, left : left + width] = image
        image = padded
        changes.add("padded")
    return 255 - image if "inverted" in changes else image, changes


def _bands(picture: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The picture in bands, from top to bottom: first row, and its pixels with 8 bits a channel, RGBA where any may be clear."""
    rows = max(1, BAND // picture.width)
    for top in range(0, picture.height, rows):
        band = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        band = _eight_bits(band) if band.mode.startswith("I") else band
        yield top, band.convert("RGBA") if band.has_transparency_data and band.mode != "RGBA" else band


def _flat(picture: Image.Image, mode: str, paper: int | None) -> Image.Image:
    """The picture in this mode, laid on paper of this grey level; None: nothing of it is clear."""
    if picture.mode == mode and paper is None:
        return picture
    flat = Image.new(mode, picture.size)
    for top, band in _bands(picture):
        if paper is not None:
            band = Image.alpha_composite(Image.new("RGBA", band.size, (paper,) * 3 + (255,)), band)
        flat.paste(band.convert(mode), (0, top))
    return flat


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 bits as one of 8, white to white; Pillow's own way would cut off, not scale."""
    levels = np.asarray(picture).astype(np.int64)
    made = Image.fromarray(((levels.clip(0, 65535) + 128) // 257).astype(np.uint8))
    if (clear := picture.info.get("transparency")) is not None:
        made.putalpha(Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
    return made


def _border(picture: Image.Image) -> Array:
    """The outermost pixels (n, channels) of a picture."""
    width, height = picture.size
    edges = [(0, 0, width, 1), (0, height - 1, width, height), (0, 1, 1, height - 1), (width - 1, 1, width, height - 1)]
    cropped = [np.asarray(picture.crop(edge)) for edge in edges if edge[3] > edge[1]]
    return np.concatenate([pixels.reshape(-1, len(picture.getbands())) for pixels in cropped])


def _contrary(border: Array, wanted: ModelInput) -> bool:
    """Whether these outermost pixels are, clearly and evenly, light where the model knows dark, or the other way round."""
    if wanted.background == "mixed":
        return False
    levels = np.sort(border.mean(axis=1))
    level = levels[len(levels) // 2]
    even = np.searchsorted(levels, level + WITHIN, side="right") - np.searchsorted(levels, level - WITHIN)
    if even < EVEN * len(levels):
        return False
    return bool((wanted.background == "dark" and level >= LIGHT) or (wanted.background == "light" and level <= DARK))


def _paper(picture: Image.Image, wanted: ModelInput, invert: str) -> int:
    """The grey level to lay a transparent picture on, so that the model's own background lies behind it once all is done.

    Where the model knows one polarity, what can be seen decides: black on transparent is laid on white, and then inverted.
    """
    if invert != "auto":
        return 255 - wanted.border if invert == "yes" else wanted.border
    if wanted.background == "mixed":
        return wanted.border
    counts = np.zeros(256)
    for _, band in _bands(picture):
        seen = band.getchannel("A").point([255 * (alpha >= 128) for alpha in range(256)])
        counts += band.convert("L").histogram(seen)
    level = float(counts @ np.arange(256) / max(1, counts.sum()))
    return max(wanted.border, 255 - wanted.border, key=lambda paper: abs(paper - level))


def _about(count: int, changes: Counter[str], wanted: ModelInput, invert: str) -> str:
    """What was done, in words: '12 pictures: resized to 28 × 28 grey, padded to square, 12 inverted (…)'."""
    colour = "grey" if wanted.channels == 1 else "colour"
    square = "square" if wanted.width == wanted.height else f"{wanted.width} : {wanted.height}"
    known = "dark on light" if wanted.background == "light" else "light on dark"
    why = "as asked" if invert == "yes" else f"this model knows {known}"
    words = {
        "turned": "turned upright",
        "scaled": "scaled from 16 bits to 8",
        "laid": "laid on the background that this model knows",
        "recoloured": f"made {colour}",
        "resized": f"resized to {wanted.width} × {wanted.height} {colour}",
        "padded": f"padded to {square}",
        "inverted": f"inverted ({why})",
    }
    told = [
        (f"{changes[name]:,} " if changes[name] < count or name == "inverted" else "") + text
        for name, text in words.items()
        if changes[name]
    ]
    pictures = f"{count:,} picture{'s' * (count != 1)}"
    return f"{pictures}: {', '.join(told)}" if told else f"{pictures}, as {'they are' if count != 1 else 'it is'}"
