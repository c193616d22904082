"""A command is killed, or its disk fails, at any point where something becomes durable; then the same command again."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from autofash import manifest
from autofash.failpoints import POINTS, VARIABLE
from tests.faults.command import Command, Commands, last_told
from tests.faults.invariant import broken

SPACE = ("--dataset", "digits", "--space", "mlp", "--epochs", "3", "--workers", "2")
SEARCH = ("search", *SPACE, "--trials", "8", "--quiet")
EXPORT = ("best", "--export", "--formats", "keras,litert", "--json")
LEDGER = Path("studies/studies.db")
BEST = Path("studies/digits-mlp/best")
IN_A_SEARCH = ("study", "ask", "params", "report", "artifact", "attrs", "tell")
IN_AN_EXPORT = ("attrs", "artifact", "manifest", "export")
CODES = {"kill": -signal.SIGKILL, "enospc": 6}  # eio: 4 below the ledger, else 6


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    made = Commands()
    yield made
    made.close()


@pytest.fixture(scope="module")
def exported(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a search has ended, and an earlier config of it was exported."""
    here = tmp_path_factory.mktemp("exported")
    for arguments in (SEARCH, EXPORT):
        command = commands.run(*arguments, here=here)
        assert command.code == 0, command.said
    note = here / BEST / manifest.MANIFEST
    told = json.loads(note.read_text())
    note.write_text(json.dumps({**told, "seed": told["seed"] + 1}))  # so that it is of another config
    return here


def armed(commands: Commands, arguments: tuple[str, ...], here: Path, failpoint: str) -> Command:
    return commands.run(*arguments, here=here, **{VARIABLE: failpoint})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(here: Path, ran: list[Command], finished: int | None = None) -> None:
    ended, paused = last_told(ran)
    said = "\n".join(command.said for command in ran)
    workers = () if finished is not None else None
    assert (
        broken(
            LEDGER,
            "digits-mlp",
            acknowledged=ended,
            paused=paused,
            workers=workers,
            finished=finished,
            said=said,
            here=here,
        )
        == []
    )


def search_cases() -> list[tuple[str, str, int]]:
    kills = [("study", "kill", passage) for passage in (1, 2, 3, 4, 5)]
    kills += [
        (name, "kill", passage) for name in IN_A_SEARCH[1:] for passage in (1, 2) if (name, passage) != ("artifact", 2)
    ]
    return kills + [(name, action, 1) for name in IN_A_SEARCH for action in ("enospc", "eio")]


@pytest.mark.parametrize(("name", "action", "passage"), search_cases())
def test_a_search_that_fails_at_a_commit_point_is_resumed_to_the_exact_total(
    name: str, action: str, passage: int, workplace: Path, commands: Commands
) -> None:
    first = armed(commands, SEARCH, workplace, f"{name}:{action}:{passage}")
    if (name, action) == ("artifact", "kill"):
        assert first.code in (0, 5), "the trial's own process dies, of each one that pauses"
        assert any("signal 9" in record["why"] for record in first.ended)
    else:
        assert first.code == CODES.get(action, 6 if name == "artifact" else 4), first.said
        assert len(first.said.splitlines()) == (action != "kill")
        assert ("E-DISK-FULL" in first.said) == (action == "enospc")
    check(workplace, [first])
    again = commands.run(*SEARCH, here=workplace)
    assert again.code == 0, again.said
    assert again.told[0]["broken"] == []
    check(workplace, [first, again], finished=8)


def export_cases() -> list[tuple[str, str, int]]:
    kills = {"attrs": (1, 3), "artifact": (1,), "manifest": (1, 2, 5, 6), "export": (1, 2, 3, 5)}
    fails = {"attrs": (1,), "artifact": (1,), "manifest": (1, 5), "export": (2, 5)}
    return [(name, "kill", passage) for name, passages in kills.items() for passage in passages] + [
        (name, action, passage)
        for name, passages in fails.items()
        for passage in passages
        for action in ("enospc", "eio")
    ]


@pytest.mark.parametrize(("name", "action", "passage"), export_cases())
def test_an_export_that_fails_at_a_commit_point_leaves_the_old_model_or_the_new_and_is_finished_by_the_same_command(
    name: str, action: str, passage: int, workplace: Path, exported: Path, commands: Commands
) -> None:
    shutil.copytree(exported / "studies", "studies")
    before = contents(BEST)
    first = armed(commands, EXPORT, workplace, f"{name}:{action}:{passage}")
    if (name, action) == ("artifact", "kill"):
        assert first.code == 6 and "killed by signal 9" in first.said
    else:
        assert first.code == CODES.get(action, 4 if name == "attrs" else 6), first.said
        assert len(first.said.splitlines()) == (action != "kill")
        assert ("E-DISK-FULL" in first.said) == (action == "enospc") or "was not exported" in first.said
    check(workplace, [first])
    if action != "kill" and passage <= 2:
        assert contents(BEST) == before, "the old model is as it was, byte for byte"
    again = commands.run(*EXPORT, here=workplace)
    assert again.code == 0, again.said
    check(workplace, [first, again])
    told = manifest.read(BEST)
    manifest.verify(BEST, told)
    assert set(told["exports"]) == {"keras", "litert"} and told["seed"] != json.loads(before["manifest.json"])["seed"]


def test_every_point_fails_in_one_of_these() -> None:
    assert {*IN_A_SEARCH, *IN_AN_EXPORT} == set(POINTS)
