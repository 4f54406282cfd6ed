"""``dyadiq report``: write the report of a finished run again."""

from __future__ import annotations

from pathlib import Path

import click

from dyadiq.cli.guard import command
from dyadiq.cli.output import print_json, print_text

__all__ = ["report"]


@command("report", "Write the report of a finished run again.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="File to write; default: report.html in the run folder.")
def report(run: Path, out: Path | None, as_json: bool) -> None:
    """Write the report of the finished run in folder RUN as one offline HTML file."""
    from dyadiq.pipeline.report import write_run_report
    from dyadiq.pipeline.run import open_run

    folder, _ = open_run(run)
    path = write_run_report(folder, out or run / "report.html")
    if as_json:
        print_json({"schema": "dyadiq.report/1", "report": str(path)})
    else:
        print_text(str(path))
