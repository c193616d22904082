"""What every test gets: an empty folder, a data cache of the run, and the project on the path of its children."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from autofash.executors import ProcessExecutor
from autofash.study import oracles

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache and a Keras home of the run's own; children find `tests.fakes`."""
    before = dict(os.environ)
    os.environ["AUTOFASH_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before.get("PYTHONPATH", "")]))
    os.environ["COLUMNS"] = "120"
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the current one."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessExecutor]:
    """Trial processes whose server has imported Keras once for all the tests that need one, not for each."""
    made = ProcessExecutor(log=tmp_path_factory.mktemp("server") / "log.txt")
    yield made
    made.close()


@pytest.fixture(scope="session")
def kerastuner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[oracles.Helper]:
    """A process that has imported KerasTuner once for all the tests that need one, not for each."""
    made = oracles.Helper(tmp_path_factory.mktemp("oracle") / "log.txt")
    assert "ready" in (made.receive(None) or {})
    yield made
    made.close()


class Lent:
    """That process, for one search after another: none of them ends it."""

    def __init__(self, helper: oracles.Helper) -> None:
        self._helper, self._due, self._ready, self.pid = helper, 0, False, helper.pid

    def send(self, message: dict[str, object]) -> None:
        self._helper.send(message)
        self._due += 1

    def receive(self, seconds: float | None) -> dict[str, object] | None:
        if not self._ready:
            self._ready = True
            return {"ready": self.pid}
        told = self._helper.receive(seconds)
        self._due -= told is not None
        return told

    def close(self) -> None:
        while self._due:
            self.receive(None)


@pytest.fixture
def lent(kerastuner: oracles.Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches of this process ask the one process."""
    monkeypatch.setattr(oracles, "Helper", lambda _: Lent(kerastuner))


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small network that has learnt the digits, in every format; not to be changed."""
    from tests.trained import make_model

    return make_model(tmp_path_factory.mktemp("made") / "best")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data folder, an empty Keras cache, and a network that refuses at once."""
    monkeypatch.delenv("AUTOFASH_DATA_DIR", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("urllib.request._opener", None)  # it remembers the proxies of its first use


@pytest.fixture(scope="session")
def fashion_folder() -> Path:
    """The folder of the real Fashion-MNIST, or a skip that says how to get it."""
    chosen = os.environ.get("AUTOFASH_DATA_DIR")
    folders = [Path(chosen) / "fashion-mnist", Path(chosen)] if chosen else []
    for folder in [*folders, Path.home() / ".keras" / "datasets" / "fashion-mnist"]:
        if (folder / "train-images-idx3-ubyte.gz").exists():
            return folder
    pytest.skip("Fashion-MNIST is not on this machine: set AUTOFASH_DATA_DIR to the folder that holds it")
