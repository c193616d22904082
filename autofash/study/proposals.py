"""What a study begins next: what is queued, else what its sampler proposes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from autofash import failpoints
from autofash.records import Config, Rerun, StudySettings
from autofash.space import HYPERMODEL, NamedConfig, Param, Space
from autofash.study.ledger import as_json, noted_config, reports_of
from autofash.study.oracles import ORACLES, Answer, Oracle, Proposal, last_attempt
from autofash.study.rows import LeanStorage
from autofash.study.samplers import LEARN, GivenSampler, as_seen, key_of, make_sampler, suggest, untried
from autofash.study.underway import Underway
from autofash.study.warm import leaders, shown_trials

MOST_DUPLICATES = 100  # in a row; the space has nothing new to offer then
PATIENCE = 3  # with a sampler's duplicates, before a config that is left is taken instead
COUNTABLE = 10_000  # configs
WARM_START = "warm_start"  # the attribute that keeps what the study learns from another one
QUEUE = "queue"  # the sampler of a study that runs what it is given, and nothing else


class Proposals:
    """The queue of a study and its sampler."""

    def __init__(
        self, study: optuna.Study, storage: LeanStorage, space: Space, settings: StudySettings, folder: Path
    ) -> None:
        """folder: the study's, for what an oracle's process prints."""
        self._study, self._storage, self._settings = study, storage, settings
        self.space = space  # of a hypermodel it grows
        self.oracle: Oracle | None = None
        if settings.sampler in ORACLES:
            self.oracle = Oracle(settings.sampler, space, settings.seed, settings.epochs, folder / "oracle.log")
        self.said = Answer()  # by the oracle, when it was last asked
        self._repeats = 0  # proposals in a row that were tried already
        self._few = space.few_configs(COUNTABLE)
        self._learnt: Mapping[str, Any] = study.user_attrs.get(WARM_START, {"trials": []})
        self._hints: tuple[Space, Sequence[FrozenTrial]] | None = None
        self.hints()  # so that what makes no sense in them is found before anything runs
        self._waiting = len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def next(self, paused: Container[int], twin: Callable[[Config], int | None]) -> Underway | None:
        """A trial that begins now; None where there is nothing new to begin.

        paused: trials that pause at a rung, which the sampler is to see as pruned. twin: the trial that has, or had, a config.
        """
        self.said = Answer()
        while self._repeats < MOST_DUPLICATES:
            if (
                not self._waiting
                and self.oracle is None
                and (self._settings.sampler == "grid" or self._repeats >= PATIENCE)
                and not self._queue_untried(self._repeats)
            ):
                return None
            if self._settings.sampler == QUEUE and not self._waiting:
                return None
            number = self._next_number()
            proposal = None
            if self.oracle is not None and not self._waiting:
                proposal = self._proposed(number)
                if proposal is None and not self._waiting:
                    return None
            study = as_seen(self._study, paused, self.hints())
            study.sampler = GivenSampler(proposal.config) if proposal else self._sampler(number)
            # Hyperband would show the sampler one bracket only, or all, depending on the last report.
            study.pruner = optuna.pruners.NopPruner()
            queued = self._waiting > 0
            with self._storage.at_once("ask"):
                trial = study.ask()
                config = self.space.expand(suggest(trial, self.space))
                failpoints.reach("params")
                if proposal is not None:
                    self._note(trial, proposal)
                other = None  # of a hypermodel the config is not known yet
                if not self.space.hypermodel and "continues" not in trial.user_attrs:
                    other = twin(config)
                if other is None or self._settings.sampler == QUEUE:
                    begun = self._begun(trial, config)
                else:
                    begun = None
                    trial.set_user_attr("duplicate_of", other)
                    self._study.tell(trial, state=TrialState.FAIL)
            self._waiting -= queued
            self._repeats = self._repeats + 1 if begun is None else 0
            if begun is not None:
                return begun
        self._repeats = 0
        return None

    def warm_up(self, told: Mapping[str, Any]) -> None:
        """Keep what another study's trials showed, once, and queue the best of them: a value from elsewhere is only a hint."""
        if WARM_START in self._study.user_attrs:
            return
        for hint in leaders(told["trials"]):
            origin = f"warm start: {told['study']} trial {hint['trial']}"
            self._enqueue(hint["config"], {"queued": hint["config"], "origin": origin})
        self._study.set_user_attr(WARM_START, as_json(told))
        self._learnt, self._hints = as_json(told), None

    def hints(self) -> Sequence[FrozenTrial]:
        """What the sampler sees of another study's trials; of a hypermodel's more and more, as its space grows."""
        if self._settings.sampler not in LEARN:
            return ()
        if self._hints is None or self._hints[0] is not self.space:
            self._hints = self.space, shown_trials(self._learnt["trials"], self.space)
        return self._hints[1]

    def foresee(self, running: Underway, name: str, param: Param) -> None:
        """Have an oracle draw a parameter of a hypermodel that it did not know of when the trial began.

        Apart from the suggestion, which is a commit: an oracle may take its time.
        """
        sampler = (running.drawing or running.trial).study.sampler
        if self.oracle is not None and isinstance(sampler, GivenSampler) and name not in sampler.config:
            # Another seed for each name: else all would lie equally high in their ranges.
            seed = random.Random(f"{running.seed}/{name}").randrange(2**31)
            sampler.config[name] = self.oracle.draw(name, param, seed)

    def start(self) -> None:
        """Let an oracle's process start, and wait for nothing."""
        if self.oracle is not None:
            self.oracle.start()

    def close(self) -> None:
        """End an oracle's process."""
        if self.oracle is not None:
            self.oracle.close()

    def _next_number(self) -> int:
        """The number of the trial that begins next: the first that waits, else a new one."""
        trials = self._study.get_trials(deepcopy=False)
        return next((trial.number for trial in trials if trial.state is TrialState.WAITING), len(trials))

    def _sampler(self, number: int) -> BaseSampler:
        """The sampler for a trial; where trials are only queued, or an oracle proposes, it has nothing to draw."""
        plain = self._settings.sampler != QUEUE and self.oracle is None
        return make_sampler(
            self._settings.sampler if plain else "random",
            self.space,
            seed=self._settings.seed,
            trial_seed=seed_of(self._settings.seed, number),
        )

    def _proposed(self, number: int) -> Proposal | None:
        """What the oracle proposes; None where it has nothing now, and then what it left out may be queued."""
        assert self.oracle is not None
        if self.space.hypermodel and not self.space.params:
            return Proposal({}, {})  # nothing has shown itself yet
        trials = self._study.get_trials(deepcopy=False)
        self.oracle.space = self.space
        self.said = self.oracle.ask(number, seed_of(self._settings.seed, number), trials, self._repeats)
        stopped = self.said.proposal is None and not self.said.later and not self.said.idle
        if stopped and self._few is not None:
            self._queue_untried(1)  # it draws at random, and gives up after twenty configs in a row that were tried
        return self.said.proposal

    def _note(self, trial: optuna.Trial, proposal: Proposal) -> None:
        """Write beside a trial what its oracle is to be told again, and whose training it goes on with."""
        trial.set_user_attr("proposal", dict(proposal.note))
        if self.space.hypermodel and proposal.config:  # it asks by and by, and a retry is to have all of it
            trial.set_user_attr("queued", as_json(proposal.config))
        if proposal.until:
            trial.set_user_attr("until", proposal.until)
        if proposal.continues is not None:
            before = last_attempt(proposal.continues, self._study.get_trials(deepcopy=False))
            trial.set_user_attr("continues", before.number)
            trial.set_user_attr("seed", before.user_attrs["seed"])  # of its batches, which come in the same order then
            trial.set_user_attr("origin", f"continues trial {before.number}")

    def add_starters(self, starters: Sequence[NamedConfig]) -> None:
        """Queue what comes nearest to them in the space, each once; cut short, the next writer queues what is missing."""
        queued = [trial.user_attrs.get("queued") for trial in self._study.get_trials(deepcopy=False)]
        for starter in starters:
            nearest = self.space.nearest(starter.config)
            if nearest is not None and (params := dict(self.space.own(nearest))) not in queued:
                queued.append(params)
                self._enqueue(params, {"queued": params, "origin": f"starter {starter.name}"})
        self._study.set_user_attr("begun", True)

    def add(self, runs: Sequence[Rerun]) -> int:
        """Queue those runs that the study does not have yet. Returns how many it then has in all."""
        trials = self._study.get_trials(deepcopy=False)
        there = {(key_of({**noted_config(t), **t.params}), t.user_attrs.get("seed")) for t in trials}
        for run in runs:
            params = dict(self.space.own(run.config))
            if (key_of(params), run.seed) not in there:
                there.add((key_of(params), run.seed))
                self._enqueue(params, {"queued": params, "seed": run.seed, "origin": run.origin})
        return len(there)

    def add_again(self, trial: FrozenTrial, deaths: int) -> None:
        """Queue a trial's config once more, with the seed of its first attempt; once, however often this is called."""
        if any(other.user_attrs.get("retry_of") == trial.number for other in self._study.get_trials(deepcopy=False)):
            return
        params = {**noted_config(trial), **trial.params}
        attributes = {
            "queued": params,
            "retry_of": trial.number,
            "origin": f"retry of {trial.number}",
            "deaths": deaths,
            "seed": trial.user_attrs.get("seed", seed_of(self._settings.seed, trial.number)),
            **{key: told for key, told in trial.user_attrs.items() if key in ("proposal", "until", "continues")},
        }
        self._enqueue(params, attributes)

    def _begun(self, suggested: optuna.Trial, config: Config) -> Underway:
        trial = optuna.Trial(self._study, suggested._trial_id)  # of the study as it is, not as its sampler saw it
        noted = trial.user_attrs
        seed = int(noted.get("seed", seed_of(self._settings.seed, trial.number)))
        if "seed" not in noted:
            trial.set_user_attr("seed", seed)
        epochs = epochs_of(config, self._settings.epochs)
        begun = Underway(trial, config, epochs, seed, str(noted.get("origin", "sampled")), drawing=suggested)
        begun.settled = self.space.hypermodel is None or "continues" in noted
        begun.until = min(noted.get("until", 0), epochs)
        if "continues" in noted:
            begun.continues = noted["continues"]
            self._inherit(begun, noted["continues"])
        return begun

    def _inherit(self, begun: Underway, before: int) -> None:
        """A trial's curve begins with that of the trial whose training it goes on with."""
        for said in reports_of(self._study.get_trials(deepcopy=False)[before]):
            begun.reports.append(replace(said, trial=begun.trial.number))
            begun.trial.report(said.objective, said.epoch)
            begun.seconds_before = said.seconds

    def _queue_untried(self, duplicates: int) -> bool:
        """Where the sampler only repeats itself and configs can be counted, queue one that is left; False when none is."""
        if self._few is None:
            return True
        left = untried(self._study, self._few)
        if left and duplicates:
            params = random.Random(len(left)).choice(left)
            with self._storage.at_once("attrs"):
                self._enqueue(dict(params), {"queued": dict(params)})
        return bool(left)

    def _enqueue(self, params: Config, attributes: Mapping[str, Any]) -> None:
        self._study.enqueue_trial(dict(params), user_attrs=dict(attributes))
        self._waiting += 1


def seed_of(seed: int, trial: int) -> int:
    """The seed of a trial, from its study's: 0 to 2**31 - 1. Below 0 are a confirmation's seeds, the same for each config."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{trial}".encode()).digest()[:4], "big") >> 1


def epochs_of(config: Config, most: int) -> int:
    """Epochs that a config trains in a study of at most this many: its own, but for a user's code, where it has fewer."""
    return most if config.get("family") == HYPERMODEL else min(most, int(config.get("epochs", most)))
