"""The fork server: imports Keras once, while it has one thread, and forks every trial from there.

`python -m autofash.executors.server FD MODULE SCRATCH PID`: FD is the coordinator's socket, MODULE what to import first, SCRATCH
the temporary folder that it makes for itself and its children, PID the coordinator. It says `ready` with its thread count and the
way it starts children, then forks a child for every socket it is handed, and says `exited` for each that ends. When the
coordinator is gone, its children are killed and it ends.

Forking is safe while one thread runs and no device was touched; otherwise every trial is started afresh, ten seconds slower.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from autofash import failpoints
from autofash.executors.channel import ORDER, SCRATCH, Channel, Message
from autofash.executors.child import die_with_parent, serve


def main(descriptor: int, preload: str, scratch: Path, coordinator: int) -> None:
    """Serve until the coordinator is gone."""
    die_with_parent(coordinator)  # while it imports, it would not notice for ten seconds
    os.setsid()  # Ctrl-C in the terminal reaches the coordinator alone
    control = Channel(socket.socket(fileno=descriptor))
    try:
        _own(scratch)
        failpoints.arm()
        module = importlib.import_module(preload)
    except BaseException:
        told: Message = {"failed": traceback.format_exc()}
    else:
        unsafe = why_not_to_fork(module)
        told = {"ready": os.getpid(), "threads": threads(), "start": "spawn" if unsafe else "fork", "why": unsafe}
    try:
        control.send(told)
    except OSError:  # the coordinator is gone already
        told = {"failed": ""}
    if "failed" in told:
        return
    gc.collect()
    gc.freeze()  # the children share these pages; a collection would copy them
    _Server(control, fork=not unsafe).run()


def _own(scratch: Path) -> None:
    """Make the temporary folder, and remove those whose owners were killed with all their children.

    A folder is locked from before it has its name, for as long as this process or a child of it lives; so one that can be locked
    is nobody's. Process ids would not do: another container may see the same folder, and other processes.
    """
    for left in scratch.parent.glob(f"{SCRATCH}*"):
        with suppress(OSError):  # it is in use, another user's, or was removed in between
            lock = _locked(left)
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    beside = scratch.with_name(f".{scratch.name}")
    beside.mkdir(mode=0o700)
    _locked(beside)
    beside.rename(scratch)
    os.environ["TMPDIR"] = str(scratch)


def _locked(folder: Path) -> int:
    """A descriptor that locks a folder until it is closed, here and in all children. Raises OSError where another has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def threads() -> int:
    """Threads of this process; 0 where the system does not say."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


def why_not_to_fork(module: ModuleType) -> str:
    """The reason why children must be started afresh; empty when forking is safe."""
    if sys.platform != "linux":
        return f"forking with Keras loaded is not safe on {sys.platform}"
    if threads() != 1:
        return f"{threads()} threads run after importing {module.__name__}"
    if getattr(module, "device_touched", lambda: False)():
        return f"importing {module.__name__} touched a device"
    return ""


class _Server:
    def __init__(self, control: Channel, *, fork: bool) -> None:
        self._control, self._fork = control, fork
        self._orders: dict[int, int] = {}  # process → the order that it carries out
        self._spawned: dict[int, subprocess.Popen[bytes]] = {}
        self._wake, wakes = socket.socketpair()
        for end in (self._wake, wakes):
            end.setblocking(False)
        self._wakes = wakes
        signal.set_wakeup_fd(wakes.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._end())

    def run(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ)
        selector.register(self._wake, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is self._wake:
                    self._wake.recv(4096)
                    self._reap()
                elif not self._obey(selector):
                    self._end()

    def _obey(self, selector: selectors.BaseSelector) -> bool:
        """Start a child for the socket that comes; False when the coordinator is gone."""
        try:
            order, descriptors, _, _ = socket.recv_fds(self._control.sock, ORDER, 1)
        except ConnectionError:
            return False
        if len(order) < ORDER:
            return False
        number, descriptor = int.from_bytes(order, "big"), descriptors[0]
        self._orders[self._forked(descriptor, selector) if self._fork else self._started(descriptor)] = number
        os.close(descriptor)
        return True

    def _forked(self, descriptor: int, selector: selectors.BaseSelector) -> int:
        server = os.getpid()
        child = os.fork()
        if child:
            return child
        try:  # in the child: nothing of the server's may stay open, or a dead coordinator would go unnoticed
            die_with_parent(server)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            selector.close()
            self._control.close()
            self._wake.close()
            self._wakes.close()
            serve(Channel(socket.socket(fileno=descriptor)))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _started(self, descriptor: int) -> int:
        os.set_inheritable(descriptor, True)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "autofash.executors.child", str(descriptor), str(os.getpid())],
            pass_fds=(descriptor,),
        )
        self._spawned[process.pid] = process
        return process.pid

    def _reap(self) -> None:
        for pid in list(self._orders):
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                continue
            self._spawned.pop(pid, None)
            try:
                self._control.send({"exited": self._orders.pop(pid), "status": os.waitstatus_to_exitcode(status)})
            except OSError:
                self._end()

    def _end(self) -> None:
        for pid in self._orders:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        os._exit(0)


if __name__ == "__main__":
    sys.path.append(str(Path.cwd()))
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
