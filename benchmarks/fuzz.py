"""Every parser, fed with what nobody would write: no traceback, nothing executed, bounded memory, each refusal one line.

python benchmarks/fuzz.py                          # all parsers, 20,000 to 100,000 inputs each: half an hour
python benchmarks/fuzz.py --parser idx --count 500
make fuzz                                          # installs atheris first

atheris chooses inputs by the code that they reach. Where it cannot be had, a mutator of our own takes its place, and it is said:
the same seed gives the same inputs. Each parser runs in a process of its own that is watched: one that crashes, or stands still
for a minute, is counted and started again behind the input that did it. What fails is kept under fuzz-found/.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import mmap
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from fuzz_parsers import PARSERS, Parser  # noqa: E402

FOUND = Path("fuzz-found")
MOST_MEGABYTES = 200  # that an input may cost beyond what the process had
MOST_SECONDS = 5.0  # of one input, on a machine that may be busy
STALL_SECONDS = 60.0  # without a next input, before a process is taken for hung
MOST_CRASHES = 20  # of a parser, before it is given up
MOST_KEPT = 20  # failing inputs of a parser
LONGEST_LINE = 2000  # characters of a refusal; a path may be long
EXIT_CODES = {2, 3, 4, 5, 6, 7}
COUNTS = ("inputs", "refused", "accepted", "tracebacks", "canaries", "slow", "kilobytes")
INSTRUMENTED = ["autofash", "tomllib", "json", "gzip", "zipfile", "tarfile", "PIL"]
# What no parser has business with; besides these, opening a file to write it.
FORBIDDEN = {
    *(
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "os.forkpty",
        "os.kill",
        "os.putenv",
        "os.chmod",
        "os.chown",
    ),
    *(
        "os.remove",
        "os.rename",
        "os.mkdir",
        "os.rmdir",
        "os.link",
        "os.symlink",
        "os.truncate",
        "shutil.unpack_archive",
    ),
    *("subprocess.Popen", "pickle.find_class", "socket.connect", "socket.bind", "socket.getaddrinfo", "ctypes.dlopen"),
}


class Counts:
    """What happened so far, in a file that outlives the process that counts."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8 * len(COUNTS)))
        with path.open("r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")

    def __getitem__(self, name: str) -> int:
        return self._cells[COUNTS.index(name)]

    def add(self, name: str) -> None:
        """One more."""
        self._cells[COUNTS.index(name)] += 1

    def highest(self, name: str, value: int) -> None:
        """The value, if it is the highest so far."""
        self._cells[COUNTS.index(name)] = max(self[name], value)


class Canary:
    """Sings when anything is executed, written or asked of the network while it listens."""

    def __init__(self) -> None:
        self.listening = False
        self.heard: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.listening:
            return
        writes = (
            event == "open"
            and isinstance(arguments[2], int)
            and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        )
        strange = event == "import" and str(arguments[0]).startswith("canary")
        if event in FORBIDDEN or writes or strange:
            self.heard.append(f"{event} {arguments!r}"[:500])
            raise RuntimeError("no parser may do that")


class Feeder:
    """Feeds a parser, input by input, and counts."""

    def __init__(self, parser: Parser, folder: Path, counts: Counts, canary: Canary) -> None:
        self._parser, self._counts, self._canary = parser, counts, canary
        self._path = folder / "fed" / parser.file
        self._path.parent.mkdir(exist_ok=True)
        if parser.beside:
            (self._path.parent / parser.beside[0]).write_bytes(parser.beside[1])
        self._given = folder / "input"  # what was fed last, for whoever finds this process dead
        self._kept = folder / "kept"
        self._memory = Memory()

    def feed(self, given: bytes) -> None:
        """Feed one input."""
        self._given.write_bytes(given)
        self._path.write_bytes(self._parser.content(given))
        self._counts.add("inputs")
        self._canary.heard.clear()
        self._memory.begin()
        began = time.monotonic()
        failure = self._read()
        seconds, kilobytes = time.monotonic() - began, self._memory.grown()
        self._counts.highest("kilobytes", kilobytes)
        if Path("canary").exists() or self._canary.heard:
            self._counts.add("canaries")
            failure = f"{failure}\ncanary: {self._canary.heard}"
            Path("canary").unlink(missing_ok=True)
        if seconds > MOST_SECONDS:
            self._counts.add("slow")
            failure = f"{failure}\n{seconds:.1f} seconds"
        if kilobytes > MOST_MEGABYTES * 1024:
            failure = f"{failure}\n{kilobytes / 1024:.0f} MB"
        if failure:
            keep(self._kept, given, failure)

    def _read(self) -> str:
        """What is wrong with how the parser took its file; empty where nothing is."""
        from autofash.errors import AutofashError

        self._canary.listening = True
        try:
            self._parser.read(self._path)
        except AutofashError as error:
            self._canary.listening = False
            self._counts.add("refused")
            lines = [str(problem) for problem in error.problems]
            good = lines and all(line.isprintable() and 0 < len(line) <= LONGEST_LINE for line in lines)
            if good and error.exit_code in EXIT_CODES and error.code.startswith("E-"):
                return ""
            self._counts.add("tracebacks")
            return f"refused, but not on one line with an exit code: {error.code} {error.exit_code} {lines}"[:5000]
        except BaseException:
            self._canary.listening = False
            self._counts.add("tracebacks")
            return traceback.format_exc()
        self._canary.listening = False
        self._counts.add("accepted")
        return ""


