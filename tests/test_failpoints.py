"""What a failpoint is, by itself; `tests.faults.test_failpoints` has whole commands fail at each."""

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from autofash import failpoints
from autofash.errors import UsageError
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def unarmed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    failpoints.arm()


def arm(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, told)
    failpoints.arm()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_from_its_passage_on_it_fails_as_a_disk_does(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arm(f"tell:{errno.errorcode[number].lower()}:3", monkeypatch)
    failpoints.reach("tell")
    failpoints.reach("ask")
    failpoints.reach("tell")
    for _ in range(2):
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            failpoints.reach("tell")
        assert caught.value.errno == number


def test_it_kills() -> None:
    program = "from autofash import failpoints; failpoints.arm(); failpoints.reach('ask'); print('alive')"
    environment = {**os.environ, failpoints.VARIABLE: "ask:kill"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("tel:kill", "AUTOFASH_FAILPOINT: there is no failpoint 'tel'. Try: tell"),
        ("tell", "there is no failpoint's action ''. Try: eio, enospc, kill"),
        ("tell:explode", "there is no failpoint's action 'explode'"),
        ("tell:kill:0", "'0' is no passage, counted from 1. Try: tell:kill:1"),
        ("tell:kill:", "'' is no passage"),
        ("tell:kill:2:3", "'2:3' is no passage"),
    ],
)
def test_what_is_none_is_refused_with_what_there_is(told: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        arm(told, monkeypatch)


def test_a_command_refuses_it_in_one_line() -> None:
    environment = {**os.environ, failpoints.VARIABLE: "tel:kill"}
    done = subprocess.run(
        [sys.executable, "-m", "autofash", "studies"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("autofash: error[E-USAGE]: AUTOFASH_FAILPOINT: there is no failpoint 'tel'. Try: tell\n")


def test_every_point_is_somewhere_and_no_other() -> None:
    passages = re.compile(r"(?:reach|at_once)\(\"(\w+)\"\)|\bput\(.*, \"(\w+)\"\)")
    sources = "".join(path.read_text() for path in (ROOT / "autofash").rglob("*.py"))
    assert {first or second for first, second in passages.findall(sources)} == set(failpoints.POINTS)
