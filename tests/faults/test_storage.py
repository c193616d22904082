"""The ledger's file: a full disk, no right to write, locks, damage, other versions, a network, and a machine that stops."""

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from autofash.errors import AutofashError, LedgerError, ResourceError
from autofash.loop import SearchEvent, TrialEnded
from autofash.study import Study, StudyWriter, list_studies, load_study, soundness, storage
from autofash.study.storage import LOCK_SECONDS, open_storage
from tests.cli.test_commands import autofash
from tests.faults import searching
from tests.faults.searching import STARTED, STORAGE, STUDY, TOLD, USUAL, assert_kept, assert_one_line

LEDGER, BACKUP = Path("studies/studies.db"), Path("studies/studies.db.backup")
FLIPS = int(os.environ.get("AUTOFASH_FLIPS", "60"))  # damaged copies of a ledger
STOPS = int(os.environ.get("AUTOFASH_STOPS", "20"))  # moments at which a search is stopped and its ledger copied


def usual(trials: int) -> list[str]:
    """The usual search, of so many trials."""
    return [str(trials) if word == "12" else word for word in USUAL]


def digest(path: Path = LEDGER) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a study of three finished trials, to be copied, and what its search said."""
    folder = tmp_path_factory.mktemp("searched")
    with contextlib.chdir(folder):
        code, out, err = searching.search(arguments=usual(3))
    assert (code, err) == (0, "")
    return folder / "studies", out


@pytest.fixture
def study(searched: tuple[Path, str], workplace: Path) -> str:
    """A copy of it in the current folder, and what its search said."""
    folder, out = searched
    shutil.copytree(folder, workplace / "studies")
    return out


# -- a full disk -----------------------------------------------------------------------------------------------------------

ON_A_SMALL_DISK = """
mount -t tmpfs -o size="$1" none studies || exit 99
shift
"$@" > full.out 2> full.err
echo $? > full.code
cp -a studies/. full
mount -o remount,size=64m studies
"$@" > mended.out 2> mended.err
echo $? > mended.code
cp -a studies/. mended
"""


def test_a_disk_that_fills_up_ends_the_search_in_one_line_and_it_goes_on_once_there_is_room() -> None:
    for folder in ("studies", "full", "mended"):
        Path(folder).mkdir()
    command = searching.command(usual(30))
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", ON_A_SMALL_DISK, "sh", "200k", *command], capture_output=True, check=False
    )
    if done.returncode and not Path("full.code").exists():
        pytest.skip(f"this machine lets nobody mount a disk of his own: {done.stderr.decode()[:200]}")
    out, err = Path("full.out").read_text(), Path("full.err").read_text()
    assert Path("full.code").read_text() == "6\n"
    assert_one_line(err, "E-DISK-FULL", "the same command, once there is room")
    assert len(searching.acknowledged(out)) >= 3
    assert_kept(out, err, folder=Path("full"))
    out, err = out + Path("mended.out").read_text(), Path("mended.err").read_text()
    assert (Path("mended.code").read_text(), err) == ("0\n", "")
    assert_kept(out, err, folder=Path("mended"), finished=30)


def test_a_ledger_that_may_not_grow_any_more_is_a_full_disk_too(monkeypatch: pytest.MonkeyPatch, study: str) -> None:
    size = LEDGER.stat().st_size
    pragmas = storage._pragmas

    def full(connection: sqlite3.Connection, record: object) -> None:
        pragmas(connection, record)
        connection.execute(f"PRAGMA max_page_count = {size // 4096}")

    with monkeypatch.context() as small:
        small.setattr(storage, "_pragmas", full)
        with pytest.raises(ResourceError) as caught:
            again(40)
    assert (caught.value.code, caught.value.exit_code) == ("E-DISK-FULL", 6)
    assert_kept(study, str(caught.value))
    again(12)
    assert_kept(study, "", finished=12)


def again(trials: int, listen: object = None) -> Study:
    """The usual search once more, in this very process."""
    from autofash import loop
    from autofash.request import SearchRequest

    request = SearchRequest(dataset="digits", space="mlp", trials=trials, epochs=3, pruner="none")
    return loop.search(request, [listen] if listen else [], task="tests.fakes:learn")


# -- no right to write -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("locked", [LEDGER, LEDGER.parent])
def test_a_ledger_that_may_not_be_written_is_refused_before_anything_is_trained(study: str, locked: Path) -> None:
    before, mode = digest(), locked.stat().st_mode
    locked.chmod(0o555 if locked.is_dir() else 0o444)
    shutil.rmtree(LEDGER.parent / STUDY, ignore_errors=True)
    try:
        code, out, err = searching.end(searching.started(searching.bound_by_rights(searching.command(usual(6)))))
    finally:
        locked.chmod(mode)
    assert code == 4 and not searching.pids(out)
    assert_one_line(err, "E-DB-READONLY", "studies.db", "chmod u+rw")
    assert digest() == before
    assert searching.search(arguments=usual(6))[0] == 0
    assert_kept(study, err, finished=6)


# -- locks -----------------------------------------------------------------------------------------------------------------


@contextmanager
def locked() -> Iterator[None]:
    """Another program holds the ledger for itself."""
    with closing(sqlite3.connect(LEDGER, timeout=30, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


def test_a_search_waits_for_a_lock_says_so_after_five_seconds_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.05")
    process = searching.begin()
    out = searching.read_until(process, TOLD)
    with locked():
        time.sleep(soundness.WARN_SECONDS + 2)
    code, rest, err = searching.end(process)
    assert code == 0
    assert err == (
        "autofash: warning[W-DB-LOCKED]: studies/studies.db: another program has locked it; waiting for up to two minutes\n"
    )
    assert_kept(out + rest, err, finished=12)


def test_a_lock_that_is_never_given_up_ends_the_search_and_the_next_one_goes_on(
    monkeypatch: pytest.MonkeyPatch, study: str
) -> None:
    assert LOCK_SECONDS == 120
    monkeypatch.setattr(storage, "LOCK_SECONDS", 1.0)
    other = locked()

    def lock(event: SearchEvent) -> None:
        if isinstance(event, TrialEnded):
            other.__enter__()

    began = time.monotonic()
    with pytest.raises(LedgerError, match="studies.db: the database was locked for two minutes. Try: again") as caught:
        again(12, lock)
    assert (caught.value.code, caught.value.exit_code) == ("E-DB-LOCKED", 4)
    assert time.monotonic() - began < 60
    other.__exit__(None, None, None)
    assert_kept(study, str(caught.value))
    again(12)
    assert_kept(study, "", finished=12)


def test_slow_is_not_locked(study: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with storage.ledger_errors(STORAGE):  # whoever watches, watches from here on
        monkeypatch.setattr(soundness, "WARN_SECONDS", 0.1)
        time.sleep(1.5)
    assert not caplog.records
    with locked(), storage.ledger_errors(STORAGE):
        time.sleep(1.5)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# -- damage ----------------------------------------------------------------------------------------------------------------


def damage(whole: bytes, chance: random.Random) -> bytes:
    """The file cut short, or with one to eight bytes that are others."""
    if chance.random() < 0.3:
        return whole[: chance.randrange(len(whole))]
    flipped = bytearray(whole)
    for _ in range(chance.randint(1, 8)):
        # Most of a young ledger are empty pages: half of the flips hit the first ones, and text.
        place = chance.randrange(len(whole)) if chance.random() < 0.5 else chance.choice(told_in(whole))
        flipped[place] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def told_in(whole: bytes) -> list[int]:
    return [place for place in range(0, len(whole), 7) if whole[place]]


def test_a_damaged_ledger_is_refused_in_one_line_or_read_and_never_a_crash_and_what_is_refused_is_not_touched(
    study: str,
) -> None:
    whole, settings, refused = LEDGER.read_bytes(), load_study(STUDY).settings, 0
    BACKUP.unlink(missing_ok=True)
    chance = random.Random(5)
    for _ in range(FLIPS):
        bad = damage(whole, chance)
        LEDGER.write_bytes(bad)
        for use in (
            list_studies,
            lambda: load_study(STUDY).trials(),
            lambda: StudyWriter(STUDY, STORAGE, settings, target=None).close(),
        ):
            try:
                use()
            except AutofashError as error:
                refused += 1
                assert "\n" not in str(error)
                if error.code == "E-DB-CORRUPT":
                    assert error.exit_code == 4 and digest() == hashlib.sha256(bad).hexdigest()
        for left in (BACKUP, *LEDGER.parent.glob("studies.db-*")):
            left.unlink(missing_ok=True)
    assert refused > FLIPS / 4


def test_the_command_that_is_named_for_a_damaged_ledger_brings_it_back_as_the_last_search_found_it(study: str) -> None:
    assert searching.search(arguments=usual(5))[0] == 0
    assert soundness.backup_of(LEDGER) == BACKUP and BACKUP.stat().st_mode & 0o777 == 0o600
    whole = LEDGER.read_bytes()
    LEDGER.write_bytes(whole[: len(whole) // 2])
    cut = digest()
    code, _, err = searching.search(arguments=usual(5))
    assert code == 4 and digest() == cut
    assert_one_line(err, "E-DB-CORRUPT", "Try: cp studies/studies.db.backup studies/studies.db, the ledger as")
    shutil.copy(BACKUP, LEDGER)
    assert searching.search(arguments=usual(5))[0] == 0
    assert_kept(study, "", finished=5)


def test_a_ledger_that_lost_all_its_bytes_is_not_taken_for_a_new_one(study: str) -> None:
    again(4)
    LEDGER.write_bytes(b"")
    code, _, err = searching.search()
    assert code == 4 and LEDGER.read_bytes() == b""
    assert_one_line(err, "E-DB-CORRUPT", "the file is empty")


def test_a_damaged_ledger_is_never_copied_over_its_backup(study: str) -> None:
    again(4)
    kept = digest(BACKUP)
    whole = LEDGER.read_bytes()
    LEDGER.write_bytes(whole[:8192] + b"\xff" * 4096 + whole[12288:])
    with pytest.raises(LedgerError, match="is damaged, and was not touched"):
        again(6)
    assert digest(BACKUP) == kept


# -- other versions --------------------------------------------------------------------------------------------------------


def test_the_version_of_the_tables_that_autofash_reads_is_the_one_that_optuna_makes(study: str) -> None:
    assert open_storage(STORAGE).get_head_version() == soundness.REVISION


def test_a_ledger_of_a_newer_optuna_is_refused_with_both_versions_and_not_touched(study: str) -> None:
    with sqlite3.connect(LEDGER) as database:
        database.execute("UPDATE alembic_version SET version_num = 'v9.1.0.a'")
    before = digest()
    for command in (["show"], ["studies"], USUAL):
        done = autofash(*command)
        assert done.returncode == 4
        assert_one_line(done.stderr, "E-DB-NEWER", "v9.1.0.a, newer than v3.2.0.a of Optuna 5", "pip install --upgrade")
    assert digest() == before


def make_older() -> None:
    """As Optuna 3.0 and 3.1 made it; what Optuna's own downgrade does (its migration v3.2.0.a)."""
    with sqlite3.connect(LEDGER) as database:
        database.execute("DROP INDEX ix_trials_study_id")
        database.execute("UPDATE alembic_version SET version_num = 'v3.0.0.d'")


