"""KerasTuner's oracles in a process of their own: KerasTuner imports TensorFlow, which no coordinator may.

`python -m autofash.oracle_server PID`: PID is the coordinator. It says `ready`, then answers a JSON line on stdin with one on
stdout: `open` names an oracle and its space, `ask` wants a proposal for the trial of a number, `draw` a value for a parameter
that first shows itself while a trial builds. With `ask` comes what has changed in the ledger; before each proposal the oracle's
state is built from that, in the form in which KerasTuner itself saves it. So an oracle that is new, resumed or restarted is the
same one, and nothing is fitted again for trials that are finished. When the coordinator is gone, this process ends.
"""

from __future__ import annotations

import json
import math
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from pydantic import TypeAdapter

from autofash.executors.child import die_with_parent
from autofash.records import Value
from autofash.space import BoolParam, ChoiceParam, FloatParam, IntParam, Param

Message = dict[str, Any]
RUNNING, COMPLETED, FAILED = "RUNNING", "COMPLETED", "FAILED"  # KerasTuner's words
REPEATS = "REPEATS"  # ours: a proposal that another trial has, and that was not run
OBJECTIVE = "objective"
ENDLESS = 10**9  # iterations of Hyperband, failures in a row: the loop knows when it is enough
PATIENCE = 3  # with an oracle that proposes what was tried, before a random config is taken instead


def main(coordinator: int) -> None:
    """Serve until the coordinator is gone."""
    die_with_parent(coordinator)
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # KerasTuner prints
        orders: queue.SimpleQueue[Message] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(orders,), daemon=True).start()
        try:
            import keras_tuner  # noqa: F401
        except BaseException:
            _say(out, {"failed": traceback.format_exc()})
            return
        _say(out, {"ready": os.getpid()})
        oracle: Oracle | None = None
        while True:
            order = orders.get()
            try:
                if "open" in order:
                    oracle = KINDS[order["open"]](order["space"], order["epochs"], order["seed"])
                    _say(out, {"opened": order["open"]})
                else:
                    assert oracle is not None
                    _say(out, oracle.propose(**order["ask"]) if "ask" in order else oracle.draw(**order["draw"]))
            except Exception as error:
                traceback.print_exc()
                _say(out, {"failed": f"{type(error).__name__}: {error}"})


def _listen(orders: queue.SimpleQueue[Message]) -> None:
    """Pass orders on; when the coordinator is gone, end this process in the midst of whatever it computes."""
    for line in sys.stdin:
        orders.put(json.loads(line))
    os._exit(0)


def _say(out: TextIO, message: Message) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


class Coded:
    """A parameter as KerasTuner has it.

    Whatever can be counted is a number there: KerasTuner's Choice wants values of one type and makes True a 1, and its floats
    with a step end as 0.30000000000000004.
    """

    def __init__(self, name: str, param: Param, others: Mapping[str, Coded]) -> None:
        from keras_tuner.engine import hyperparameters
        from keras_tuner.src.engine.conditions import Parent  # it has no public place

        self._param = param
        when = [Parent(above, [others[above].code(value) for value in values]) for above, values in param.when.items()]
        self._values = param.grid() or [] if self._is_counted else []
        match param:
            case BoolParam():
                self.hp = hyperparameters.Boolean(name, conditions=when)
            case IntParam(log=True):
                self.hp = hyperparameters.Int(name, param.low, param.high, sampling="log", conditions=when)
            case IntParam():
                self.hp = hyperparameters.Int(name, param.low, param.high, step=param.step, conditions=when)
            case FloatParam() if not self._values:
                sampling = "log" if param.log else "linear"
                self.hp = hyperparameters.Float(name, param.low, param.high, sampling=sampling, conditions=when)
            case FloatParam():
                self.hp = hyperparameters.Int(name, 0, len(self._values) - 1, conditions=when)
            case ChoiceParam():
                self.hp = hyperparameters.Choice(name, list(range(len(self._values))), conditions=when)

    @property
    def _is_counted(self) -> bool:
        return isinstance(self._param, ChoiceParam) or (isinstance(self._param, FloatParam) and bool(self._param.step))

    def code(self, value: Value) -> Value:
        """KerasTuner's number for a value of ours; of one from outside the space, for the nearest."""
        near = self._param.nearest(value)
        if not self._values:
            return near
        if isinstance(self._param, FloatParam):
            return min(range(len(self._values)), key=lambda place: abs(float(self._values[place]) - float(near)))
        alike = (place for place, own in enumerate(self._values) if isinstance(own, bool) == isinstance(near, bool))
        return next(place for place in alike if self._values[place] == near)

    def value(self, code: Value) -> Value:
        """Our value for a number of KerasTuner's, which may lie a rounding beyond its bounds."""
        return self._values[int(code)] if self._values else self._param.nearest(code)


