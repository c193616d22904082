"""What can go wrong, in one tree; every error says where, what and the fix, and carries its exit code.

AutofashError                      exit
├── UsageError        E-USAGE        2   a flag or a name that does not exist
├── SpaceError        E-SPACE        2   a space, starter or study file that cannot be used
├── DataError                        3
│   ├── DataMissing   E-DATA-MISSING
│   └── DataCorrupt   E-DATA-CORRUPT
├── StudyError                       4
│   ├── StudyMissing  E-STUDY-MISSING
│   ├── StudyBusy     E-STUDY-BUSY
│   ├── StudyMismatch E-STUDY-MISMATCH, E-SPACE-MISMATCH, E-DATA-CHANGED
│   └── LedgerError   E-DB-…
├── NoTrial           E-NO-TRIAL     5   nothing was completed
├── ResourceError                    6   disk, memory, a server that does not start
├── UnsafeFile        E-UNSAFE-…     7   a file that is not what its manifest vouches for
├── Interrupted                    130   Ctrl-C (143: SIGTERM)
└── InfeasibleConfig                 –   a config that no model can be built from; fails one trial
"""

from __future__ import annotations

import difflib
import errno
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

LONGEST_LINE = 10_000  # characters; the longest of ours tells how two spaces of sixty parameters differ
MOST_PROBLEMS = 50  # that are told of one file; one of a megabyte may have a hundred thousand
# What stands between a name and an @, as in postgresql://me:secret@host, and what a query calls a password. A mistyped address
# is no address to a parser of addresses, so that this looks for their like in any text.
SECRETS = (
    re.compile(r"""((?:(?<=/)|(?<![^\s'"(=]))[^\s:/@'"]*:)(?!//)\S*@"""),
    re.compile(r"""(?i)([?&;][^\s=&;]*(?:pass|pwd|secret|token|key)[^\s=&;]*=)[^\s&;'"]+"""),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the fact, where it is, and what to do about it."""

    fact: str
    fix: str = ""
    where: str = ""  # a file, or a file and a key; empty where the fact says it

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        fix = f". Try: {self.fix}" if self.fix else ""
        return printable(without_secrets(cut(f"{where}{self.fact}{fix}", LONGEST_LINE)))


class AutofashError(Exception):
    """Anything that autofash refuses or could not do.

    problems: all that was found, never only the first.
    code: stable name for programs to match on, such as E-SPACE.
    exit_code: of the command line, 1 to 7, 130 or 143.
    """

    code = "E-BUG"
    exit_code = 1

    def __init__(
        self, fact: str | Iterable[Problem], fix: str = "", *, where: str = "", code: str | None = None
    ) -> None:
        self.problems = (Problem(fact, fix, where),) if isinstance(fact, str) else tuple(fact)
        if code is not None:
            self.code = code
        super().__init__("; ".join(str(problem) for problem in self.problems))


class UsageError(AutofashError):
    """A flag, argument or name that does not exist or does not fit."""

    code, exit_code = "E-USAGE", 2


class SpaceError(AutofashError):
    """A search space, a starter or a study definition that cannot be used."""

    code, exit_code = "E-SPACE", 2


class DataError(AutofashError):
    """The images or labels cannot be used."""

    code, exit_code = "E-DATA", 3


class DataMissing(DataError):
    """The data set was found nowhere."""

    code = "E-DATA-MISSING"


class DataCorrupt(DataError):
    """A data file is not what was published, or cannot be parsed."""

    code = "E-DATA-CORRUPT"


class StudyError(AutofashError):
    """The study or its ledger cannot be used."""

    code, exit_code = "E-STUDY", 4


class StudyMissing(StudyError):
    """No study of that name."""

    code = "E-STUDY-MISSING"


class StudyBusy(StudyError):
    """Another coordinator holds the study."""

    code = "E-STUDY-BUSY"


class StudyMismatch(StudyError):
    """What was asked for differs from what the study remembers."""

    code = "E-STUDY-MISMATCH"


class LedgerError(StudyError):
    """The database behind the studies cannot be opened, read or written."""

    code = "E-DB"


class NoTrial(AutofashError):
    """There is no completed trial to speak of."""

    code, exit_code = "E-NO-TRIAL", 5


class ResourceError(AutofashError):
    """Disk, memory or a process that the work needs is not to be had."""

    code, exit_code = "E-RESOURCE", 6


class UnsafeFile(AutofashError):
    """A file that its manifest does not vouch for."""

    code, exit_code = "E-UNSAFE", 7


class Interrupted(AutofashError):
    """The user or the system stopped the work; what was finished is kept."""

    code, exit_code = "E-INTERRUPTED", 130


class InfeasibleConfig(AutofashError):
    """No model can be built from this config; it fails one trial, never the study."""

    code = "E-INFEASIBLE"


def cannot_write(where: object, error: OSError, fix: str, code: str) -> ResourceError:
    """The error of a file or folder that cannot be written: of this code, with this fix, unless it is the disk's fault."""
    fact = f"cannot be written: {error.strerror}"
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        return ResourceError(fact, "the same command, once there is room", where=str(where), code="E-DISK-FULL")
    if error.errno == errno.EIO:
        return ResourceError(fact, "the same command, once the disk is mended", where=str(where), code="E-DISK")
    return ResourceError(fact, fix, where=str(where), code=code)


def disk_error(reason: str, where: str) -> ResourceError:
    """The error of a disk that is full or broken, as a trial's process met it. reason: an OSError's words."""
    if "No space left" in reason or "quota" in reason:
        return ResourceError(
            "the disk is full", "the same command, once there is room", where=where, code="E-DISK-FULL"
        )
    return ResourceError(f"the disk fails: {reason}", "the same command, once it is mended", where=where, code="E-DISK")


def unknown(kind: str, name: str, known: Iterable[str]) -> tuple[str, str]:
    """Fact and fix for a name that does not exist: the nearest one that does, else all of them.

    >>> unknown("sampler", "tpa", ["tpe", "random"])
    ("there is no sampler 'tpa'", 'tpe')
    """
    names = sorted(known)
    near = difflib.get_close_matches(name[:100], names, n=1, cutoff=0.5)
    return f"there is no {kind} {brief(name)}", near[0] if near else ", ".join(names) or "none exists yet"


def first(problems: Iterable[Problem], where: str) -> list[Problem]:
    """The first of the problems, at most MOST_PROBLEMS, and whether there are more."""
    told = list(itertools.islice(problems, MOST_PROBLEMS + 1))
    if len(told) > MOST_PROBLEMS:
        told[-1] = Problem(
            f"these are the first {MOST_PROBLEMS} problems of more", "again, once they are mended", where
        )
    return told


def brief(value: object, most: int = 60) -> str:
    """A value as Python writes it, cut short: what a file holds may be as long as the file."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of more than 4,300 digits; tables within tables
        return "a value beyond all bounds"
    return cut(text, most)


def cut(text: str, most: int = 60) -> str:
    """The text, or its beginning where it is longer than this many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def without_secrets(text: str, *, of: str = "") -> str:
    """The text with what looks like a password in a database's address made unreadable.

    of: an address whose password the text may hold in parts: one with an @ in it is a host to some drivers.

    >>> without_secrets("postgresql://me:secret@host/studies")
    'postgresql://me:***@host/studies'
    """
    for found in SECRETS[0].finditer(of):
        for part in found[0].removeprefix(found[1]).split("@"):
            text = text.replace(part, "***") if len(part) > 2 else text
    return SECRETS[1].sub(r"\1***", SECRETS[0].sub(r"\1***@", text))


def printable(text: str) -> str:
    """The text on one line, with control characters escaped, so that no name can draw on a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
