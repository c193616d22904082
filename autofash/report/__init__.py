"""The report of a study: the numbers first, then a page and a terminal version that only draw them."""

from autofash.report.facts import Facts, gather
from autofash.report.html import page, write
from autofash.report.pictures import attach_pictures

__all__ = ["Facts", "attach_pictures", "gather", "page", "write"]
