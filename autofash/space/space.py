"""A search space: named parameters in order, some of them conditional on earlier ones."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace

from autofash.errors import Problem, SpaceError, brief, cut, first, unknown
from autofash.records import Config, Value
from autofash.space.params import BoolParam, ChoiceParam, FloatParam, IntParam, Param
from autofash.space.vocabulary import FAMILIES, Limits, misfit, vocabulary

HYPERMODEL = "hypermodel"  # the family of a user's own code
Choose = Callable[[str, Param], Value]
IMPORTED = "imported"  # the family of a space that another program searched: its names are that program's, and no model is known


@dataclass(frozen=True, slots=True)
class NamedConfig:
    """A fixed config with a name and a word about where it comes from."""

    name: str
    config: Config  # "family" included
    about: str = ""
    claim: str = ""  # a baseline's published figures


@dataclass(frozen=True, slots=True)
class Hypermodel:
    """A user's own code that builds the model, and shows what can be searched while it does."""

    source: str  # FILE.py:NAME or package.module:NAME
    pixels: str = "unit"  # as its author feeds them, one of PIXELS
    flat: bool = False  # an image is (pixels,) instead of (height, width, channels)


RESERVED = ("family", "hypermodel", "pixels", "flat")  # what a hypermodel's config has besides its parameters
PIXELS = (
    "raw",
    "unit",
    "standardized",
)  # uint8; float32 from 0 to 1; float32 of mean 0 and deviation 1 on the training images