class Oracle:
    """One of KerasTuner's oracles, with the trials of the ledger."""

    kind = ""

    def __init__(self, space: Mapping[str, Any], epochs: int, seed: int) -> None:
        """space: parameters by name, in order, as their tables. epochs: most of a trial. seed: the study's."""
        from keras_tuner import Objective
        from keras_tuner.engine.hyperparameters import HyperParameters

        self.coded: dict[str, Coded] = {}
        self.rows: dict[int, Message] = {}  # by number of the trial's first attempt
        self.trials: dict[int, Any] = {}  # KerasTuner's, likewise
        self.hashes: dict[int, str] = {}
        space_there = HyperParameters()
        settings = {
            "objective": Objective(OBJECTIVE, "max"),
            "hyperparameters": space_there,
            "seed": 1 + seed,  # 0 would be a random one
            "max_consecutive_failed_trials": ENDLESS,
        }
        for name, table in space.items():
            self.coded[name] = found = Coded(name, TypeAdapter(Param).validate_python(table), self.coded)
            space_there.merge([found.hp])
        self.oracle = self.made(epochs, settings)
        self.oracle.verbose = 0

    def made(self, epochs: int, settings: Mapping[str, Any]) -> Any:
        """The oracle itself."""
        raise NotImplementedError

    def propose(self, number: int, seed: int, repeats: int, trials: list[Message], shown: Message) -> Message:
        """A config for the trial of this number, and what the ledger is to note with it.

        seed: of the trial; what an oracle draws hangs on it alone, so that a resumed one does not repeat itself. repeats: how
        often in a row it proposed what was tried. trials: those that are new or have changed. shown: parameters that have
        shown themselves since.
        """
        for name, table in shown.items():
            self.meet(name, table)
        for row in trials:
            self._take(row)
        self.restore()
        self.oracle._seed_state = seed
        if repeats < PATIENCE:
            answer = self.oracle.populate_space(str(number))
        else:
            values = self.oracle._random_values()
            answer = {"status": RUNNING if values else "STOPPED", "values": values}
        found: Message = {"number": number, "status": answer["status"], "keep": self.kept()}
        if answer["status"] == RUNNING:
            values = answer["values"]
            config = {name: self.coded[name].value(code) for name, code in values.items() if name in self.coded}
            note = {"oracle": self.kind, **self.note(number)}
            found |= {"config": config, "note": note, **self.training(values)}
        return found

    def draw(self, name: str, param: Message, seed: int) -> Message:
        """A random value of a parameter, which the space has from now on if it did not have it."""
        self.meet(name, param)
        found = self.coded[name]
        return {"value": found.value(found.hp.random_sample(seed))}

    def meet(self, name: str, param: Message) -> None:
        """Take a parameter into the space, if it is not there."""
        if name not in self.coded:
            self.coded[name] = Coded(name, TypeAdapter(Param).validate_python(param), self.coded)
            found = self.oracle.get_space()
            found.merge([self.coded[name].hp])
            self.oracle.update_space(found)
            for row in self.rows.values():
                self._take(row)

    def restore(self) -> None:
        """Give the oracle the state that it would have after these trials."""
        order = [str(number) for number in sorted(self.trials) if self.counts(number)]
        self.oracle.trials = {str(number): self.trials[number] for number in sorted(self.trials)}
        ended = [id for id in order if self.oracle.trials[id].status != RUNNING]
        self.oracle.set_state(
            {
                **self.oracle.get_state(),
                "ongoing_trials": {id: id for id, trial in self.oracle.trials.items() if trial.status == RUNNING},
                "start_order": order,
                "end_order": ended,
                "tried_so_far": list(self.hashes.values()),
                "id_to_hash": {str(number): found for number, found in self.hashes.items()},
                **self.state(),
            }
        )

    def counts(self, number: int) -> bool:
        """Whether the oracle is to know of a trial as one that it began."""
        return True

    def own(self, number: int) -> bool:
        """Whether an oracle of this kind has proposed the trial."""
        return bool((self.rows[number].get("note") or {}).get("oracle") == self.kind)

    def state(self) -> Message:
        """What a kind of oracle keeps besides."""
        return {}

    def note(self, number: int) -> Message:
        """What the ledger is to note of a trial that was just proposed, besides its config."""
        return {}

    def training(self, values: Mapping[str, Any]) -> Message:
        """`until` and `continues` of a trial that is not to be trained from the beginning to the end."""
        return {}

    def kept(self) -> list[int]:
        """Trials whose checkpoints may still be wanted."""
        return []

    def _take(self, row: Message) -> None:
        """Take in a trial that is new or has changed."""
        from keras_tuner.engine.hyperparameters import HyperParameters
        from keras_tuner.engine.trial import Trial

        number = row["id"]
        self.rows[number] = row
        if number not in self.trials:
            self.trials[number] = Trial(HyperParameters(), trial_id=str(number))
        trial, config = self.trials[number], row["config"]
        # KerasTuner wants a value of each parameter without a condition; a hypermodel may not have asked for it.
        trial.hyperparameters.values = {
            name: coded.code(config[name]) if name in config else coded.hp.default
            for name, coded in self.coded.items()
            if name in config or not coded.hp.conditions
        }
        trial.status = FAILED if row["status"] == REPEATS else row["status"]
        trial.score = row["value"]
        self.hashes[number] = self.oracle._compute_values_hash(trial.hyperparameters.values)


