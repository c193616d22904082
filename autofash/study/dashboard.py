"""Optuna dashboard over a snapshot of the ledger: looking at a study can neither change it nor slow its search.

The dashboard itself has no authentication and would delete a study for whoever asks. So it is served on the loopback only, to
requests that name it as their host, GET only, and it never sees the ledger but a copy, renewed while somebody looks.
Notes on the trials are written into the copy, so that a search pays nothing for them.
"""

from __future__ import annotations

import json
import socketserver
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
import optuna_dashboard
import sqlalchemy.exc
from optuna.artifacts import FileSystemArtifactStore
from optuna.trial import FrozenTrial
from optuna_dashboard._note import note_str_key_prefix, note_ver_key

from autofash.errors import AutofashError, ResourceError
from autofash.records import State, TrialRecord
from autofash.study.ledger import FORMAT, Study
from autofash.study.storage import artifact_store, ledger_errors, open_storage, sqlite_path

HOST = "127.0.0.1"
RENEW_SECONDS = 2.0
Start = Callable[..., Any]


class Dashboard:
    """A running dashboard; `address` is where to look, `serve` blocks until `close` is called or Ctrl-C comes."""

    def __init__(self, storage: str, study: str | None = None, port: int = 8080) -> None:
        """port: 0 for any that is free. Raises ResourceError when the port is taken, LedgerError."""
        self._folder = tempfile.TemporaryDirectory(prefix="autofash-dashboard-")
        try:
            self._open(storage, study, port)
        except BaseException:
            self._folder.cleanup()
            raise

    def _open(self, storage: str, study: str | None, port: int) -> None:
        with ledger_errors(storage):
            snapshot = _Snapshot(storage, Path(self._folder.name) / "snapshot.db")
            served = open_storage(snapshot.storage)
            number = next((found._study_id for found in served.get_all_studies() if found.study_name == study), None)
        app = optuna_dashboard.wsgi(served, artifact_store=FileSystemArtifactStore(artifact_store(storage)))
        try:
            self._server = make_server(HOST, port, _guarded(app, snapshot), server_class=_Server, handler_class=_Quiet)
        except OSError as error:
            raise ResourceError(f"port {port} cannot be had: {error.strerror}", "--port 0", code="E-PORT") from None
        self.port = int(self._server.server_port)
        self.address = f"http://{HOST}:{self.port}/dashboard" + (f"/studies/{number}" if number is not None else "")

    def serve(self) -> None:
        """Answer requests until closed."""
        try:
            self._server.serve_forever(poll_interval=0.2)
        finally:
            self._server.server_close()
            self._folder.cleanup()

    def close(self) -> None:
        """Make `serve` return; from another thread."""
        self._server.shutdown()


