"""A search space: named parameters in order, some of them conditional on earlier ones."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from autofash.errors import Problem, SpaceError, brief, cut, first, unknown
from autofash.records import Config, Value
from autofash.space.params import BoolParam, ChoiceParam, FloatParam, IntParam, Param
from autofash.space.vocabulary import FAMILIES, Limits, misfit, vocabulary

Choose = Callable[[str, Param], Value]
IMPORTED = "imported"  # the family of a space that another program searched: its names are that program's, and no model is known


@dataclass(frozen=True, slots=True)
class NamedConfig:
    """A fixed config with a name and a word about where it comes from."""

    name: str
    config: Config  # "family" included
    about: str = ""
    claim: str = ""  # a baseline's published figures


@dataclass(frozen=True)
class Space:
    """What a study searches.

    family: a model family; or "all", where the family is a parameter itself and the others carry its name in front;
    or "fixed", where one of a few named configs is chosen whole; or "imported", which can be looked at and not searched.
    params: name → parameter, in the order in which they are chosen; `when` looks back only.
    Raises SpaceError with every problem when anything in it cannot be used.
    """

    family: str
    params: Mapping[str, Param]
    name: str = "space"  # of the file, without its ending; "cnn" for a shipped one
    where: str = ""  # the file, for messages
    about: str = ""  # one sentence for `autofash spaces`
    configs: Mapping[str, NamedConfig] = field(default_factory=dict)  # of a fixed space

    def __post_init__(self) -> None:
        problems = first(self._problems(), self.where or self.name)
        if problems:
            raise SpaceError(problems)

    def walk(self, choose: Choose) -> Config:
        """A config: `choose` is asked for every parameter whose conditions are met, in order. "family" comes first."""
        config = self.begun()
        for name, param in self.params.items():
            if self._active(param, config):
                config[name] = choose(name, param)
        return config

    def expand(self, config: Config) -> Config:
        """The config that a model is built from: of a fixed space, the one whose name was chosen, with the name."""
        return {**config, **self.configs[str(config["config"])].config} if self.configs else config

    def sample(self, rng: random.Random) -> Config:
        """A random config; log parameters are drawn by their logarithm."""
        return self.walk(lambda _, param: param.draw(rng))

    def grid(self) -> Iterator[Config]:
        """Every config, conditional parameters included where they apply, in the order of the file.

        Raises SpaceError naming each float without a step, which has no grid.
        """
        values = {name: param.grid() for name, param in self.params.items()}
        endless = [name for name, found in values.items() if found is None]
        if endless:
            raise SpaceError(
                Problem("a float without a step has no grid", "step = … in it, or --sampler qmc", self._where(name))
                for name in endless
            )
        names = list(self.params)

        def configs(depth: int, config: dict[str, Value]) -> Iterator[Config]:
            if depth == len(names):
                yield config
                return
            name = names[depth]
            if not self._active(self.params[name], config):
                yield from configs(depth + 1, config)
                return
            for value in values[name] or ():
                yield from configs(depth + 1, {**config, name: value})

        yield from configs(0, self.begun())

    def few_configs(self, most: int) -> list[Config] | None:
        """Every config, in the space's own parameters, where they are countable and at most this many; else None."""
        try:
            found = list(itertools.islice(self.grid(), most + 1))
        except SpaceError:
            return None
        return [self.own(config) for config in found] if len(found) <= most else None

    def own(self, config: Config) -> Config:
        """The config without a family that is the space's, not a parameter's."""
        return {name: value for name, value in config.items() if name in self.params}

    def nearest(self, config: Config) -> Config | None:
        """This space's config that comes nearest to one from elsewhere; None to one of another family.

        Every value moves to the nearest that the space allows; what the config does not name is at its least. A config of a
        plain family (`width`) fits a space that searches the family (`cnn_width`).
        """
        family = config.get("family")
        searched = self.params.get("family") if self.family == "all" else None
        if self.configs or not (self.family == family or (searched and searched.holds(str(family)))):
            return None
        found = self.begun()
        for name, param in self.params.items():
            if self._active(param, found):
                found[name] = param.nearest(config.get(name, config.get(name.removeprefix(f"{family}_"))))
        return found

    def table(self) -> dict[str, object]:
        """The space as its TOML holds it; what the ledger keeps."""
        head: dict[str, object] = {"format": 1, "family": self.family}
        if self.configs:
            return head | {"configs": {name: dict(named.config) for name, named in self.configs.items()}}
        dumped = {name: param.model_dump() for name, param in self.params.items()}
        params = {
            name: {key: value for key, value in told.items() if value not in (None, {})}
            for name, told in dumped.items()
        }
        return head | {"params": params}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of family and parameters; names of files and remarks do not count."""
        return hashlib.sha256(json.dumps(self.table(), sort_keys=True).encode()).hexdigest()

    def difference(self, other: Mapping[str, object]) -> list[str]:
        """How this space differs from a table of another, a line for each parameter or config."""
        mine, lines = self.table(), []
        if mine["family"] != other.get("family"):
            lines.append(f"family {other.get('family')} → {mine['family']}")
        for key in ("params", "configs"):
            before, now = other.get(key, {}), mine.get(key, {})
            assert isinstance(before, Mapping) and isinstance(now, Mapping)
            for name in {**before, **now}:
                if before.get(name) != now.get(name):
                    lines.append(f"{name} {_short(before.get(name))} → {_short(now.get(name))}")
            if not lines and list(before) != list(now):
                lines.append(f"the order of the {key}")
        return lines

    def begun(self) -> dict[str, Value]:
        """A config before anything is chosen: its family, where that is the space's own."""
        return {} if self.family in ("all", "fixed", IMPORTED) else {"family": self.family}

    def _active(self, param: Param, config: Mapping[str, Value]) -> bool:
        return all(name in config and config[name] in values for name, values in param.when.items())

    def _where(self, name: str) -> str:
        return f"{self.where or self.name}: [params.{cut(name)}]"

    def _problems(self) -> Iterator[Problem]:
        if self.family == "fixed":
            yield from self._config_problems()
            return
        if self.family not in (*FAMILIES, "all", IMPORTED):
            yield Problem(*unknown("family", self.family, [*FAMILIES, "all", "fixed"]), self.where or self.name)
            return
        known = {} if self.family == IMPORTED else vocabulary(self.family)
        if self.family == "all" and "family" not in self.params:
            yield Problem(
                "a space of all families needs [params.family]",
                'type = "choice", values = ["mlp", "cnn"]',
                self.where or self.name,
            )
        earlier: list[str] = []
        for name, param in self.params.items():
            where = self._where(name)
            if name not in known and self.family != IMPORTED:
                fact, near = unknown("parameter", name, known)
                yield Problem(f"{fact} of {self.family}", near, where)
            faults = list(param.faults())
            for _, fact, fix in faults:
                yield Problem(fact, fix, where)
            if name in known and not faults:
                yield from (Problem(fact, _within(known[name]), where) for fact in _outside(known[name], param))
            for parent, wanted in param.when.items():
                if parent not in earlier:
                    later = "stands below it" if parent in self.params else "does not exist"
                    above = ", ".join(map(cut, earlier))
                    yield Problem(
                        f"when names {brief(parent)}, which {later}", f"one of {above or 'none so far'}", where
                    )
                    continue
                for value in wanted:
                    if not self.params[parent].holds(value):
                        yield Problem(
                            f"when {cut(parent)} = {brief(value)} is never met: {cut(parent)} cannot be that",
                            "a value of it",
                            where,
                        )
            earlier.append(name)

    def _config_problems(self) -> Iterator[Problem]:
        if not self.configs:
            yield Problem("a fixed space needs at least one config", "[configs.NAME]", self.where or self.name)
        for name, named in self.configs.items():
            where = f"{self.where or self.name}: [configs.{cut(name)}]"
            yield from (Problem(fact, fix, where) for fact, fix in config_faults(named.config))