def test_a_ledger_of_an_older_optuna_is_refused_until_it_is_upgraded_which_backs_it_up_first(study: str) -> None:
    make_older()
    before = digest()
    for command in (["show"], USUAL):
        done = autofash(*command)
        assert done.returncode == 4
        assert_one_line(done.stderr, "E-DB-OLDER", "v3.0.0.d, older than v3.2.0.a", "Try: autofash studies --upgrade")
    assert digest() == before
    done = autofash("studies", "--upgrade")
    assert done.returncode == 0 and STUDY in done.stdout
    [kept] = re.findall(r"the file as it was: (\S+)", done.stdout)
    with closing(sqlite3.connect(kept)) as old:
        assert old.execute("SELECT version_num FROM alembic_version").fetchone() == ("v3.0.0.d",)
        assert old.execute("SELECT count(*) FROM trials").fetchone() == (3,)
    assert "up to date" in autofash("studies", "--upgrade").stdout
    assert searching.search(arguments=usual(6))[0] == 0
    assert_kept(study, "", finished=6)


def test_a_ledger_is_not_upgraded_while_a_study_of_it_is_searched(study: str) -> None:
    process = searching.begin("spin", usual(6))
    searching.read_until(process, STARTED)
    try:
        assert_one_line(autofash("studies", "--upgrade").stderr, "E-STUDY-BUSY", f"process {process.pid} is searching")
    finally:
        process.kill()
        searching.end(process)


