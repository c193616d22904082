"""Images and labels: where they are found, how they are split, and the arrays that all trial processes share.

What a search may see comes from here. The test set has a door of its own, `autofash.data.heldout`.
"""

from autofash.data.cache import PreparedData, SearchData, load, prepare, prepare_for
from autofash.data.sources import SOURCES, choose, locate

__all__ = ["SOURCES", "PreparedData", "SearchData", "choose", "load", "locate", "prepare", "prepare_for"]
