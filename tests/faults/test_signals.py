"""Ctrl-C at any moment, from the first import to the last commit; the second one; and SIGTERM."""

import os
import random
import signal
import time

import pytest

from tests.executors.test_processes import alive, until
from tests.faults import searching
from tests.faults.searching import STARTED, assert_kept, assert_one_line

INSTANTS = int(os.environ.get("AUTOFASH_INSTANTS", "6"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_search_that_is_stopped_at_any_moment_ends_within_ten_seconds_and_the_next_one_goes_on(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.1")
    chance, out = random.Random(int(number)), ""
    for _ in range(INSTANTS):
        process = searching.begin()
        begun = searching.read_until(process, "READY")
        time.sleep(chance.uniform(0, 4))
        process.send_signal(number)
        asked = time.monotonic()
        returned, rest, err = searching.end(process)
        took, out = time.monotonic() - asked, out + begun + rest
        if returned == 0:
            break  # it was quicker
        assert took < 10
        # Before the search has begun, the system ends the process where SIGTERM comes, and Python where SIGINT comes in the midst
        # of an eval of its own; a shell says 143 and 130 in any case.
        assert returned in (code, -number)
        # Where it comes once all is said and Python itself ends, nothing is interrupted and nothing more is said.
        over = err == "" and "Nothing is left to do" in rest
        if returned != -signal.SIGTERM and not over:
            assert_one_line(err, "E-INTERRUPTED", "interrupted")
        assert_kept(out, err)
    returned, rest, err = searching.search()
    assert (returned, err) == (0, "")
    assert_kept(out + rest, err, finished=12)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_search_within_a_second_and_its_trials_with_it(number: int) -> None:
    process = searching.begin("spin")
    out = searching.read_until(process, STARTED)
    time.sleep(0.3)
    children = searching.family(process)
    process.send_signal(number)
    time.sleep(0.2)
    process.send_signal(number)
    asked = time.monotonic()
    code, rest, err = searching.end(process)
    assert code == 128 + number and time.monotonic() - asked < 1
    assert until(lambda: not any(alive(child) for child in children), seconds=2)
    assert_kept(out + rest, err)
