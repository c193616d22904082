"""Small stand-ins for training, which never import Keras. Each is a task like `autofash.training:run_trial`.

What they do is told by the environment of the search, because a trial's process inherits it:
AUTOFASH_FAKE_SECONDS is how long an epoch takes.
"""

import errno
import json
import math
import os
import resource
import signal
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autofash import manifest
from autofash.errors import InfeasibleConfig
from autofash.records import Action, EpochReport, ModelBuilt, Report, Suggest, TrialSpec

ASYMPTOTE = 0.95


def accuracy_of(config: Mapping[str, Any], epoch: int) -> float:
    """A curve that rises with the epochs, and is best at learning rate 0.002."""
    off = abs(math.log10(float(config.get("learning_rate", 1e-3))) - math.log10(2e-3))
    return max(0.1, (ASYMPTOTE - 0.2 * off) * (1 - math.exp(-1.2 * epoch)))


def report_of(spec: TrialSpec, epoch: int, objective: float) -> EpochReport:
    """A report in which all that is not the objective is made up."""
    return EpochReport(
        spec.trial, epoch, objective, objective, 1 - objective, objective, 1 - objective, 1000 * epoch, 0.1 * epoch
    )


def learn(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Learn as `accuracy_of` says; paused, go on from the epoch that was kept."""
    print(f"trial {spec.trial} learns with seed {spec.seed}", flush=True)
    return _learn(spec, report, 0.0)


def learn_by_luck(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Learn as `accuracy_of` says, a hundredth more or less by the seed's luck."""
    return _learn(spec, report, (spec.seed % 1000 / 1000 - 0.5) / 50)


def build_and_learn(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Say how large the model is, and learn one epoch where that is wanted."""
    if report(ModelBuilt(spec.trial, parameters=7, work=1e6)).action is Action.GO:
        report(report_of(spec, 1, 0.5))
    return {}


def _learn(spec: TrialSpec, report: Report, luck: float) -> Mapping[str, Any]:
    kept = Path(spec.checkpoint) / "epoch"
    done = int(kept.read_text()) if spec.checkpoint and kept.exists() else 0
    if done:
        print(f"trial {spec.trial} goes on after epoch {done}", flush=True)
    for epoch in range(done + 1, (spec.until or spec.epochs) + 1):
        time.sleep(float(os.environ.get("AUTOFASH_FAKE_SECONDS", "0")))
        verdict = report(report_of(spec, epoch, accuracy_of(spec.config, epoch) + luck))
        if verdict.action is Action.PAUSE or epoch == spec.until:
            kept.parent.mkdir(parents=True, exist_ok=True)
            beside = kept.with_name("new")
            beside.write_text(str(epoch))
            manifest.put(beside, kept, "artifact")
        if verdict.action is not Action.GO:
            break
    return {"parameters": 7}


# -- the steps of a refit and of an export ---------------------------------------------------------------------------------


def fit(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Train on everything, and keep the model."""
    for epoch in range(1, int(spec.options["epochs"]) + 1):
        time.sleep(float(os.environ.get("AUTOFASH_FAKE_SECONDS", "0")))
        report(report_of(spec, epoch, accuracy_of(spec.config, epoch)))
    _keep(Path(spec.options["file"]), f"trial {spec.trial}")
    return {}


def assemble(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Make one model of the members."""
    members = [zipfile.ZipFile(file).read("model") for file in spec.options["members"]]
    _keep(Path(spec.options["folder"]) / manifest.MODEL, str(members))
    metrics = {"drift": 0.0, "parameters": 7, "train_accuracy": 0.9}
    return _note(spec, {"metrics": metrics, "input": {"border": 0.0, "background": "dark"}})


def open_the_test_set(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Open the test set: no image of it is needed here."""
    folder = Path(spec.options["folder"])
    for name in (manifest.PREDICTIONS, manifest.GALLERY):
        _keep(folder / name, name)
    scores = {"test_accuracy": 0.9, "test_macro_f1": 0.9, "test_loss": 0.3}
    return _note(spec, {**scores, "test_images": 297})


def export(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Bring the model into a format, and prove it."""
    from autofash.runtimes import FORMATS  # which import NumPy

    wanted = FORMATS[spec.options["format"]]
    if wanted.path != manifest.MODEL:
        _keep(Path(spec.options["beside"]) / wanted.path, wanted.name)
    return {"bytes": 7, "parameters": 7, "largest_difference": 0.0, "agreement": 1.0, "images": 297}


def _keep(place: Path, content: str) -> None:
    """An archive, like a model's file, so that half a file is told from a whole one."""
    beside = place.with_name(f"new-{place.name}")
    with zipfile.ZipFile(beside, "w") as archive:
        archive.writestr("model", content)
    manifest.put(beside, place, "artifact")


def _note(spec: TrialSpec, result: Mapping[str, Any]) -> Mapping[str, Any]:
    done = Path(spec.options["done"])
    beside = done.with_suffix(".new")
    beside.write_text(json.dumps(result))
    manifest.put(beside, done, "artifact")
    return result


# -- what goes wrong -------------------------------------------------------------------------------------------------------


def raise_an_error(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Fail at once."""
    raise ValueError("the fake is out of order")


def fill_the_disk(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Find the disk full after the first epoch, but for trial 0."""
    if spec.trial:
        report(report_of(spec, 1, 0.5))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return learn(spec, report)


def be_infeasible(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Refuse every second config as one that no model can be built from."""
    if spec.trial % 2:
        raise InfeasibleConfig("a pooling too many: 1 × 1 pixels are left")
    return learn(spec, report)


def leave_the_numbers(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Report NaN in every third trial and infinity in the next."""
    value = {0: math.nan, 1: math.inf}.get(spec.trial % 3, 0.5)
    report(report_of(spec, 1, value))
    return {}


def die_once(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """In its first attempt at each seed, be killed in the second epoch, as by the system for want of memory."""
    mark = Path(os.environ["AUTOFASH_FAKE_MARKS"]) / str(spec.seed)
    if not mark.exists():
        report(report_of(spec, 1, 0.5))
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return learn(spec, report)


def die_when_it_continues(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """In the first attempt of one that goes on from a checkpoint, be killed after an epoch."""
    mark, kept = Path(os.environ["AUTOFASH_FAKE_MARKS"]) / str(spec.seed), Path(spec.checkpoint) / "epoch"
    if kept.exists() and not mark.exists():
        mark.touch()
        epoch = int(kept.read_text()) + 1
        report(report_of(spec, epoch, accuracy_of(spec.config, epoch)))
        os.kill(os.getpid(), signal.SIGKILL)
    return learn(spec, report)


def always_die(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Be killed in every attempt."""
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def spin(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Work without end and without a word, the way C code does that lets no signal through."""
    report(report_of(spec, 1, 0.5))
    while True:
        sum(range(100_000))


def leave_files_behind(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Make temporary files and end without a thought for them, as TensorFlow does; trial 1 is killed over it."""
    place = tempfile.mkstemp()[1]
    if spec.trial == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"place": place}


def tell_about_itself(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Say what the process is like."""
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "device": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }


def hang(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """In every second trial, say nothing after the first epoch, and go on when asked to end."""
    if spec.trial % 2 == 0:
        return learn(spec, report)
    signal.signal(signal.SIGTERM, lambda *_: print("was asked to end", flush=True))
    report(report_of(spec, 1, 0.5))
    while True:
        time.sleep(60)


def be_slow(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Take much longer in all than anybody's patience lasts, and say something in between."""
    for epoch in range(1, spec.epochs + 1):
        time.sleep(0.7)
        report(report_of(spec, epoch, 0.5))
    return {}


def outgrow_the_machine(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Say, in every second trial, that the model has a trillion parameters, and build it where nobody minds."""
    if spec.trial % 2 == 0:
        return learn(spec, report)
    if report(ModelBuilt(spec.trial, parameters=10**12, work=1e6)).action is Action.GO:
        bytearray(16 * 10**12)
    return {}


def never_fit(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Say that the model has a trillion parameters."""
    report(ModelBuilt(spec.trial, parameters=10**12, work=1e6))
    return {}


def ask_for_too_much(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Fill more memory than the system grants the process, in every second trial."""
    if spec.trial % 2:
        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
        bytearray(2**32)
    return learn(spec, report)


def find_the_disk_full(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """From the third trial on, until there is a file named room, find no room for a checkpoint."""
    if spec.trial >= 2 and not Path(os.environ["AUTOFASH_FAKE_MARKS"], "room").exists():
        report(report_of(spec, 1, 0.5))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoint/new.npz")
    return learn(spec, report)


def fail_in_colours(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Fail, in every second trial, with a message that would draw on a terminal and run on a page."""
    if spec.trial % 2:
        raise ValueError("<img src=x onerror=alert(1)>\x1b]0;owned\x07\x1b[2J\r& [bold]")
    return learn(spec, report)


def ask_and_learn(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Ask for parameters as a user's code does while it builds a model, one of them conditional; then learn."""

    def ask(name: str, **param: Any) -> Any:
        return spec.config[name] if name in spec.config else report(Suggest(spec.trial, name, param)).value

    rate = ask("learning_rate", type="float", low=1e-4, high=1e-1, log=True)
    if ask("kind", type="choice", values=["mlp", "cnn"]) == "cnn":
        ask("filters", type="int", low=8, high=int(os.environ.get("AUTOFASH_FAKE_FILTERS", "32")), step=8)
    if report(ModelBuilt(spec.trial, parameters=7, work=1e6)).action is Action.GO:
        return learn(replace(spec, config={**spec.config, "learning_rate": rate}), report)
    return {}


def ask_alike(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Ask for one of two values: the third trial repeats."""
    report(Suggest(spec.trial, "half", {"type": "bool"}))
    if report(ModelBuilt(spec.trial, parameters=7, work=1e6)).action is Action.GO:
        report(report_of(spec, 1, 0.5))
    return {}


def ask_otherwise(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Ask for what `ask_alike` asks for, as another kind of parameter."""
    report(Suggest(spec.trial, "half", {"type": "int", "low": 0, "high": 1}))
    return {}


def ask_in_vain(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Ask, and break before there is a model."""
    report(Suggest(spec.trial, "key", {"type": "choice", "values": ["nothing"]}))
    raise KeyError("nothing")


def ask_for_half(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Ask for one of the parameters that `ask_and_learn` asks for, and for one of its own."""
    report(Suggest(spec.trial, "kind", {"type": "choice", "values": ["mlp", "cnn"]}))
    report(Suggest(spec.trial, "place", {"type": "float", "low": 0.0, "high": 1.0}))
    if report(ModelBuilt(spec.trial, parameters=7, work=1e6)).action is Action.GO:
        report(report_of(spec, 1, 0.5))
    return {}


def ask_for_pixels(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """Ask for a parameter by a name that every hypermodel's config has."""
    report(Suggest(spec.trial, "pixels", {"type": "int", "low": 8, "high": 32}))
    return {}
