"""`autofash baselines`."""

from __future__ import annotations

from typing import Annotated

import typer

from autofash.cli.options import DataDir, Json, Storage, storage_url


def baselines(
    dataset: Annotated[
        str | None,
        typer.Option(help="fashion_mnist, mnist, cifar10 or digits.", show_default="fashion_mnist, or digits offline"),
    ] = None,
    data_dir: DataDir = None,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Run the five classic classifiers, and set what was claimed beside what is measured.

    **autofash baselines**

    They are a study of their own, <dataset>-baselines: each is trained with its own recipe, then again on train + validation
    and tested. Nothing is chosen by the test set; the ledger notes its openings. Run again, it trains nothing twice.
    """
    from autofash import loop
    from autofash.cli import screen
    from autofash.cli.terminal import brief, console, print_json, say, table
    from autofash.executors import ProcessExecutor
    from autofash.figures import percent
    from autofash.refitting import refit
    from autofash.request import SearchRequest
    from autofash.space import load_space

    space = load_space("baselines")
    request = SearchRequest(
        space=space,
        dataset=dataset,
        data_dir=data_dir,
        trials=len(space.configs),
        epochs=max(int(named.config["epochs"]) for named in space.configs.values()),
        sampler="grid",
        pruner="none",
        starters=False,
        storage=storage_url(storage),
    )
    with screen.watching(console, silent=json) as watching:
        study = loop.search(request, watching.listeners, progress=watching.progress)

    records = {str(record.config["config"]): record for record in study.trials() if record.finished}
    rows = []
    executor = ProcessExecutor("autofash.training", log=study.folder / "server.log")
    try:
        with console.status("") as status:
            for name, named in space.configs.items():
                record, epochs = records[name], int(named.config["epochs"])
                status.update(f"{name}: training on train + validation")
                fitted = refit(
                    study,
                    record.number,
                    epochs=epochs,
                    data_dir=data_dir,
                    command="autofash baselines",
                    executor=executor,
                )
                rows.append((named, record, fitted.metrics))
    finally:
        executor.close()
    if json:
        told = [
            {
                "name": named.name,
                "claim": named.claim,
                "about": named.about,
                "trial": record.number,
                "metrics": dict(metrics),
            }
            for named, record, metrics in rows
        ]
        print_json({"study": study.name, "baselines": told})
        return
    columns = ("baseline", "published", "train>", "validation>", "test>", "parameters>", "recipe")
    made = table(*columns, title=f"\n{study.name}: claimed and measured")
    for named, _, metrics in rows:
        figures = [percent(metrics[f"{part}_accuracy"]) for part in ("train", "validation", "test")]
        made.add_row(named.name, named.claim or "–", *figures, f"{metrics['parameters']:,}", brief(named.about, "dim"))
    console.print(made)
    say("[dim]train and test: trained on all training images; validation: trained on the search's share of them[/]")