class Random(Oracle):
    """Random search."""

    kind = "kt-random"

    def made(self, epochs: int, settings: Mapping[str, Any]) -> Any:
        """KerasTuner's RandomSearchOracle."""
        from keras_tuner.oracles import RandomSearchOracle

        return RandomSearchOracle(max_trials=None, **settings)


class Bayesian(Oracle):
    """Bayesian optimization by a Gaussian process."""

    kind = "kt-bayesian"

    def made(self, epochs: int, settings: Mapping[str, Any]) -> Any:
        """KerasTuner's BayesianOptimizationOracle."""
        from keras_tuner.oracles import BayesianOptimizationOracle

        return BayesianOptimizationOracle(max_trials=None, **settings)

    def propose(self, number: int, seed: int, repeats: int, trials: list[Message], shown: Message) -> Message:
        """As ever; where its search for the optimum starts hangs on the trial's seed too. KerasTuner does not keep that state."""
        import numpy as np

        self.oracle._random_state = np.random.RandomState(seed)
        return super().propose(number, seed, repeats, trials, shown)

    def meet(self, name: str, param: Message) -> None:
        """As ever; what was fitted without it foretells nothing any more."""
        if name not in self.coded:
            self.oracle.gpr = self.oracle._make_gpr()
        super().meet(name, param)

    def restore(self) -> None:
        """What was fitted last stays: it foretells what running trials will have. KerasTuner, without it, takes a 1 for that."""
        oracle, fitted = self.oracle, self.oracle.gpr
        super().restore()
        oracle.gpr = fitted
        done = {id: trial for id, trial in oracle.trials.items() if trial.status != RUNNING}
        enough = 3 * len(oracle.hyperparameters.space)  # KerasTuner's, before which it proposes at random
        if (
            enough
            and not hasattr(fitted, "X_train_")
            and sum(trial.status == COMPLETED for trial in done.values()) >= enough
        ):
            every, oracle.trials = oracle.trials, done
            fitted.fit(*oracle._vectorize_trials())
            oracle.trials = every


class Grid(Oracle):
    """Every combination, the last parameter changing first; KerasTuner takes ten values of a range without a step."""

    kind = "kt-grid"

    def __init__(self, space: Mapping[str, Any], epochs: int, seed: int) -> None:
        super().__init__(space, epochs, seed)
        self._spent: set[str] = set()  # trials whose next combination is tried

    def made(self, epochs: int, settings: Mapping[str, Any]) -> Any:
        """KerasTuner's GridSearchOracle."""
        from keras_tuner.oracles import GridSearchOracle

        return GridSearchOracle(max_trials=None, **settings)

    def counts(self, number: int) -> bool:
        """A starter is no combination to go on from."""
        return self.own(number)

    def restore(self) -> None:
        """KerasTuner keeps neither the order of its combinations nor which are to be followed up; both follow from the trials."""
        from keras_tuner.src.tuners.gridsearch import LinkedList

        super().restore()
        values = {}
        for hp in self.oracle.hyperparameters.space:
            others = list(hp.values)
            if hp.default in others:
                others.remove(hp.default)
            values[hp.name] = {value: place for place, value in enumerate([hp.default, *others])}

        def place(id: str) -> list[int]:
            own = self.oracle.trials[id].hyperparameters.values
            return [places[own[name]] if name in own else -1 for name, places in values.items()]

        self.oracle._ordered_ids = LinkedList()
        for id in sorted(self.oracle.start_order, key=place):
            self.oracle._ordered_ids.insert(id)
        self.oracle._populate_next = [id for id in self.oracle.start_order if id not in self._spent]

    def propose(self, number: int, seed: int, repeats: int, trials: list[Message], shown: Message) -> Message:
        """As ever, and however often it proposes what a starter had: it comes past that."""
        found = super().propose(number, seed, 0, trials, shown)
        left = set(self.oracle._populate_next)
        followed = [id for id in self.oracle.start_order if id not in self._spent and id not in left]
        self._spent |= set(followed[:-1] if found["status"] == RUNNING else followed)
        return found

    def meet(self, name: str, param: Message) -> None:
        """As ever; with another parameter, every combination has others after it."""
        if name not in self.coded:
            self._spent.clear()
        super().meet(name, param)


