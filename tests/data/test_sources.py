import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autofash.data import sources
from autofash.data.sources import SOURCES, choose, keras_cache, locate
from autofash.errors import DataCorrupt, DataError, DataMissing
from tests.data.test_formats import idx


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Fashion-MNIST with ten images; the published hashes are those of these files."""
    labels, images = np.arange(10, dtype=np.uint8), np.zeros((10, 28, 28), np.uint8)
    files = {name: idx(images if "images" in name else labels) for name in SOURCES["fashion_mnist"].files}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setitem(SOURCES, "fashion_mnist", replace(SOURCES["fashion_mnist"], files=hashes))
    return files


@pytest.fixture
def network(offline: None, tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A server on this machine that has the tiny files; gives the list of what was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = tiny[self.path.lstrip("/")]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("urllib.request._opener", None)  # it remembers the proxies of its first use
    monkeypatch.setitem(
        SOURCES, "fashion_mnist", replace(SOURCES["fashion_mnist"], origin=f"http://127.0.0.1:{server.server_port}/")
    )
    yield asked
    server.shutdown()
    server.server_close()


def put(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.usefixtures("offline")
def test_the_chosen_folder_comes_before_the_environment_and_that_before_kerass_cache(
    tiny: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = put(tiny, keras_cache() / "fashion-mnist")
    assert locate("fashion_mnist", None) == cached
    told = put(tiny, tmp_path / "told" / "fashion-mnist")
    monkeypatch.setenv("AUTOFASH_DATA_DIR", str(told.parent))
    assert locate("fashion_mnist", None) == told
    chosen = put(tiny, tmp_path / "chosen")
    assert locate("fashion_mnist", chosen) == chosen


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", list(SOURCES["fashion_mnist"].files))
def test_a_cut_file_is_named_with_its_expected_hash(tiny: dict[str, bytes], tmp_path: Path, name: str) -> None:
    folder = put(tiny, tmp_path / "data")
    (folder / name).write_bytes(tiny[name][:-9])
    with pytest.raises(DataCorrupt) as caught:
        locate("fashion_mnist", folder)
    assert str(folder / name) in str(caught.value) and SOURCES["fashion_mnist"].files[name] in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_with_a_name_given_nothing_is_substituted_and_every_way_is_named() -> None:
    with pytest.raises(DataMissing) as caught:
        choose("fashion_mnist", None)
    for way in (
        "--data-dir",
        "AUTOFASH_DATA_DIR",
        str(keras_cache()),
        "--dataset digits",
        "train-images-idx3-ubyte.gz",
    ):
        assert way in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_without_a_name_digits_serve_where_fashion_mnist_cannot_be_had() -> None:
    dataset, _, wanted = choose(None, None)
    assert (dataset, wanted) == ("digits", "fashion_mnist")


@pytest.mark.usefixtures("offline")
def test_what_is_nowhere_is_fetched_once_verified_and_renamed(network: list[str]) -> None:
    told: list[tuple[str, int, int]] = []
    folder = locate("fashion_mnist", None, lambda *step: told.append(step))
    assert folder == keras_cache() / "fashion-mnist" and len(network) == 4
    assert not list(folder.glob("*.part"))
    assert told[-1][1] == told[-1][2]
    locate("fashion_mnist", None)
    assert len(network) == 4


@pytest.mark.usefixtures("offline")
def test_a_download_that_is_not_the_published_file_is_refused_and_leaves_nothing(
    network: list[str], tiny: dict[str, bytes]
) -> None:
    name = next(iter(tiny))
    tiny[name] = b"something else"
    with pytest.raises(DataCorrupt, match="not the published file"):
        locate("fashion_mnist", None)
    assert not (keras_cache() / "fashion-mnist" / name).exists()


@pytest.mark.usefixtures("offline")
def test_several_processes_fetch_a_file_once(network: list[str]) -> None:
    threads = [threading.Thread(target=locate, args=("fashion_mnist", None)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(network) == 4


def test_an_unknown_data_set_suggests_the_nearest() -> None:
    with pytest.raises(DataError, match="there is no data set 'mnits'. Try: mnist"):
        locate("mnits", None)


def test_the_published_hashes_are_those_of_the_real_files(fashion_folder: Path) -> None:
    assert locate("fashion_mnist", fashion_folder) == fashion_folder


def test_digits_are_the_real_ones_scaled_to_bytes() -> None:
    images, labels = sources.source("digits").train(Path())
    held_out, _ = sources.source("digits").test(Path())
    assert images.dtype == np.uint8 and images.max() == 255 and images.shape[1:] == (8, 8)
    assert len(images) + len(held_out) == 1797 and set(labels) == set(range(10))