class Memory:
    """How far memory rises between two moments. Linux tells exactly; elsewhere, how far the highest peak rises."""

    def __init__(self) -> None:
        self._reset = self._now = None
        try:
            self._reset, self._now = (
                os.open("/proc/self/clear_refs", os.O_WRONLY),
                os.open("/proc/self/statm", os.O_RDONLY),
            )
        except OSError:
            pass
        self._before = 0  # kilobytes

    def begin(self) -> None:
        """From here on."""
        self._before = _peak()
        if self._reset is not None and self._now is not None:
            os.write(self._reset, b"5")
            self._before = int(os.pread(self._now, 100, 0).split()[1]) * (mmap.PAGESIZE // 1024)

    def grown(self) -> int:
        """Kilobytes, at most."""
        return max(0, _peak() - self._before)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)


def keep(folder: Path, given: bytes, why: str) -> None:
    """Keep an input that failed, with the reason, unless there are many already."""
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("*.txt")))
    if number < MOST_KEPT:
        (folder / f"{number}.input").write_bytes(given)
        (folder / f"{number}.txt").write_text(why)


# -- a mutator of our own ------------------------------------------------------------------------------------------------------


def mutated(seeds: Sequence[bytes], words: Sequence[bytes], dice: random.Random) -> bytes:
    """One of the seeds, changed in one to eight places."""
    content = bytearray(dice.choice(seeds))
    for _ in range(min(8, 1 + int(dice.expovariate(0.6)))):
        place = dice.randrange(len(content) + 1)
        end = min(len(content), place + 1 + int(dice.expovariate(0.1)))
        match dice.randrange(9):
            case 0 if place < len(content):
                content[place] ^= 1 << dice.randrange(8)
            case 1 if place < len(content):
                content[place] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
            case 2:
                del content[place:end]
            case 3:
                content[place:place] = content[place:end] * dice.choice((1, 1, 2, 100))
            case 4:
                content[place:place] = dice.randbytes(1 + int(dice.expovariate(0.3)))
            case 5 if words:
                content[place:place] = dice.choice(words)
            case 6 if words:
                content[place:end] = dice.choice(words)
            case 7 if dice.random() < 0.3:
                del content[place:]
            case 8:
                other = dice.choice(seeds)
                start = dice.randrange(len(other))
                content[place:end] = other[start : start + dice.randrange(1, 200)]
    return bytes(content)


# -- the process that feeds ----------------------------------------------------------------------------------------------------


def feed(parser: Parser, folder: Path, count: int, seed: int, *, guided: bool) -> None:
    """Feed a parser until it has had so many inputs, those of earlier processes included."""
    if guided:
        import atheris

        with atheris.instrument_imports(include=INSTRUMENTED):
            warm_up(parser, folder)
    else:
        warm_up(parser, folder)
    counts, canary = Counts(folder / "counts"), Canary()
    feeder, seeds = Feeder(parser, folder, counts, canary), parser.seeds()
    os.chdir(folder / "fed")
    if not guided:
        while (number := counts["inputs"]) < count:
            dice = random.Random(f"{seed}/{parser.name}/{number}")
            feeder.feed(seeds[number] if number < len(seeds) else mutated(seeds, parser.words, dice))
        return

    def take(given: bytes) -> None:
        if counts["inputs"] >= count:
            os._exit(0)
        feeder.feed(given)

    corpus, words = folder / "corpus", folder / "words"
    if not corpus.exists():
        corpus.mkdir()
        for number, content in enumerate(seeds):
            (corpus / f"seed-{number}").write_bytes(content)
        quoted = ("".join(f"\\x{byte:02x}" for byte in word[:60]) for word in parser.words)
        words.write_text("".join(f'"{word}"\n' for word in quoted))
    # atheris takes a timeout of 0 for a limit: an input that decoded for a second, watched as it is, counted as a crash.
    options = [
        "-max_len=65536",
        f"-timeout={STALL_SECONDS:.0f}",
        "-rss_limit_mb=0",
        "-verbosity=0",
        f"-artifact_prefix={folder}/",
    ]
    # Another seed after a crash, so that it is not met again at once.
    options.append(f"-seed={1 + seed * 1000 + counts['inputs'] % 997}")
    if parser.words:  # libFuzzer refuses an empty dictionary
        options.append(f"-dict={words}")
    atheris.Setup([sys.argv[0], *options, str(corpus)], take)
    atheris.Fuzz()


