"""Exit codes and error blocks of a command that does whatever the test wants."""

import json
import signal

import pytest
from click.testing import CliRunner

from dyadiq.cli.guard import command
from dyadiq.core.errors import DataError, DyadiqError, InfeasibleError, RunInterruptedError, VerificationError


def call(outcome, *args):
    @command("probe", "Probe.")
    def probe(as_json):
        """Do what the test wants."""
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return CliRunner().invoke(probe, args)


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (None, 0),
        (1, 1),
        (InfeasibleError("no"), 1),
        (VerificationError("no"), 1),
        (DataError("bad"), 2),
        (DyadiqError("bad"), 2),
        (ZeroDivisionError("bug"), 3),
        (RunInterruptedError("stop"), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_code_follows_the_outcome(outcome, code):
    assert call(outcome).exit_code == code


def test_interruption_outside_a_stage_says_where_and_how_to_go_on():
    text = "interrupted in `dyadiq probe`. Finished stages of a run are kept; the same command continues."
    assert call(KeyboardInterrupt()).stderr == f"RunInterruptedError: {text}\n"


def test_termination_is_taken_like_an_interruption():
    before = signal.getsignal(signal.SIGTERM)

    @command("probe", "Probe.")
    def probe(as_json):
        """Be stopped by a batch system."""
        signal.raise_signal(signal.SIGTERM)

    result = CliRunner().invoke(probe)
    assert result.exit_code == 130
    assert "interrupted in `dyadiq probe`" in result.stderr
    assert signal.getsignal(signal.SIGTERM) is before


def test_error_is_one_block_with_its_notes():
    error = DataError("samples are empty.\nGive some.")
    error.add_note("stage 'data' of runs/x")
    result = call(error)
    assert result.stdout == ""
    assert result.stderr == "DataError: samples are empty.\nGive some.\n  (stage 'data' of runs/x)\n"


def test_internal_error_says_where_and_asks_for_a_report():
    result = call(ZeroDivisionError("by zero"))
    assert "internal error: ZeroDivisionError: by zero" in result.stderr
    assert "at test_guard.py:" in result.stderr
    assert "This is a bug in Dyadiq, not in your input." in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in call(ZeroDivisionError("by zero"), "--debug").stderr


def test_error_is_a_document_when_json_is_asked_for():
    result = call(InfeasibleError("no plan"), "--json")
    assert json.loads(result.stdout) == {
        "schema": "dyadiq.error/1",
        "error": "InfeasibleError",
        "message": "no plan",
        "exit_code": 1,
    }
    assert "InfeasibleError: no plan" in result.stderr
