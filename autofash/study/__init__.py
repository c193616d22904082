"""Studies: the ledger of every trial, the one process that may write it, and what proposes and prunes trials."""

from autofash.study.confirmed import (
    Candidate,
    Confirmed,
    candidates,
    check_searched,
    confirmed,
    extent,
    is_settled,
    leaders,
    search_from,
    verdict,
)
from autofash.study.ledger import Study, list_studies, load_study
from autofash.study.pruners import PRUNERS
from autofash.study.samplers import SAMPLERS
from autofash.study.writer import StudyWriter

__all__ = [
    "PRUNERS",
    "SAMPLERS",
    "Candidate",
    "Confirmed",
    "Study",
    "StudyWriter",
    "candidates",
    "check_searched",
    "confirmed",
    "extent",
    "is_settled",
    "leaders",
    "list_studies",
    "load_study",
    "search_from",
    "verdict",
]
