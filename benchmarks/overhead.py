"""What autofash costs beside the training itself: start of the command, start of a trial, memory over many trials, the ledger.

python benchmarks/overhead.py            # about five minutes
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = str(ROOT)

from autofash import hardware, loop  # noqa: E402
from autofash.executors import ProcessExecutor  # noqa: E402
from autofash.records import Started  # noqa: E402
from autofash.request import SearchRequest  # noqa: E402

TINY = """
format = 1
family = "mlp"
[params.depth]      # no hidden layer at all
type = "int"
low = 0
high = 0
[params.learning_rate]
type = "float"
low = 1e-4
high = 1e-2
"""


def spread(values: list[float], digits: int = 3) -> str:
    """Median with lowest and highest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def seconds_of(*command: str) -> float:
    """Wall clock of a command."""
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def starting() -> None:
    """`autofash --help` against importing its two libraries, interleaved."""
    pairs = [
        (seconds_of(sys.executable, "-m", "autofash", "--help"), seconds_of(sys.executable, "-c", "import typer, rich"))
        for _ in range(9)
    ]
    print(f"autofash --help                      {spread([one for one, _ in pairs])} s")
    print(f"python -c 'import typer, rich'       {spread([two for _, two in pairs])} s")
    print(f"ratio (at most 3)                    {spread([one / two for one, two in pairs], 2)}")


def search(executor: ProcessExecutor | None, trials: int, task: str, study: str, listen: loop.Listener) -> float:
    """Run this many tiny trials on the digits; seconds."""
    Path("tiny.toml").write_text(TINY)
    request = SearchRequest(
        space="tiny.toml",
        dataset="digits",
        trials=trials,
        epochs=1,
        sampler="random",
        pruner="none",
        starters=False,
        study=study,
    )
    began = time.monotonic()
    loop.search(request, [listen], task=task, executor=executor)
    return time.monotonic() - began


def trials_and_memory() -> None:
    """From submit to a trial's first line, and the resident memory of coordinator and server, over 200 real trainings."""
    executor = ProcessExecutor()
    assert executor.server is not None
    here, server = psutil.Process(), psutil.Process(executor.server.pid)
    begun: list[float] = []
    memory: list[tuple[int, int]] = []

    def listen(event: loop.SearchEvent) -> None:
        if isinstance(event, Started):
            begun.append(event.seconds)
            memory.append((here.memory_info().rss, server.memory_info().rss))

    seconds = search(executor, 200, "autofash.training:run_trial", "memory", listen)
    workers = hardware.plan().workers
    print(f"server's start, once                 {begun[0]:.2f} s")
    print(
        f"submit to a trial's first line       {spread(begun[workers : workers + 50])} s over 50 trials (at most 0.2)"
    )
    print(f"200 tiny trainings, {workers} at once        {seconds:.0f} s")
    for name, column in (("coordinator", 0), ("server", 1)):
        after_twenty, at_end = memory[20][column] / 2**20, memory[-1][column] / 2**20
        growth = 100 * (at_end / after_twenty - 1)
        print(
            f"{name + ', resident':37}{after_twenty:.1f} MiB after 20 trials, {at_end:.1f} after 200: {growth:+.1f} % (at most 5)"
        )


def ledger() -> None:
    """Instant trials that bring no Keras: what coordinator, pipe and a fully synced SQLite file cost, at the default workers."""
    moments: list[float] = []

    def listen(event: loop.SearchEvent) -> None:
        if isinstance(event, loop.TrialEnded):
            moments.append(time.monotonic())

    search(None, 220, "tests.fakes:learn", "ledger", listen)
    each = (moments[-1] - moments[19]) / 200  # without those that the server's start delays
    print(
        f"ledger, pipe and process of a trial  {1000 * each:.0f} ms (at most 50), {1 / each:.0f} a second (at least 20)"
    )


if __name__ == "__main__":
    print(hardware.machine())
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        starting()
        ledger()
        trials_and_memory()
        os.chdir(ROOT)
