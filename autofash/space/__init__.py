"""What can be searched: four kinds of parameter, equality conditions, and the TOML files that hold them."""

from autofash.space.files import check_searchable, load_space, load_starters, shipped_spaces, space_from_table
from autofash.space.params import BoolParam, ChoiceParam, FloatParam, IntParam, Param
from autofash.space.space import IMPORTED, NamedConfig, Space

__all__ = [
    "IMPORTED",
    "BoolParam",
    "ChoiceParam",
    "FloatParam",
    "IntParam",
    "NamedConfig",
    "Param",
    "Space",
    "check_searchable",
    "load_space",
    "load_starters",
    "shipped_spaces",
    "space_from_table",
]