def warm_up(parser: Parser, folder: Path) -> None:
    """Read a whole file first: what is imported and cached once is no input's doing."""
    path = folder / "fed" / parser.file
    path.parent.mkdir(exist_ok=True)
    if parser.beside:
        (path.parent / parser.beside[0]).write_bytes(parser.beside[1])
    for given in parser.seeds():
        path.write_bytes(parser.content(given))
        try:
            parser.read(path)
        except Exception:  # it is fed again, and counted then
            pass


# -- the process that watches --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """What a parser did with its inputs."""

    parser: str
    inputs: int
    refused: int
    accepted: int
    tracebacks: int  # refusals that are not one line with an exit code among them
    canaries: int
    crashes: int  # of the process, and times that it stood still
    slow: int  # inputs that took more than MOST_SECONDS
    megabytes: float  # that the dearest input cost
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether nothing happened that may not."""
        return not (self.tracebacks or self.canaries or self.crashes or self.slow or self.megabytes > MOST_MEGABYTES)


def watch(parser: Parser, count: int, seed: int, *, guided: bool) -> Row:
    """Have a parser fed by processes of its own, and start another where one dies."""
    began, crashes = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="autofash-fuzz-") as made:
        folder = Path(made)
        counts = Counts(folder / "counts")
        command = [sys.executable, __file__, "--feed", str(folder), "--parser", parser.name, "--count", str(count)]
        while counts["inputs"] < count and crashes < MOST_CRASHES:
            before = counts["inputs"]
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen(
                    [*command, "--seed", str(seed), *([] if guided else ["--own"])],
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                )
                _wait(process, counts)
            if process.returncode or counts["inputs"] == before:
                crashes += 1
                tail = (folder / "log").read_text(errors="replace")[-3000:]
                if not counts["inputs"]:
                    sys.exit(f"{parser.name}: nothing could be fed\n{tail}")
                given = (folder / "input").read_bytes() if (folder / "input").exists() else b""
                keep(FOUND / parser.name, given, f"the process ended with {process.returncode}\n{tail}")
        if (folder / "kept").exists():
            shutil.copytree(folder / "kept", FOUND / parser.name, dirs_exist_ok=True)
        return Row(
            parser.name,
            *(counts[name] for name in COUNTS[:5]),
            crashes=crashes,
            slow=counts["slow"],
            megabytes=counts["kilobytes"] / 1024,
            seconds=time.monotonic() - began,
        )


def _wait(process: subprocess.Popen[bytes], counts: Counts) -> None:
    """Wait until the process ends; kill it when it stands still."""
    seen, moved = counts["inputs"], time.monotonic()
    try:
        while process.poll() is None:
            time.sleep(0.05)
            if counts["inputs"] != seen:
                seen, moved = counts["inputs"], time.monotonic()
            elif time.monotonic() - moved > STALL_SECONDS:
                break
    finally:
        process.kill()
        process.wait()


def main() -> NoReturn:
    """Feed the chosen parsers, print a row for each, and end with 1 where anything happened that may not."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parser", choices=PARSERS, action="append", help="only this one; may be repeated")
    options.add_argument("--count", type=int, help="inputs for each parser (default: 20,000 to 100,000)")
    options.add_argument("--seed", type=int, default=0, help="of the inputs (default: 0)")
    options.add_argument("--own", action="store_true", help="use our own mutator even where atheris is installed")
    options.add_argument("--feed", type=Path, help=argparse.SUPPRESS)  # the folder of a process that feeds
    told = options.parse_args()
    guided = not told.own and importlib.util.find_spec("atheris") is not None
    chosen = told.parser or list(PARSERS)
    if told.feed:
        feed(PARSERS[chosen[0]], told.feed, told.count, told.seed, guided=guided)
        sys.exit(0)
    if guided:
        print(f"inputs by atheris {importlib.metadata.version('atheris')}, guided by coverage, seed {told.seed}")
    else:
        why = "as asked" if told.own else "atheris is not installed: make fuzz installs it where it can be had"
        print(f"inputs by a mutator of our own, blind to coverage, seed {told.seed} ({why})")
    print(
        f"{'parser':<12}{'inputs':>9}{'refused':>9}{'accepted':>9}{'tracebacks':>11}{'canaries':>9}{'crashes':>8}",
        end="",
    )
    print(f"{'slow':>6}{'peak MB':>9}{'seconds':>9}", flush=True)
    clean = True
    for name in chosen:
        row = watch(PARSERS[name], told.count or PARSERS[name].count, told.seed, guided=guided)
        clean = clean and row.clean
        print(f"{row.parser:<12}{row.inputs:>9,}{row.refused:>9,}{row.accepted:>9,}{row.tracebacks:>11,}", end="")
        print(f"{row.canaries:>9,}{row.crashes:>8,}{row.slow:>6,}{row.megabytes:>9.1f}{row.seconds:>9.0f}", flush=True)
    if not clean:
        print(f"what failed lies in {FOUND}/", file=sys.stderr)
    sys.exit(0 if clean else 1)


if __name__ == "__main__":
    main()