@dataclass(frozen=True)
class Space:
    """What a study searches.

    family: a model family; or "all", where the family is a parameter itself and the others carry its name in front;
    or "fixed", where one of a few named configs is chosen whole; or "hypermodel", where a user's code builds the model; or
    "imported", which can be looked at and not searched.
    params: name → parameter, in the order in which they are chosen; `when` looks back only. Of a hypermodel, those that have
    shown themselves so far.
    Raises SpaceError with every problem when anything in it cannot be used.
    """

    family: str
    params: Mapping[str, Param]
    name: str = "space"  # of the file, without its ending; "cnn" for a shipped one
    where: str = ""  # the file, for messages
    about: str = ""  # one sentence for `autofash spaces`
    configs: Mapping[str, NamedConfig] = field(default_factory=dict)  # of a fixed space
    hypermodel: Hypermodel | None = None

    def __post_init__(self) -> None:
        problems = first(self._problems(), self.where or self.name)
        if problems:
            raise SpaceError(problems)

    def walk(self, choose: Choose) -> Config:
        """A config: `choose` is asked for every parameter whose conditions are met, in order. "family" comes first.

        A hypermodel's parameters are not walked: its trials ask for them while they build.
        """
        config = self.begun()
        if self.hypermodel:
            return config
        for name, param in self.params.items():
            if self._active(param, config):
                config[name] = choose(name, param)
        return config

    def expand(self, config: Config) -> Config:
        """The config that a model is built from.

        Of a fixed space, the one whose name was chosen, with the name; of a hypermodel, with where it comes from, how it is fed.
        """
        if self.hypermodel:
            told = asdict(self.hypermodel)
            return {"family": self.family, "hypermodel": told.pop("source"), **told, **config}
        return {**config, **self.configs[str(config["config"])].config} if self.configs else config

    def sample(self, rng: random.Random) -> Config:
        """A random config; log parameters are drawn by their logarithm."""
        return self.walk(lambda _, param: param.draw(rng))

    def grid(self) -> Iterator[Config]:
        """Every config, conditional parameters included where they apply, in the order of the file.

        Raises SpaceError naming each float without a step, which has no grid; and for a hypermodel.
        """
        if self.hypermodel:
            raise SpaceError(
                "a hypermodel shows its parameters only while it builds", "--sampler random", where=self.name
            )
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
        if self.configs or self.hypermodel or not (self.family == family or (searched and searched.holds(str(family)))):
            return None
        found = self.begun()
        for name, param in self.params.items():
            if self._active(param, found):
                found[name] = param.nearest(config.get(name, config.get(name.removeprefix(f"{family}_"))))
        return found

    def table(self) -> dict[str, object]:
        """The space as its TOML holds it; what the ledger keeps."""
        head: dict[str, object] = {"format": 1, "family": self.family}
        if self.hypermodel:
            head["model"] = asdict(self.hypermodel)
        if self.configs:
            return head | {"configs": {name: dict(named.config) for name, named in self.configs.items()}}
        return head | {"params": {name: _told(param) for name, param in self.params.items()}}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of family and parameters, of a hypermodel's as far as seen; names of files and remarks do not count."""
        return hashlib.sha256(json.dumps(self.table(), sort_keys=True).encode()).hexdigest()

    @property
    def declared(self) -> Space:
        """What is known before a trial has run: of a hypermodel, no parameters."""
        return replace(self, params={}) if self.hypermodel else self

    def showing(self, name: str, param: Param) -> Space:
        """A hypermodel's space with a parameter that has shown itself; of one seen before, the bounds may be others.

        Raises SpaceError where it cannot be, or is another kind of parameter than before: its trials would not compare.
        """
        seen = self.params.get(name)
        if seen == param:
            return self
        if seen is not None:
            wider = _wider(seen, param)
            if wider is None:
                raise SpaceError(
                    f"{cut(name)} was {_short(_told(seen))}, and is {_short(_told(param))} now",
                    "another name for it, or --new-study",
                    where=self.name,
                    code="E-SPACE-MISMATCH",
                )
            param = wider
        return replace(self, params={**self.params, name: param})

    def difference(self, other: Mapping[str, object]) -> list[str]:
        """How this space differs from a table of another, a line for each parameter or config."""
        mine, lines = self.table(), []
        for key in ("family", "model"):
            if mine.get(key) != other.get(key):
                lines.append(f"{key} {_short(other.get(key))} → {_short(mine.get(key))}")
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
        if self.hypermodel or self.family == HYPERMODEL:
            yield from self._hypermodel_problems()
            return
        if self.family not in (*FAMILIES, "all", IMPORTED):
            yield Problem(
                *unknown("family", self.family, [*FAMILIES, "all", "fixed", HYPERMODEL]), self.where or self.name
            )
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

    def _hypermodel_problems(self) -> Iterator[Problem]:
        where = self.where or self.name
        if self.hypermodel is None or self.family != HYPERMODEL:
            yield Problem('[model] goes with family = "hypermodel", and that with [model]', "both, or none", where)
            return
        if self.hypermodel.pixels not in PIXELS:
            yield Problem(*unknown("way to feed pixels", self.hypermodel.pixels, PIXELS), where)
        for name, param in self.params.items():
            if name in RESERVED:
                yield Problem(f"a hypermodel's parameter cannot be called {name}", "another name", self._where(name))
            yield from (Problem(fact, fix, self._where(name)) for _, fact, fix in param.faults())

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


def _told(param: Param) -> dict[str, Value]:
    return {key: value for key, value in param.model_dump().items() if value not in (None, {})}


def _wider(seen: Param, param: Param) -> Param | None:
    """A number with the bounds of both; None where the two are no numbers, or drawn otherwise."""
    if not (isinstance(seen, IntParam | FloatParam) and type(seen) is type(param)):
        return None
    assert isinstance(param, IntParam | FloatParam)
    bounds = {"low": min(seen.low, param.low), "high": max(seen.high, param.high)}
    wider = param.model_copy(update=bounds)
    return wider if seen.model_copy(update=bounds) == wider and not [*wider.faults()] else None


def _short(table: object) -> str:
    if isinstance(table, str):
        return table
    if not isinstance(table, Mapping):
        return "(none)"
    return "{" + ", ".join(f"{key} = {value}" for key, value in table.items() if key != "type") + "}"
