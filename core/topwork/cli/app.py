"""The command line: reads the options that every command shares, loads the plugins, and hands over to a command.

Exit codes: 0 all is well, 1 a run failed, 2 a bad recipe or bad usage, 75 stopped by a signal (SIGTERM, SIGHUP,
SIGUSR1), 130 interrupted. Errors that topwork raises on purpose, and what the machine refuses, are printed
without a traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

import typer

from topwork.cli.output import Session, coloured, print_json, say
from topwork.errors import RecipeError, TopworkError, UsageError
from topwork.plugins.loading import safe_text
from topwork.plugins.registry import Plugins, load_plugins
from topwork.system.errors import translate_system_error
from topwork.system.output import reopen_streams
from topwork.system.signals import Stopped, listening, requests

#: what the libraries below must be told, before they are imported, to print no progress of their own
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
SHARED = """The options above may also stand after the command. With --json stdout holds JSON alone; when a
command fails, an object with the key `error`. Environment: TOPWORK_PLUGINS and TOPWORK_DISABLE
(names, separated by commas), TOPWORK_TRACE=1 prints hook calls, TOPWORK_DEBUG=1 is --debug,
TOPWORK_STRICT=1 ends a run when an observer fails, NO_COLOR=1 prints no colours, TOPWORK_KERNELS=off
(auto, onednn, bf16) chooses the kernels of a CPU."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of the process when None.

    Returns:
        the exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    with listening():
        return _run_command(given, Outcome("--json" in given))


def _run_command(given: list[str], outcome: Outcome) -> int:
    """Load the plugins and call a command; return the exit code."""
    debug = os.environ.get("TOPWORK_DEBUG", "0") not in ("", "0")
    try:
        shared, rest = split_shared(given)
        debug = debug or shared["debug"]
        if shared["quiet"]:
            os.environ.update(QUIET)
        loaded = load_plugins(only=shared["plugins"], disable=shared["disable"], files=shared["plugin"])
        if rest and not rest[0].startswith("-") and rest[0] not in loaded.commands:
            raise loaded.unknown("command", rest[0], loaded.commands)
        session = Session(loaded, quiet=shared["quiet"], debug=debug)
        command = typer.main.get_command(make_app(loaded, debug, outcome))
        command(args=_known_to(command, rest), prog_name="topwork", obj=session)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if code and not outcome.started:  # typer has refused the arguments, and said so
            outcome.report("UsageError", "wrong arguments; stderr says which", code)
        return code
    except TopworkError as error:  # from loading the plugins; commands handle their own
        return _failed(error, debug, outcome)
    except KeyboardInterrupt as error:
        return _interrupted(error, outcome)
    except Stopped as error:
        return _stopped(error, outcome)
    return 0


def _known_to(group: Any, arguments: list[str]) -> list[str]:
    """Leave out `--json` for a command that prints no JSON of its own: its errors are JSON nevertheless."""
    command = group.commands.get(arguments[0]) if arguments else None
    if command is None or any("--json" in parameter.opts for parameter in command.params):
        return arguments
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [argument for argument in arguments[:end] if argument != "--json"] + arguments[end:]


@dataclass
class Outcome:
    """End of a call of the command line, for `--json`: on failure stdout holds one object with the key `error`.

    Args:
        as_json: whether `--json` was given.
        started: whether a command was called.
    """

    as_json: bool = False
    started: bool = False

    def report(self, kind: str, message: str, exit_code: int, **more: Any) -> None:
        """Print the error object: type, message, exit_code; place, hint, code and problems where they are known."""
        if self.as_json:
            known = {key: value for key, value in more.items() if value is not None}
            print_json({"error": {"type": kind, "message": message, "exit_code": exit_code, **known}})


