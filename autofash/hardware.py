"""What this machine offers, and the plan that follows: how many trials at once, with how many threads, in which precision."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

# A trial of the shipped spaces on Fashion-MNIST holds 0.5 to 0.7 GB resident (TensorFlow 2.21); other data may need more.
MEMORY_PER_TRIAL = 1.5 * 2**30
MEMORY_RESERVE = 1.0 * 2**30
GPU_MEMORY_PER_TRIAL = 8 * 2**30  # a trial of small images needs a fraction; a GPU that is full fails it
MOST_PER_GPU = 4  # trials: one of small images leaves most of a GPU idle, several fill its gaps


@dataclass(frozen=True, slots=True)
class Gpu:
    """One of the machine's GPUs."""

    name: str
    memory: int  # bytes; 0 where it does not say


@dataclass(frozen=True, slots=True)
class Plan:
    """How trials share the machine."""

    workers: int  # trials at once, from 1
    threads: int  # of each trial, from 1
    precision: str  # a Keras dtype policy
    devices: tuple[str, ...]  # GPU of each worker; empty without one
    why: str  # the plan in words
    memory: int  # bytes that each worker may fill

    def device(self, slot: int) -> str:
        """CUDA_VISIBLE_DEVICES of the worker in this slot, from 0; empty without a GPU."""
        return self.devices[slot % len(self.devices)] if self.devices else ""


def plan(workers: int | None = None) -> Plan:
    """The plan for this machine.

    workers: how many trials at once; None: one single-threaded trial a core, as far as memory reaches
    (two 1-thread trials train 1.3 times as many images as one 2-thread trial), or one to four a GPU, by its memory.
    """
    cores, memory, found = usable_cores(), usable_memory(), gpus()
    affordable = max(1, int((memory - MEMORY_RESERVE) // MEMORY_PER_TRIAL))
    if found:
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        visible = chosen.split(",") if chosen else [str(number) for number in range(len(found))]
        each = min(MOST_PER_GPU, *(max(1, gpu.memory // GPU_MEMORY_PER_TRIAL) for gpu in found))
        count = workers or max(len(visible), min(each * len(visible), cores, affordable))
        return Plan(
            workers=count,
            threads=max(1, cores // count),
            precision="mixed_bfloat16",
            devices=tuple(visible[slot % len(visible)] for slot in range(count)),
            why=f"{count} at once on {len(visible)} × {found[0].name}",
            memory=_share(memory, count),
        )
    count = workers or min(cores, affordable)
    precision = "mixed_bfloat16" if has_fast_bfloat16() else "float32"
    threads = max(1, cores // count)
    limited = ", as many as memory allows" if workers is None and affordable < cores else ""
    return Plan(
        workers=count,
        threads=threads,
        precision=precision,
        devices=(),
        why=f"{count} at once on {cores} cores{limited}, {threads} thread{'s' if threads > 1 else ''} each, "
        + precision.removeprefix("mixed_"),
        memory=_share(memory, count),
    )


def _share(memory: int, workers: int) -> int:
    return int(max(memory - MEMORY_RESERVE, MEMORY_PER_TRIAL) / workers)


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the cgroup's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _first_line("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def usable_memory() -> int:
    """Bytes of memory that can still be had: available ones, within the cgroup's limit."""
    available = int(psutil.virtual_memory().available)
    limit = _first_line("/sys/fs/cgroup/memory.max")
    used = _first_line("/sys/fs/cgroup/memory.current")
    if limit.isdigit() and used.isdigit():
        available = min(available, int(limit) - int(used))
    return available


def gpus() -> list[Gpu]:
    """NVIDIA GPUs, asked of nvidia-smi, because asking a framework would start it in this process."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return []
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = []
    for line in answer.stdout.splitlines() if answer.returncode == 0 else ():
        name, _, mebibytes = (part.strip() for part in line.rpartition(","))
        if name:
            found.append(Gpu(name, int(mebibytes) * 2**20 if mebibytes.isdigit() else 0))
    return found


def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware (avx512_bf16 or amx_bf16); elsewhere it is emulated and slow."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    flags = next((line for line in _lines("/proc/cpuinfo") if line.startswith("flags")), "").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def energy_joules() -> float | None:
    """What the processor packages have used since some moment, by RAPL; None where the machine offers, or shows, no counter.

    The counters wrap around after some hours at full load: a difference below 0 says nothing.
    """
    packages = [path for path in Path("/sys/class/powercap").glob("intel-rapl:*") if path.name.count(":") == 1]
    counts = [_first_line(str(path / "energy_uj")) for path in packages]
    return sum(int(count) for count in counts) / 1e6 if counts and all(count.isdigit() for count in counts) else None


def machine() -> str:
    """This machine in a few words, for manifests and benchmarks."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    names = [gpu.name for gpu in gpus()]
    return ", ".join([f"{usable_cores()} cores", model, f"{psutil.virtual_memory().total / 2**30:.0f} GiB", *names])


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _first_line(path: str) -> str:
    return next(iter(_lines(path)), "")
