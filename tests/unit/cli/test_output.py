"""Progress bars and tables: what they show, and that they stay silent where nobody looks."""

import io

import pytest
from rich.console import Console

from dyadiq.cli.output import RichProgress, StageLines, bits_strip, print_json, print_table
from dyadiq.pipeline.runner import StageEvent


def console(*, terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def test_progress_draws_a_bar_with_time_left_on_a_terminal():
    screen = console(terminal=True)
    progress = RichProgress(screen)
    progress.start("train", 10)
    progress.advance(4, "loss 0.5")
    progress._bars.refresh()
    progress.finish()
    text = screen.file.getvalue()
    assert "train" in text
    assert "4/10" in text
    assert "left" in text
    assert "loss 0.5" in text


def test_progress_is_silent_when_stderr_is_no_terminal():
    screen = console(terminal=False)
    progress = RichProgress(screen)
    progress.start("train", 10)
    progress.advance()
    progress.finish()
    progress.close()
    assert screen.file.getvalue() == ""


def test_progress_can_nest_and_be_closed_after_an_error():
    progress = RichProgress(console(terminal=True))
    progress.start("outer", None)
    progress.start("inner", 2)
    progress.advance()
    progress.finish()
    progress.advance(note="still going")
    progress.close()
    progress.finish()
    progress.start("again", 1)
    progress.finish()


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (StageEvent("float", "train", "kept", 1.0), "  float      kept\n"),
        (StageEvent("float", "train", "done", 1.25), "  float         1.2 s  train\n"),
        (StageEvent("float", "train", "started"), ""),
        (
            StageEvent("float", "train", "started", note="x is missing; made again"),
            "  float      x is missing; made again\n",
        ),
    ],
)
def test_stage_lines_say_what_happened(event, text):
    screen = console(terminal=False)
    StageLines(screen)(event)
    assert screen.file.getvalue() == text


def test_table_aligns_numbers_to_the_right(capsys):
    print_table(("name", "count", "ok"), [("a", 5, True), ("bb", 1234567, None)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "count", "ok"]
    assert lines[2] == " a              5   yes"
    assert lines[3] == " bb     1,234,567   -"


def test_table_does_not_read_markup_in_cells(capsys):
    print_table(("a",), [("[red]x[/red]",)])
    assert "[red]x[/red]" in capsys.readouterr().out


def test_output_is_plain_when_stdout_is_no_terminal(capsys):
    print_table(("a",), [(1,)])
    assert "\x1b" not in capsys.readouterr().out


def test_json_needs_a_schema():
    with pytest.raises(AssertionError, match="schema"):
        print_json({"a": 1})


def test_bits_strip_has_one_character_for_each_width():
    assert bits_strip([1, 9, 10, 16]) == "19ag"
