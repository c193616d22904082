"""`autofash baselines`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

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
    from autofash.cli.terminal import brief, console, percent, print_json, table
    from autofash.refitting import refit
    from autofash.space import load_space

    space = load_space("baselines")
    request = loop.SearchRequest(
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
    if json:
        study = loop.search(request)
    elif sys.stdout.isatty():
        with screen.LiveScreen(console) as live:
            study = loop.search(request, [live], progress=live.download)
    else:
        study = loop.search(request, [screen.PlainLines()])

    rows: list[dict[str, Any]] = []
    records = {str(record.config["config"]): record for record in study.trials() if record.finished}
    with console.status("") as status:
        for name, named in space.configs.items():
            record = records[name]
            status.update(f"{name}: training on train + validation")
            metrics = refit(
                study,
                record.number,
                epochs=int(named.config["epochs"]),
                data_dir=data_dir,
                command="autofash baselines",
            ).metrics
            rows.append(
                {
                    "name": name,
                    "claim": named.claim,
                    "about": named.about,
                    "trial": record.number,
                    "epochs": len(record.curve),
                    "validation_accuracy": record.value,
                    **metrics,
                }
            )
    if json:
        print_json({"study": study.name, "baselines": rows})
        return
    made = table(
        "baseline",
        "published",
        "train>",
        "validation>",
        "test>",
        "parameters>",
        "recipe",
        title=f"\n{study.name}: claimed and measured",
    )
    for row in rows:
        made.add_row(
            str(row["name"]),
            str(row["claim"]) or "–",
            percent(row["train_accuracy"]),
            percent(row["validation_accuracy"]),
            percent(row["test_accuracy"]),
            f"{row['parameters']:,}",
            brief(str(row["about"])),
        )
    console.print(made)
    console.print(
        "[dim]train and test: trained on all training images; validation: trained on the search's share of them[/]"
    )
