"""Many begin the same study at the same moment; `make load` has five hundred of them."""

from contextlib import closing
from pathlib import Path

from tests.executors.test_processes import until
from tests.faults.command import Commands
from tests.faults.invariant import broken

SEARCH = ("search", "--dataset", "digits", "--space", "mlp", "--trials", "4", "--workers", "1", "--quiet")


def test_of_twelve_first_searches_at_once_one_makes_the_study_and_the_others_say_who_holds_it(workplace: Path) -> None:
    slow = {"AUTOFASH_FAKE_SECONDS": "60"}  # whoever was first is at it still when the last one comes
    with closing(Commands()) as commands:
        several = [commands.start(*SEARCH, here=workplace, **slow) for _ in range(12)]
        assert until(lambda: sum(command.code is not None for command in several) == 11, seconds=120)
        [first] = [command for command in several if command.code is None]
        for command in several:
            if command is not first:
                held = f"process {first.pid} is searching the study digits-mlp. Try: wait for it"
                assert command.code == 4 and f"error[E-STUDY-BUSY]: {held}" in command.said
        first.kill()
        assert broken("studies/studies.db", "digits-mlp") == []
        last = commands.run(*SEARCH, here=workplace)
    assert broken("studies/studies.db", "digits-mlp", acknowledged=last.ended, workers=(), finished=4) == []
