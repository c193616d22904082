"""Whoever looks on while a study is searched: twenty times a second, and nobody waits for anybody."""

import http.client
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from autofash.study.dashboard import Dashboard
from tests.cli.test_commands import autofash
from tests.faults import searching
from tests.faults.searching import STORAGE, STUDY, TOLD, USUAL, assert_kept

A_SECOND = 20  # requests
SLOWDOWN = 1.1
QUIET = "AUTOFASH_QUIET_MACHINE"  # set where nothing else runs, so that seconds can be compared


class Visitors:
    """Ask a running dashboard for a study, twenty times a second, until closed."""

    def __init__(self, port: int) -> None:
        self._port, self._over = port, threading.Event()
        self.answers: list[int] = []
        self._thread = threading.Thread(target=self._visit)
        self._thread.start()

    def _visit(self) -> None:
        begun = time.monotonic()
        while not self._over.wait(max(0.0, begun + len(self.answers) / A_SECOND - time.monotonic())):
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            connection.request("GET", ("/api/studies", "/api/studies/1?after=0")[len(self.answers) % 2])
            answer = connection.getresponse()
            answer.read()
            self.answers.append(answer.status)
            connection.close()

    def close(self) -> None:
        self._over.set()
        self._thread.join()


@contextmanager
def visited() -> Iterator[Visitors]:
    dashboard = Dashboard(STORAGE, STUDY, port=0)
    serving = threading.Thread(target=dashboard.serve)
    serving.start()
    visitors = Visitors(dashboard.port)
    try:
        yield visitors
    finally:
        visitors.close()
        dashboard.close()
        serving.join()


def usual(trials: int) -> list[str]:
    return [str(trials) if word == "12" else word for word in USUAL]


def test_a_study_that_is_looked_at_all_the_time_is_searched_as_ever_and_every_look_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.05")
    process = searching.begin(arguments=usual(30))
    out = searching.read_until(process, TOLD)
    with visited() as visitors:
        looks = 0
        while process.poll() is None and looks < 2:
            assert autofash("show").returncode == autofash("studies").returncode == 0
            looks += 1
        code, rest, err = searching.end(process)
    assert (code, err) == (0, "")
    assert len(visitors.answers) >= 10 and set(visitors.answers) == {200}
    assert_kept(out + rest, err, finished=30)


@pytest.mark.skipif(QUIET not in os.environ, reason=f"compares seconds: {QUIET}=1 where nothing else runs")
def test_a_dashboard_that_is_polled_slows_the_search_by_no_more_than_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.05")

    def seconds(study: str) -> float:
        process = searching.begin(arguments=[*usual(150), "--study", study])
        searching.read_until(process, TOLD)
        begun = time.monotonic()
        assert searching.end(process)[0] == 0
        return time.monotonic() - begun

    searching.search(arguments=usual(2))
    alone = seconds("alone")
    with visited():
        watched = seconds("watched")
    assert watched <= SLOWDOWN * alone, (alone, watched)
