"""A trial's own process, forked from the server or started afresh: runs one task and ends.

`python -m autofash.executors.child FD` is the way to start it where forking is not safe.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from dataclasses import asdict
from typing import NoReturn

from autofash import failpoints
from autofash.executors.channel import Channel
from autofash.executors.protocol import ending, reason, resolve
from autofash.records import Action, Said, TrialSpec, Verdict

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def serve(channel: Channel) -> NoReturn:
    """Run the task that the channel's first message describes, say how it ended, and end this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's
    told = channel.wait()
    if told is None:
        os._exit(0)
    spec = TrialSpec(**told[0])
    if spec.device:
        os.environ["CUDA_VISIBLE_DEVICES"] = spec.device
    verdicts: queue.SimpleQueue[Verdict] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, verdicts), daemon=True).start()

    def report(said: Said) -> Verdict:
        channel.send({"said": type(said).__name__, **asdict(said)})
        return verdicts.get()

    channel.send({"started": os.getpid()})
    scratch = ""
    try:
        _write_to(spec.log)
        scratch = tempfile.mkdtemp(prefix=f"trial-{spec.trial}-")
        tempfile.tempdir = os.environ["TMPDIR"] = scratch
        ended = {"ended": "done", "details": dict(resolve(spec.task)(spec, report))}
    except Exception as error:  # a trial may raise anything; that is its outcome
        ended = {"ended": ending(error).value, "reason": reason(error)}
        with suppress(OSError):  # the log lies on the disk that is full
            traceback.print_exc()
    for out in (sys.stdout, sys.stderr):
        with suppress(OSError):
            out.flush()
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    channel.send(ended)
    os._exit(0)  # no atexit, no joining of the backend's threads: the process has nothing left to say


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; at once when it ended already. Linux only."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _listen(channel: Channel, verdicts: queue.SimpleQueue[Verdict]) -> None:
    """Pass verdicts on; when the coordinator is gone, end this process in the midst of whatever it does."""
    while (messages := channel.wait()) is not None:
        for message in messages:
            verdicts.put(Verdict(Action(message["action"]), message["why"], message["value"]))
    os._exit(1)


def _write_to(log: str) -> None:
    """Send stdout and stderr, of C++ too, to the trial's log."""
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    with open(log or os.devnull, "ab", buffering=0) as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)


if __name__ == "__main__":
    failpoints.arm()
    die_with_parent(int(sys.argv[2]))
    serve(Channel(socket.socket(fileno=int(sys.argv[1]))))
