"""`autofash search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from autofash.cli.options import MORE, DataDir, Json, Storage, storage_url


def search(
    definition: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A study definition (TOML); flags override it.", show_default=False),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Finished trials in all; the study's own total, or 50.", show_default=False)
    ] = None,
    more: Annotated[int | None, typer.Option(help="Raise the study's total by this many.", show_default=False)] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Stop after this much wall clock: 30m, 90s, 1h30m.", show_default=False),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="What to search; `autofash spaces` lists them.", show_default="cnn"),
    ] = None,
    hypermodel: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:NAME",
            help="Your own build(hp), HyperModel or define(trial) instead of a space.",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="fashion_mnist, mnist, cifar10 or digits.", show_default="fashion_mnist, or digits offline"),
    ] = None,
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the study.", show_default="<dataset>-<space>")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Trials at once.", show_default="as many as the machine has room for")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Most epochs of each trial.", show_default="6", rich_help_panel=MORE)
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="Stop once a trial reaches this, such as 0.93.", rich_help_panel=MORE, show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of split, sampler and trials.", show_default="0", rich_help_panel=MORE)
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Whose samplers: optuna or keras-tuner (its oracles: bayesian, random, hyperband, grid).",
            show_default="optuna",
            rich_help_panel=MORE,
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="tpe, random, grid, qmc or cmaes; or one of the other engine's.",
            show_default="tpe, or bayesian",
            rich_help_panel=MORE,
        ),
    ] = None,
    pruner: Annotated[
        str | None, typer.Option(help="asha, hyperband, median or none.", show_default="asha", rich_help_panel=MORE)
    ] = None,
    patience: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Give up a trial that says nothing for so long.",
            show_default="1h",
            rich_help_panel=MORE,
        ),
    ] = None,
    pixels: Annotated[
        str | None,
        typer.Option(
            help="How your own model is fed: raw, unit (0 to 1) or standardized.",
            show_default="unit",
            rich_help_panel=MORE,
        ),
    ] = None,
    flat: Annotated[
        bool | None,
        typer.Option(
            "--flat/--no-flat", help="Your own model takes flat images.", show_default="no", rich_help_panel=MORE
        ),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="accuracy or macro_f1.", show_default="accuracy", rich_help_panel=MORE)
    ] = None,
    starters: Annotated[
        bool | None,
        typer.Option(
            "--starters/--no-starters",
            help="Begin with the known-good configs.",
            show_default="yes",
            rich_help_panel=MORE,
        ),
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(
            metavar="STUDY",
            help="Learn from another study's trials; its best three run first.",
            show_default=False,
            rich_help_panel=MORE,
        ),
    ] = None,
    new_study: Annotated[
        bool, typer.Option("--new-study", help="Begin another study rather than resume.", rich_help_panel=MORE)
    ] = False,
    data_dir: DataDir = None,
    storage: Storage = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    json: Json = False,
) -> None:
    """Search for the best config, or resume the search.

    **autofash search --trials 50**

    Fifty trials of the space cnn on Fashion-MNIST. Run again, it resumes, or says that nothing is left to do; kill it at any
    moment, and what is finished is kept. The ledger is studies/studies.db; each trial's log lies in studies/STUDY/trials/N/.
    """
    from autofash import loop
    from autofash.cli import screen
    from autofash.cli.terminal import console, plain, print_json
    from autofash.request import SearchRequest

    told = _told(definition)
    given = {
        "trials": trials,
        "budget": budget,
        "space": space,
        "hypermodel": hypermodel,
        "pixels": pixels,
        "flat": flat,
        "dataset": dataset,
        "study": study,
        "workers": workers,
        "epochs": epochs,
        "patience": patience,
        "target": target,
        "seed": seed,
        "engine": engine,
        "sampler": sampler,
        "pruner": pruner,
        "objective": objective,
        "starters": starters,
        "warm_start": warm_start,
    }
    settings: dict[str, Any] = {**told, **{name: value for name, value in given.items() if value is not None}}
    if trials is None and "trials" in told:
        settings["at_least"] = settings.pop("trials")
    request = SearchRequest(
        **{name: value for name, value in settings.items() if name not in ("budget", "patience")},
        budget_seconds=_seconds(settings.get("budget"), "--budget"),
        patience_seconds=_seconds(settings.get("patience"), "--patience"),
        more=more,
        new_study=new_study,
        data_dir=data_dir,
        storage=storage_url(storage),
    )
    with screen.watching(console, silent=json or quiet) as watching:
        found = loop.search(request, watching.listeners, progress=watching.progress)
    if not (json or quiet):
        screen.print_result(console, found)
    if json:
        board = found.leaderboard(1)
        print_json({"study": plain(found.summary()), "best": plain(board[0]) if board else None})


def _told(definition: Path | None) -> dict[str, Any]:
    if definition is None:
        return {}
    from autofash.study.definition import load_definition

    settings = load_definition(definition).model_dump(exclude={"format"}, exclude_none=True)
    return {"study": definition.stem, **settings}


def _seconds(duration: str | None, option: str) -> float | None:
    if duration is None:
        return None
    from autofash.study.definition import seconds

    return seconds(duration, option)