class _Snapshot:
    """A copy of the ledger, renewed at most every RENEW_SECONDS, and only when asked for."""

    def __init__(self, storage: str, path: Path) -> None:
        self._source, self._path = storage, path
        self._renewed = 0.0
        self._notes: dict[int, list[tuple[int, str, str]]] = {}  # by Optuna's id of the trial, which has ended
        self._lock = threading.Lock()
        self.storage = f"sqlite:///{path}"
        self.renew()

    def renew(self) -> None:
        """Copy the ledger again if the copy is old."""
        with self._lock:
            if time.monotonic() - self._renewed < RENEW_SECONDS and self._path.exists():
                return
            source = sqlite_path(self._source)
            if source is not None:
                reading, writing = (
                    sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=30.0),
                    sqlite3.connect(self._path, timeout=30.0),
                )
                try:
                    reading.backup(writing)  # one short read transaction: the search waits for milliseconds at most
                finally:
                    reading.close()
                    writing.close()
            else:
                self._notes.clear()  # copies are numbered anew each time
                fresh = self._path.with_suffix(".new")
                fresh.unlink(missing_ok=True)
                for found in open_storage(self._source).get_all_studies():
                    optuna.copy_study(
                        from_study_name=found.study_name,
                        from_storage=self._source,
                        to_storage=f"sqlite:///{fresh}",
                        to_study_name=found.study_name,
                    )
                with sqlite3.connect(fresh) as reading, sqlite3.connect(self._path, timeout=30.0) as writing:
                    reading.backup(writing)
            self._annotate()
            self._renewed = time.monotonic()

    def _annotate(self) -> None:
        """Write a note on each trial that has ended; in one transaction, where the dashboard's own way needs two a note."""
        snapshot = open_storage(self.storage)
        for found in snapshot.get_all_studies():
            trials = snapshot.get_all_trials(found._study_id, deepcopy=False)
            new = [trial for trial in trials if trial.state.is_finished() and trial._trial_id not in self._notes]
            if new and found.user_attrs.get("format") == FORMAT:
                study = Study(found.study_name, self.storage)
                self._notes.update({trial._trial_id: _note(study, trial) for trial in new})
        snapshot.engine.dispose()
        with sqlite3.connect(self._path, timeout=30.0) as writing:
            writing.executemany(
                "INSERT OR IGNORE INTO study_system_attributes (study_id, key, value_json) VALUES (?, ?, ?)",
                [row for rows in self._notes.values() for row in rows],
            )


def _note(study: Study, trial: FrozenTrial) -> list[tuple[int, str, str]]:
    """The rows that make a trial's note, as the dashboard looks for them: its version, and its text."""
    text = summary_of(study.record(trial), study.settings.objective)
    return [
        (study.number, note_ver_key(trial._trial_id), json.dumps(1)),
        (study.number, note_str_key_prefix(trial._trial_id) + "0", json.dumps(text[:2000])),
    ]


def summary_of(record: TrialRecord, objective: str) -> str:
    """A trial in a few lines of Markdown."""
    what = objective.replace("_", " ")
    value = f"{100 * record.value:.2f} % validation {what}" if record.value is not None else "no epoch finished"
    lines = [f"**Trial {record.number} {record.state}: {value}**", ""]
    if record.best_epoch:
        lines.append(f"- best in epoch {record.best_epoch} of {len(record.curve)}, {record.seconds:.0f} s in all")
    if record.why:
        lines.append(f"- {'pruned' if record.state is State.PRUNED else 'why'}: {record.why}")
    lines += [f"- {record.origin}, seed {record.seed}", "", "| parameter | value |", "|---|---|"]
    lines += [
        f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in record.config.items()
    ]
    return "\n".join(lines)


def _guarded(
    app: Callable[[dict[str, Any], Start], Iterable[bytes]], snapshot: _Snapshot
) -> Callable[[dict[str, Any], Start], Iterable[bytes]]:
    """The app behind a check of host and method, its snapshot renewed before it answers."""

    def answer(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        host = str(environ.get("HTTP_HOST", "")).rsplit(":", 1)[0]
        if host not in (HOST, "localhost"):
            return _refuse(start, "403 Forbidden", "This dashboard answers to 127.0.0.1 and localhost only.")
        if environ["REQUEST_METHOD"] != "GET":
            return _refuse(
                start, "405 Method Not Allowed", "This dashboard shows a snapshot: nothing can be changed here."
            )
        if str(environ.get("PATH_INFO", "")).startswith("/api/studies"):
            try:
                snapshot.renew()
            except (sqlite3.Error, sqlalchemy.exc.SQLAlchemyError, AutofashError):
                pass  # the copy of a moment ago serves

        def start_guarded(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            # The dashboard lets every page of the web read artifacts (CORS *); ours are the user's own.
            kept = [(name, value) for name, value in headers if name.lower() != "access-control-allow-origin"]
            return start(status, [*kept, ("X-Content-Type-Options", "nosniff")], *more)

        return app(environ, start_guarded)

    return answer


def _refuse(start: Start, status: str, text: str) -> Iterable[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [text.encode()]


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal is the user's."""
