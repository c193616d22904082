from pathlib import Path

import pytest

from autofash import hardware
from autofash.hardware import Gpu


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Eight cores, 32 GiB, no GPU, no fast bfloat16."""
    monkeypatch.setattr(hardware, "usable_cores", lambda: 8)
    monkeypatch.setattr(hardware, "usable_memory", lambda: 32 * 2**30)
    monkeypatch.setattr(hardware, "gpus", list)
    monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda: False)
    return monkeypatch


def test_a_cpu_runs_one_single_threaded_trial_a_core(machine: pytest.MonkeyPatch) -> None:
    plan = hardware.plan()
    assert (plan.workers, plan.threads, plan.precision, plan.devices) == (8, 1, "float32", ())


def test_memory_limits_the_workers_and_the_plan_says_so(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(hardware, "usable_memory", lambda: 4 * 2**30)
    plan = hardware.plan()
    assert plan.workers == 2
    assert "as many as memory allows" in plan.why


def test_there_is_always_one_worker(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(hardware, "usable_memory", lambda: 0)
    assert hardware.plan().workers == 1


def test_chosen_workers_share_the_cores(machine: pytest.MonkeyPatch) -> None:
    assert (hardware.plan(2).workers, hardware.plan(2).threads) == (2, 4)


def test_fast_bfloat16_is_used_where_the_cpu_has_it(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(hardware, "has_fast_bfloat16", lambda: True)
    assert hardware.plan().precision == "mixed_bfloat16"


def test_a_gpu_gets_one_to_four_workers_by_its_memory_and_they_take_turns_over_the_gpus(
    machine: pytest.MonkeyPatch,
) -> None:
    for gibibytes, workers in ((0, 2), (8, 2), (16, 4), (80, 8)):
        machine.setattr(hardware, "gpus", lambda memory=gibibytes * 2**30: [Gpu("A", memory)] * 2)
        assert hardware.plan().workers == workers
    plan = hardware.plan()
    assert [plan.device(slot) for slot in range(4)] == ["0", "1", "0", "1"] and plan.threads == 1
    assert plan.why == "8 at once on 2 × A"


def test_neither_cores_nor_memory_limit_the_workers_below_one_a_gpu(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(hardware, "gpus", lambda: [Gpu("A", 80 * 2**30)] * 3)
    machine.setattr(hardware, "usable_cores", lambda: 2)
    assert hardware.plan().workers == 3
    machine.setattr(hardware, "usable_cores", lambda: 64)
    machine.setattr(hardware, "usable_memory", lambda: 9 * 2**30)
    assert hardware.plan().workers == 5 and hardware.plan(1).workers == 1


def test_gpus_are_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for says, found in (
        ("echo 'NVIDIA H200, 143771'", [Gpu("NVIDIA H200", 143_771 * 2**20)]),
        ("echo 'GRID, one, [N/A]'", [Gpu("GRID, one", 0)]),
        ("echo 'no devices were found'; exit 6", []),
    ):
        program.write_text(f"#!/bin/sh\n{says}\n")
        program.chmod(0o755)
        assert hardware.gpus() == found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert hardware.gpus() == [], "its user hides them"


def test_a_missing_file_of_the_system_reads_as_empty(tmp_path: Path) -> None:
    assert hardware._first_line(str(tmp_path / "none")) == ""


def test_this_machine_can_be_named() -> None:
    assert "cores" in hardware.machine()
