"""Many trials, many readers, many beginners on one SQLite file: what is locked, what is there twice, how fast it goes.

python benchmarks/load.py                # about ten minutes; --trials 1000 --starts 100 for less

1. A search of 10,000 instant trials, eight at once. Meanwhile another process reads the leaderboard twenty times a second, and
   optuna-dashboard is asked once a second for what its page shows.
2. Five hundred processes begin the same new study at the same moment, each as a search does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = str(ROOT)
for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[threads] = "1"  # the beginners are forked

from autofash import hardware, loop  # noqa: E402
from autofash.errors import AutofashError, StudyBusy  # noqa: E402
from autofash.records import StudySettings  # noqa: E402
from autofash.request import SearchRequest  # noqa: E402
from autofash.space import load_space  # noqa: E402
from autofash.study import StudyWriter, load_study  # noqa: E402

STORAGE, STUDY = "sqlite:///studies/studies.db", "load"
READS_A_SECOND, POLLS_A_SECOND, WORKERS = 20, 1, 8
HELD: list[StudyWriter] = []  # by this process
NOTED = 500  # trials between two lines of what the coordinator has come to


def coordinate(trials: int) -> None:
    """In a process of its own: the search. Prints its trials, seconds and resident memory now and then, as JSON."""
    here, began, count = psutil.Process(), 0.0, 0

    def tell(event: loop.SearchEvent) -> None:
        nonlocal began, count
        began = began or (time.monotonic() if isinstance(event, loop.TrialBegan) else 0.0)
        count += isinstance(event, loop.TrialEnded)
        if isinstance(event, loop.TrialEnded) and count % NOTED == 0:
            told = {"trials": count, "seconds": time.monotonic() - began, "bytes": here.memory_info().rss}
            print(json.dumps(told), flush=True)

    loop.search(
        SearchRequest(
            study=STUDY,
            storage=STORAGE,
            dataset="digits",
            space="mlp",
            trials=trials,
            epochs=1,
            workers=WORKERS,
            sampler="random",
            pruner="none",
            starters=False,
        ),
        [tell],
        task="tests.fakes:learn",
    )


def read(stopped: threading.Event, troubles: list[str]) -> list[float]:
    """Read the leaderboard twenty times a second, or as often as it can be read; the seconds that each reading took."""
    taken = []
    while not stopped.is_set():
        began = time.monotonic()
        try:
            load_study(STUDY, STORAGE).leaderboard(10)
        except AutofashError as error:
            troubles.append(f"leaderboard: {error}")
        taken.append(time.monotonic() - began)
        stopped.wait(max(0.0, 1 / READS_A_SECOND - taken[-1]))
    return taken


def read_in_a_process() -> None:
    """Read until stdin is closed; then print what it took and what went wrong, as JSON."""
    stopped, troubles = threading.Event(), []
    threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
    taken = read(stopped, troubles)
    print(json.dumps({"taken": taken, "troubles": troubles}))


@contextmanager
def polled(troubles: list[str], taken: list[float]) -> Iterator[None]:
    """While this lasts, the dashboard runs, and what its page asks for is asked for once a second."""
    command = [sys.executable, "-m", "autofash", "dashboard", "--port", "0"]
    dashboard = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert dashboard.stdout is not None
    stopped, address = threading.Event(), ""
    for line in dashboard.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            address = found.group()
            break

    def poll() -> None:
        seen = 0
        while not stopped.wait(1 / POLLS_A_SECOND):
            began = time.monotonic()
            try:
                with urllib.request.urlopen(f"{address}/api/studies/1?after={seen}", timeout=120) as answer:
                    # The page keeps what has ended, and asks for the trials after that.
                    trials = json.load(answer)["trials"]
                    seen += next((n for n, t in enumerate(trials) if t["state"] in ("Running", "Waiting")), len(trials))
            except OSError as error:
                troubles.append(f"dashboard: {error}")
            taken.append(time.monotonic() - began)

    polling = threading.Thread(target=poll)
    polling.start()
    try:
        yield
    finally:
        stopped.set()
        polling.join()
        dashboard.terminate()
        troubles += [line.strip() for line in dashboard.stdout if "locked" in line]
        dashboard.wait()
        dashboard.stdout.close()


def under_load(trials: int) -> bool:
    """The search with its readers; whether nothing was locked and no number is there twice."""
    troubles: list[str] = []
    polls: list[float] = []
    told: list[dict[str, float]] = []
    me = [sys.executable, __file__]
    search = subprocess.Popen(
        [*me, "--coordinate", str(trials)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert search.stdout is not None and search.stderr is not None
    told.append(json.loads(search.stdout.readline()))
    reader = subprocess.Popen([*me, "--read"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with polled(troubles, polls):
        told += [json.loads(line) for line in search.stdout]
    code, said = search.wait(), search.stderr.read()
    found = json.loads(reader.communicate()[0])
    troubles += found["troubles"] + ([f"search, exit {code}: {said.strip()}"] if code or said.strip() else [])
    locked = sum("locked" in trouble for trouble in troubles)
    with closing(sqlite3.connect("studies/studies.db")) as ledger:
        counts = ledger.execute("SELECT count(*), count(DISTINCT number) FROM trials").fetchone()
        finished = ledger.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0]
        sound = ledger.execute("PRAGMA integrity_check").fetchone()[0]
    seconds, last = told[-1]["seconds"], told[-1]["trials"]
    rates = [(b["trials"] - a["trials"]) / (b["seconds"] - a["seconds"]) for a, b in itertools.pairwise(told)] or [
        last / seconds
    ]
    print(f"{finished:,} trials, {WORKERS} at once          {last / seconds:.0f} a second in all, ", end="")
    print(f"{rates[0]:.0f} at first, {rates[-1]:.0f} at last (at least 20)")
    print(f"database is locked                 {locked} times (0)")
    print(f"numbers that are there twice       {counts[0] - counts[1]} (0); integrity_check: {sound}")
    memory = [entry["bytes"] / 2**20 for entry in (told[0], told[-1])]
    print(f"coordinator, resident              {memory[0]:.0f} MiB after {NOTED} trials, {memory[1]:.0f} MiB at last")
    for name, taken in (("leaderboard", found["taken"]), ("dashboard", polls)):
        print(
            f"{name + ' was read':35}{len(taken)} times, {1000 * sum(taken) / max(1, len(taken)):.0f} ms each on average"
        )
    for trouble in troubles:
        print(f"trouble: {trouble}")
    return not troubles and counts[0] == counts[1] and sound == "ok" and finished == trials


def begin_at_once(count: int) -> bool:
    """So many processes open the same new study at one moment; whether one has it and the others say who."""
    space = load_space("mlp")
    settings = StudySettings(
        "digits", "d" * 64, "mlp", space.table(), space.fingerprint, "random", "none", "accuracy", 1, 0, 0.1, True
    )
    start, go = os.pipe()
    outcomes, tell = os.pipe()
    done, stay = os.pipe()
    children = []
    for _ in range(count):
        child = os.fork()
        if not child:
            os.close(go)
            os.close(stay)
            os.read(start, 1)  # all of them wake when this end closes
            os.write(tell, _begin(settings))
            os.read(done, 1)  # whoever has it keeps it until the last one has asked
            os._exit(0)
        children.append(child)
    began = time.monotonic()
    os.close(go)
    said: list[str] = []
    while len(said) < count:
        said += os.read(outcomes, 2**16).decode().splitlines()
    seconds = time.monotonic() - began
    os.close(stay)
    for child in children:
        os.waitpid(child, 0)
    winners = [line.partition(" ")[2] for line in said if line.startswith("have ")]
    busy = [line for line in said if line.startswith("busy ")]
    named = sum(f"process {winner} " in line for line in busy for winner in winners)
    print(f"{count} first starts at once{'':10}{len(winners)} has the study, {named} say who; ", end="")
    print(f"{count - len(winners) - len(busy)} crashed; {seconds:.1f} s")
    for line in said:
        if line not in busy and not line.startswith("have "):
            print(line)
    return len(winners) == 1 and named == count - 1


def _begin(settings: StudySettings) -> bytes:
    try:
        HELD.append(StudyWriter("begun", STORAGE, settings, target=None))
    except StudyBusy as error:
        return f"busy {error}\n".encode()
    except BaseException as error:
        return f"crash {type(error).__name__}: {str(error).splitlines()[0]}\n".encode()
    return f"have {os.getpid()}\n".encode()


def main() -> int:
    """Print the figures; 1 where anything is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--starts", type=int, default=500)
    parser.add_argument("--coordinate", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.coordinate or asked.read:
        coordinate(asked.coordinate) if asked.coordinate else read_in_a_process()
        return 0
    print(hardware.machine())
    parts: list[Callable[[], bool]] = [lambda: begin_at_once(asked.starts), lambda: under_load(asked.trials)]
    good = []
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["AUTOFASH_CACHE_DIR"] = f"{folder}/cache"
            os.chdir(folder)
            good.append(part())
            os.chdir(ROOT)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