def split_shared(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Take out the options that every command shares: they decide which commands there are.

    Raises:
        UsageError: an option without its value.
    """
    shared: dict[str, Any] = {"plugins": None, "disable": [], "plugin": [], "quiet": False, "debug": False}
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            rest += [argument, *waiting]
            break
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in shared:
            rest.append(argument)
        elif isinstance(shared[name], bool):
            shared[name] = True
        else:
            given = value if equals else next(waiting, None)
            if given is None:
                raise UsageError(f"`--{name}` needs a value", place="topwork")
            values = [given] if name == "plugin" else [part.strip() for part in given.split(",") if part.strip()]
            shared[name] = [*(shared[name] or []), *values]
    return shared, rest


def make_app(loaded: Plugins, debug: bool = False, outcome: Outcome | None = None) -> typer.Typer:
    """Make the typer application with the commands of the core and of the plugins."""
    app = typer.Typer(
        name="topwork",
        help="Graft a task head onto a base, train it from a recipe, look inside its attention heads, prune them.",
        epilog=SHARED,
        add_completion=True,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_shared_options)
    for name, command in loaded.commands.items():
        app.command(name)(_guarded(command, debug, outcome or Outcome()))
    return app


def _shared_options(
    context: typer.Context,
    plugins: Annotated[str | None, typer.Option(help="Load only these plugins (names, separated by commas).")] = None,
    disable: Annotated[str | None, typer.Option(help="Do not load these plugins.")] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="Load a local Python file as a plugin.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no log lines on the terminal.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=lambda on: _version(on), is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    # `split_shared` has read these already, for plugins bring commands; here they are declared for --help.
    pass


def _version(wanted: bool) -> None:
    if wanted:
        from topwork import __version__

        print(f"topwork {__version__}")
        raise typer.Exit


def _guarded(command: Callable[..., Any], debug: bool, outcome: Outcome) -> Callable[..., Any]:
    """Wrap a command so that its errors become messages and exit codes."""

    @wraps(command)
    def call(*arguments: Any, **options: Any) -> None:
        outcome.started = True
        try:
            command(*arguments, **options)
        except TopworkError as error:
            raise typer.Exit(_failed(error, debug, outcome)) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(_interrupted(error, outcome)) from None
        except Stopped as error:
            raise typer.Exit(_stopped(error, outcome)) from None
        except (typer.Exit, typer.Abort, BrokenPipeError):  # whoever reads our output has read enough
            raise
        except SystemExit:
            raise
        except BaseException as error:  # a plugin's own kind among them
            raise typer.Exit(_unexpected(error, debug, outcome)) from error

    return call


def _interrupted(error: KeyboardInterrupt, outcome: Outcome) -> int:
    message = " ".join(["interrupted", *getattr(error, "__notes__", ())])
    say(message)
    outcome.report("KeyboardInterrupt", message, 130)
    return 130


def _stopped(error: Stopped, outcome: Outcome) -> int:
    """Report the end that was asked for from outside."""
    requests.end()
    say(str(error))
    kind = "KeyboardInterrupt" if error.exit_code == 130 else type(error).__name__
    outcome.report(kind, str(error), error.exit_code, cause=error.cause, hint=error.hint)
    return error.exit_code


def _unexpected(error: BaseException, debug: bool, outcome: Outcome) -> int:
    """Report an error that topwork did not raise: one of the machine in words, any other, a bug, with its traceback."""
    reopen_streams()
    if (translated := translate_system_error(error)) is not None:
        return _failed(translated.with_traceback(error.__traceback__), debug, outcome)
    with suppress(Exception):  # an error whose own text raises
        traceback.print_exception(error)
    notes = "; ".join(map(str, getattr(error, "__notes__", ())))
    say(
        f"this error was not foreseen{f' ({notes})' if notes else ''}: it is a fault of topwork or of a plugin; please "
        "report it with the lines above"
    )
    outcome.report(type(error).__name__, safe_text(error), 1, place=notes or None)
    return 1


def _failed(error: TopworkError, debug: bool, outcome: Outcome) -> int:
    reopen_streams()
    if debug:
        traceback.print_exception(error)
    say(coloured(str(error), "red", sys.stderr))
    problems = [vars(problem) for problem in error.problems] if isinstance(error, RecipeError) else None
    more = {"place": error.place, "cause": error.cause, "hint": error.hint, "code": error.code, "problems": problems}
    outcome.report(type(error).__name__, str(error), error.exit_code, **more)
    return error.exit_code
