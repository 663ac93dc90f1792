"""The command `shotfit`: all commands, and what every one of them does with errors.

What a command prints for people goes to standard output; with --json that is one object for programs, and the rest goes
to standard error. Errors are one line on standard error. Nothing heavy is imported before a command needs it, and
of the commands themselves only the one that is named.
"""

from __future__ import annotations

import importlib
import io
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from shotfit.commands.arguments import as_repeated
from shotfit.commands.console import to, warner
from shotfit.commands.outside import check_place, drop_output, line_of, signals_end, standing_streams, threads_end
from shotfit.commands.torchrun import may_tell
from shotfit.errors import ShotfitError, UsageError

__all__ = ["COMMANDS", "app_of", "main"]

EXIT_CODES = """\b
Exit codes:
  0    success
  1    a bug of shotfit (--debug shows where)
  2    wrong usage: an unknown flag, method, option or backbone
  3    wrong input: images, manifests, checkpoints, models
  4    done, but something was left out: pictures that cannot be read
  130  interrupted, or ended by a signal
"""

LEFT_OUT_OF_LIGHT = "shotfit-light predicts with exports and does nothing else. For this: pip install shotfit"

INTERRUPTED = 130

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def every_command(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, help="Print the version and exit.", callback=lambda on: _version(on)),
    ] = False,
) -> None:
    """Fit a vision-language model to a folder of images from a few labelled examples.

    \b
    Examples:
      shotfit fit photos/                       fit to photos/CLASS/IMAGE, evaluate, save shotfit-model
      shotfit predict shotfit-model new.jpg     classify other images
      shotfit compare photos/ --methods zero_shot,tip_adapter_f --shots 1,4,16
    """


COMMANDS = (  # each a function of its name, in a module of its name
    *("fit", "predict", "evaluate", "compare", "report", "app"),
    *("suggest", "clean", "embed", "align", "analyze"),
    *("serve", "export", "push"),
    *("methods", "backbones", "show", "doctor", "verify", "cache"),
)


def app_of(names: Sequence[str]) -> typer.Typer:
    """The command line with these commands."""
    made = typer.Typer(
        name="shotfit",
        epilog=EXIT_CODES,
        context_settings=SETTINGS,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    made.callback()(every_command)
    for name in names:
        module = importlib.import_module(f"shotfit.commands.{name}")
        command, inside = getattr(module, name), getattr(module, "GROUP", ())
        if not inside:
            made.command(epilog=EXIT_CODES)(command)
            continue
        group = typer.Typer(epilog=EXIT_CODES, context_settings=SETTINGS, rich_markup_mode=None)
        group.callback()(command)
        for one in inside:
            group.command(epilog=EXIT_CODES)(one)
        made.add_typer(group, name=name)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code. Errors of the user are one line, tracebacks come with --debug."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    with standing_streams(), threads_end(), signals_end() as received, warnings.catch_warnings():
        _take_any_name()
        warnings.showwarning = warner()
        try:
            check_place()
            words = as_repeated("--targets", [word for word in given if word != "--debug"]) or ["--help"]
            known = app_of([words[0]] if words[0] in COMMANDS else COMMANDS)  # all of them take 50 ms more
            code = known(words, prog_name="shotfit", standalone_mode=False)
            sys.stdout.flush()
            if code == INTERRUPTED:  # how the parser of arguments tells it
                return _interrupted(received)
            if code == 1:  # the parser's own --install-completion, of a shell that it does not know or cannot find
                return UsageError.exit_code
            return code if isinstance(code, int) else 0
        except (BrokenPipeError, SystemExit):  # `shotfit predict ... | head`: the reader has enough
            drop_output()
            return 0
        except KeyboardInterrupt:
            return _interrupted(received)
        except Exception as error:
            if debug:
                for traced in traceback.format_exc().rstrip().split("\n"):
                    to(sys.stderr)(traced)
            if isinstance(error, typer.Abort):  # older versions of typer
                return _interrupted(received)
            if isinstance(error, ShotfitError):
                return _failed(f"error: {error}", error.exit_code)
            if hasattr(error, "format_message"):  # of the parser of arguments; older versions of typer have click's
                said = error.format_message().strip().rstrip(".")
                said += "" if said.endswith(("?", "!")) else "."
                where = getattr(getattr(error, "ctx", None), "command_path", "shotfit")  # of the command it was said to
                return _failed(f"error: {said} See {where} --help.", UsageError.exit_code)
            if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("shotfit."):
                return _failed(f"error: {LEFT_OUT_OF_LIGHT}", UsageError.exit_code)
            line = line_of(error)
            if line is not None:
                drop_output()
                return _failed(f"error: {line}", ShotfitError.exit_code)
            hint = "" if debug else " Run it again with --debug and report what it shows."
            return _failed(
                f"error: this is a bug of shotfit: {type(error).__name__}: {str(error).rstrip('.')}.{hint}", 1
            )


def _interrupted(received: Sequence[signal.Signals]) -> int:
    return _failed(f"ended by {received[0].name}" if received else "interrupted", INTERRUPTED)


def _failed(sentence: str, code: int) -> int:
    line = " ".join(sentence.split())
    with suppress(OSError):  # nobody hears it, and the code says it too
        if may_tell():
            to(sys.stderr)(line)
    drop_output()
    return code


def _take_any_name() -> None:
    """File names need not be text; print what cannot be encoded as an escape, and read it as the file system does."""
    for stream, errors in (
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
        (sys.stdin, "surrogateescape"),
    ):
        if hasattr(stream, "reconfigure"):
            with suppress(io.UnsupportedOperation):  # of an input that was read before
                stream.reconfigure(errors=errors)


def _version(asked: bool) -> None:
    if asked:
        import shotfit

        print(shotfit.__version__)
        raise typer.Exit