class Hyperband(Oracle):
    """Hyperband: brackets of rounds, each round's best continued in the next.

    A trial that failed leaves its bracket, and so do those whose training it went on with: KerasTuner keeps it there, and the
    bracket then never comes to its end.
    """

    kind = "kt-hyperband"

    def made(self, epochs: int, settings: Mapping[str, Any]) -> Any:
        """KerasTuner's HyperbandOracle."""
        from keras_tuner.oracles import HyperbandOracle

        self._epochs = epochs
        return HyperbandOracle(max_epochs=epochs, hyperband_iterations=ENDLESS, **settings)

    def state(self) -> Message:
        """The brackets, each with the trials that stand in its rounds."""
        own = [number for number in sorted(self.trials) if self.own(number)]
        out = {number for number in own if self.rows[number]["status"] in (FAILED, REPEATS)}
        for number in reversed(own):  # a trial's predecessor is an earlier one
            past = self.rows[number]["note"]["past"]
            if number in out and past is not None:
                out.add(past)
        brackets = self.oracle._get_num_brackets()
        begun = 1 + max((self.rows[number]["note"]["bracket"] for number in own), default=0)
        self._all = []
        for bracket in range(begun):
            size = brackets - 1 - bracket % brackets
            self._all.append({"bracket_num": size, "rounds": [[] for _ in range(size + 1)], "serial": bracket})
        for number in own:
            if number not in out:
                note = self.rows[number]["note"]
                past = None if note["past"] is None else str(note["past"])
                self._all[note["bracket"]]["rounds"][note["round"]].append({"past_id": past, "id": str(number)})
        return {
            "brackets": list(self._all),
            "current_bracket": brackets - 1 - (begun - 1) % brackets,
            "current_iteration": (begun - 1) // brackets,
        }

    def note(self, number: int) -> Message:
        """Where the trial stands: the bracket, counted from the study's first, and the round in it."""
        for bracket in self.oracle._brackets:
            for place, trials in enumerate(bracket["rounds"]):
                for info in trials:
                    if info["id"] == str(number):
                        past = None if info["past_id"] is None else int(info["past_id"])
                        return {"bracket": bracket.get("serial", len(self._all)), "round": place, "past": past}
        return {}  # a random config, because Hyperband only repeated itself

    def own(self, number: int) -> bool:
        """Whether the trial stands in a bracket."""
        return super().own(number) and self.rows[number]["note"].get("bracket", math.inf) <= number

    def training(self, values: Mapping[str, Any]) -> Message:
        """A trial's rounds end early, but for the last, and each goes on where the one before it ended."""
        until = values.get("tuner/epochs", self._epochs)
        past = values.get("tuner/trial_id") if values.get("tuner/initial_epoch") else None
        return {"until": until if until < self._epochs else 0, "continues": None if past is None else int(past)}

    def kept(self) -> list[int]:
        """Those that may still be continued, and those whose continuation has not ended."""
        kept = []
        for bracket in self._all:
            for place, (past, after) in enumerate(zip(bracket["rounds"], bracket["rounds"][1:], strict=False), 1):
                full = len(after) >= self.oracle._get_size(bracket["bracket_num"], place)
                chosen = {info["past_id"]: info["id"] for info in after}
                for info in past:
                    follower = self.oracle.trials.get(chosen.get(info["id"]))
                    goes_on = info["id"] in chosen and (follower is None or follower.status == RUNNING)
                    if goes_on or (info["id"] not in chosen and not full):
                        kept.append(int(info["id"]))
        return kept


KINDS: dict[str, Callable[[Mapping[str, Any], int, int], Oracle]] = {
    kind.kind: kind for kind in (Random, Bayesian, Hyperband, Grid)
}


if __name__ == "__main__":
    main(int(sys.argv[1]))
