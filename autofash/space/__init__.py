"""What can be searched: four kinds of parameter, equality conditions, and the TOML files that hold them."""

from autofash.space.files import load_space, load_starters, shipped_spaces, space_from_table
from autofash.space.params import BoolParam, ChoiceParam, FloatParam, IntParam, Param
from autofash.space.space import NamedConfig, Space

__all__ = [
    "BoolParam",
    "ChoiceParam",
    "FloatParam",
    "IntParam",
    "NamedConfig",
    "Param",
    "Space",
    "load_space",
    "load_starters",
    "shipped_spaces",
    "space_from_table",
]
