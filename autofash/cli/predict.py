"""`autofash predict`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autofash.cli.options import Json

if TYPE_CHECKING:
    from autofash.data.pictures import Pictures
    from autofash.errors import Problem
    from autofash.predict import SavedModel

    Rows = Sequence[Sequence[tuple[str, float]]]  # a row a picture: its likeliest labels with their probabilities

ROWS = 100  # of the table; --csv and --json have no end


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A model's folder (studies/STUDY/best), or one exported file or folder in it, which runs in its own runtime.",
            show_default=False,
        ),
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...",
            help="PNG, JPEG and BMP files, folders of them, .npz files; - reads names from stdin, one a line.",
            show_default=False,
        ),
    ],
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Labels for each picture, the likeliest first.")] = 3,
    invert: Annotated[
        str,
        typer.Option(
            metavar="auto|yes|no", help="Swap light and dark; auto: where the border is not the model's background."
        ),
    ] = "auto",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out files that cannot be used.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print a row for each picture.")] = False,
    json: Json = False,
) -> None:
    """Say what is on pictures, by a saved model.

    **autofash predict studies/fashion_mnist-cnn/best shoe.png bag.jpg**

    **autofash predict studies/fashion_mnist-cnn/best/model.onnx photos/ --csv**

    Pictures of any size are brought to the model's: resized with their aspect kept, made grey, inverted where the model knows
    another background; what was done is said in one line. If one file cannot be used, nothing is predicted. No file is changed.
    """
    from autofash.cli.terminal import console
    from autofash.errors import UsageError
    from autofash.predict import find_model, load_model, ranked

    if json and csv:
        raise UsageError("--json and --csv exclude each other", "one of them")
    # Before TensorFlow is imported: what it says at its start is for its makers, and on CPUs with AVX2 alone it leaves oneDNN
    # off, and predicts a third as fast.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

    found = find_model(model)
    pictures = found.read(_names(images), invert=invert, skip_bad=skip_bad)  # first: a runtime takes seconds to load
    _warn(pictures.skipped)
    spinning = sys.stdout.isatty() and not (json or csv)
    with console.status(f"loading {found.format}") if spinning else nullcontext(), _hushed():
        rows = ranked(load_model(found).predict(pictures.images), found.classes, top)
    if json:
        _print_json(found, pictures, rows)
    elif csv:
        print(f"autofash: {pictures.about}", file=sys.stderr)
        _print_csv(pictures, rows)
    else:
        _print_table(pictures, rows)


def _names(images: Sequence[str]) -> Iterator[str]:
    for image in images:
        if image != "-":
            yield image
        elif sys.stdin is not None:
            lines = (os.fsdecode(line).rstrip("\r\n") for line in sys.stdin.buffer)
            yield from (line for line in lines if line)


def _warn(skipped: Sequence[Problem]) -> None:
    from autofash.data.pictures import SHOWN

    for problem in skipped[:SHOWN]:
        print(f"autofash: warning[W-SKIPPED]: {problem}", file=sys.stderr)
    if len(skipped) > SHOWN:
        print(f"autofash: warning[W-SKIPPED]: {len(skipped):,} files in all were left out", file=sys.stderr)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep what the runtimes' C++ prints on stderr off the terminal; --debug lets it through."""
    if sys.stderr is None or "--debug" in sys.argv:
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _print_table(pictures: Pictures, rows: Rows) -> None:
    from rich.text import Text

    from autofash.cli.terminal import brief, console, say, shown, table
    from autofash.errors import printable
    from autofash.figures import percent

    most = len(rows[0])
    made = table("file", "label", "probability>", *([f"top {most}"] if most > 1 else []))
    for name, row in zip(pictures.names[:ROWS], rows[:ROWS], strict=True):
        label, probability = row[0]
        ranking = ", ".join(f"{label} {percent(probability)}" for label, probability in row)
        made.add_row(
            Text(printable(name)),
            Text(printable(label), style="bold green"),
            percent(probability),
            *([brief(ranking, "dim")] if most > 1 else []),
        )
    console.print(made)
    if len(rows) > ROWS:
        say(f"[dim]and {len(rows) - ROWS:,} more:[/] [bold]--csv[/] [dim]and[/] [bold]--json[/] [dim]print them all[/]")
    say(f"\n{shown(pictures.about)}")


def _print_csv(pictures: Pictures, rows: Rows) -> None:
    import csv

    from autofash.errors import printable

    out = csv.writer(sys.stdout, lineterminator="\n")
    others = [f"{part}_{place}" for place in range(2, len(rows[0]) + 1) for part in ("label", "probability")]
    out.writerow(["file", "label", "probability", *others])
    for name, row in zip(pictures.names, rows, strict=True):
        cells = (cell for label, probability in row for cell in (printable(label), probability))
        out.writerow([printable(name), *cells])


def _print_json(model: SavedModel, pictures: Pictures, rows: Rows) -> None:
    from autofash.cli.terminal import print_json

    print_json(
        {
            "model": model.folder,
            "format": model.format,
            "about": pictures.about,
            "skipped": [str(problem) for problem in pictures.skipped],
            "predictions": [
                {
                    "file": name,
                    "label": row[0][0],
                    "probability": row[0][1],
                    "top": [{"label": label, "probability": probability} for label, probability in row],
                }
                for name, row in zip(pictures.names, rows, strict=True)
            ],
        }
    )