def config_faults(config: Config) -> Iterator[tuple[str, str]]:
    """Fact and fix of everything in a fixed config that no model of its family can be built from."""
    family = str(config.get("family", ""))
    if family not in FAMILIES:
        yield unknown("family", family, FAMILIES)
        return
    known = vocabulary(family)
    for name, value in config.items():
        if name != "family" and name not in known:
            fact, fix = unknown("parameter", name, known)
            yield f"{fact} of {family}", fix
        elif name != "family" and (fact := misfit(known[name], value)):
            yield f"{name} = {fact}", _within(known[name])


def _outside(limits: Limits, param: Param) -> Iterator[str]:
    match param:
        case IntParam() | FloatParam():
            ends: list[Value] = [param.low, param.high]
        case ChoiceParam():
            ends = list(param.values)
        case BoolParam():
            ends = [True]
    yield from dict.fromkeys(fact for fact in (misfit(limits, value) for value in ends) if fact)


def _within(limits: Limits) -> str:
    low, high, words = getattr(limits, "low", None), getattr(limits, "high", None), getattr(limits, "words", None)
    return (
        f"{low:g} to {high:g}" if low is not None else f"values from {', '.join(words)}" if words else 'type = "bool"'
    )


def _short(table: object) -> str:
    if not isinstance(table, Mapping):
        return "(none)"
    return "{" + ", ".join(f"{key} = {value}" for key, value in table.items() if key != "type") + "}"
