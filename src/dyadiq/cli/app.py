"""The ``dyadiq`` command: lists the subcommands, and hands argv to one of them.

Imports click only: torch and rich come in inside the commands, so that ``--help`` is quick.
A new command is one function in `cli.commands` and one line below.
"""

from __future__ import annotations

import click

from dyadiq.cli.commands.data import data
from dyadiq.cli.commands.doctor import doctor
from dyadiq.cli.commands.import_ import import_
from dyadiq.cli.commands.programs import export, verify
from dyadiq.cli.commands.registries import list_
from dyadiq.cli.commands.report import report
from dyadiq.cli.commands.run import run
from dyadiq.cli.commands.show import show
from dyadiq.cli.commands.stages import allocate, analyze, capture, distill, quantize
from dyadiq.cli.commands.synth import synth

__all__ = ["app", "main"]

_STAGES = (run, capture, distill, analyze, allocate, quantize)
_COMMANDS = (*_STAGES, verify, export, import_, report, show, synth, data, list_, doctor)


@click.group(
    commands={str(command.name): command for command in _COMMANDS},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done; 1 done, and the answer is no (infeasible budget, mismatch, floor missed); "
    "2 bad input or usage; 3 internal error; 130 interrupted. "
    "The result goes to stdout (--json: one document), all else to stderr.",
)
@click.version_option(package_name="dyadiq", prog_name="dyadiq")
def app() -> None:
    """Turn a trained network and a budget into one exact integer program, the same integers everywhere."""


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="dyadiq")
