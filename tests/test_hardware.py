from pathlib import Path

import pytest

from autofash import hardware


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Eight cores, 32 GiB, no GPU, no fast bfloat16."""
    monkeypatch.setattr(hardware, "usable_cores", lambda: 8)
    monkeypatch.setattr(hardware, "usable_memory", lambda: 32 * 2**30)
    monkeypatch.setattr(hardware, "gpu_names", list)
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


def test_each_gpu_gets_a_worker_of_its_own(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(hardware, "gpu_names", lambda: ["A", "A"])
    plan = hardware.plan()
    assert plan.workers == 2
    assert [plan.device(slot) for slot in range(2)] == ["0", "1"]


def test_no_gpu_is_seen_when_the_user_hides_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert hardware.gpu_names() == []


def test_a_missing_file_of_the_system_reads_as_empty(tmp_path: Path) -> None:
    assert hardware._first_line(str(tmp_path / "none")) == ""


def test_this_machine_can_be_named() -> None:
    assert "cores" in hardware.machine()