# -- somebody else ---------------------------------------------------------------------------------------------------------


def test_a_second_search_with_another_space_is_told_the_difference_at_once_and_nothing_is_mixed() -> None:
    """At once: not only when the first one is over, which may take a night."""
    other = Path("other.toml")
    other.write_text('format = 1\nfamily = "mlp"\n[params.width]\ntype = "int"\nlow = 8\nhigh = 64\n')
    first = searching.begin("spin")
    out = searching.read_until(first, STARTED)
    words = ["other.toml" if word == "mlp" else word for word in USUAL]
    code, _, err = searching.search(arguments=[*words, "--study", STUDY])
    first.kill()
    searching.end(first)
    assert code == 4
    assert_one_line(err, "E-SPACE-MISMATCH", "another space", "width {values", "--new-study")
    code, rest, err = searching.search()
    assert (code, err) == (0, "")
    assert_kept(out + rest, err, finished=12)
    assert {trial.config["family"] for trial in load_study(STUDY).trials()} == {"mlp"}
    assert all("depth" in trial.config for trial in load_study(STUDY).trials()), "every config is of the first space"


# -- a network -------------------------------------------------------------------------------------------------------------

MOUNTED = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 22 0:45 / {} rw,relatime shared:20 - {} server:/export rw,vers=4.2
41 22 0:46 / /somewhere\\040else rw - tmpfs none rw
"""


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs"])
def test_a_ledger_on_a_network_file_system_is_refused_and_nothing_is_made_there(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workplace: Path, study: str
) -> None:
    settings = load_study(STUDY).settings
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTED.format(workplace / "shared", kind))
    monkeypatch.setattr(soundness, "MOUNTS", mounts)
    with pytest.raises(LedgerError, match=rf"shared/s.db: it lies on a network file system \({kind}\)") as caught:
        StudyWriter(STUDY, "sqlite:///shared/s.db", settings, target=None)
    assert (caught.value.code, caught.value.exit_code) == ("E-DB-NETWORK", 4)
    assert not Path("shared").exists()
    StudyWriter(STUDY, STORAGE, settings, target=None).close()


def test_the_file_system_of_a_path_is_that_of_the_innermost_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTED.format("/data", "nfs4"))
    monkeypatch.setattr(soundness, "MOUNTS", tmp_path / "mountinfo")
    kinds = {place: soundness.file_system(Path(place)) for place in ("/data/x.db", "/database/x", "/somewhere else/x")}
    assert kinds == {"/data/x.db": "nfs4", "/database/x": "ext4", "/somewhere else/x": "tmpfs"}
    monkeypatch.setattr(soundness, "MOUNTS", tmp_path / "nothing")
    assert soundness.file_system(Path("/data/x.db")) == "", "where the system does not say, nobody is refused"


# -- a machine that stops --------------------------------------------------------------------------------------------------


def test_at_whatever_moment_the_machine_stops_what_lies_on_its_disk_is_a_ledger_that_can_be_resumed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SIGSTOP, then a copy of the ledger with its journal: what a machine that was switched off would find.

    That a commit was on the disk when it was told is SQLite's promise; that we ask it to sync is another test's.
    """
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.02")
    process = searching.begin(arguments=usual(200))
    out = searching.read_until(process, TOLD)
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    chance, copies = random.Random(7), []
    for number in range(STOPS):
        time.sleep(chance.uniform(0, 0.06))
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        with suppress(TypeError, BlockingIOError):
            out += process.stdout.read() or ""
        copy = tmp_path / str(number) / "studies"
        copy.mkdir(parents=True)
        for file in LEDGER.parent.glob("studies.db*"):
            shutil.copy(file, copy)
        copies.append((copy, out[: out.rfind("\n") + 1]))
        os.kill(process.pid, signal.SIGCONT)
    process.kill()
    os.set_blocking(process.stdout.fileno(), True)
    searching.end(process)
    settings = load_study(STUDY).settings
    for copy, told in copies:
        assert_kept(told, "", folder=copy)
        StudyWriter(STUDY, f"sqlite:///{copy}/studies.db", settings, target=None).close()
        assert_kept(told, "", folder=copy, workers=())
    copy, told = copies[-1]
    shutil.rmtree("studies")
    shutil.copytree(copy, "studies")
    total = len(searching.acknowledged(told)) + 5
    assert searching.search(arguments=usual(total))[0] == 0
    assert_kept(told, "", finished=total)
