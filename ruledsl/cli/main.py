"""`ruledsl COMMAND ...`: which command there is, and what happens to errors.

Exit status: 0 fine, 1 a rule has errors, 2 the call was wrong, 128 + the signal's number for a run that was asked to
stop (130 after Ctrl-C, 143 after SIGTERM). To add a command, write a file with a function
`command`, whose annotations and docstring typer reads, and name it in `COMMANDS`. Imports that take time belong into
the function: a command must not wait for what it doesn't need.
"""

from __future__ import annotations

import functools
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from ruledsl.errors import UserError, suggest

COMMANDS = {
    "list": "ruledsl.cli.list:command",
    "models": "ruledsl.cli.models:command",
    "data": "ruledsl.cli.data:command",
    "new": "ruledsl.cli.new:command",
    "check": "ruledsl.cli.check:command",
    "explain": "ruledsl.cli.explain:command",
    "compile": "ruledsl.cli.compile:command",
    "verify": "ruledsl.cli.verify:command",
    "fmt": "ruledsl.cli.fmt:command",
    "train": "ruledsl.cli.train:command",
    "compare": "ruledsl.cli.compare:command",
    "bench": "ruledsl.cli.bench:command",
    "plot": "ruledsl.cli.plot:command",
}
FINE, RULE_HAS_ERRORS, CALL_WAS_WRONG, ASKED_TO_STOP = 0, 1, 2, 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. Errors of the user are printed to stderr as one message, never a traceback."""
    from ruledsl.diagnostics import RuleError

    for stream in (sys.stdout, sys.stderr):  # a terminal or a pipe may know fewer signs than a rule's title has
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        _complain(f"error: {error.message}" + (f"\n  = help: {error.help}" if error.help else ""))
        number = getattr(error, "signal", None)
        return ASKED_TO_STOP + number if number else CALL_WAS_WRONG
    except RuleError as error:
        _complain(str(error))
        return RULE_HAS_ERRORS
    except KeyboardInterrupt:
        _complain("interrupted")
        return ASKED_TO_STOP + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has seen enough, as in `ruledsl list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE


def _run(arguments: list[str]) -> int:
    name = arguments[0] if arguments else ""
    if name and not name.startswith("-") and name not in COMMANDS:
        raise UserError(f"there is no command called `{name}`", suggest(name, COMMANDS))
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_about)  # with a callback, an app of a single command still wants the command's name
    shown = [name] if name in COMMANDS else [] if name == "--version" else COMMANDS
    for command in shown:
        app.command(command)(_interruptible(_function(COMMANDS[command])))
    try:
        app(arguments, prog_name="ruledsl")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FINE
    return FINE


def _print_version(asked: bool) -> None:
    if asked:
        import ruledsl

        typer.echo(ruledsl.__version__)
        raise typer.Exit()


def _about(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Learning rules as mathematics, checked for locality and compiled to PyTorch and JAX."""


def _function(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


class _Interrupted(UserError):
    """Ctrl-C."""

    signal = signal.SIGINT


def _interruptible(function: Callable[..., Any]) -> Callable[..., Any]:
    """Typer would turn Ctrl-C into its own exit status."""

    @functools.wraps(function)
    def command(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except KeyboardInterrupt:
            raise _Interrupted("interrupted") from None

    return command


def _complain(text: str) -> None:
    sys.stdout.flush()
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
