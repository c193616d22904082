"""The command line: a file per command, each parses, calls, shows. Errors become one line each here, and nowhere else."""

from __future__ import annotations

import errno
import os
import sys

import typer
from typer.exceptions import TyperException

from autofash import errors, failpoints
from autofash.cli import baselines, best, dashboard, importing, predict, report, search, show, spaces, studies

app = typer.Typer(
    name="autofash",
    help="Find, train and prove the best Keras image classifier for a data set, on this machine.\n\n"
    "**autofash search --trials 50** – search, or resume a search\n\n"
    "**autofash best --export** – train the best config on everything, test it once, save it\n\n"
    "**autofash report** – all that is known of a study on one page",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for command in (
    search.search,
    best.best,
    report.report,
    predict.predict,
    show.show,
    studies.studies,
    dashboard.dashboard,
    spaces.spaces,
    baselines.baselines,
):
    app.command()(command)
app.command("import")(importing.import_folder)


def main() -> None:
    """Run the command line and end the process with the exit code of what happened."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        failpoints.arm()
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
        if code == 130:  # Typer's word for a Ctrl-C that no command took
            complain(errors.Interrupted("interrupted", "the same command again"))
    except errors.AutofashError as error:
        if debug:
            raise
        complain(error)
        code = error.exit_code
    except TyperException as error:
        if arguments:
            complain(_usage_error(error, arguments))
        code = 2 if arguments else 0  # `autofash` alone shows its help
    except KeyboardInterrupt:  # before Typer was there to take it
        complain(errors.Interrupted("interrupted", "the same command again"))
        code = 130
    except BrokenPipeError:
        code = _quiet_end()
    except SystemExit as error:  # how rich and Typer take a closed pipe, as in `autofash best | head`
        code = _quiet_end() if _is_broken_pipe(error) else error.code
    except Exception as error:
        if debug:
            raise
        complain(
            errors.AutofashError(
                f"{type(error).__name__}: {error}", "the same command with --debug, and report what it shows"
            )
        )
        code = 1
    sys.exit(code or 0)


def complain(error: errors.AutofashError) -> None:
    """One line of stderr for each problem."""
    for problem in error.problems:
        print(f"autofash: error[{error.code}]: {problem}", file=sys.stderr)


def _quiet_end() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _is_broken_pipe(error: BaseException) -> bool:
    cause = error.__context__
    return isinstance(cause, OSError) and cause.errno == errno.EPIPE


def _usage_error(error: TyperException, arguments: list[str]) -> errors.AutofashError:
    """Typer's word for a wrong flag or command as one of ours, with the nearest that exists."""
    context = getattr(error, "ctx", None)
    command = context.command if context is not None else None
    fix = f"{context.command_path} --help" if context is not None else "autofash --help"
    option, commands = getattr(error, "option_name", None), getattr(command, "commands", None)
    if option is not None and command is not None and not str(error.format_message()).startswith("Option"):
        known = [flag for parameter in command.params for flag in parameter.opts if flag.startswith("--")]
        fact, near = errors.unknown("option", option, known)
        return errors.UsageError(fact, near if near in known else fix)
    if commands and arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        return errors.UsageError(*errors.unknown("command", arguments[0], commands))
    return errors.UsageError(str(error.format_message()).rstrip("."), fix)
