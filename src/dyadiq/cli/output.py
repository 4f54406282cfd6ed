"""How results look: one JSON document, or text and tables, on stdout; progress lines and bars on stderr.

Used by `cli.commands`. Rich is imported here, inside functions. NO_COLOR and a stdout that is no terminal are
respected: then the text is plain and 100 columns wide, whatever the terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from dyadiq.pipeline.runner import StageEvent

__all__ = ["RichProgress", "StageLines", "bits_strip", "print_json", "print_table", "print_text", "stderr_console"]

_PLAIN_WIDTH = 100


def print_json(document: Mapping[str, Any]) -> None:
    """Print the one document of ``--json``; it must carry a schema."""
    assert "schema" in document, "every JSON result says its schema"
    click.echo(json.dumps(document, indent=2))


def print_text(text: str = "") -> None:
    """Print a line of the result."""
    click.echo(text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Print a table; columns whose cells are all numbers are aligned to the right.

    Outside a terminal a cell without spaces (a path, a name, a hash) is never broken: other programs read it.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [[_cell(value) for value in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    console = _console(sys.stdout)
    needed = 0
    for i, column in enumerate(columns):
        number = bool(cells) and all(_is_number(row[i]) for row in cells)
        whole = not console.is_terminal and all(" " not in row[i] for row in cells)
        longest = max(len(text) for text in (column, *(row[i] for row in cells)))
        needed += (longest if whole else min(longest, _PLAIN_WIDTH // 2)) + 4
        table.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=whole)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    if not console.is_terminal:
        console.width = max(_PLAIN_WIDTH, needed)
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    click.echo("\n".join(lines).strip("\n") + "\n")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(cell: str) -> bool:
    return cell == "-" or cell[:1].isdigit() or (cell[:1] in "+-" and cell[1:2].isdigit())


def bits_strip(bits: Iterable[int]) -> str:
    """Return one character for each width: digits, then letters from 10 on.

    Example:
        >>> bits_strip([8, 2, 4, 16])
        '824g'
    """
    return "".join("0123456789abcdefg"[b] for b in bits)


def _console(file: Any) -> Console:
    from rich.console import Console

    terminal = file.isatty()
    return Console(file=file, width=None if terminal else _PLAIN_WIDTH, highlight=False, soft_wrap=False)


def stderr_console() -> Console:
    """Return the console of everything that is not the result."""
    return _console(sys.stderr)


class StageLines:
    """Prints one line for each stage on stderr: kept, or done with its seconds."""

    def __init__(self, console: Console) -> None:
        """Write to this console."""
        self._console = console

    def __call__(self, event: StageEvent) -> None:
        """Print what happened."""
        if event.status == "kept":
            self._console.print(f"  {event.stage:<10} kept", style="dim", soft_wrap=True)
        elif event.status == "done":
            self._console.print(f"  {event.stage:<10} {event.seconds:6.1f} s  {event.title}", soft_wrap=True)
        elif event.note:
            self._console.print(f"  {event.stage:<10} {event.note}", style="yellow", soft_wrap=True)


class RichProgress:
    """Draws the bars of `core.progress.Progress` with an ETA on a terminal; silent elsewhere."""

    def __init__(self, console: Console) -> None:
        """Draw on this console."""
        self._console = console
        self._bars: Any = None
        self._tasks: list[Any] = []

    def start(self, label: str, total: int | None) -> None:
        """Begin a bar below the ones that run."""
        if not self._console.is_terminal:
            return
        if self._bars is None:
            from rich import progress as rp

            self._bars = rp.Progress(
                rp.TextColumn("  {task.description}"),
                rp.BarColumn(bar_width=28),
                rp.MofNCompleteColumn(),
                rp.TimeElapsedColumn(),
                rp.TextColumn("left"),
                rp.TimeRemainingColumn(),
                rp.TextColumn("{task.fields[note]}"),
                console=self._console,
                transient=True,
            )
            self._bars.start()
        self._tasks.append(self._bars.add_task(label, total=total, note=""))

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move the innermost bar."""
        if self._tasks:
            self._bars.update(self._tasks[-1], advance=steps, **({"note": note} if note else {}))

    def finish(self) -> None:
        """Remove the innermost bar."""
        if self._tasks:
            self._bars.remove_task(self._tasks.pop())
            if not self._tasks:
                self.close()

    def close(self) -> None:
        """Remove all bars, also after an error."""
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._tasks = None, []
