"""What can be searched: four kinds of parameter, equality conditions, and the TOML files that hold them."""

from autofash.space.files import (
    check_searchable,
    hypermodel_space,
    load_space,
    load_starters,
    shipped_spaces,
    source_digest,
    space_from_table,
)
from autofash.space.params import BoolParam, ChoiceParam, FloatParam, IntParam, Param
from autofash.space.space import HYPERMODEL, IMPORTED, PIXELS, RESERVED, Hypermodel, NamedConfig, Space

__all__ = [
    "HYPERMODEL",
    "IMPORTED",
    "PIXELS",
    "RESERVED",
    "BoolParam",
    "ChoiceParam",
    "FloatParam",
    "Hypermodel",
    "IntParam",
    "NamedConfig",
    "Param",
    "Space",
    "check_searchable",
    "hypermodel_space",
    "load_space",
    "load_starters",
    "shipped_spaces",
    "source_digest",
    "space_from_table",
]
