"""Optuna dashboard over a snapshot, asked over HTTP."""

import hashlib
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from autofash import loop
from autofash.errors import ResourceError
from autofash.request import SearchRequest
from autofash.study import dashboard, load_study
from autofash.study.dashboard import Dashboard

STORAGE = "sqlite:///studies/studies.db"


def search(trials: int) -> None:
    loop.search(SearchRequest(dataset="digits", space="mlp", trials=trials, epochs=2), task="tests.fakes:learn")


@pytest.fixture
def running() -> Iterator[Dashboard]:
    search(3)
    made = Dashboard(STORAGE, "digits-mlp", port=0)
    thread = threading.Thread(target=made.serve)
    thread.start()
    yield made
    made.close()
    thread.join()


def ask(running: Dashboard, path: str, method: str = "GET", host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    try:
        return answer.status, answer.read()
    finally:
        connection.close()


def test_the_address_leads_to_the_study_and_its_trials_are_there(running: Dashboard) -> None:
    assert running.address == f"http://127.0.0.1:{running.port}/dashboard/studies/1"
    assert ask(running, "/dashboard/studies/1")[0] == 200
    status, body = ask(running, "/api/studies/1?after=0")
    assert status == 200 and len(json.loads(body)["trials"]) == 3
    assert "validation accuracy" in str({**json.loads(body), "trials": None})


def test_the_snapshot_is_renewed_while_it_is_looked_at(running: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "RENEW_SECONDS", 0.0)
    search(5)
    assert ask(running, "/api/studies")[0] == 200
    assert len(json.loads(ask(running, "/api/studies/1?after=0")[1])["trials"]) >= 5


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_but_get_is_answered_and_the_ledger_stays_as_it_is(running: Dashboard, method: str) -> None:
    before = hashlib.sha256(Path("studies/studies.db").read_bytes()).hexdigest()
    assert ask(running, "/api/studies/1", method)[0] == 405
    assert hashlib.sha256(Path("studies/studies.db").read_bytes()).hexdigest() == before


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "0.0.0.0"])
def test_a_request_that_names_another_host_is_refused(running: Dashboard, host: str) -> None:
    assert ask(running, "/api/studies", host=host)[0] == 403


def test_only_the_loopback_is_listened_on(running: Dashboard) -> None:
    assert running._server.server_address[0] == "127.0.0.1"


def test_a_port_that_is_taken_is_refused_with_the_way_out(running: Dashboard) -> None:
    with pytest.raises(ResourceError, match="--port 0"):
        Dashboard(STORAGE, None, port=running.port)


def test_a_note_summarises_every_trial_that_has_ended(running: Dashboard) -> None:
    told = json.loads(ask(running, "/api/studies/1?after=0")[1])
    notes = [trial["note"]["body"] for trial in told["trials"]]
    assert len(notes) == 3
    for trial, note in zip(told["trials"], notes, strict=True):
        assert note.startswith(f"**Trial {trial['number']} ") and "% validation accuracy" in note
        assert "| learning_rate |" in note


def test_the_axes_bear_metric_and_unit(running: Dashboard) -> None:
    told = json.loads(ask(running, "/api/studies/1?after=0")[1])
    assert told["objective_names"] == ["validation accuracy (fraction, 0 to 1)"]


def test_pictures_of_a_study_are_shown_once_each_and_to_no_other_site(tmp_path: Path) -> None:
    search(2)
    study = load_study("digits-mlp")
    for content in (b"first", b"second"):
        (tmp_path / "confusion.png").write_bytes(content)
        study.attach(tmp_path / "confusion.png")
    made = Dashboard(STORAGE, "digits-mlp", port=0)
    thread = threading.Thread(target=made.serve)
    thread.start()
    try:
        [artifact] = json.loads(ask(made, "/api/studies/1?after=0")[1])["artifacts"]
        assert (artifact["filename"], artifact["mimetype"]) == ("confusion.png", "image/png")
        connection = http.client.HTTPConnection("127.0.0.1", made.port, timeout=10)
        connection.request("GET", f"/artifacts/1/{artifact['artifact_id']}")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"second")
        assert answer.headers["Access-Control-Allow-Origin"] is None
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        connection.close()
    finally:
        made.close()
        thread.join()
