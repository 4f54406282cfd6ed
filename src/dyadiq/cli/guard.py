"""Exit codes and error blocks: every command is wrapped here.

Used by `cli.commands`. 0 done; 1 done, and the answer is no; 2 bad input or usage; 3 internal error; 130 interrupted
(SIGTERM is taken like Ctrl-C).
An error of ours is one block on stderr; a traceback is for bugs, or for ``--debug``.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import click

from dyadiq.core.errors import DyadiqError

__all__ = ["ERROR_SCHEMA", "EXIT_INTERNAL", "EXIT_INTERRUPTED", "EXIT_NO", "command"]

EXIT_NO = 1
EXIT_INTERNAL = 3
EXIT_INTERRUPTED = 130
ERROR_SCHEMA = "dyadiq.error/1"


def command(name: str, summary: str) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a click command of a function that returns its exit code (None is 0).

    ``summary`` is its line in the list of commands. Adds ``--json`` (handed on as ``as_json``) and ``--debug``.
    """

    def wrap(function: Callable[..., int | None]) -> click.Command:
        @click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
        @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
        @functools.wraps(function)
        def guarded(*, as_json: bool, debug: bool, **arguments: Any) -> None:
            call = functools.partial(function, as_json=as_json, **arguments)
            with _terminated_like_interrupted():
                code = _call(name, call, as_json=as_json, debug=debug)
            sys.exit(code)

        return click.command(name, short_help=summary)(guarded)

    return wrap


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, so that a batch system's stop keeps what Ctrl-C keeps."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _call(name: str, function: Callable[[], int | None], *, as_json: bool, debug: bool) -> int:
    try:
        code = function() or 0
        sys.stdout.flush()
        return code
    except DyadiqError as err:
        if debug:
            traceback.print_exc()
        notes = [f"  ({note})" for note in getattr(err, "__notes__", ())]
        _show(type(err).__name__, "\n".join([str(err), *notes]), err.exit_code, as_json=as_json)
        return err.exit_code
    except KeyboardInterrupt:
        message = f"interrupted in `dyadiq {name}`. Finished stages of a run are kept; the same command continues."
        _show("RunInterruptedError", message, EXIT_INTERRUPTED, as_json=as_json)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of stdout went away (head, less): nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NO
    except click.ClickException:
        raise
    except Exception as err:  # noqa: BLE001  # the last place to turn a bug into exit code 3
        if debug:
            traceback.print_exc()
        last = traceback.extract_tb(err.__traceback__)[-1]
        _show(
            "internal error",
            f"{type(err).__name__}: {err}\n  at {os.path.basename(last.filename)}:{last.lineno} in {last.name}\n"  # noqa: PTH119
            "This is a bug in Dyadiq, not in your input. Run again with --debug for the traceback and report it.",
            EXIT_INTERNAL,
            as_json=as_json,
        )
        return EXIT_INTERNAL


def _show(kind: str, message: str, exit_code: int, *, as_json: bool) -> None:
    click.secho(f"{kind}: ", fg="red", bold=True, err=True, nl=False)
    click.echo(message, err=True)
    if as_json:
        document = {"schema": ERROR_SCHEMA, "error": kind, "message": message, "exit_code": exit_code}
        click.echo(json.dumps(document, indent=2))
