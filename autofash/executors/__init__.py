"""Where trials run: in processes of their own, or here in this one. They all keep one contract, tests/contracts."""

from autofash.executors.inline import InlineExecutor
from autofash.executors.processes import ProcessExecutor
from autofash.executors.protocol import Event, Executor

__all__ = ["Event", "Executor", "InlineExecutor", "ProcessExecutor"]
